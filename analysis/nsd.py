"""The reader of the Natural Scenes Dataset's own tree, real or simulated.

    subject, prepared = read_subject("subj01", NSDTree(data_root() / "nsd"))

A simulated subject lies in the same tree, so one reader serves both.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.io
from jaxtyping import Bool, Int

from analysis import mgh, surface
from analysis.files import HEMIS, Hemi, InputError, MissingFile, NSDTree, require
from analysis.pictures import HDF5Pictures
from analysis.prepare import Prepared, prepare
from analysis.subject import (
    Space,
    Subject,
    add_area_unions,
    average_repeats,
    require_ncsnr,
    surface_coordinates,
)

GET = "See the book's page on data for what goes where, or use a simulated subject such as sim01."
# NSD's own count of sessions; a simulated subject has those of its design.
SESSIONS = {f"subj{i:02d}": n for i, n in enumerate((40, 40, 32, 30, 40, 32, 40, 30), 1)}
SIMULATED = ("sim01", "sim02", "sim03")
# A subject's own areas, on its native surface.
FAMILIES = ("prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words")
# Optional; their ROIs are named "family/label".
NATIVE_EXTRA = ("prf-eccrois",)
GROUP_EXTRA = ("streams", "Kastner2015", "HCP_MMP1", "corticalsulc", "visualsulc")
MASK = "nsdgeneral"
VARIABLES = ("masterordering", "subjectim", "sharedix", "stimpattern")  # of nsd_expdesign.mat
Masks = dict[str, Bool[np.ndarray, " mesh"]]


@dataclass(frozen=True)
class Design:
    """Which picture was shown in each trial, from nsd_expdesign.mat; all indices from 0."""

    trial_picture: Int[np.ndarray, " trial"]  # row of picture_ids
    picture_ids: Int[np.ndarray, " picture"]
    shared: Bool[np.ndarray, " picture"]
    sessions: int
    trials_per_session: int


def read_design(tree: NSDTree, subject: str, sessions: int | None = None) -> Design:
    """The first `sessions` sessions of a subject's design (all, if None).

    Raises:
        InputError: if the file is missing, damaged or of another shape, or has fewer sessions.
    """
    path = require(tree.design, "NSD's experimental design", GET)
    try:
        with path.open("rb") as f:
            raw = scipy.io.loadmat(f, variable_names=VARIABLES)
        ordering = raw["masterordering"].ravel().astype(int) - 1  # uint16: no arithmetic before
        ids = np.atleast_2d(raw["subjectim"]).astype(int) - 1
        shared = raw["sharedix"].ravel().astype(int) - 1
        recorded = len(raw["stimpattern"])
    except Exception as error:  # scipy's readers raise errors of many types for a damaged file
        if getattr(error, "errno", None):
            raise
        raise InputError(
            f"{path}: {error}; expected a MATLAB 5 file with {', '.join(VARIABLES)}. {mgh.FETCH}"
        ) from error
    row = int(subject.removeprefix("subj").removeprefix("sim")) - 1
    if (
        row >= len(ids)
        or not len(ordering)
        or not 0 <= ordering.min() <= ordering.max() < ids.shape[1]
        or recorded == 0
        or len(ordering) % recorded
        or not np.array_equal(ids[row, : len(shared)], shared)
        or len(np.unique(ids[row])) < ids.shape[1]
        or ids[row].min() < 0
    ):
        raise InputError(
            f"{path}: subjectim {ids.shape}, masterordering {ordering.shape} from"
            f" {ordering.min(initial=0) + 1} to {ordering.max(initial=0) + 1}, {recorded} sessions;"
            f" {subject} needs row {row + 1} of subjectim, different pictures with sharedix first,"
            f" whole sessions, and all counted from 1. {mgh.FETCH}"
        )
    count = SESSIONS.get(subject, recorded) if sessions is None else sessions
    if not 1 <= count <= recorded:
        raise InputError(f"sessions={count}: {path} holds {recorded}.")
    per_session = len(ordering) // recorded
    seen, trial_picture = np.unique(ordering[: count * per_session], return_inverse=True)
    picture_ids = ids[row, seen]
    return Design(trial_picture, picture_ids, np.isin(picture_ids, shared), count, per_session)


def read_rois(tree: NSDTree, subject: str, hemi: Hemi, n_vertices: int) -> Masks:
    """A hemisphere's ROIs on fsaverage, by NSD's names.

    A subject's own ones are taken from its native surface by nearest neighbour; those of other
    families, which repeat names, are `family/label`: `streams/ventral`, `HCP_MMP1/V1`.

    Raises:
        InputError: for a missing or damaged file, or a transform beyond the native surface.
    """
    transform = tree.to_fsaverage(subject, hemi)
    what = "the native vertex of each fsaverage vertex"
    source = mgh.read_integers(transform, what, n_vertices) - 1  # MATLAB counts from 1
    rois = {}
    for family in (*FAMILIES, *NATIVE_EXTRA, *GROUP_EXTRA):
        native = family not in GROUP_EXTRA
        path = tree.group_label(hemi, family)
        if native:
            path = tree.native_label(subject, hemi, family)
        if family not in FAMILIES and not path.exists():
            continue
        labels, names = mgh.read_labels(path, None if native else n_vertices)
        if native:
            if source.min() < 0 or source.max() >= len(labels):
                raise InputError(
                    f"{transform}: points to vertices {source.min() + 1}..{source.max() + 1}, but"
                    f" {path} has {len(labels)}. {mgh.FETCH}"
                )
            labels = labels[source]
        prefix = "" if family in FAMILIES else f"{family}/"
        rois |= {prefix + name: labels == value for value, name in names.items() if value > 0}
    return rois


def region_vertices(
    region: str | Sequence[str],
    masks: dict[Hemi, Bool[np.ndarray, " mesh"]],
    rois: dict[Hemi, Masks],
) -> dict[Hemi, Int[np.ndarray, " vertex"]]:
    """The vertices of nsdgeneral, or of a union of ROIs, in each hemisphere.

    Raises:
        InputError: for an unknown ROI, with the known ones, or a region of no vertex.
    """
    asked = [region] if isinstance(region, str) else list(region)
    named = {hemi: {MASK: masks[hemi]} | add_area_unions(rois[hemi]) for hemi in HEMIS}
    known = list(dict.fromkeys(name for hemi in HEMIS for name in named[hemi]))
    if not asked or (unknown := [name for name in asked if name not in known]):
        raise InputError(
            f"region={unknown if asked else asked}: expected {MASK!r} or names among"
            f" {', '.join(known)}."
        )
    vertices = {}
    for hemi in HEMIS:
        parts = [named[hemi][name] for name in asked if name in named[hemi]]
        vertices[hemi] = np.flatnonzero(np.any([np.zeros_like(masks[hemi]), *parts], axis=0))
    if not any(map(len, vertices.values())):
        raise InputError(f"region={region!r}: no vertex on a mesh of {len(masks['lh'])}.")
    return vertices


def read_subject(
    name: str,
    tree: NSDTree,
    sessions: int | None = None,
    space: Space = "inflated",
    region: str | Sequence[str] = MASK,
    n_surface: int | None = None,
    average: bool = False,
) -> tuple[Subject, Prepared]:
    """A subject of an NSD tree, and its prepared responses with each session's mean and sd.

    Vertices that are NaN or constant in a session are left out.

    `sessions`: the first so many; all if None.
    `space`: the surface whose coordinates place the vertices. The paper's text says inflated
    (Appendix E.1), the authors' released code uses the sphere.
    `region`: nsdgeneral, or names of ROIs whose union is read.
    `n_surface`: vertices per hemisphere of the mesh, one nested in the tree's; the tree's if None.
    `average`: one trial per picture, the mean over its showings.

    Raises:
        InputError: for an unknown subject or region, a missing or damaged file, sessions that don't
            match the design, or if no vertex is left; the message names the file and what to do.
    """
    if name not in (*SESSIONS, *SIMULATED):
        raise InputError(f"subject {name!r}: expected {', '.join((*SESSIONS, *SIMULATED))}.")
    if not tree.root.is_dir():
        raise MissingFile(f"{tree.root}: not found; expected the NSD tree of {name}. {GET}")
    design = read_design(tree, name, sessions)
    masks, n_file = {}, None
    for hemi in HEMIS:
        labels, _ = mgh.read_labels(tree.group_label(hemi, MASK), n_file)
        masks[hemi], n_file = labels == 1, len(labels)
    n_surface = n_surface or n_file
    if n_surface not in surface.SIZES or n_surface > n_file:
        nested = [n for n in surface.SIZES if n <= n_file]
        raise InputError(
            f"n_surface={n_surface}: expected one of {', '.join(map(str, nested))}, nested in"
            f" {tree.root}'s {n_file}."
        )
    rois = {hemi: read_rois(tree, name, hemi, n_file) for hemi in HEMIS}
    # the first vertices of a mesh are those of the meshes nested in it
    masks = {hemi: mask[:n_surface] for hemi, mask in masks.items()}
    rois = {hemi: {k: m[:n_surface] for k, m in masks.items()} for hemi, masks in rois.items()}
    read = region_vertices(region, masks, rois)
    columns = read["lh"], read["rh"]
    ratios = []
    for hemi in HEMIS:
        path = tree.ncsnr(name, hemi)
        ratios.append(mgh.read(path, "ncsnr per vertex", n_file))
        require_ncsnr(ratios[-1], str(path))
    stimuli = HDF5Pictures(tree.stimuli, design.picture_ids)
    prepared = prepare(
        name if name in SESSIONS else f"{name}-{tree.root.parent.name}",
        [
            (tree.betas(name, "lh", session), tree.betas(name, "rh", session))
            for session in range(1, design.sessions + 1)
        ],
        columns,
        n_file,
        design.trials_per_session,
        # computed from all betas, small and kept with the tree: they tell simulations apart
        source=hashlib.sha256(np.concatenate(ratios).tobytes()).hexdigest(),
    )
    kept = prepared.kept
    vertices = np.concatenate([read["lh"], read["rh"] + n_surface])[kept]
    coordinates = surface_coordinates(n_surface, space)[vertices]
    empty = np.zeros(n_surface, bool)
    names = dict.fromkeys(roi for hemi in HEMIS for roi in rois[hemi])
    both = {roi: np.concatenate([rois[h].get(roi, empty)[read[h]] for h in HEMIS]) for roi in names}
    n_trials = len(design.trial_picture)
    hashed = hashlib.sha256(design.picture_ids.tobytes() + design.trial_picture.tobytes())
    hashed.update(prepared.identity.encode() + vertices.tobytes() + coordinates.tobytes())
    subject = Subject(
        name=name,
        source="simulated" if name in SIMULATED else "NSD",
        n_surface=n_surface,
        vertices=vertices,
        coordinates=coordinates,
        rois=add_area_unions({roi: mask[kept] for roi, mask in both.items()}),
        ncsnr=np.concatenate([r[c] for r, c in zip(ratios, columns, strict=True)])[kept],
        responses=prepared.responses,
        trial_picture=design.trial_picture,
        trial_session=np.arange(n_trials) // design.trials_per_session,
        repeats=np.ones(n_trials, int),
        picture_ids=design.picture_ids,
        shared=design.shared,
        stimuli=stimuli,
        dropped=int((~kept).sum()),
        identity=hashed.hexdigest(),
    )
    return (average_repeats(subject) if average else subject), prepared
