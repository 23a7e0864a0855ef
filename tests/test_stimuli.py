"""Pictures and design of simulated subjects are in NSD's form; photographs can take their place."""

import collections
import shutil

import h5py
import numpy as np
import PIL.Image
import pytest
import scipy.io

from analysis import simulate
from analysis.files import InputError, NSDTree
from analysis.scenes import draw_scene
from analysis.study import get_subject
from tests.simulated import digests, of


@pytest.fixture
def tree(data_folder):
    return NSDTree(data_folder / "simulated/tiny/nsd")


@pytest.fixture
def design(tree):
    return scipy.io.loadmat(tree.design)


def test_design_has_nsds_variables_shapes_and_types(design):
    found = {k: (v.shape, v.dtype.str) for k, v in design.items() if not k.startswith("__")}
    assert found == {
        "masterordering": ((1, 120), "<u2"),
        "subjectim": ((3, 40), "<i4"),
        "sharedix": ((1, 10), "<i4"),
        "stimpattern": ((2, 2, 75), "|u1"),
        "basiccnt": ((3, 2), "<u2"),
    }


def test_design_counts_from_1_and_shows_each_picture_three_times(design):
    shown = collections.Counter(design["masterordering"].ravel().tolist())
    assert shown == dict.fromkeys(range(1, 41), 3)
    assert design["stimpattern"].sum() == 120 and design["stimpattern"].max() == 1
    for session in range(2):
        trials = design["masterordering"][0, session * 60 : session * 60 + 60].tolist()
        repeats = collections.Counter(collections.Counter(trials).values())
        assert [repeats[n] for n in (1, 2, 3)] == design["basiccnt"][:, session].tolist()


def test_shared_pictures_are_sorted_and_come_first_for_every_subject(design):
    shared = design["sharedix"].ravel().tolist()
    assert shared == sorted(shared)
    own = []
    for row in design["subjectim"].tolist():
        assert row[:10] == shared
        own += row[10:]
    assert sorted(shared + own) == list(range(1, 101))  # nobody's own picture is another's


def test_pictures_are_the_drawn_scenes_and_their_labels(data_folder, tree):
    with h5py.File(tree.stimuli) as f:
        brick = f["imgBrick"]
        assert brick.shape == (100, 32, 32, 3) and brick.dtype == np.uint8
        for i in (0, 41, 99):
            scene = draw_scene(i, 32)
            np.testing.assert_array_equal(brick[i], scene.picture)
            assert simulate.picture_labels("sim01-tiny")[i] == scene.labels


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """45 photographs, some in folders that say what they show, wide and tall ones among them."""
    folder = tmp_path_factory.mktemp("x") / "my photos"
    rng = np.random.default_rng(0)
    for i in range(45):
        place = folder / ("face" if i < 20 else "")
        place.mkdir(parents=True, exist_ok=True)
        shape = [(40, 60), (60, 40), (32, 32)][i % 3]
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(place / f"p{i:02d}.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "._p00.png").write_bytes(b"a file manager's")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/p00.png").write_bytes(b"an editor's")
    return folder


@pytest.fixture(scope="module")
def shown(photos, tmp_path_factory):
    """A data folder in which two people saw the photographs."""
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINMAPS_DATA", str(folder))
        assert simulate.simulate("sim01-tiny", photos)
        assert simulate.simulate("sim02-tiny", photos)
    return folder


def test_photographs_are_shown_as_the_middle_square(photos, shown):
    with h5py.File(
        shown / "simulated/tiny@my_photos/nsd/nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"
    ) as f:
        brick = f["imgBrick"][:]
    assert brick.shape == (45, 32, 32, 3)
    paths = [*sorted(photos.glob("face/p*.png")), *sorted(photos.glob("p*.png"))]
    same = PIL.Image.open(paths[2])  # of the size it is shown in
    np.testing.assert_array_equal(brick[2], np.asarray(same))
    wide = PIL.Image.open(paths[0])
    assert wide.size == (60, 40)
    square = wide.resize((32, 32), PIL.Image.Resampling.BICUBIC, box=(10, 0, 50, 40))
    np.testing.assert_array_equal(brick[0], np.asarray(square))


def test_folders_of_photographs_say_what_they_show(shown, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(shown))
    labels = simulate.picture_labels("sim01-tiny@my_photos")
    assert labels == [frozenset({"face"})] * 20 + [frozenset()] * 25


def test_who_sees_photographs_is_read_and_found_by_name(photos, shown, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(shown))
    before = digests(shown, "tiny@my_photos")
    assert simulate.is_complete("sim01-tiny@my_photos")
    assert simulate.simulate("sim01-tiny", photos) is False
    assert simulate.simulate("sim01-tiny@my_photos") is False
    one, two = (get_subject(f"{name}-tiny@my_photos") for name in ("sim01", "sim02"))
    assert digests(shown, "tiny@my_photos") == before
    assert one.simulated and len(one.picture_ids) == 40
    assert one.shared.sum() == 10  # too few for each to have its own: they share more than these
    assert set(one.picture_ids[one.shared]) == set(two.picture_ids[two.shared])
    assert one.pictures(np.array([0])).shape == (1, 32, 32, 3)


def test_other_photographs_under_the_name_are_shown_anew(photos, shown, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    other = shutil.copytree(photos, tmp_path / "my photos")
    assert simulate.simulate("sim01-tiny", other)
    before = digests(tmp_path / "data", "tiny@my_photos")
    assert before == of(digests(shown, "tiny@my_photos"), "", without="sim02")
    PIL.Image.fromarray(np.full((32, 32, 3), 9, np.uint8)).save(other / "face" / "p02.png")
    assert simulate.simulate("sim01-tiny", other)
    after = digests(tmp_path / "data", "tiny@my_photos")
    assert after.keys() == before.keys() and after != before


def test_photographs_that_are_too_few_or_gone_are_told(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"my photos: 45 pictures .* expected 1000 or more"):
        simulate.simulate("sim01", photos)
    with pytest.raises(InputError, match="nowhere: not found; expected a folder of pictures"):
        simulate.simulate("sim01-tiny", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"'sim01-tiny@mine': .*Run `simulate sim01-tiny --stim"):
        simulate.simulate("sim01-tiny@mine")
    assert not list(tmp_path.rglob("*.json"))


def test_a_damaged_photograph_is_named_and_nothing_kept(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINMAPS_DATA", str(tmp_path / "data"))
    folder = shutil.copytree(photos, tmp_path / "my photos")
    bad = folder / "p30.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(InputError, match=r"p30\.png: not a readable picture"):
        simulate.simulate("sim01-tiny", folder)
    left = [p.name for p in (tmp_path / "data").rglob("*") if p.is_file()]
    assert sorted(left) == [".pictures.lock", ".sim01.lock"]
