"""The reader's own folder: the page's example works, and each damage is named."""

import os
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from analysis import cortical, surface
from analysis.files import ROOT, InputError
from analysis.own import load_own
from analysis.splits import split_pictures, trials_of

NEEDED = ("pictures.npy", "responses.npy", "coordinates.npy", "trials.csv")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that the page's own code writes."""
    page = (ROOT / "book/own_data.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.S)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "own_data.md", "exec"), {})
    return tmp_path / "data/own/example"


def load(folder):
    return load_own(f"own-{folder.name}", folder.parent)


def test_the_pages_example_is_read_as_it_says(folder):
    subject = load(folder)
    responses = np.load(folder / "responses.npy").astype(float)
    for session in (0, 1):
        some = responses[60 * session : 60 * session + 60]
        expected = (some - some.mean(0)) / some.std(0)
        np.testing.assert_allclose(
            subject.responses[subject.trial_session == session], expected, atol=1e-5
        )
    assert list(np.flatnonzero(subject.rois["V1"])) == [0, 1]
    assert list(np.flatnonzero(subject.rois["FFA"])) == [2]
    assert list(np.flatnonzero(subject.shared)) == list(range(6))
    assert np.isnan(subject.ncsnr).all() and not subject.simulated
    pictures = np.load(folder / "pictures.npy")
    np.testing.assert_array_equal(subject.pictures(np.array([7, 2])), pictures[[7, 2]])
    split = split_pictures(subject)
    assert len(split.test) == 6 and len(trials_of(subject, split.test)) == 12
    assert load(folder).identity == subject.identity


def test_pictures_may_be_files_and_a_test_set_is_drawn(folder):
    pictures = np.load(folder / "pictures.npy")
    (folder / "pictures").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"pictures/p{i:02d}.png")
    (folder / "pictures.npy").unlink()
    rows = (folder / "trials.csv").read_text().splitlines()[1:]
    names = [f"p{int(row.split(',')[0]):02d}.png" for row in rows]
    (folder / "trials.csv").write_text("\n".join(["picture", *names]) + "\n")
    subject = load(folder)
    np.testing.assert_array_equal(subject.pictures(np.array([3])), pictures[[3]])
    assert subject.shared.sum() == 6 and subject.n_sessions == 1


def test_vertices_without_data_are_left_out_and_a_map_needs_no_mesh(folder):
    responses = np.load(folder / "responses.npy")
    responses[:60, 4], responses[70, 9] = 3.0, np.nan
    np.save(folder / "responses.npy", responses)
    subject = load(folder)
    assert subject.dropped == 2 and len(subject.vertices) == 48
    figure = cortical.cortex(subject, np.arange(48.0), "a value")
    assert len(figure.axes) == 4
    plt.close(figure)


def on_mesh(folder, order):
    """Put the vertices on fsaverage, with the coordinates of the vertices `order`."""
    vertices = np.arange(50) * 20
    both = np.concatenate([surface.pial(h, 642)[0] for h in ("lh", "rh")])
    np.save(folder / "vertices.npy", vertices)
    np.save(folder / "coordinates.npy", both[vertices][order])
    (folder / "mesh.txt").write_text("642\n")


def test_vertices_on_fsaverage_are_taken(folder):
    on_mesh(folder, np.arange(50))
    subject = load(folder)
    assert subject.n_surface == 642 and subject.vertices[-1] == 980


def test_vertices_in_another_order_than_the_meshs_are_refused(folder):
    on_mesh(folder, np.random.default_rng(0).permutation(50))
    with pytest.raises(InputError, match=r"coordinates: far from fsaverage's 642 vertices of lh"):
        load(folder)


def test_repeats_are_known_where_they_are_given_or_pictures_recur(folder):
    assert (load(folder).repeats == 1).all()
    rows = (folder / "trials.csv").read_text().splitlines()
    (folder / "trials.csv").write_text(
        "\n".join([f"{rows[0]},repeats", *(f"{row},3" for row in rows[1:])])
    )
    assert (load(folder).repeats == 3).all()
    np.save(folder / "responses.npy", np.load(folder / "responses.npy")[:60])  # each picture once
    (folder / "trials.csv").write_text("\n".join(rows[:61]))
    assert (load(folder).repeats == 0).all()


def test_the_same_pixels_are_one_picture_and_the_split_is_of_shown_ones(folder, capsys):
    pictures = np.load(folder / "pictures.npy")
    pictures[30:] = pictures[:30]
    np.save(folder / "pictures.npy", pictures)
    rows = (folder / "trials.csv").read_text().splitlines()
    (folder / "trials.csv").write_text("\n".join(row.rsplit(",", 1)[0] for row in rows))
    subject = load(folder)
    assert "30 of 60 pictures repeat the pixels of another" in capsys.readouterr().err
    split = split_pictures(subject)
    assert len(split.test) == 3 and subject.trial_picture.max() < 30
    parts = np.concatenate([split.train, split.validation, split.test])
    assert sorted(parts) == list(range(30))


def test_headers_are_read_as_meant(folder):
    whole = load(folder)
    text = (folder / "trials.csv").read_text()
    (folder / "trials.csv").write_text(
        text.replace("picture,session,test", "picture, Session, test")
    )
    assert load(folder).identity == whole.identity and load(folder).n_sessions == 2


def test_an_area_of_the_readers_own_is_never_overwritten(folder):
    rows = [f"{vertex},V1" for vertex in range(10)] + [f"{vertex},V1v" for vertex in range(3)]
    (folder / "rois.csv").write_text("\n".join(["vertex,roi", *rows]))
    rois = load(folder).rois
    assert rois["V1"].sum() == 10 and rois["V1v"].sum() == 3


def test_whole_numbers_are_taken(folder):
    np.save(folder / "coordinates.npy", np.arange(150).reshape(50, 3))
    np.save(folder / "responses.npy", np.random.default_rng(0).integers(0, 99, (120, 50)))
    assert load(folder).coordinates[-1].tolist() == [147, 148, 149]


def test_hidden_files_are_left_out(folder):
    (folder / "pictures").mkdir()
    for i, picture in enumerate(np.load(folder / "pictures.npy")):
        Image.fromarray(picture).save(folder / f"pictures/{i}.png")
    (folder / "pictures/._0.png").write_bytes(b"of macOS")
    (folder / "pictures.npy").unlink()
    rows = (folder / "trials.csv").read_text().splitlines()
    rows[1:] = [row.replace(",", ".png,", 1) for row in rows[1:]]
    (folder / "trials.csv").write_text("\n".join(rows))
    assert len(load(folder).stimuli) == 60


def put(name, array):
    return lambda folder: np.save(folder / name, array)


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


TRIALS = "picture\n" + "0\n" * 120
DAMAGE = {
    **{f"no {n}": (lambda f, n=n: (f / n).unlink(), "not found") for n in NEEDED},
    **{
        f"{n} cut": (
            lambda f, n=n: (f / n).write_bytes((f / n).read_bytes()[:-9]),
            f"{n}: not a readable .npy",
        )
        for n in NEEDED[:3]
    },
    **{
        f"{n} empty": (lambda f, n=n: (f / n).write_bytes(b""), n.replace(".", r"\.") + ": ")
        for n in NEEDED
    },
    "pickled responses": (
        put("responses.npy", np.array([object()])),
        r"responses.npy: not a readable .npy",
    ),
    "responses of one axis": (put("responses.npy", np.zeros(5)), r"responses.npy: float64 \(5,\)"),
    "constant responses": (put("responses.npy", np.ones((120, 50))), "all 50 vertices NaN or con"),
    "a trial of NaN": (
        lambda f: np.save(f / "responses.npy", np.r_[np.full((1, 50), np.nan), np.ones((119, 50))]),
        r"responses of session 0: no data in 1 of 60 trials \(from 0: 0\)",
    ),
    "a session of one trial": (
        text("trials.csv", "picture,session\n0,1\n" + "0,0\n" * 119),
        "responses of session 1: one trial only",
    ),
    "an unknown column": (
        text("trials.csv", "picture,tset\n" + "0,1\n" * 120),
        "trials.csv: columns picture, tset; .*only picture, session, test, repeats",
    ),
    "an ROI called all": (text("rois.csv", "vertex,roi\n1,all\n"), "an ROI called 'all'"),
    **{
        f"ncsnr of {value}": (put("ncsnr.npy", np.full(50, value)), "ncsnr.npy: .* 0 to 10")
        for value in (40.0, -0.5, np.inf)
    },
    "fewer coordinates": (put("coordinates.npy", np.zeros((49, 3))), r"coordinates.npy: .*\(49, 3"),
    "NaN coordinates": (put("coordinates.npy", np.full((50, 3), np.nan)), "coordinates: NaN"),
    "float pictures": (put("pictures.npy", np.zeros((60, 8, 8, 3))), "pictures.npy: float64"),
    "16-bit pictures": (
        put("pictures.npy", np.zeros((60, 8, 8, 3), "u2")),
        "uint16; expected uint8",
    ),
    "grey pictures": (
        put("pictures.npy", np.zeros((60, 8, 8), "u1")),
        r"pictures.npy: .*\(60, 8, 8",
    ),
    "fewer trials": (text("trials.csv", "picture\n0\n"), "trials.csv: 1 trials; expected 120"),
    "no picture column": (
        text("trials.csv", "file\n0\n"),
        "trials.csv: columns file; expect",
    ),
    "unknown picture": (text("trials.csv", TRIALS.replace("0", "99", 1)), "line 2: picture '99'"),
    "bad session": (
        text("trials.csv", "picture,session\n" + "0,x\n" * 120),
        "trials.csv, line 2: session 'x'; expected a whole number",
    ),
    "half marked": (
        text("trials.csv", "picture,test\n" + "0,1\n0,0\n" * 60),
        "marked in some of its trials only",
    ),
    "roi beyond": (text("rois.csv", "vertex,roi\n50,V1v\n"), "rois.csv: vertex 50; expected less"),
    "short ncsnr": (put("ncsnr.npy", np.ones(3)), r"ncsnr.npy: float64 \(3,\)"),
    "vertices without mesh": (put("vertices.npy", np.arange(50)), "mesh.txt: not found"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_names_the_file_and_what_to_do(folder, kind):
    damage, said = DAMAGE[kind]
    damage(folder)
    with pytest.raises(InputError, match=said):
        load(folder)


@pytest.mark.parametrize("name", ["own-", "own-../x", "own-a/b", "own", "x"])
def test_a_bad_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="expected own-NAME"):
        load_own(name, tmp_path)
    assert not os.listdir(tmp_path)
