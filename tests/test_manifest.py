"""The manifest lists true files of true sizes; a bad one is refused with the line and the field."""

import re
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.backbones import CARDS
from analysis.files import HEMIS, ROOT, InputError, NSDTree, data_root
from analysis.manifest import KINDS, read_manifest, select
from analysis.nsd import FAMILIES, SESSIONS

TRUE = ROOT / "data_manifest.yaml"
BETAS = 284 + 4 * 163842 * 750  # a header and float32


@pytest.fixture(scope="module")
def manifest():
    return read_manifest()


def test_betas_are_nsds_sessions_at_their_paths_and_sizes(manifest):
    tree = NSDTree(data_root() / "nsd")
    for subject, sessions in SESSIONS.items():
        found = select(manifest, [subject], ["betas"])
        wanted = {tree.betas(subject, h, s + 1) for h in HEMIS for s in range(sessions)}
        assert {data_root() / e.path for e in found} == wanted
        assert sum(e.n_bytes for e in found) == 2 * sessions * BETAS
        assert not any(e.about for e in found)
    assert pytest.approx(39.3e9, rel=1e-3) == 2 * 40 * BETAS  # as NSD says of subj01
    assert found[0].url.startswith("s3://natural-scenes-dataset/nsddata_betas/ppdata/subj08/")


@pytest.mark.parametrize("subject", ["subj01", "subj06"])
def test_a_subjects_selection_is_all_that_its_reader_opens(manifest, subject):
    tree = NSDTree(data_root() / "nsd")
    wanted = [
        tree.design,
        tree.stimuli,
        tree.group_label("lh", "x").with_name("nsdgeneral.mgz.ctab"),
    ]
    for hemi in HEMIS:
        wanted += [tree.group_label(hemi, "nsdgeneral"), tree.ncsnr(subject, hemi)]
        wanted += [tree.to_fsaverage(subject, hemi)]
        wanted += [tree.native_label(subject, hemi, family) for family in FAMILIES]
    folder = tree.native_label(subject, "lh", "x").parent
    wanted += [folder / f"{family}.mgz.ctab" for family in FAMILIES]
    found = [data_root() / e.path for e in select(manifest, [subject])]
    assert set(wanted) == set(found) - {
        data_root() / e.path for e in select(manifest, [subject], ["betas"])
    }


def test_every_network_of_the_tables_has_its_weights(manifest):
    found = Counter(e.backbone for e in manifest.entries if e.backbone)
    sizes = {"clip": "xl l m s", "sam": "h l b", "imagenet": "l b", "dinov2": "g l b"}
    sizes |= {"mocov3": "l b s", "mae": "h l b"}
    names = {f"{family}-{size}" for family, some in sizes.items() for size in some.split()}
    assert set(found) == names | {"sd15"}
    assert {name for name, card in CARDS.items() if card.tag} <= set(found)


@pytest.mark.parametrize(
    ("backbone", "digits"),
    [
        ("sam-h", "4b8939a88964f0f4ff5f5b2642c598a6"),
        ("sam-b", "01ec64d29a2fca3f0661936605ae66f8"),
        ("imagenet-b", "c867db91"),
        ("mocov3-s", "08bc52f7"),
        ("mae-h", "9bdbb0"),
    ],
)
def test_published_checksums_are_there_and_in_the_files_names(manifest, backbone, digits):
    (entry,) = select(manifest, backbones=[backbone])
    assert entry.checksum.value == digits and entry.checksum.prefix == (len(digits) < 32)
    if backbone != "mae-h":  # published beside it
        assert digits[:6] in entry.url


def test_each_source_says_its_terms_and_all_kinds_are_used(manifest):
    assert {e.kind for e in manifest.entries} == set(KINDS)
    assert manifest.sources["nsd"].accept and manifest.sources["algonauts2023"].manual
    assert {e.source for e in manifest.entries} == set(manifest.sources)
    for entry in manifest.entries:
        assert entry.findings or not entry.required or entry.kind == "archive"


def test_a_selection_can_be_narrowed(manifest):
    assert len(select(manifest, ["subj01"], ["betas"], sessions=3)) == 6
    assert {e.kind for e in select(manifest, ["subj01"], sessions=1)} > {"betas", "labels"}
    more = select(manifest, ["subj01"], ["labels"], optional=True)
    assert any("Kastner2015" in str(e.path) for e in more)
    assert not any("Kastner2015" in str(e.path) for e in select(manifest, ["subj01"]))
    both = select(manifest, ["subj01", "subj02"], ["pictures"])
    assert len(both) == 1
    (archive,) = select(manifest, ["algonauts-subj03"])
    assert str(archive.path) == "algonauts2023/subj03.zip" and archive.unpack


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"subjects": ["subj9"]}, "subject 'subj9': expected one of subj"),
        ({"kinds": ["beta"]}, "kind 'beta': expected one of betas"),
        ({"backbones": ["clip"]}, "backbone 'clip': expected one of clip-"),
        ({"sources": ["nds"]}, "source 'nds': expected one of nsd"),
        ({}, "nothing selected"),
        ({"subjects": ["subj01"], "sessions": 0}, "sessions=0: expected 1 or more"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(manifest, named, said):
    with pytest.raises(InputError, match=said):
        select(manifest, **named)


SMALL = """\
version: 1
subjects: {subj01: 2}
sources:
  here:
    title: A source
    base: https://example.org
    root: here
    licence: none
    terms: https://example.org/terms
    meaning: Be kind.
    citation: Nobody
files:
  - source: here
    kind: betas
    path: "{subject}/{session}.mgh"
    each: {subject: all, session: all}
    bytes: 10
  - source: here
    kind: labels
    path: b.mgz
    bytes: 20
    checksum: {algorithm: md5, value: c8fa014336c82ac7804f0398fcb19387}
"""


@pytest.fixture
def small(tmp_path):
    def write(text=SMALL):
        (tmp_path / "data_manifest.yaml").write_text(text)
        return tmp_path / "data_manifest.yaml"

    return write


def test_a_small_manifest_is_expanded(small):
    found = read_manifest(small()).entries
    assert [str(e.path) for e in found] == ["here/subj01/1.mgh", "here/subj01/2.mgh", "here/b.mgz"]
    assert found[0].url == "https://example.org/subj01/1.mgh"


BAD = {  # what is put in place of what, the line, and the field
    "no bytes": ("    bytes: 10\n", "", 13, r"files\[0\].bytes: Field required"),
    "bytes of 0": ("bytes: 20", "bytes: 0", 21, r"files\[1\].bytes: .*greater than 0"),
    "bytes in words": ("bytes: 20", "bytes: many", 21, r"files\[1\].bytes: .*integer.*'many'"),
    "unknown field": ("kind: labels", "kind: labels\n    sise: 3", 20, r"files\[1\].sise"),
    "unknown kind": ("kind: labels", "kind: label", 19, r"files\[1\].kind: .*'betas'.*'label'"),
    "unknown source": (
        "  - source: here\n    kind: l",
        "  - source: her\n    kind: l",
        18,
        "source",
    ),
    "unknown version": ("version: 1", "version: 2", 1, "version"),
    "no address": ("base: https://example.org", "base: example.org", 6, "sources.here.base"),
    "a path out": ("path: b.mgz", "path: ../b.mgz", 20, r"'../b.mgz' leads out of its root"),
    "a path from /": ("path: b.mgz", "path: /etc/b", 20, "leads out"),
    "a path with \\": ("path: b.mgz", "path: a\\\\b", 20, "backslash"),
    "a root out": ("root: here", "root: ../here", 7, r"'../here' leads out"),
    "a doubled path": ("path: b.mgz", "path: subj01/1.mgh", 20, r"that of files\[0\] too"),
    "an unnamed choice": ("{subject}/{s", "{sub}/{s", 13, "path names"),
    "a broken path": ("{subject}/{s", "{subject/{s", 13, "path"),
    "few digits": ("c8fa014336c82ac7804f0398fcb19387", "c8fa", 22, "4 digits; md5 has 32"),
    "no hex": ("c8fa014336c82ac7804f0398fcb19387", "zz", 22, "checksum.value"),
    "no yaml": ("version: 1", "version: [1", 2, "not YAML"),
    "text": (SMALL, "hello", 1, "valid dictionary"),
    "weights of none": ("kind: labels", "kind: weights", 18, "backbone"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_manifest_names_line_and_field(small, kind):
    old, new, line, said = BAD[kind]
    assert SMALL.count(old) == 1 or kind in ("bytes of 0",)
    path = small(SMALL.replace(old, new))
    with pytest.raises(InputError, match=rf"data_manifest\.yaml, line {line}: .*{said}"):
        read_manifest(path)


def test_an_absent_or_empty_manifest_is_refused(small, tmp_path):
    with pytest.raises(InputError, match="not found; expected the manifest"):
        read_manifest(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match="line 1"):
        read_manifest(small(""))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(path=st.text(st.sampled_from("ab./\\~:{} "), min_size=1, max_size=12))
def test_no_path_ever_leaves_its_root(tmp_path_factory, path):
    raw = yaml.safe_load(SMALL)
    raw["files"][1]["path"] = path
    file = tmp_path_factory.mktemp("m") / "data_manifest.yaml"
    file.write_text(yaml.safe_dump(raw))
    try:
        found = read_manifest(file)
    except InputError as error:
        assert re.search(r"line \d+", str(error))
        return
    for entry in found.entries:
        assert (data_root() / entry.path).resolve().is_relative_to(data_root() / "here")
