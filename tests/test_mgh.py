"""Surface files: NSD's very bytes by other readers, and one clear error for anything else."""

import gzip
import struct

import nibabel
import numpy as np
import pytest

from analysis import mgh
from analysis.files import InputError, MissingFile

N, T = 12, 5
SERIES = np.random.default_rng(0).normal(size=(N, T)).astype(np.float32)
MAP = SERIES[:, 0]


def header(dims=(N, 1, 1, T), kind=3, version=1):
    """The 284 bytes of FreeSurfer's format, by hand."""
    geometry = struct.pack(">h15f", 1, *[1.0] * 3, *[0.0] * 12)
    return (struct.pack(">7i", version, *dims, kind, 0) + geometry).ljust(284, b"\0")


def by_hand(path, values):
    """A file written by hand, vertex fastest, big-endian; packed if its name says so."""
    values = values.reshape(len(values), -1)
    raw = header((len(values), 1, 1, values.shape[1])) + values.astype(">f4").tobytes(order="F")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".mgz" else raw)
    return path


def both_kinds(names):
    return pytest.mark.parametrize("name", names)


@both_kinds(["lh.a.mgh", "lh.a.mgz"])
@pytest.mark.parametrize("values", [SERIES, MAP])
def test_nibabel_reads_what_is_written(tmp_path, name, values):
    path = tmp_path / name
    mgh.write(path, values)
    with gzip.open(path) if name.endswith("z") else path.open("rb") as f:
        image = nibabel.MGHImage.from_stream(f)
        data = np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.dtype(">f4")
    assert list(image.header["dims"]) == [N, 1, 1, values.size // N]
    assert int(image.header["version"]) == 1 and int(image.header["goodRASFlag"]) == 1
    np.testing.assert_array_equal(data.reshape(values.shape), values)
    # as in NSD's own label files
    np.testing.assert_array_equal(
        image.affine, [[-1, 0, 0, N / 2], [0, 0, 1, -0.5], [0, -1, 0, 0.5], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(image.header["Mdc"], [[-1, 0, 0], [0, 0, -1], [0, 1, 0]])
    np.testing.assert_array_equal(image.header["Pxyz_c"], 0)


def test_values_follow_284_bytes_vertex_fastest(tmp_path):
    path = tmp_path / "a.mgh"
    mgh.write(path, SERIES)
    raw = path.read_bytes()
    assert raw[284 : 284 + 4 * N * T] == SERIES.astype(">f4").tobytes(order="F")
    assert struct.unpack(">7i", raw[:28])[:6] == (1, N, 1, 1, T, 3)


def series(path, what="betas", dims=(N, T)):
    """All vertices of a series, [trial, vertex]."""
    return mgh.read_series(path, np.arange(dims[0]), *dims)


@pytest.mark.parametrize("chosen", [range(N), [1, 3, 4], [5], [N - 1, 0], []])
def test_series_by_hand_is_read_for_the_vertices_asked(tmp_path, chosen):
    chosen = np.array(chosen, int)
    got = mgh.read_series(by_hand(tmp_path / "a.mgh", SERIES), chosen, N, T)
    assert got.shape == (T, len(chosen)) and got.dtype == np.float32
    np.testing.assert_array_equal(got, SERIES[chosen].T)


def test_a_series_of_another_shape_names_both(tmp_path):
    path = by_hand(tmp_path / "a.mgh", SERIES)
    for dims in ((N + 1, T), (N, T - 1)):
        with pytest.raises(
            InputError, match=f"a.mgh: {N} vertices x {T} trials.*{dims[0]} vertices x {dims[1]}"
        ):
            series(path, dims=dims)


@both_kinds(["a.mgh", "a.mgz"])
def test_map_by_hand_is_read(tmp_path, name):
    values = mgh.read(by_hand(tmp_path / name, MAP), "a map", N)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, MAP)


def test_nan_and_the_largest_values_survive(tmp_path):
    values = np.array([np.nan, np.inf, -np.inf, 3.4e38, 1e-45, -0.0], np.float32)
    mgh.write(tmp_path / "a.mgz", values)
    assert mgh.read(tmp_path / "a.mgz", "a map").tobytes() == values.tobytes()


def packed(raw):
    return gzip.compress(raw, mtime=0)


WHOLE = header((N, 1, 1, 1)) + MAP.astype(">f4").tobytes()
BAD = {
    "empty.mgh": (b"", ""),
    "empty.mgz": (b"", ""),
    "short-header.mgh": (WHOLE[:100], ""),
    "short-header.mgz": (packed(WHOLE[:100]), ""),
    "short-data.mgh": (WHOLE[:-1], "Expected .* bytes"),
    "short-data.mgz": (packed(WHOLE[:-1]), "Expected .* bytes"),
    "cut-pack.mgz": (packed(WHOLE)[:-12], ""),
    "bad-checksum.mgz": (packed(WHOLE)[:-8] + bytes(8), "CRC check failed"),
    "not-packed.mgz": (WHOLE, "[Nn]ot a gzipped"),
    "packed.mgh": (packed(WHOLE), ""),
    "text.mgh": (b"<html>404</html>" * 40, ""),
    "text.mgz": (b"<html>404</html>" * 40, ""),
    "volume.mgh": (header((3, 2, 2, 1)) + bytes(4 * N), r"dims \[3, 2, 2, 1\].*expected"),
    "none.mgh": (header((0, 1, 1, 1)), "non-zero"),
    "negative.mgh": (header((-N, 1, 1, -1)) + bytes(4 * N), r"dims \[-12, 1, 1, -1\]"),
    "version.mgh": (header((N, 1, 1, 1), version=2) + bytes(4 * N), ""),
    "type.mgh": (header((N, 1, 1, 1), kind=7) + bytes(4 * N), ""),
}


@pytest.mark.parametrize(("kind", "dtype"), [(0, ">u1"), (1, ">i4"), (4, ">i2"), (3, ">f4")])
@both_kinds(["lh.a.mgh", "lh.a.mgz"])
def test_labels_maps_and_series_of_every_type_are_read(tmp_path, kind, dtype, name):
    values = np.arange(N) % 3
    raw = header((N, 1, 1, 1), kind) + values.astype(dtype).tobytes()
    path = tmp_path / name
    path.write_bytes(packed(raw) if name.endswith("z") else raw)
    mgh.color_table(path).write_text("0 Unknown 0 0 0 0\n\n#a comment\n 1\tA\n2 B\n")
    labels, names = mgh.read_labels(path, N)
    np.testing.assert_array_equal(labels, values)
    assert names == {0: "Unknown", 1: "A", 2: "B"}
    assert mgh.read(path, "a map", N).dtype == np.float32
    np.testing.assert_array_equal(mgh.read(path, "a map", N), values)
    series = mgh.read_series(path, np.array([2, 0]), N, 1)
    np.testing.assert_array_equal(series, [[2, 0]])
    assert series.dtype == np.float32


@pytest.mark.parametrize("name", BAD)
def test_a_bad_map_names_file_and_fault(tmp_path, name):
    raw, fault = BAD[name]
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"{name}.*{fault}.*Fetch the file again"):
        mgh.read(path, "a map")


@pytest.mark.parametrize("name", [n for n in BAD if n.endswith("mgh")])
def test_a_bad_series_names_file_and_fault(tmp_path, name):
    raw, fault = BAD[name]
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"{name}.*{fault}.*Fetch the file again"):
        series(path, dims=(N, 1))


def test_a_missing_map_says_what_it_should_be(tmp_path):
    with pytest.raises(MissingFile, match=r"gone\.mgh: not found; expected a map\. Fetch"):
        mgh.read(tmp_path / "gone.mgh", "a map")
    with pytest.raises(MissingFile, match=r"gone\.mgh: not found; expected betas of 5 trials\. F"):
        series(tmp_path / "gone.mgh", dims=(N, 5))


def test_an_error_of_the_operating_system_is_passed_on(tmp_path):
    (tmp_path / "a.mgh").mkdir()
    with pytest.raises(IsADirectoryError):
        mgh.read(tmp_path / "a.mgh", "a map")


def test_a_map_of_another_size_names_both(tmp_path):
    path = by_hand(tmp_path / "a.mgh", MAP)
    with pytest.raises(InputError, match=r"12 vertices x 1 .*a map: an MGH file of 642 vertices"):
        mgh.read(path, "a map", 642)


def test_a_series_is_no_map(tmp_path):
    with pytest.raises(InputError, match=r"12 vertices x 5 .*any number of vertices x 1"):
        mgh.read(by_hand(tmp_path / "a.mgh", SERIES), "a map")


LABELS = np.array([0, 1, 2, 1, 0, 2])


def test_labels_come_back_with_their_names(tmp_path):
    names = {0: "Unknown", 1: "OFA", 2: "FFA-1"}
    mgh.write_labels(tmp_path / "lh.faces.mgz", LABELS, names)
    assert (tmp_path / "faces.mgz.ctab").read_text() == "0 Unknown\n1 OFA\n2 FFA-1\n"
    labels, read = mgh.read_labels(tmp_path / "lh.faces.mgz", len(LABELS))
    np.testing.assert_array_equal(labels, LABELS)
    assert read == names


def test_minus_one_is_no_label(tmp_path):
    mgh.write_labels(tmp_path / "lh.a.mgz", LABELS - 1, {0: "Unknown", 1: "A"})
    labels, _ = mgh.read_labels(tmp_path / "lh.a.mgz")
    np.testing.assert_array_equal(labels, [0, 0, 1, 0, 0, 1])


@pytest.mark.parametrize("line", ["1", "one OFA", "OFA 1", "1.5 OFA"])
def test_a_bad_table_names_the_file(tmp_path, line):
    mgh.write_labels(tmp_path / "lh.a.mgz", LABELS, {0: "Unknown"})
    (tmp_path / "a.mgz.ctab").write_text(f"0 Unknown\n{line}\n")
    with pytest.raises(InputError, match=r"a\.mgz\.ctab: .*expected lines 'number name'"):
        mgh.read_labels(tmp_path / "lh.a.mgz")


def test_a_label_without_a_name_is_refused(tmp_path):
    mgh.write_labels(tmp_path / "lh.a.mgz", LABELS, {0: "Unknown", 1: "OFA"})
    with pytest.raises(
        InputError, match=r"lh\.a\.mgz: labels \[2\] have no name in .*a\.mgz\.ctab"
    ):
        mgh.read_labels(tmp_path / "lh.a.mgz")


def test_labels_without_a_table_are_refused(tmp_path):
    mgh.write(tmp_path / "lh.a.mgz", LABELS.astype(np.float32))
    with pytest.raises(MissingFile, match=r"a\.mgz\.ctab: not found"):
        mgh.read_labels(tmp_path / "lh.a.mgz")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e30])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path, value):
    mgh.write_labels(tmp_path / "lh.a.mgz", LABELS, {0: "Unknown", 1: "A", 2: "B"})
    mgh.write(tmp_path / "lh.a.mgz", np.array([0, 1, value], np.float32))
    with pytest.raises(InputError, match=r"lh\.a\.mgz: .* expected a label per vertex"):
        mgh.read_labels(tmp_path / "lh.a.mgz")
