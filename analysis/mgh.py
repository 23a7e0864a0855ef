"""FreeSurfer's .mgh and .mgz: one value, or a series of trials, per vertex.

A .mgh is a 284-byte header and the values, big-endian, vertex fastest; .mgz is its gzip.
"""

import errno
import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float, Int
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError

from analysis.files import InputError, require, whole_file

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


def _values(path: Path, what: str, n_vertices: int | None, n_trials: int) -> np.ndarray:
    """Values [vertex, trial] in the file's own type; mapped, not read, where it isn't packed."""
    require(path, what, FETCH)
    packed = path.suffix == ".mgz"
    try:
        with (
            np.errstate(over="ignore"),  # of sizes in a damaged header
            gzip.open(path) if packed else path.open("rb") as f,  # nibabel.load leaves it open
        ):
            image = nibabel.MGHImage.from_stream(f)
            n, *others = (int(d) for d in image.header["dims"])
            if others != [1, 1, n_trials] or n_vertices not in (None, n) or n < 1:
                raise ValueError(f"{n} vertices x {others[2]} trials, dims {[n, *others]}")
            values = np.asanyarray(image.dataobj)
            if packed:
                f.read()  # to the end, where the checksum is
    except (  # of the operating system (with errno), gzip, zlib, numpy and nibabel
        OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, MemoryError, OverflowError,
        HeaderDataError, MGHError,
    ) as error:  # fmt: skip
        if getattr(error, "errno", None) not in (None, errno.EINVAL):  # of impossible sizes
            raise
        raise InputError(
            f"{path}: {' '.join(str(error).split())}; expected {what}: an MGH file of"
            f" {n_vertices or 'any number of'} vertices x {n_trials} trials. {FETCH}"
        ) from error
    return values.reshape(n, n_trials, order="F")


def read(path: Path, what: str, n_vertices: int | None = None) -> Float[np.ndarray, " vertex"]:
    """One float32 value per vertex, of a file of any type of number.

    Raises:
        InputError: if the file is missing, damaged, or not a map of `n_vertices` vertices.
    """
    return _values(path, what, n_vertices, 1)[:, 0].astype(np.float32)


def read_integers(
    path: Path, what: str, n_vertices: int | None = None
) -> Int[np.ndarray, " vertex"]:
    """One whole number per vertex; NSD keeps labels and indices as float32.

    Raises:
        InputError: as `read`, and if a value is no whole number.
    """
    values = _values(path, what, n_vertices, 1)[:, 0]
    whole = (np.abs(values.astype(float)) < 2**31) & (values == np.rint(values))  # False for NaN
    if not whole.all():
        raise InputError(f"{path}: {values[~whole][0]} among its values; expected {what}. {FETCH}")
    return values.astype(int)


def read_series(
    path: Path, vertices: Int[np.ndarray, " chosen"], n_vertices: int, n_trials: int
) -> Float[np.ndarray, "trial chosen"]:
    """The series of some vertices of a file of `n_vertices`.

    Raises:
        InputError: if the file is missing, truncated or of another shape.
    """
    values = _values(path, f"betas of {n_trials} trials", n_vertices, n_trials)
    return np.ascontiguousarray(values.T[:, vertices], np.float32)


def read_labels(
    path: Path, n_vertices: int | None = None
) -> tuple[Int[np.ndarray, " vertex"], dict[int, str]]:
    """A label per vertex (0 = none), and the labels' names from the .ctab beside it.

    Raises:
        InputError: if the file or its .ctab is missing or damaged, or a label has no name.
    """
    labels = read_integers(path, "a label per vertex", n_vertices)
    labels = labels.clip(min=0)  # NSD marks some outside with -1
    table = color_table(path)
    lines = require(table, "the names of a label file's values", FETCH).read_text("utf8", "replace")
    try:
        fields = [line.split() for line in lines.splitlines() if line.strip()]
        names = {int(number): name for number, name, *_ in fields if not number.startswith("#")}
    except ValueError as error:
        raise InputError(f"{table}: {error}; expected lines 'number name'. {FETCH}") from error
    if unnamed := sorted(set(labels.tolist()) - set(names) - {0}):
        raise InputError(f"{path}: labels {unnamed} have no name in {table}. {FETCH}")
    return labels, names


def color_table(label: Path) -> Path:
    """The path of a label file's names: beside it, without the hemisphere."""
    return label.with_name(label.name.split(".", 1)[1] + ".ctab")


def write_labels(path: Path, labels: Int[np.ndarray, " vertex"], names: dict[int, str]) -> None:
    """Write a label file and its .ctab, the names first so that no label file lacks them."""
    with whole_file(color_table(path)) as scratch:
        scratch.write_text("".join(f"{value} {name}\n" for value, name in sorted(names.items())))
    write(path, labels.astype(np.float32))
