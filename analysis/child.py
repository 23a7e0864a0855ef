"""Formats whose libraries can crash on a damaged file, read in a process of their own.

    variables = matlab_variables(path, ("masterordering",), what, mend)
    info = brick_info(path, what, mend)

What the process sends back is plain arrays and JSON; where it dies, an error names the file.
"""

import io
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from analysis.files import InputError

SECONDS = 120  # after which a file is taken as damaged
START = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))  # a damaged size asks for all there is
except (ImportError, ValueError, OSError):
    pass  # no such limit on this system
path, names = sys.argv[1], sys.argv[2:]
try:
"""
END = """
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""
MATLAB = """
    import io, numpy, scipy.io
    with open(path, "rb") as f:
        found = scipy.io.loadmat(f, variable_names=names)
    if absent := [name for name in names if name not in found]:
        sys.exit(f"no {', '.join(absent)} in it")
    for name in names:
        if found[name].dtype.kind not in "iu":
            raise ValueError(f"{name} is {found[name].dtype}, no whole numbers")
    out = io.BytesIO()
    numpy.savez(out, **{name: found[name] for name in names})
    sys.stdout.buffer.write(out.getvalue())
"""
BRICK = """
    import h5py, json
    with h5py.File(path, "r") as f:
        brick = f["imgBrick"]
        shape = brick.shape
        for row in (0, shape[0] - 1):
            brick[row]
        info = {"shape": shape, "dtype": str(brick.dtype), "chunks": brick.chunks}
        info |= {"stored": brick.id.get_storage_size(), "offset": brick.id.get_offset()}
    print(json.dumps(info))
"""


def _output(code: str, path: Path, names: tuple[str, ...], what: str, mend: str) -> bytes:
    """What a process prints that reads the file.

    Raises:
        InputError: naming the file, if the process fails, dies or takes too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", START + code + END, str(path), *names],
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        why = f"not read in {SECONDS} s"
        raise InputError(f"{path}: {why}; expected {what}. {mend}") from error
    if done.returncode:
        said = done.stderr.decode("utf8", "replace").strip().splitlines()
        why = said[-1] if said and done.returncode == 1 else "its reader crashed: it is damaged"
        raise InputError(f"{path}: {why}; expected {what}. {mend}")
    return done.stdout


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _arrays(
    path: Path, stamp: tuple[int, int], names: tuple[str, ...], what: str, mend: str
) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(_output(MATLAB, path, names, what, mend)), allow_pickle=False) as found:
        arrays = {name: found[name] for name in names}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def matlab_variables(
    path: Path, names: tuple[str, ...], what: str, mend: str
) -> dict[str, np.ndarray]:
    """Variables of whole numbers in a MATLAB 5 file. Read-only.

    Raises:
        InputError: if the file is damaged, no MATLAB 5 file, or lacks one.
    """
    return _arrays(path, _stamp(path), names, what, mend)


@lru_cache(maxsize=16)
def _info(path: Path, stamp: tuple[int, int], what: str, mend: str) -> dict[str, Any]:
    return json.loads(_output(BRICK, path, (), what, mend))


def brick_info(path: Path, what: str, mend: str) -> dict[str, Any]:
    """The imgBrick of an HDF5 file: shape, dtype, chunks, bytes stored, and where they begin.

    Raises:
        InputError: if the file is damaged, no HDF5, or has no such array.
    """
    return _info(path, _stamp(path), what, mend)
