"""Receipts: they stand while what they name is there; all names of one fit have the same."""

import shutil

import pytest

from analysis.files import MissingFile
from analysis.receipts import note, receipt, stands
from analysis.study import Wanted
from analysis.versions import VERSIONS


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A receipt of two files, one of which grows."""
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    for name in ("whole", "growing"):
        (tmp_path / name).write_text("text")
    path = receipt("fit", "sim01-open_clip:ViT/x", {"seed": 0})
    note(path, [tmp_path / "whole"], [tmp_path / "growing"])
    return path


def test_it_stands_while_its_files_are_as_they_were(made, tmp_path) -> None:
    assert stands(made) and not stands(made.with_name("other.json"))
    (tmp_path / "growing").write_text("longer text")
    assert stands(made)
    (tmp_path / "whole").write_text("longer text")
    assert not stands(made)
    (tmp_path / "whole").unlink()
    assert not stands(made)


def test_a_receipt_that_cannot_be_read_does_not_stand(made) -> None:
    for text in ("", "{", "[]", '{"files": {}}', '{"files": 3}'):
        made.write_text(text)
        assert not stands(made)


def test_the_data_folder_may_be_moved(made, tmp_path, monkeypatch) -> None:
    moved = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved"))
    monkeypatch.setenv("BRAINMAPS_DATA", str(moved))
    (tmp_path / "whole").unlink()
    assert stands(moved / made.relative_to(tmp_path))


def test_it_is_written_anew_only_if_it_says_something_else(made, tmp_path) -> None:
    before = made.stat().st_mtime_ns
    note(made, [tmp_path / "whole"], [tmp_path / "growing"])
    assert made.stat().st_mtime_ns == before
    note(made, [tmp_path / "whole"])
    assert made.stat().st_mtime_ns > before
    with pytest.raises(MissingFile, match="nothing: not there"):
        note(made, [tmp_path / "nothing"])


def test_another_version_or_name_has_another_receipt(made, monkeypatch) -> None:
    assert made.name.startswith("sim01-open_clip_ViT_x-")
    assert receipt("fit", "a", {"seed": 0}) != receipt("fit", "a", {"seed": 1})
    before = receipt("fit", "a", {"seed": 0})
    monkeypatch.setitem(VERSIONS, "fit", 0)
    assert receipt("fit", "a", {"seed": 0}) != before


def test_all_names_of_one_fit_have_one_receipt() -> None:
    wanted = Wanted("sim01", "clip-mini", recipe="check")
    assert wanted.receipt() == Wanted("sim01", "clip-mini", "check", changes={}).receipt()
    text = Wanted("sim01", "clip-mini", "check", changes={"readout_rate": "2"})
    assert (
        text.receipt()
        == Wanted("sim01", "clip-mini", "check", changes={"readout_rate": 2.0}).receipt()
    )
    ridge = [Wanted("sim01", "clip-mini", variant="ridge", seed=seed) for seed in (0, 1)]
    assert ridge[0].receipt() == ridge[1].receipt()  # it has no seed
    others = [
        {"seed": 1}, {"shuffle": True}, {"trials": 300}, {"average": True}, {"sessions": 1},
        {"n_surface": 642}, {"variant": "gnet"}, {"split_seed": 1}, {"normalisation": "imagenet"},
        {"region": ("V1",)}, {"weights": "random"}, {"scheme": "algonauts"}, {"space": "sphere"},
    ]  # fmt: skip
    each = {Wanted("sim01", "clip-mini", "check", **other).receipt() for other in others}
    assert len(each) == len(others) and wanted.receipt() not in each
