"""The reader's own subject: pictures, responses, coordinates and ROIs as arrays, or as a folder.

    subject = load_own("own-mydata", data_root() / "own")

The book's page "Your own data" describes the folder.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from analysis import surface
from analysis.files import InputError, require
from analysis.npy import read_array
from analysis.pictures import SUFFIXES, Files, Held, Pictures
from analysis.subject import Subject, with_areas, zscore

MEND = "See the book's page on your own data for what goes where."
TEST_SHARE = 0.1  # of the pictures, drawn where none are marked
NAME = re.compile(r"own-[A-Za-z0-9_]+")


def _fail(what: str, found: object, expected: str) -> InputError:
    return InputError(f"{what}: {found}; expected {expected}. {MEND}")


def subject_from_arrays(
    name: str,
    pictures: Pictures,
    responses: Float[np.ndarray, "trial vertex"],
    trial_picture: Int[np.ndarray, " trial"],
    coordinates: Float[np.ndarray, "vertex 3"],
    rois: dict[str, Bool[np.ndarray, " vertex"]] | None = None,
    trial_session: Int[np.ndarray, " trial"] | None = None,
    shared: Bool[np.ndarray, " picture"] | None = None,
    ncsnr: Float[np.ndarray, " vertex"] | None = None,
    vertices: Int[np.ndarray, " vertex"] | None = None,
    n_surface: int = 0,
) -> Subject:
    """A subject of the reader's own data, z-scored per session; NaN or constant vertices left out.

    `responses`: any unit; `coordinates`: mm. `shared`: the test set; a tenth of the pictures, drawn
    from a fixed seed, if not given. `vertices`: indices on fsaverage with `n_surface` vertices a
    hemisphere (rh + n_surface), for maps; without them there are none.

    Raises:
        InputError: naming the array that is wrong, what was found and what was expected.
    """
    n_trials, n_vertices = responses.shape
    session = np.zeros(n_trials, int) if trial_session is None else trial_session
    for what, array, n in (
        ("trial_picture", trial_picture, n_trials),
        ("trial_session", session, n_trials),
        ("coordinates", coordinates, n_vertices),
        *((f"rois[{k!r}]", v, n_vertices) for k, v in (rois or {}).items()),
        *([("shared", shared, len(pictures))] if shared is not None else []),
        *([("ncsnr", ncsnr, n_vertices)] if ncsnr is not None else []),
        *([("vertices", vertices, n_vertices)] if vertices is not None else []),
    ):
        if len(array) != n:
            raise _fail(what, f"{len(array)} rows", str(n))
    if n_trials and not 0 <= trial_picture.min() <= trial_picture.max() < len(pictures):
        span = f"{trial_picture.min()} to {trial_picture.max()}"
        raise _fail("trial_picture", span, f"rows of {len(pictures)} pictures, from 0")
    if not np.isfinite(coordinates).all():
        raise _fail("coordinates", "NaN or infinite", "mm")
    if vertices is not None and (
        n_surface not in surface.SIZES
        or len(np.unique(vertices)) != len(vertices)
        or not 0 <= vertices.min() <= vertices.max() < 2 * n_surface
    ):
        raise _fail(
            "vertices",
            f"{vertices.min()} to {vertices.max()} on a mesh of {n_surface}",
            f"different indices on fsaverage, of {surface.SIZES} vertices a hemisphere",
        )
    scored = np.empty((n_trials, n_vertices), np.float32)
    for some in np.unique(session):
        scored[session == some] = zscore(responses[session == some].astype(np.float32))
    kept = np.isfinite(scored).all(0) & (n_trials > 0)
    if not kept.any():
        raise _fail("responses", f"all {n_vertices} vertices NaN or constant", "some that vary")
    if shared is None:
        shared = np.zeros(len(pictures), bool)
        drawn = np.random.default_rng(0).permutation(len(pictures))
        shared[drawn[: max(1, round(TEST_SHARE * len(pictures)))]] = True
    hashed = hashlib.sha256(scored.data)
    for array in (trial_picture, session, shared, coordinates):
        hashed.update(np.ascontiguousarray(array).tobytes())
    return Subject(
        name=name,
        source="own",
        n_surface=n_surface if vertices is not None else 0,
        vertices=(np.arange(n_vertices) if vertices is None else vertices)[kept],
        coordinates=coordinates[kept].astype(np.float64),
        rois=with_areas({k: v[kept] for k, v in (rois or {}).items()}),
        ncsnr=(np.full(n_vertices, np.nan, np.float32) if ncsnr is None else ncsnr)[kept],
        responses=scored[:, kept],
        trial_picture=trial_picture,
        trial_session=np.unique(session, return_inverse=True)[1],
        repeats=np.ones(n_trials, int),
        picture_ids=np.arange(len(pictures)),
        shared=shared,
        stimuli=pictures,
        dropped=int((~kept).sum()),
        identity=hashed.hexdigest(),
    )


def _read_pictures(folder: Path) -> tuple[Pictures, list[str]]:
    """The pictures of a folder, and their names (their row's number where they have none)."""
    if (path := folder / "pictures.npy").exists():
        array = read_array(path, "pictures", [None, None, None, 3], "u", MEND)
        if array.dtype != np.uint8:
            raise _fail(str(path), array.dtype, "uint8")
        return Held(np.array(array)), [str(i) for i in range(len(array))]
    require(folder / "pictures", "a folder of pictures, or pictures.npy beside", MEND)
    paths = [p for p in sorted((folder / "pictures").iterdir()) if p.suffix.lower() in SUFFIXES]
    if not paths:
        raise _fail(str(folder / "pictures"), "no picture", "files .png or .jpg")
    return Files(paths), [path.name for path in paths]


def _read_csv(path: Path, what: str, columns: set[str]) -> pd.DataFrame:
    require(path, what, MEND)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise _fail(str(path), f"not readable ({error})", what) from error
    if not columns <= set(table):
        raise _fail(str(path), f"columns {', '.join(table)}", f"{', '.join(sorted(columns))}")
    return table


def _integers(path: Path, column: pd.Series) -> Int[np.ndarray, " row"]:
    wrong = column[~column.str.fullmatch(r"\d{1,9}")]
    if len(wrong):
        line = f"{path}, line {wrong.index[0] + 2}"
        raise _fail(line, f"{column.name} {wrong.iloc[0]!r}", "a whole number from 0")
    return column.astype(int).to_numpy()


def load_own(name: str, root: Path) -> Subject:
    """The subject in the folder `root/NAME`, asked for as `own-NAME`.

    Raises:
        InputError: for a bad name, or naming the file that is missing, damaged or doesn't fit.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"subject {name!r}: expected own-NAME, of letters, digits and _.")
    folder = root / name.removeprefix("own-")
    require(folder, "a subject's folder", MEND)
    pictures, names = _read_pictures(folder)
    responses = read_array(folder / "responses.npy", "responses", [None, None], "f", MEND)
    n_trials, n_vertices = responses.shape
    trials = _read_csv(folder / "trials.csv", "the picture of each trial", {"picture"})
    if len(trials) != n_trials:
        raise _fail(str(folder / "trials.csv"), f"{len(trials)} trials", f"{n_trials} as responses")
    row_of = {picture: row for row, picture in enumerate(names)}
    for line, picture in enumerate(trials["picture"], 2):
        if picture not in row_of:
            where = f"{folder / 'trials.csv'}, line {line}"
            raise _fail(where, f"picture {picture!r}", f"one of {len(names)}, such as {names[0]!r}")
    shown = np.array([row_of[picture] for picture in trials["picture"]], int)
    session = shared = None
    if "session" in trials:
        session = _integers(folder / "trials.csv", trials["session"])
    if "test" in trials:
        marked = _integers(folder / "trials.csv", trials["test"])
        shared = np.zeros(len(names), bool)
        shared[shown[marked == 1]] = True
        if shared[shown[marked != 1]].any():
            where = str(folder / "trials.csv")
            raise _fail(where, "a picture marked in some of its trials only", "in all or none")
    coordinates = read_array(
        folder / "coordinates.npy", "mm per vertex", [n_vertices, 3], "f", MEND
    )
    rois: dict[str, np.ndarray] = {}
    if (path := folder / "rois.csv").exists():
        table = _read_csv(path, "vertex and roi", {"vertex", "roi"})
        members = _integers(path, table["vertex"])
        if len(members) and members.max() >= n_vertices:
            raise _fail(str(path), f"vertex {members.max()}", f"less than {n_vertices}")
        for roi, rows in table.groupby("roi", sort=False).groups.items():
            rois[str(roi)] = np.isin(np.arange(n_vertices), members[rows])
    extra = {}
    if (path := folder / "ncsnr.npy").exists():
        extra["ncsnr"] = np.array(read_array(path, "ncsnr", [n_vertices], "f", MEND))
    if (path := folder / "vertices.npy").exists():
        extra["vertices"] = np.array(read_array(path, "indices", [n_vertices], "iu", MEND), int)
        require(folder / "mesh.txt", "the number of vertices of a hemisphere of fsaverage", MEND)
        said = (folder / "mesh.txt").read_text("utf8", "replace").strip()
        if said not in {str(n) for n in surface.SIZES}:
            raise _fail(str(folder / "mesh.txt"), said[:40], f"one of {surface.SIZES}")
        extra["n_surface"] = int(said)
    return subject_from_arrays(
        name,
        pictures,
        np.array(responses),
        shown,
        np.array(coordinates, float),
        rois,
        trial_session=session,
        shared=shared,
        **extra,
    )
