"""The manifest lists true files of true sizes, in a checkout and in an installed package."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from analysis.backbones import CARDS
from analysis.files import HEMIS, ROOT, InputError, NSDTree, data_root
from analysis.manifest import MANIFEST, Kind, Manifest, data_manifest, select
from analysis.nsd import FAMILIES, SESSIONS

BETAS = 284 + 4 * 163842 * 750  # a header and float32


@pytest.fixture(scope="module")
def manifest():
    return data_manifest()


def test_betas_are_nsds_sessions_at_their_paths_and_sizes(manifest):
    tree = NSDTree(data_root() / "nsd")
    assert manifest.sessions == SESSIONS
    for subject, sessions in SESSIONS.items():
        files = select(manifest, [subject], ["betas"])
        expected = {tree.betas(subject, h, s + 1) for h in HEMIS for s in range(sessions)}
        assert {f.place for f in files} == expected
        assert sum(f.n_bytes for f in files) == 2 * sessions * BETAS
        assert all(f.exact for f in files)
    assert pytest.approx(39.3e9, rel=1e-3) == 2 * 40 * BETAS  # as NSD says of subj01
    bucket = "https://natural-scenes-dataset.s3.amazonaws.com"
    assert files[0].url.startswith(f"{bucket}/nsddata_betas/ppdata/subj08/")


@pytest.mark.parametrize("subject", ["subj01", "subj06"])
def test_a_subjects_selection_is_all_that_its_reader_opens(manifest, subject):
    tree = NSDTree(data_root() / "nsd")
    group = tree.group_label("lh", "x").parent
    expected = [tree.design, tree.stimuli, group / "nsdgeneral.mgz.ctab"]
    for hemi in HEMIS:
        expected += [tree.group_label(hemi, "nsdgeneral"), tree.ncsnr(subject, hemi)]
        expected += [tree.to_fsaverage(subject, hemi)]
        expected += [tree.native_label(subject, hemi, family) for family in FAMILIES]
    folder = tree.native_label(subject, "lh", "x").parent
    expected += [folder / f"{family}.mgz.ctab" for family in FAMILIES]
    places = [f.place for f in select(manifest, [subject]) if f.kind != "betas"]
    assert sorted(places) == sorted(expected)


def test_every_network_of_the_tables_has_its_weights(manifest):
    backbones = Counter(f.backbone for f in manifest.files if f.backbone)
    sizes = {"clip": "xl l m s", "sam": "h l b", "imagenet": "l b", "dinov2": "g l b"}
    sizes |= {"mocov3": "l b s", "mae": "h l b"}
    names = {f"{family}-{size}" for family, some in sizes.items() for size in some.split()}
    assert set(backbones) == names | {"sd15"}
    assert {name for name, card in CARDS.items() if card.tag} <= set(backbones)


@pytest.mark.parametrize(
    ("backbone", "checksum"),
    [
        ("sam-h", "md5:4b8939a88964f0f4ff5f5b2642c598a6"),
        ("sam-b", "md5:01ec64d29a2fca3f0661936605ae66f8"),
        ("imagenet-b", "sha256:c867db91"),
        ("mocov3-s", "sha256:08bc52f7"),
        ("mae-h", "md5:9bdbb0"),
    ],
)
def test_published_checksums_are_there_and_in_the_files_names(manifest, backbone, checksum):
    (file,) = select(manifest, backbones=[backbone])
    assert file.checksum == checksum
    if backbone != "mae-h":  # published beside it
        assert checksum.partition(":")[2][:6] in file.url


def test_each_file_has_a_place_of_its_own_inside_its_source(manifest):
    assert len({f.path for f in manifest.files}) == len(manifest.files)
    for file in manifest.files:
        path = PurePosixPath(file.path)
        assert path.is_relative_to(manifest.sources[file.source].folder)
        assert ".." not in path.parts and "{" not in file.path and file.url.startswith("https://")
    assert {f.kind for f in manifest.files} == set(get_args(Kind))
    assert {f.source for f in manifest.files} == set(manifest.sources)
    assert manifest.sources["nsd"].accept and manifest.sources["algonauts2023"].manual


def test_a_selection_can_be_narrowed(manifest):
    assert len(select(manifest, ["subj01"], ["betas"], sessions=3)) == 6
    assert {f.kind for f in select(manifest, ["subj01"], sessions=1)} > {"betas", "labels"}
    more = select(manifest, ["subj01"], ["labels"], optional=True)
    assert any("Kastner2015" in f.path for f in more)
    assert not any("Kastner2015" in f.path for f in select(manifest, ["subj01"]))
    both = select(manifest, ["subj01", "subj02"], ["pictures"])
    assert len(both) == 1
    (archive,) = select(manifest, ["algonauts-subj03"])
    assert archive.path == "algonauts2023/subj03.zip" and archive.kind == "archive"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"subjects": ["subj9"]}, "subject 'subj9': expected one of .*subj01"),
        ({"kinds": ["beta"]}, "kind 'beta': expected one of .*betas"),
        ({"backbones": ["clip"]}, "backbone 'clip': expected one of clip-"),
        ({"sources": ["nds"]}, "source 'nds': expected one of .*nsd"),
        ({}, "nothing selected"),
        ({"subjects": ["subj01"], "sessions": 0}, "sessions=0: expected 1 or more"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(manifest, names, message):
    with pytest.raises(InputError, match=message):
        select(manifest, **names)


@pytest.mark.parametrize(
    ("field", "value"),
    [("sise", 3), ("kind", "label"), ("n_bytes", 0), ("checksum", "md5:zz"), ("url", "b.mgz")],
)
def test_a_field_that_is_unknown_or_out_of_range_is_refused(field, value):
    table = yaml.safe_load(MANIFEST.read_text("utf8"))
    table["files"][0][field] = value
    with pytest.raises(ValidationError, match=rf"files\.0\.{field}"):
        Manifest.model_validate(table)


def test_an_installed_package_lists_its_files_and_keeps_data_in_the_current_folder(tmp_path):
    """From a wheel, unpacked where no checkout is."""
    source, installed, home = (tmp_path / name for name in ("source", "installed", "home"))
    shutil.copytree(
        ROOT / "analysis", source / "analysis", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "BRAINMAPS_DATA"}
    environment["PYTHONPATH"] = str(installed)
    run = subprocess.run(
        [sys.executable, "-m", "analysis", "fetch", "--subject", "subj01", "--dry-run"],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"betas +80 files +39\.32 GB", run.stdout)
    assert f"free on the disk of {home / 'data'}: " in run.stdout
    assert not list(Path(home).iterdir())
