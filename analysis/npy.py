"""NumPy's .npy files from outside, read without running what they hold."""

import pickle
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.files import InputError, require

MEND = "Put the file there again."
LARGEST_TABLE = 2**20  # bytes of a pickled table of names
# What numpy needs to rebuild an array of Python objects; nothing of it runs code.
HARMLESS = {
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.multiarray", "scalar"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}
# What numpy raises for a damaged header.
UNREADABLE = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError, OverflowError)
# And what unpickling damaged bytes raises; a size that is damaged asks for all the memory.
UNPICKLABLE = (pickle.UnpicklingError, LookupError, TypeError, AttributeError, MemoryError)


def read_array(
    path: Path, what: str, shape: Sequence[int | None], kinds: str, mend: str = MEND
) -> np.ndarray:
    """A memory map of an array whose shape and kind of number are as expected.

    `shape`: None where any number will do; `kinds`: numpy's letters, such as "f" or "iu".

    Raises:
        InputError: if the file is missing, truncated, no .npy, or another array.
    """
    require(path, what, mend)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE as error:
        raise InputError(
            f"{path}: not a readable .npy ({error}); expected {what}. {mend}"
        ) from error
    wanted = tuple("any" if n is None else n for n in shape)
    fits = array.ndim == len(shape) and all(
        n in (None, m) for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        raise InputError(
            f"{path}: {array.dtype} {array.shape}; expected {what}, shape {wanted}, kind of number"
            f" {' or '.join(kinds)}. {mend}"
        )
    after = path.stat().st_size - array.offset - array.nbytes
    if after or not array.dtype.isnative:
        raise InputError(
            f"{path}: {array.dtype.str} with {after:,} bytes after the values; expected {what} in"
            f" this machine's byte order and nothing after: damaged, or of another writer; load it"
            f" with numpy and save it again. {mend}"
        )
    return array


class _Names(pickle.Unpickler):
    """An unpickler that knows arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return super().find_class(module, name)


def read_names(path: Path) -> dict[int, str]:
    """The names of a label file's values, from the dictionary that the challenge pickles.

    Only plain values are rebuilt; a file that asks for anything else is refused before it gets it.

    Raises:
        InputError: if the file is missing, damaged, or no such dictionary.
    """
    what = "a dictionary of label names"
    require(path, what, MEND)
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise ValueError(f"more than {LARGEST_TABLE:,} bytes")
        with path.open("rb") as f:
            version = np.lib.format.read_magic(f)
            read = {(1, 0): np.lib.format.read_array_header_1_0}
            read[(2, 0)] = np.lib.format.read_array_header_2_0
            shape, _, kind = read[version](f)
            if shape != () or not kind.hasobject:
                raise ValueError(f"{kind} {shape}")
            found = _Names(f).load().item()
        if not isinstance(found, dict):
            raise ValueError(type(found).__name__)
        names = {int(value): str(name) for value, name in found.items()}
    except (*UNREADABLE, *UNPICKLABLE) as error:
        raise InputError(f"{path}: not {what} ({error}). Don't use this file. {MEND}") from error
    return names
