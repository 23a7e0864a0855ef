"""The challenge's tree, written small and in its formats, is read as written; damage is named."""

import numpy as np
import pytest
from PIL import Image

from analysis.algonauts import CODES, load_algonauts
from analysis.files import HEMIS, InputError
from analysis.splits import default_scheme, split_pictures

N, PICTURES = 642, 30
COUNT = {"lh": 40, "rh": 50}


class Harm:
    """Pickles into a call that would leave a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.fixture
def tree(tmp_path):
    """subj01 of a small challenge: masks, labels, responses and pictures."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "subj01"
    masks, images, fmri = (
        folder / name
        for name in ("roi_masks", "training_split/training_images", "training_split/training_fmri")
    )
    for made in (masks, images, fmri):
        made.mkdir(parents=True)
    for hemi in HEMIS:
        mask = np.zeros(N)
        mask[rng.permutation(N)[: COUNT[hemi]]] = 1
        np.save(masks / f"{hemi}.all-vertices_fsaverage_space.npy", mask)
        for family in CODES:
            labels = rng.integers(0, 3, N) * mask
            np.save(masks / f"{hemi}.{family}_fsaverage_space.npy", labels)
        responses = rng.normal(size=(PICTURES, COUNT[hemi])).astype(np.float32)
        np.save(fmri / f"{hemi}_training_fmri.npy", responses)
    for family in CODES:
        np.save(masks / f"mapping_{family}.npy", np.array({0: Harm(tmp_path / "harm")}, object))
    for i in range(PICTURES):
        pixels = np.full((8, 8, 3), i, np.uint8)
        Image.fromarray(pixels).save(images / f"train-{i + 1:04d}_nsd-{100 + 3 * i:05d}.png")
    return folder


def load(tree):
    return load_algonauts("algonauts-subj01", tree.parent)


def test_what_was_written_is_read(tree):
    subject = load(tree)
    halves = [np.load(tree / f"training_split/training_fmri/{h}_training_fmri.npy") for h in HEMIS]
    np.testing.assert_array_equal(subject.responses, np.hstack(halves))
    masks = [np.load(tree / f"roi_masks/{h}.all-vertices_fsaverage_space.npy") for h in HEMIS]
    np.testing.assert_array_equal(subject.vertices, np.flatnonzero(np.concatenate(masks)))
    assert not (tree.parent / "harm").exists()  # no mapping was unpickled
    both = np.concatenate(
        [np.load(tree / f"roi_masks/{h}.floc-faces_fsaverage_space.npy") for h in HEMIS]
    )
    np.testing.assert_array_equal(subject.rois["FFA-1"], both[subject.vertices] == 2)
    np.testing.assert_array_equal(subject.rois["V1"], subject.rois["V1v"] | subject.rois["V1d"])
    assert {"streams/early", "streams/midventral"} <= set(subject.rois)
    assert list(subject.picture_ids) == [100 + 3 * i for i in range(PICTURES)]
    assert (subject.pictures(np.array([4, 0]))[:, 0, 0, 0] == [4, 0]).all()
    assert np.isnan(subject.ncsnr).all() and (subject.repeats == 0).all()
    split = split_pictures(subject, scheme=default_scheme(subject))
    assert len(split.test) == 3 and len(split.train) + len(split.validation) == 27


def test_a_vertex_without_data_is_left_out(tree):
    path = tree / "training_split/training_fmri/lh_training_fmri.npy"
    responses = np.load(path)
    responses[3, 5], responses[:, 7] = np.nan, 1.5
    np.save(path, responses)
    subject = load(tree)
    assert subject.dropped == 2 and subject.responses.shape == (PICTURES, 88)


def swap(folder):
    one, two = (folder / f"training_split/training_fmri/{h}_training_fmri.npy" for h in HEMIS)
    a, b = np.load(one), np.load(two)
    np.save(one, b)
    np.save(two, a)


FMRI = "training_split/training_fmri/rh_training_fmri.npy"
MASK = "roi_masks/rh.all-vertices_fsaverage_space.npy"
FACES = "roi_masks/rh.floc-faces_fsaverage_space.npy"
IMAGE = "training_split/training_images/train-0005_nsd-00112.png"


def cut(name):
    return lambda f: (f / name).write_bytes((f / name).read_bytes()[:-5])


def gone(name):
    return lambda f: (f / name).unlink()


DAMAGE = {
    "no responses": (gone(FMRI), "rh_training_fmri.npy: not found"),
    "responses cut": (cut(FMRI), "rh_training_fmri.npy: not a readable .npy"),
    "hemispheres swapped": (swap, r"lh_training_fmri.npy: float32 \(30, 50\); expected .*30, 40"),
    "no mask": (gone(MASK), "rh.all-vertices_fsaverage_space.npy: not found"),
    "mask of another mesh": (lambda f: np.save(f / MASK, np.ones(99)), r"rh.all-vert.*\(99,\)"),
    "a mask of 2": (lambda f: np.save(f / MASK, np.full(N, 2)), "expected 0 or 1"),
    "a label beyond": (lambda f: np.save(f / FACES, np.full(N, 9)), r"faces.*labels \[9\]; expect"),
    "a pickle for labels": (
        lambda f: np.save(f / FACES, np.array({0: Harm(f / "harm")}, object)),
        "floc-faces_fsaverage_space.npy: not a readable .npy",
    ),
    "a picture less": (gone(IMAGE), "29 pictures, but no train-0005"),
    "the last picture less": (
        lambda f: next((f / "training_split/training_images").glob("train-0030*")).unlink(),
        r"lh_training_fmri.npy: float32 \(30, 40\)",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_names_the_file(tree, kind):
    damage, said = DAMAGE[kind]
    damage(tree)
    with pytest.raises(InputError, match=said) as caught:
        load(tree)
    assert str(tree) in str(caught.value)


def test_a_picture_cut_off_is_named_when_it_is_read(tree):
    cut(IMAGE)(tree)
    (tree / IMAGE).write_bytes((tree / IMAGE).read_bytes()[:40])
    with pytest.raises(InputError, match=r"train-0005_nsd-00112.png: not a readable picture"):
        load(tree).pictures(np.array([4]))


@pytest.mark.parametrize("name", ["algonauts-subj09", "algonauts-../x", "subj01"])
def test_an_unknown_subject_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="expected one of algonauts-subj01"):
        load_algonauts(name, tmp_path)
