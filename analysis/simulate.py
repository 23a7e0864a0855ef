"""Simulated subjects, written as NSD's own tree with the truth beside it.

    python -m analysis simulate sim01

`sim01` is on fsaverage5, `sim01-tiny` and `sim01-full` on the smallest and the full mesh. A part
that is whole and of this code and settings is kept; anything else is made anew.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import h5py
import numpy as np
import scipy.io
import scipy.sparse
import torch
from jaxtyping import Float, Int
from safetensors.numpy import load_file, save_file
from scipy.spatial import KDTree
from tqdm import tqdm

from analysis import anatomy, metrics, mgh
from analysis.backbones import load_backbone
from analysis.files import (
    HEMIS,
    InputError,
    NSDTree,
    code_digest,
    data_root,
    digest,
    require,
    require_space,
    whole_file,
    write_json,
)
from analysis.nsd import SIMULATED
from analysis.scenes import draw_scene
from analysis.subject import zscore
from analysis.surface import FSAVERAGE5, FULL, TINY, sphere
from analysis.truth import Rules, Truth, draw_truth, noiseless, standardise

TEACHER = "clip-mini"
CODE = ("anatomy.py", "metrics.py", "scenes.py", "simulate.py", "surface.py", "truth.py")


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    n_surface: int  # vertices per hemisphere
    sessions: int  # of each subject
    trials_per_session: int  # each shows one picture
    shared: int  # pictures that all subjects see, each three times
    picture: int  # pixels
    runs: int = 12  # per session

    @property
    def pictures(self) -> int:
        """Of one subject; each is shown three times."""
        return self.sessions * self.trials_per_session // 3


SIZES = {
    "tiny": Size(TINY, 2, 60, shared=10, picture=32, runs=2),
    "fs5": Size(FSAVERAGE5, 4, 750, shared=100, picture=160),
    "full": Size(FULL, 4, 750, shared=100, picture=160),
}


@dataclass(frozen=True)
class Noise:
    """What lies over the signal; figures are NSD's (its manual and published arrays)."""

    shares: tuple[float, ...] = (0, 0.05, 0.25, 0.50, 0.75, 0.95, 1)  # of vertices below
    # signal sd over noise sd of a trial at those shares: NSD's subj01 over nsdgeneral
    ncsnr: tuple[float, ...] = (0.0, 0.16, 0.33, 0.46, 0.60, 0.83, 1.2)
    quality: tuple[float, float, float] = (1.0, 1.0, 0.6)  # of the three subjects; times ncsnr
    ncsnr_length: float = 25.0  # mm over which ncsnr changes
    fwhm: float = 3.5  # mm, of the noise along the sphere
    spread: tuple[float, float] = (1.75, 2.5)  # per cent signal change, sd of a vertex's betas
    level: tuple[float, float] = (0.25, 1.1)  # per cent signal change, mean of a session
    gain: float = 0.1  # sd over sessions of the log of a session's gain
    nan_share: float = 0.001  # of vertices, without data


NOISE, RULES = Noise(), Rules()


def parse_name(name: str) -> tuple[str, str]:
    """The subject and size that a name such as `sim01` or `sim01-tiny` stands for.

    Raises:
        InputError: for any other name.
    """
    subject, _, size = name.partition("-")
    size = size or "fs5"
    if subject not in SIMULATED or size not in SIZES:
        raise InputError(
            f"subject {name!r}: a simulated one is {', '.join(SIMULATED)}, with -tiny or -full for"
            " another size."
        )
    return subject, size


def quality_of(name: str) -> float:
    """What a subject's ncsnr is multiplied by."""
    return NOISE.quality[SIMULATED.index(parse_name(name)[0])]


def simulated_root(size: str) -> Path:
    return data_root() / "simulated" / size


def simulated_tree(size: str) -> NSDTree:
    return NSDTree(simulated_root(size) / "nsd")


def _truth_path(subject: str, size: str) -> Path:
    return simulated_root(size) / "truth" / f"{subject}.safetensors"


def _key(size: str, **more: object) -> str:
    return digest({"size": asdict(SIZES[size]), "code": code_digest(CODE), **more})


def _subject_key(size: str) -> str:
    teacher = load_backbone(TEACHER).identity
    return _key(size, noise=asdict(NOISE), rules=asdict(RULES), teacher=teacher)


def _sizes(size: str, *paths: Path) -> dict[str, int]:
    """The bytes of files, and of those in folders, by their path under the simulated root."""
    files = [f for p in paths for f in ([p] if p.is_file() else p.iterdir())]
    return {str(f.relative_to(simulated_root(size))): f.stat().st_size for f in files}


def _is_whole(record: Path, key: str) -> bool:
    """Whether a part was written to its end by this code and settings, and is still there."""
    if not record.exists():
        return False
    made = json.loads(record.read_text())
    files = [(record.parents[1] / name, n) for name, n in made.get("files", {}).items()]
    return made["key"] == key and all(f.is_file() and f.stat().st_size == n for f, n in files)


def is_complete(name: str) -> bool:
    """Whether a simulated subject lies there whole, made by this code."""
    subject, size = parse_name(name)
    return _is_whole(_truth_path(subject, size).with_suffix(".json"), _subject_key(size))


def simulate(name: str) -> bool:
    """Write a simulated subject's tree and truth; False if it was there already.

    Raises:
        InputError: for an unknown name, or too small a disk.
    """
    subject, size = parse_name(name)
    key = _subject_key(size)
    record = _truth_path(subject, size).with_suffix(".json")
    simulated_root(size).mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(simulated_root(size) / ".lock"):
        if _is_whole(record, key):
            return False
        record.unlink(missing_ok=True)
        spec = SIZES[size]
        betas = 8 * spec.n_surface * spec.sessions * spec.trials_per_session
        require_space(simulated_root(size), betas + 2**28, f"simulating {name}")
        labels = _write_pictures(size)
        truth = _write_subject(subject, size, labels)
        with whole_file(_truth_path(subject, size)) as scratch:
            save_file({k: np.ascontiguousarray(v) for k, v in asdict(truth).items()}, scratch)
        tree = simulated_tree(size)
        files = [tree.stimuli, tree.design, _truth_path(subject, size), tree.beta_folder(subject)]
        for hemi in HEMIS:
            files += [tree.group_label(hemi, "nsdgeneral"), tree.to_fsaverage(subject, hemi)]
        files += [tree.native_label(subject, HEMIS[0], "").parent]
        made = {"key": key, "subject": subject, "teacher": TEACHER}
        write_json(record, made | {"files": _sizes(size, *files)})
    return True


def load_truth(name: str, vertices: Int[np.ndarray, " vertex"]) -> Truth:
    """The truth of a simulated subject at some of its vertices, in their order.

    Raises:
        InputError: if the subject has not been simulated, or has no such vertex.
    """
    subject, size = parse_name(name)
    path = require(
        _truth_path(subject, size), "a simulated subject's truth", "Simulate the subject first."
    )
    arrays = load_file(path)
    if (unknown := ~np.isin(vertices, arrays["vertices"])).any():
        raise InputError(f"vertices: {vertices[unknown][:5]} are not among those of {path}.")
    rows = np.searchsorted(arrays["vertices"], vertices)
    return Truth(**{k: v[rows] for k, v in arrays.items()})


def picture_labels(size: str) -> list[frozenset[str]]:
    """What each row of the stimulus file shows."""
    path = simulated_root(size) / "truth" / "pictures.json"
    require(path, "what the simulated pictures show", "Simulate a subject first.")
    return [frozenset(kinds) for kinds in json.loads(path.read_text())["labels"]]


def _write_pictures(size: str) -> list[frozenset[str]]:
    """Draw the pictures of all three subjects and the design, unless they are there."""
    spec, tree = SIZES[size], simulated_tree(size)
    record, key = simulated_root(size) / "truth" / "pictures.json", _key(size)
    if _is_whole(record, key):
        return picture_labels(size)
    record.unlink(missing_ok=True)
    count = spec.shared + len(SIMULATED) * (spec.pictures - spec.shared)
    labels = []
    with whole_file(tree.stimuli) as scratch, h5py.File(scratch, "w") as f:
        shape = (count, spec.picture, spec.picture, 3)
        brick = f.create_dataset("imgBrick", shape, np.uint8)
        for i in tqdm(range(count), desc="scenes", unit="picture", disable=None):
            scene = draw_scene(i, spec.picture)
            brick[i] = scene.picture
            labels.append(scene.labels)
    _write_design(tree, spec, count)
    files = _sizes(size, tree.stimuli, tree.design)
    write_json(record, {"key": key, "labels": [sorted(k) for k in labels], "files": files})
    return labels


def _write_design(tree: NSDTree, spec: Size, count: int) -> None:
    """nsd_expdesign.mat, its variables, shapes, types and counting from 1 as in NSD's."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(count) + 1
    shared = np.sort(ids[: spec.shared])
    own = np.split(ids[spec.shared :], len(SIMULATED))
    ordering = rng.permutation(np.repeat(np.arange(spec.pictures), 3))
    sessions = ordering.reshape(spec.sessions, -1)
    repeats = [np.unique(row, return_counts=True)[1] for row in sessions]
    slots = np.zeros((spec.sessions, spec.runs, 75), np.uint8)
    per_run = np.array_split(np.arange(spec.trials_per_session), spec.runs)
    for run, trials in enumerate(per_run):
        slots[:, run, : len(trials)] = 1
    with whole_file(tree.design) as scratch:
        scipy.io.savemat(
            scratch,
            {
                "masterordering": (ordering + 1)[None].astype(np.uint16),
                "subjectim": np.stack([np.r_[shared, o] for o in own]).astype(np.int32),
                "sharedix": shared[None].astype(np.int32),
                "stimpattern": slots,
                "basiccnt": np.array([[(r == n).sum() for r in repeats] for n in (1, 2, 3)], "u2"),
            },
        )
        with scratch.open("rb+") as f:  # over the time of day: a seed gives the same bytes
            f.write(b"MATLAB 5.0 MAT-file".ljust(116))


def _write_subject(
    subject: str,
    size: str,
    labels: list[frozenset[str]],
) -> Truth:
    """Betas, ncsnr and labels of one subject; returns its truth."""
    teacher = load_backbone(TEACHER)
    spec, tree, number = SIZES[size], simulated_tree(size), SIMULATED.index(subject)
    design = scipy.io.loadmat(tree.design)
    rows = design["subjectim"][number].astype(int) - 1
    order = np.argsort(rows)
    with h5py.File(tree.stimuli, "r") as f:
        pictures = torch.from_numpy(f["imgBrick"][rows[order]][np.argsort(order)])
    late = round(0.9 * (len(teacher.widths) - 1))
    shown = [labels[r] for r in rows]
    standard, directions = standardise(teacher, pictures[:300], shown[:300], late)
    truth, areas, retinotopic = draw_truth(
        spec.n_surface, len(teacher.widths), directions, seed=number + 1, rules=RULES
    )
    signal = noiseless(truth, teacher, standard, pictures)
    trial_picture = design["masterordering"].ravel().astype(int) - 1
    betas = _betas(truth, signal[trial_picture], spec, number, NOISE)
    shape = (spec.sessions, spec.trials_per_session, -1)
    standardised = np.concatenate([zscore(s) for s in betas.reshape(shape)])
    session_of = np.arange(len(trial_picture)) // spec.trials_per_session
    measured = metrics.ncsnr(standardised, trial_picture, session_of)
    for i, hemi in enumerate(HEMIS):
        here = truth.vertices // spec.n_surface == i
        at = truth.vertices[here] - i * spec.n_surface
        for session, some in enumerate(betas.reshape(shape)):
            whole = np.zeros((spec.n_surface, spec.trials_per_session), ">f4", order="F")
            whole[at] = some[:, here].T
            mgh.write(tree.betas(subject, hemi, session + 1), whole)
        whole = np.zeros(spec.n_surface, np.float32)
        whole[at] = measured[here]
        mgh.write(tree.ncsnr(subject, hemi), whole)
        general = np.zeros(spec.n_surface, int)
        general[at] = 1
        mgh.write_labels(
            tree.group_label(hemi, "nsdgeneral"), general, {0: "Unknown", 1: "nsdgeneral"}
        )
        _write_native_labels(tree, subject, hemi, areas[i], retinotopic[i], number)
    return truth


def _betas(
    truth: Truth,
    signal: Float[np.ndarray, "trial vertex"],
    spec: Size,
    number: int,
    noise: Noise,
) -> Float[np.ndarray, "trial vertex"]:
    """Single trials in per cent signal change: signal, noise, and each session's own level."""
    rng = np.random.default_rng((number, 2))
    points = np.concatenate([sphere(hemi, spec.n_surface)[0] for hemi in HEMIS])
    points[spec.n_surface :] += [1000.0, 0, 0]  # noise of one hemisphere is not the other's
    points = points[truth.vertices]
    n_vertices = len(points)

    waves = rng.normal(size=(3, 64)) / noise.ncsnr_length
    rank = np.cos(points @ waves + rng.uniform(0, 2 * np.pi, 64)).mean(1)
    share = (np.argsort(np.argsort(rank)) + 0.5) / n_vertices
    snr = np.interp(share, noise.shares, noise.ncsnr) * noise.quality[number]

    sd = noise.fwhm / np.sqrt(8 * np.log(2))
    pairs = KDTree(points).sparse_distance_matrix(KDTree(points), 3 * sd, output_type="coo_matrix")
    weights = scipy.sparse.coo_matrix(
        (np.exp(-np.square(pairs.data / sd) / 2), (pairs.row, pairs.col)), pairs.shape
    ).tocsr()
    weights.setdiag(1)
    norm = np.sqrt(np.asarray(weights.power(2).sum(1)).ravel())
    smooth = scipy.sparse.diags(1 / norm) @ weights  # unit variance at every vertex

    spread = rng.uniform(*noise.spread, n_vertices) / np.hypot(snr, 1)
    out = np.empty(signal.shape, np.float32)
    for session in range(spec.sessions):
        trials = slice(session * spec.trials_per_session, (session + 1) * spec.trials_per_session)
        raw = rng.standard_normal((n_vertices, spec.trials_per_session), np.float32)
        gain = np.exp(noise.gain * rng.normal())
        level = rng.uniform(*noise.level)
        out[trials] = gain * spread * (snr * signal[trials] + (smooth @ raw).T) + level
    without = rng.choice(n_vertices, max(1, round(noise.nan_share * n_vertices)), replace=False)
    out[:, without] = np.nan
    return out


def _write_native_labels(
    tree: NSDTree,
    subject: str,
    hemi: str,
    areas: dict[str, Int[np.ndarray, " area_vertex"]],
    retinotopic: Int[np.ndarray, " vertex"],
    number: int,
) -> None:
    """ROI labels on a native surface of its own order and size, and the transform to fsaverage."""
    n_surface = len(retinotopic)
    n_native = n_surface + 17 + number  # a native surface is not the template's
    rng = np.random.default_rng((number, 3, HEMIS.index(hemi)))
    native_of = rng.permutation(n_native)[:n_surface]
    mgh.write(tree.to_fsaverage(subject, hemi), (native_of + 1).astype(np.float32))
    for family, codes in anatomy.ROI_CODES.items():
        label = np.zeros(n_surface, int)
        if family == "prf-visualrois":
            label = retinotopic
        for code, area in codes.items():
            label[areas.get(area, np.zeros(0, int))] = code
        native = np.zeros(n_native, int)
        native[native_of] = label
        mgh.write_labels(tree.native_label(subject, hemi, family), native, dict(codes))
