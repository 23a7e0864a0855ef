"""FreeSurfer's .mgh and .mgz as NSD writes them: one value, or one series of trials, per vertex.

A single .mgh is a 284-byte header and the values, big-endian, vertex fastest; .mgz is its gzip.
"""

import gzip
import warnings
import zlib
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float, Int
from nibabel.freesurfer.mghformat import MGHHeader

from analysis.files import InputError, require, whole_file

HEADER_BYTES = 284
FLOAT = 3  # MRI_FLOAT, the type of every map, label and beta file of NSD
FOOTERS = (0, 16, 20)  # bytes after the values: none, MATLAB's or nibabel's scan parameters
FETCH = "Fetch the file again, or simulate the subject again."


def affine(n_vertices: int) -> Float[np.ndarray, "4 4"]:
    """The affine that NSD's writer puts into surface files (nibabel's default is another)."""
    return np.array([[-1, 0, 0, n_vertices / 2], [0, 0, 1, -0.5], [0, -1, 0, 0.5], [0, 0, 0, 1]])


def write(path: Path, values: Float[np.ndarray, "vertex *trial"]) -> None:
    """Write float32 values per vertex (and trial), the file whole or not at all."""
    data = np.asarray(values, ">f4").reshape(len(values), 1, 1, -1)
    if data.shape[-1] == 1:
        data = data[..., 0]
    with whole_file(path) as scratch:
        nibabel.save(nibabel.MGHImage(data, affine(len(values))), scratch)


def _bytes(path: Path, count: int = -1) -> bytes:
    """The first bytes of a file, or all, unpacked if it is packed."""
    with gzip.open(path) if path.suffix == ".mgz" else path.open("rb") as f:
        return f.read(count)


def _header(path: Path) -> tuple[int, int]:
    """Vertices and trials of a surface file, its header checked."""
    try:
        raw = _bytes(path, HEADER_BYTES)
        if len(raw) < HEADER_BYTES:
            raise ValueError(f"{len(raw)} bytes, shorter than its {HEADER_BYTES}-byte header")
        header = MGHHeader(raw, check=True)
        dims, kind = [int(n) for n in header["dims"]], int(header["type"])
    except (OSError, EOFError, zlib.error, ValueError, nibabel.spatialimages.HeaderDataError) as e:
        raise InputError(f"{path}: not a readable MGH file ({e}). {FETCH}") from e
    if kind != FLOAT or dims[1:3] != [1, 1] or min(dims) < 1:
        raise InputError(
            f"{path}: dims {dims} and type {kind}; expected [vertices, 1, 1, trials] and type"
            f" {FLOAT} (float32). {FETCH}"
        )
    return dims[0], dims[3]


def read(path: Path, what: str, n_vertices: int | None = None) -> Float[np.ndarray, " vertex"]:
    """One float32 value per vertex.

    Raises:
        InputError: if the file is missing, truncated, or not a map of `n_vertices` vertices.
    """
    require(path, what, FETCH)
    found, trials = _header(path)
    if trials != 1 or (n_vertices is not None and found != n_vertices):
        raise InputError(
            f"{path}: {found} vertices x {trials}; expected {what}"
            f" with {n_vertices or 'any number of'} vertices x 1. {FETCH}"
        )
    try:
        raw = _bytes(path)  # nibabel.load would leave an .mgh open
        values = np.frombuffer(raw, ">f4", found, HEADER_BYTES).astype(np.float32)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}). {FETCH}") from error
    if (after := len(raw) - HEADER_BYTES - 4 * found) not in FOOTERS:
        warnings.warn(
            f"{path}: {after:,} bytes follow the {found} values that its header promises; expected"
            f" {', '.join(map(str, FOOTERS))}. If what is read looks wrong: {FETCH}",
            stacklevel=2,
        )
    return values


def read_integers(
    path: Path, what: str, n_vertices: int | None = None
) -> Int[np.ndarray, " vertex"]:
    """One whole number per vertex, as NSD keeps labels and indices: in float32.

    Raises:
        InputError: as `read`, and if a value is no whole number.
    """
    values = read(path, what, n_vertices)
    whole = (np.abs(values) < 2**24) & (values == np.rint(values))  # False for NaN
    if not whole.all():
        raise InputError(f"{path}: {values[~whole][0]} among its values; expected {what}. {FETCH}")
    return values.astype(int)


def check_series(path: Path, n_vertices: int, n_trials: int) -> None:
    """Pass if this is an uncompressed series of so many vertices and trials, whole.

    Raises:
        InputError: if the file is missing, truncated, or not such a float32 surface series.
    """
    require(path, f"betas of {n_trials} trials", FETCH)
    found = _header(path)
    if found != (n_vertices, n_trials):
        raise InputError(
            f"{path}: {found[0]} vertices x {found[1]} trials; expected {n_vertices} x {n_trials},"
            f" as nsdgeneral and the design have. {FETCH}"
        )
    expected = HEADER_BYTES + 4 * n_vertices * n_trials
    if (size := path.stat().st_size) < expected:
        raise InputError(
            f"{path}: {size:,} bytes; its header promises {n_vertices} vertices x {n_trials}"
            f" trials, {expected:,} bytes: the file is truncated. {FETCH}"
        )


def read_series(
    path: Path, vertices: Int[np.ndarray, " chosen"], n_vertices: int, n_trials: int
) -> Float[np.ndarray, "trial chosen"]:
    """The series of some vertices of an uncompressed .mgh.

    A trial's bytes are read from the first chosen vertex to the last, one trial at a time: the file
    is gone through once, and the memory is that of the result.

    Raises:
        InputError: as `check_series`.
    """
    check_series(path, n_vertices, n_trials)
    out = np.empty((n_trials, len(vertices)), np.float32)
    if not len(vertices):
        return out
    first = int(vertices.min())
    span = np.empty(int(vertices.max()) + 1 - first, ">f4")
    with path.open("rb", buffering=0) as f:
        for trial, row in enumerate(out):
            f.seek(HEADER_BYTES + 4 * (trial * n_vertices + first))
            if f.readinto(span.data.cast("B")) != span.nbytes:
                raise InputError(f"{path}: ended in trial {trial + 1}, cut while read. {FETCH}")
            row[:] = span[vertices - first]
    return out


def color_table(label: Path) -> Path:
    """Where a label file's names are: beside it, without the hemisphere."""
    return label.with_name(label.name.split(".", 1)[1] + ".ctab")


def read_names(path: Path) -> dict[int, str]:
    """The names of a label file's values, from its .ctab (`0 Unknown`; further columns ignored).

    Raises:
        InputError: if the table is missing or a line is not `number name`.
    """
    require(path, "the names of a label file's values", FETCH)
    names = {}
    for number, line in enumerate(path.read_text("utf8", "replace").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2 or not fields[0].isdigit():
            raise InputError(f"{path}, line {number}: {line!r}; expected 'number name'. {FETCH}")
        if int(fields[0]) in names or fields[1] in names.values():
            raise InputError(f"{path}, line {number}: {line!r} is there already. {FETCH}")
        names[int(fields[0])] = fields[1]
    return names


def read_labels(
    path: Path, n_vertices: int | None = None
) -> tuple[Int[np.ndarray, " vertex"], dict[int, str]]:
    """A label per vertex (0 = none) and the labels' names.

    Raises:
        InputError: if the file or its .ctab is missing or damaged, or a label has no name.
    """
    values = read_integers(path, "a label per vertex", n_vertices)
    names = read_names(color_table(path))
    labels = values.clip(min=0)  # NSD marks some outside with -1
    if unnamed := sorted(set(labels.tolist()) - set(names) - {0}):
        raise InputError(f"{path}: labels {unnamed} have no name in {color_table(path)}. {FETCH}")
    return labels, names


def write_labels(path: Path, labels: Int[np.ndarray, " vertex"], names: dict[int, str]) -> None:
    """Write a label file and its .ctab, the names first so that no label file lacks them."""
    with whole_file(color_table(path)) as scratch:
        scratch.write_text("".join(f"{value} {name}\n" for value, name in sorted(names.items())))
    write(path, labels.astype(np.float32))
