"""Surface files: NSD's very bytes by other readers, and one clear error for anything else."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

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
            InputError, match=f"a.mgh: {N} vertices x {T} trials; expected {dims[0]} x {dims[1]}"
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
    "empty.mgh": (b"", "shorter than"),
    "empty.mgz": (b"", ""),
    "short-header.mgh": (WHOLE[:100], "shorter than its 284-byte header"),
    "short-header.mgz": (packed(WHOLE[:100]), "shorter than its 284-byte header"),
    "short-data.mgh": (WHOLE[:-1], "truncated"),
    "short-data.mgz": (packed(WHOLE[:-1]), "truncated"),
    "cut-pack.mgz": (packed(WHOLE)[:-12], ""),
    "bad-checksum.mgz": (packed(WHOLE)[:-8] + bytes(8), "damaged"),
    "not-packed.mgz": (WHOLE, "[Nn]ot a gzipped"),
    "packed.mgh": (packed(WHOLE), "not a readable MGH"),
    "text.mgh": (b"<html>404</html>" * 40, "not a readable MGH"),
    "text.mgz": (b"<html>404</html>" * 40, "not a readable MGH"),
    "int.mgh": (header((N, 1, 1, 1), kind=1) + bytes(4 * N), "type 1; expected .*float32"),
    "volume.mgh": (header((3, 2, 2, 1)) + bytes(4 * N), r"dims \[3, 2, 2, 1\].*expected"),
    "none.mgh": (header((0, 1, 1, 1)), r"dims \[0, 1, 1, 1\]"),
    "negative.mgh": (header((-N, 1, 1, -1)) + bytes(4 * N), r"dims \[-12, 1, 1, -1\]"),
    "huge.mgh": (header((2**31 - 1, 1, 1, 1)) + bytes(4 * N), "truncated"),
    "version.mgh": (header((N, 1, 1, 1), version=2) + bytes(4 * N), "not a readable MGH"),
}


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
        series(path, dims=(2**31 - 1, 1) if name == "huge.mgh" else (N, 1))


def test_a_missing_map_says_what_it_should_be(tmp_path):
    with pytest.raises(MissingFile, match=r"gone\.mgh: not found; expected a map\. Fetch"):
        mgh.read(tmp_path / "gone.mgh", "a map")
    with pytest.raises(MissingFile, match=r"gone\.mgh: not found; expected betas of 5 trials\. F"):
        series(tmp_path / "gone.mgh", dims=(N, 5))


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    (tmp_path / "a.mgh").mkdir()
    with pytest.raises(InputError, match="not a readable MGH"):
        mgh.read(tmp_path / "a.mgh", "a map")


def test_a_map_of_another_size_names_both(tmp_path):
    path = by_hand(tmp_path / "a.mgh", MAP)
    with pytest.raises(InputError, match="12 vertices x 1; expected a map with 642 vertices x 1"):
        mgh.read(path, "a map", 642)


def test_a_series_is_no_map(tmp_path):
    with pytest.raises(InputError, match="12 vertices x 5; expected a map with any number of"):
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


def test_further_columns_and_blank_lines_of_a_table_are_ignored(tmp_path):
    (tmp_path / "a.ctab").write_text("0  Unknown 0 0 0 0\n\n 1\tOFA 255 0 0 0\n")
    assert mgh.read_names(tmp_path / "a.ctab") == {0: "Unknown", 1: "OFA"}


@pytest.mark.parametrize("line", ["1", "one OFA", "-1 OFA", "OFA 1", "1.5 OFA"])
def test_a_bad_table_names_file_and_line(tmp_path, line):
    (tmp_path / "a.ctab").write_text(f"0 Unknown\n{line}\n")
    with pytest.raises(InputError, match=rf"a\.ctab, line 2: '{line}'; expected 'number name'"):
        mgh.read_names(tmp_path / "a.ctab")


def test_a_table_of_garbage_is_refused(tmp_path):
    (tmp_path / "a.ctab").write_bytes(bytes(range(128, 256)) * 4)
    with pytest.raises(InputError, match=r"a\.ctab, line 1"):
        mgh.read_names(tmp_path / "a.ctab")


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


def outcome(read, path):
    """The shape that a reader returns, or "refused"; anything else passes through."""
    try:
        return read(path, "a map").shape
    except InputError as error:
        assert path.name in str(error)
        return "refused"


damage = st.lists(st.tuples(st.integers(0, 283), st.integers(0, 255)), min_size=1, max_size=8)
# Bytes 0-27 say version, dims and type: elsewhere little is read.
aimed = st.lists(st.tuples(st.integers(0, 27), st.integers(0, 255)), min_size=1, max_size=4)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=damage | aimed, kept=st.just(None) | st.integers(0, 284 + 4 * N * T), pack=st.booleans()
)
@example(changes=[(4, 127)], kept=None, pack=False)
@example(changes=[(16, 128)], kept=None, pack=True)
def test_damaged_bytes_end_in_one_error_or_the_promised_shape(tmp_path, changes, kept, pack):
    raw = bytearray(header() + SERIES.astype(">f4").tobytes(order="F"))
    for place, value in changes:
        raw[place] = value
    raw = bytes(raw[:kept])
    path = tmp_path / f"a.mg{'z' if pack else 'h'}"
    path.write_bytes(packed(raw) if pack else raw)
    dims = struct.unpack(">4i", raw[4:20]) if len(raw) >= 20 else None
    assert outcome(mgh.read, path) in ("refused", dims and dims[:1])
    if not pack:
        assert outcome(series, path) in ("refused", dims and (dims[3], dims[0]))


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    kept=st.integers(0, 400),
)
def test_damaged_packing_ends_in_one_error_or_the_promised_shape(tmp_path, changes, kept):
    raw = bytearray(packed(WHOLE))
    for place, value in changes:
        raw[place % len(raw)] = value
    path = tmp_path / "a.mgz"
    path.write_bytes(bytes(raw[:kept]))
    assert outcome(mgh.read, path) in ("refused", (N,))
