"""The reader of the Natural Scenes Dataset's own tree, real or simulated.

    subject = load_subject("subj01", NSDTree(data_root() / "nsd"))

A simulated subject lies in the same tree, so one reader serves both.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis import mgh, surface
from analysis.child import matlab_variables
from analysis.files import HEMIS, Hemi, InputError, MissingFile, NSDTree, require
from analysis.pictures import open_brick
from analysis.prepare import Prepared, prepare
from analysis.subject import Space, Subject, apart, over_repeats, with_areas

GET = "See the book's page on data for what goes where, or use a simulated subject such as sim01."
# NSD's own count of sessions; a simulated subject has those of its design.
SESSIONS = {f"subj{i:02d}": n for i, n in enumerate((40, 40, 32, 30, 40, 32, 40, 30), 1)}
SIMULATED = ("sim01", "sim02", "sim03")
# A subject's own areas, on its native surface.
FAMILIES = ("prf-visualrois", "floc-bodies", "floc-faces", "floc-places", "floc-words")
# Read where they are there; their ROIs are named "family/label".
NATIVE_EXTRA = ("prf-eccrois",)
GROUP_EXTRA = ("streams", "Kastner2015", "HCP_MMP1", "corticalsulc", "visualsulc")
MASK = "nsdgeneral"
VARIABLES = ("masterordering", "subjectim", "sharedix", "stimpattern")  # of nsd_expdesign.mat


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
        InputError: if the file is missing, damaged or another shape, or has fewer sessions.
    """
    path = require(tree.design, "NSD's experimental design", GET)
    what = f"a MATLAB 5 file with {', '.join(VARIABLES[:-1])} and {VARIABLES[-1]}"
    raw = matlab_variables(path, VARIABLES, what, mgh.FETCH)
    ordering = raw["masterordering"].ravel().astype(int) - 1  # uint16: no arithmetic before
    ids = np.atleast_2d(raw["subjectim"]).astype(int) - 1
    shared = raw["sharedix"].ravel().astype(int) - 1
    recorded = len(raw["stimpattern"])
    row = int(subject.removeprefix("subj").removeprefix("sim")) - 1
    low, high = (ordering.min(), ordering.max()) if len(ordering) else (-1, -1)
    if (
        row >= len(ids)
        or not 0 <= low <= high < ids.shape[1]
        or recorded == 0
        or len(ordering) % recorded
        or ids[row].min() < 0
    ):
        raise InputError(
            f"{path}: subjectim {ids.shape} from {ids.min(initial=0) + 1}, masterordering"
            f" {ordering.shape} from {low + 1} to {high + 1}, stimpattern of {recorded} sessions;"
            f" {subject} needs row {row + 1} of subjectim, whole sessions, and all counted from 1."
            f" {mgh.FETCH}"
        )
    shown = np.bincount(ordering, minlength=ids.shape[1])
    in_slots = int(np.count_nonzero(raw["stimpattern"]))
    if (
        len(np.unique(ids[row])) != ids.shape[1]
        or not np.array_equal(ids[row, : len(shared)], shared)
        or shown.min() != shown.max()
        or in_slots != len(ordering)
    ):
        raise InputError(
            f"{path}: damaged: masterordering shows a picture {shown.min()} to {shown.max()} times"
            f" in {len(ordering)} trials of {in_slots} slots; expected as often as any other, in"
            f" as many slots; row {row + 1} of subjectim has {len(np.unique(ids[row]))} pictures of"
            f" {ids.shape[1]}; expected no picture twice, sharedix first. {mgh.FETCH}"
        )
    count = SESSIONS.get(subject, recorded) if sessions is None else sessions
    per_session = len(ordering) // recorded
    if not 1 <= count <= recorded:
        raise InputError(f"sessions={count}: {path} holds {recorded}.")
    seen, trial_picture = np.unique(ordering[: count * per_session], return_inverse=True)
    picture_ids = ids[row, seen]
    return Design(trial_picture, picture_ids, np.isin(picture_ids, shared), count, per_session)


def _general(tree: NSDTree, n_vertices: int | None) -> dict[Hemi, Bool[np.ndarray, " mesh"]]:
    """nsdgeneral in each hemisphere; it says how large the tree's mesh is."""
    masks = {}
    for hemi in HEMIS:
        labels, _ = mgh.read_labels(tree.group_label(hemi, MASK), n_vertices)
        n_vertices = len(labels)
        masks[hemi] = labels == 1
    return masks


def read_rois(
    tree: NSDTree, subject: str, hemi: Hemi, n_vertices: int
) -> dict[str, Bool[np.ndarray, " mesh"]]:
    """A hemisphere's ROIs on fsaverage, by NSD's names.

    A subject's own ones are taken from its native surface by nearest neighbour; those of other
    families, which repeat names, are `family/label`: `streams/ventral`, `HCP_MMP1/V1`.

    Raises:
        InputError: for a missing or damaged file, or a transform beyond the native surface.
    """
    transform = tree.to_fsaverage(subject, hemi)
    what = "the native vertex of each fsaverage vertex"
    source = mgh.read_integers(transform, what, n_vertices) - 1  # MATLAB counts from 1
    found = {}
    for family in (*FAMILIES, *NATIVE_EXTRA):
        path = tree.native_label(subject, hemi, family)
        if family in NATIVE_EXTRA and not path.exists():
            continue
        labels, names = mgh.read_labels(path)
        if source.min() < 0 or source.max() >= len(labels):
            raise InputError(
                f"{transform}: points to vertices {source.min() + 1}..{source.max() + 1}, but"
                f" {path} has {len(labels)}. {mgh.FETCH}"
            )
        prefix = "" if family in FAMILIES else f"{family}/"
        here = labels[source]
        found |= {prefix + name: here == value for value, name in names.items() if value > 0}
    for family in GROUP_EXTRA:
        path = tree.group_label(hemi, family)
        if path.exists():
            labels, names = mgh.read_labels(path, n_vertices)
            found |= {f"{family}/{name}": labels == v for v, name in names.items() if v > 0}
    return found


def _chosen(
    region: str | Sequence[str],
    masks: dict[Hemi, Bool[np.ndarray, " mesh"]],
    rois: dict[Hemi, dict[str, Bool[np.ndarray, " mesh"]]],
) -> dict[Hemi, Int[np.ndarray, " vertex"]]:
    """The vertices of nsdgeneral, or of a union of ROIs, in each hemisphere."""
    wanted = [region] if isinstance(region, str) else list(region)
    named = {h: {MASK: masks[h]} | with_areas(rois[h]) for h in HEMIS}
    known = list(dict.fromkeys(name for h in HEMIS for name in named[h]))
    if not wanted or (unknown := [name for name in wanted if name not in known]):
        raise InputError(
            f"region={unknown if wanted else wanted}: expected {MASK!r} or names among"
            f" {', '.join(known)}."
        )
    out = {}
    for hemi in HEMIS:
        parts = [named[hemi][name] for name in wanted if name in named[hemi]]
        union = np.any(parts, axis=0) if parts else np.zeros(len(masks[hemi]), bool)
        out[hemi] = np.flatnonzero(union)
    return out


def _ratios(path: Path, n_vertices: int) -> Float[np.ndarray, " mesh"]:
    """ncsnr per vertex; NaN where betas are."""
    values = mgh.read(path, "ncsnr per vertex", n_vertices)
    if (wrong := (values < 0) | np.isinf(values)).any():
        raise InputError(
            f"{path}: {values[wrong][0]} among its values; expected ratios from 0. {mgh.FETCH}"
        )
    return values


def load_prepared(
    name: str,
    tree: NSDTree,
    design: Design,
    chosen: dict[Hemi, Int[np.ndarray, " vertex"]],
    n_vertices: int,
) -> Prepared:
    """The standardised responses of the chosen vertices, prepared if they are not yet."""
    sessions = range(1, design.sessions + 1)
    return prepare(
        f"{tree.root.parent.name}-{name}",
        [(tree.betas(name, "lh", s), tree.betas(name, "rh", s)) for s in sessions],
        (chosen["lh"], chosen["rh"]),
        n_vertices,
        design.trials_per_session,
    )


def load_subject(
    name: str,
    tree: NSDTree,
    sessions: int | None = None,
    space: Space = "inflated",
    region: str | Sequence[str] = MASK,
    n_surface: int | None = None,
    average: bool = False,
) -> Subject:
    """A subject read from an NSD tree; vertices that are NaN or constant in a session are left out.

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
    return read_subject(name, tree, sessions, space, region, n_surface, average)[0]


def read_subject(
    name: str,
    tree: NSDTree,
    sessions: int | None = None,
    space: Space = "inflated",
    region: str | Sequence[str] = MASK,
    n_surface: int | None = None,
    average: bool = False,
) -> tuple[Subject, Prepared]:
    """As `load_subject`, with the prepared responses, which know each session's mean and sd."""
    if name not in (*SESSIONS, *SIMULATED):
        raise InputError(f"subject {name!r}: expected {', '.join((*SESSIONS, *SIMULATED))}.")
    if not tree.root.is_dir():
        raise MissingFile(f"{tree.root}: not found; expected the NSD tree of {name}. {GET}")
    design = read_design(tree, name, sessions)
    masks = _general(tree, None)
    n_file = len(masks[HEMIS[0]])
    n_surface = n_surface or n_file
    if n_surface not in surface.SIZES or n_surface > n_file:
        raise InputError(
            f"n_surface={n_surface}: expected one of"
            f" {', '.join(str(n) for n in surface.SIZES if n <= n_file)}, nested in {tree.root}'s"
            f" {n_file}."
        )
    rois = {hemi: read_rois(tree, name, hemi, n_file) for hemi in HEMIS}
    # the first vertices of a mesh are those of the meshes nested in it
    masks = {hemi: mask[:n_surface] for hemi, mask in masks.items()}
    rois = {hemi: {k: m[:n_surface] for k, m in found.items()} for hemi, found in rois.items()}
    chosen = _chosen(region, masks, rois)
    if not sum(len(c) for c in chosen.values()):
        raise InputError(f"region={region!r}: no vertex of {name} on a mesh of {n_surface}.")
    ratios = [_ratios(tree.ncsnr(name, h), n_file)[chosen[h]] for h in HEMIS]
    stimuli = open_brick(tree.stimuli, design.picture_ids, f"{mgh.FETCH} {GET}")
    prepared = load_prepared(name, tree, design, chosen, n_file)
    kept = prepared.kept
    vertices = np.concatenate([chosen["lh"], chosen["rh"] + n_surface])[kept]
    coordinates = apart(n_surface, space)[vertices]
    names = list(dict.fromkeys(roi for hemi in HEMIS for roi in rois[hemi]))
    masked = {
        roi: np.concatenate(
            [rois[h].get(roi, np.zeros(n_surface, bool))[chosen[h]] for h in HEMIS]
        )[kept]
        for roi in names
    }
    n_trials = len(design.trial_picture)
    hashed = hashlib.sha256(design.picture_ids.tobytes() + design.trial_picture.tobytes())
    hashed.update(prepared.identity.encode() + vertices.tobytes() + coordinates.tobytes())
    subject = Subject(
        name=name,
        source="simulated" if name in SIMULATED else "NSD",
        n_surface=n_surface,
        vertices=vertices,
        coordinates=coordinates,
        rois=with_areas(masked),
        ncsnr=np.concatenate(ratios)[kept],
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
    return (over_repeats(subject) if average else subject), prepared
