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
from analysis.files import HEMIS, InputError, read_array, require
from analysis.pictures import ArrayPictures, FilePictures, Pictures, picture_digests, picture_files
from analysis.progress import say
from analysis.subject import Subject, add_area_unions, require_ncsnr, require_varying, zscore

MEND = "See the book's page on your own data for what goes where."
TEST_SHARE = 0.1  # of the pictures, drawn where none are marked
NAME = re.compile(r"own-[A-Za-z0-9_]+")
COLUMNS = ("picture", "session", "test", "repeats")  # of trials.csv
PICTURES_AT_ONCE = 100  # hashed
LEAST_FIT = 0.5  # R² of coordinates explained by a mesh; of another order of vertices it is near 0


def _error(what: str, value: object, expected: str) -> InputError:
    return InputError(f"{what}: {value}; expected {expected}. {MEND}")


def _first_of_same(pictures: Pictures) -> Int[np.ndarray, " picture"]:
    """For each picture the first row that has the same pixels."""
    rows = range(0, len(pictures), PICTURES_AT_ONCE)
    batches = (np.arange(r, min(r + PICTURES_AT_ONCE, len(pictures))) for r in rows)
    digests = [d for batch in batches for d in picture_digests(pictures.read(batch))]
    first: dict[str, int] = {}
    return np.array([first.setdefault(d, row) for row, d in enumerate(digests)], int)


def _require_on_mesh(
    coordinates: Float[np.ndarray, "vertex 3"], vertices: Int[np.ndarray, " vertex"], n_surface: int
) -> None:
    """Raise InputError if coordinates follow no surface of fsaverage in this order of vertices."""
    for side, hemi in enumerate(HEMIS):
        here = vertices // n_surface == side
        if here.sum() < 20:  # too few to tell an order from chance
            continue
        y = coordinates[here] - coordinates[here].mean(0)
        fits = []
        for mesh in (surface.pial, surface.inflated, surface.sphere):
            x = np.c_[mesh(hemi, n_surface)[0][vertices[here] % n_surface], np.ones(here.sum())]
            residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
            fits.append(1 - np.square(residual).sum() / max(np.square(y).sum(), 1e-12))
        if max(fits) < LEAST_FIT:
            raise _error(
                "coordinates",
                f"far from fsaverage's {n_surface} vertices of {hemi} (R² {max(fits):.2f})",
                "vertex i of `vertices` to lie where fsaverage's vertex i lies; FreeSurfer's own"
                " fsaverage3 and fsaverage4 number them otherwise: the first 642 or 2562 of"
                " fsaverage5 are meant here",
            )


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
    repeats: Int[np.ndarray, " trial"] | None = None,
) -> Subject:
    """A subject of the reader's own data, z-scored per session; NaN or constant vertices left out.

    `responses`: any unit; `coordinates`: mm. `shared`: the test set; a tenth of the pictures that
    were shown, drawn from a fixed seed, if not given. `vertices`: indices on fsaverage with
    `n_surface` vertices a hemisphere (rh + n_surface), for maps; without them there are none.
    `repeats`: showings averaged in each trial; if not given, 1 where pictures come in several
    trials, and 0, not known, where each comes once, as means over showings do.

    Raises:
        InputError: naming the array that is wrong, its value and what was expected.
    """
    n_trials, n_vertices = responses.shape
    session = np.zeros(n_trials, int) if trial_session is None else trial_session
    rois = rois or {}
    lengths = {"trial_picture": (trial_picture, n_trials), "trial_session": (session, n_trials)}
    lengths |= {"coordinates": (coordinates, n_vertices), "shared": (shared, len(pictures))}
    lengths |= {"ncsnr": (ncsnr, n_vertices), "vertices": (vertices, n_vertices)}
    lengths |= {"repeats": (repeats, n_trials)}
    lengths |= {f"rois[{roi!r}]": (mask, n_vertices) for roi, mask in rois.items()}
    for what, (array, n) in lengths.items():
        if array is not None and len(array) != n:
            raise _error(what, f"{len(array)} rows", str(n))
    if n_trials and not 0 <= trial_picture.min() <= trial_picture.max() < len(pictures):
        span = f"{trial_picture.min()} to {trial_picture.max()}"
        raise _error("trial_picture", span, f"rows of {len(pictures)} pictures, from 0")
    if not np.isfinite(coordinates).all():
        raise _error("coordinates", "NaN or infinite", "mm")
    if "all" in rois:
        raise _error("rois", "an ROI called 'all'", "another name: 'all' is every vertex")
    if ncsnr is not None:
        require_ncsnr(ncsnr, "ncsnr")
    if vertices is not None:
        if (
            n_surface not in surface.SIZES
            or len(np.unique(vertices)) != n_vertices
            or not 0 <= vertices.min() <= vertices.max() < 2 * n_surface
        ):
            raise _error(
                "vertices",
                f"{vertices.min()} to {vertices.max()} on a mesh of {n_surface}",
                f"different indices on fsaverage, of {surface.SIZES} vertices a hemisphere",
            )
        _require_on_mesh(coordinates, vertices, n_surface)

    scored = np.empty((n_trials, n_vertices), np.float32)
    for number in np.unique(session):
        rows = session == number
        require_varying(responses[rows], f"responses of session {number}")
        scored[rows] = zscore(responses[rows].astype(np.float32))
    kept = np.isfinite(scored).all(0) & (n_trials > 0)
    if not kept.any():
        raise _error("responses", f"all {n_vertices} vertices NaN or constant", "some that vary")

    first = _first_of_same(pictures)
    if joined := int((first != np.arange(len(first))).sum()):
        say(f"{name}: {joined} of {len(first)} pictures repeat the pixels of another: one picture.")
    trial_picture = first[trial_picture]
    shown = np.unique(trial_picture)
    test = np.zeros(len(pictures), bool)
    if shared is None:
        drawn = np.random.default_rng(0).permutation(shown)
        test[drawn[: max(1, round(TEST_SHARE * len(shown)))]] = True
    else:
        test[first[shared]] = True
    if repeats is None:
        repeats = np.full(n_trials, int(len(shown) < n_trials))
    hashed = hashlib.sha256(scored.data)
    for array in (trial_picture, session, test, coordinates, repeats):
        hashed.update(np.ascontiguousarray(array).tobytes())
    return Subject(
        name=name,
        source="own",
        n_surface=n_surface if vertices is not None else 0,
        vertices=(np.arange(n_vertices) if vertices is None else vertices)[kept],
        coordinates=coordinates[kept].astype(np.float64),
        rois=add_area_unions({roi: mask[kept] for roi, mask in rois.items()}),
        ncsnr=(np.full(n_vertices, np.nan, np.float32) if ncsnr is None else ncsnr)[kept],
        responses=scored[:, kept],
        trial_picture=trial_picture,
        trial_session=np.unique(session, return_inverse=True)[1],
        repeats=repeats,
        picture_ids=np.arange(len(pictures)),
        shared=test,
        stimuli=pictures,
        dropped=int((~kept).sum()),
        identity=hashed.hexdigest(),
    )


def _read_pictures(folder: Path) -> tuple[Pictures, list[str]]:
    """The pictures of a folder, and their names (their row's number where they have none)."""
    if (path := folder / "pictures.npy").exists():
        array = read_array(path, "pictures", (None, None, None, 3), "u", MEND)
        if array.dtype != np.uint8:
            raise _error(str(path), array.dtype, "uint8")
        return ArrayPictures(array), [str(i) for i in range(len(array))]
    inside = require(folder / "pictures", "a folder of pictures, or pictures.npy beside", MEND)
    paths = picture_files(inside)
    if not paths:
        raise _error(str(inside), "no picture", "files .png or .jpg")
    return FilePictures(paths), [path.relative_to(inside).as_posix() for path in paths]


def _read_csv(path: Path, columns: tuple[str, ...], needed: tuple[str, ...]) -> pd.DataFrame:
    """A table of text, spaces around its values and names dropped; its columns are these only."""
    require(path, f"a table of {', '.join(needed)}", MEND)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise _error(str(path), f"not readable ({error})", f"a table of {columns}") from error
    table = table.rename(columns=lambda name: name.strip().lower())
    unknown = [name for name in table if name not in columns]
    if unknown or not set(needed) <= set(table) or table.columns.has_duplicates:
        expected = f"{', '.join(needed)}, and of others only {', '.join(columns)}"
        raise _error(str(path), f"columns {', '.join(table)}", expected)
    return table.apply(lambda column: column.str.strip())


def _integers(path: Path, column: pd.Series) -> Int[np.ndarray, " row"]:
    wrong = column[~column.str.fullmatch(r"\d{1,9}")]
    if len(wrong):
        line = f"{path}, line {wrong.index[0] + 2}"
        raise _error(line, f"{column.name} {wrong.iloc[0]!r}", "a whole number from 0")
    return column.astype(int).to_numpy()


def load_own(name: str, root: Path) -> Subject:
    """The subject in the folder `root/NAME`, asked for as `own-NAME`.

    Raises:
        InputError: for a bad name, or naming the file that is missing, damaged or doesn't fit.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"subject {name!r}: expected own-NAME, of letters, digits and _.")
    folder = require(root / name.removeprefix("own-"), "a subject's folder", MEND)
    pictures, names = _read_pictures(folder)
    responses = read_array(folder / "responses.npy", "responses", (None, None), "fiu", MEND)
    n_trials, n_vertices = responses.shape
    path = folder / "trials.csv"
    trials = _read_csv(path, COLUMNS, ("picture",))
    if len(trials) != n_trials:
        raise _error(str(path), f"{len(trials)} trials", f"{n_trials} as responses")
    row_of = {picture: row for row, picture in enumerate(names)}
    unknown = trials["picture"][~trials["picture"].isin(row_of)]
    if len(unknown):
        where = f"{path}, line {unknown.index[0] + 2}"
        raise _error(
            where, f"picture {unknown.iloc[0]!r}", f"one of {len(names)}, such as {names[0]!r}"
        )
    shown = trials["picture"].map(row_of).to_numpy(int)
    columns = {column: _integers(path, trials[column]) for column in trials if column != "picture"}
    shared = None
    if "test" in columns:
        marked = columns["test"] == 1
        shared = np.isin(np.arange(len(names)), shown[marked])
        if shared[shown[~marked]].any():
            raise _error(str(path), "a picture marked in some of its trials only", "all or none")
    rois: dict[str, np.ndarray] = {}
    if (path := folder / "rois.csv").exists():
        table = _read_csv(path, ("vertex", "roi"), ("vertex", "roi"))
        members = _integers(path, table["vertex"])
        if len(members) and members.max() >= n_vertices:
            raise _error(str(path), f"vertex {members.max()}", f"less than {n_vertices}")
        for roi, rows in table.groupby("roi", sort=False).groups.items():
            rois[str(roi)] = np.isin(np.arange(n_vertices), members[rows])
    coordinates = read_array(
        folder / "coordinates.npy", "mm per vertex", (n_vertices, 3), "fiu", MEND
    )
    ncsnr = vertices = None
    n_surface = 0
    if (path := folder / "ncsnr.npy").exists():
        ncsnr = np.array(read_array(path, "ncsnr", (n_vertices,), "f", MEND))
        require_ncsnr(ncsnr, str(path))
    if (path := folder / "vertices.npy").exists():
        vertices = np.array(read_array(path, "indices", (n_vertices,), "iu", MEND), int)
        path = require(folder / "mesh.txt", "a hemisphere's number of vertices", MEND)
        text = path.read_text("utf8", "replace").strip()
        if text not in map(str, surface.SIZES):
            raise _error(str(path), text[:40], f"one of {surface.SIZES}")
        n_surface = int(text)
    return subject_from_arrays(
        name, pictures, np.array(responses, np.float32), shown, np.array(coordinates, float), rois,
        columns.get("session"), shared, ncsnr, vertices, n_surface, columns.get("repeats"),
    )  # fmt: skip
