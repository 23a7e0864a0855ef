"""Simulated subjects, written as NSD's tree with the truth beside it.

    simulate("sim01")        # fsaverage5: the default
    simulate("sim01-full")   # 163,842 vertices per hemisphere
    simulate("sim01-nsd")    # with the noise of NSD's trials: by default one is worth ten of them
    simulate("sim01-raw")    # by a teacher whose tokens are not standardised
    simulate("sim01", Path("photos"))  # on your own photographs: named sim01@photos

What is here orders and writes; anatomy, truth.py, stimuli.py and noise.py say what is simulated.
"""

import json
import re
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import filelock
import h5py
import numpy as np
import scipy.io
import torch
from jaxtyping import Bool, Int
from safetensors.numpy import load_file, save_file

from analysis import anatomy, explained, mgh
from analysis.backbones import load_backbone
from analysis.files import (
    HEMIS,
    InputError,
    NSDTree,
    code_digest,
    data_root,
    digest,
    read_json,
    require,
    require_space,
    whole_file,
    write_json,
)
from analysis.noise import Noise, draw_betas, signal_to_noise
from analysis.stimuli import (
    SIZES,
    Photographs,
    photographs,
    set_name,
    shown_photographs,
    shown_scenes,
    write_design,
    write_pictures,
)
from analysis.subject import add_area_unions, zscore
from analysis.truth import (
    CATEGORY,
    PEOPLE,
    Rules,
    Truth,
    category_directions,
    draw_truth,
    noiseless,
    teacher_tokens,
    token_standard,
)

TEACHER = "clip-mini"
CODE = ("anatomy.py", "explained.py", "noise.py", "scenes.py", "simulate.py", "stimuli.py")
CODE += ("surface.py", "truth.py")
NOISE, RULES = Noise(), Rules()
SCENES = "drawn scenes"  # what stands for the sha256 of photographs
STANDARD = 300  # pictures over which tokens are standardised


class Name(NamedTuple):
    """A simulated subject's name, taken apart: `sim01`, `sim01-tiny`, `sim01-nsd-raw@photos`."""

    subject: str  # sim01, sim02 or sim03: its name in the tree
    size: str = "fs5"
    nsd: bool = False  # trials as noisy as NSD's
    raw: bool = False  # the teacher's tokens are not standardised
    stimuli: str = ""  # the name of a set of photographs; empty: drawn scenes

    def __str__(self) -> str:
        return self.subject + f"-{self.folder}".removeprefix("-fs5")

    @property
    def folder(self) -> str:
        """What all have in common who are simulated so and see these pictures."""
        name = self.size + "-nsd" * self.nsd + "-raw" * self.raw
        return f"{name}@{self.stimuli}" if self.stimuli else name

    @property
    def noise(self) -> Noise:
        return replace(NOISE, trials_worth=1.0) if self.nsd else NOISE

    @property
    def rules(self) -> Rules:
        return replace(RULES, standardised=not self.raw)

    @property
    def root(self) -> Path:
        return data_root() / "simulated" / self.folder

    @property
    def tree(self) -> NSDTree:
        return NSDTree(self.root / "nsd")

    @property
    def truth(self) -> Path:
        return self.root / "truth" / f"{self.subject}.safetensors"

    @property
    def record(self) -> Path:
        """Written last: what made the subject, and the files it has."""
        return self.root / "truth" / f"{self.subject}.json"

    @property
    def pictures(self) -> Path:
        """What each row of the stimulus file shows."""
        return self.root / "truth" / "pictures.json"


NAMES = rf"({'|'.join(PEOPLE)})(?:-({'|'.join(SIZES)}))?(-nsd)?(-raw)?(?:@(\w+))?"


def parse_name(name: str) -> Name:
    """What a name such as `sim01`, `sim01-tiny` or `sim01-nsd@photos` stands for.

    Raises:
        InputError: for any other name.
    """
    found = re.fullmatch(NAMES, name, flags=re.ASCII)
    if not found:
        raise InputError(
            f"subject {name!r}: a simulated one is {', '.join(PEOPLE)}, with -tiny or -full for"
            " another size, then -nsd for the noise of NSD's trials, then -raw for a teacher whose"
            " tokens are not standardised, and @NAME for one who sees photographs."
        )
    subject, size, nsd, raw, stimuli = found.groups()
    return Name(subject, size or "fs5", bool(nsd), bool(raw), stimuli or "")


def name_on(name: str, folder: Path | None, nsd: bool = False) -> Name:
    """The name of a subject who sees a folder's photographs, or has NSD's noise, if asked for."""
    parsed = parse_name(name)
    parsed = parsed._replace(nsd=parsed.nsd or nsd)
    return parsed._replace(stimuli=set_name(folder)) if folder else parsed


def _key(name: Name, stimuli: str, **more: object) -> str:
    """The identity of what these settings and this code make."""
    made = {"size": asdict(SIZES[name.size]), "stimuli": stimuli, "code": code_digest(CODE)}
    return digest(made | more)


def _subject_key(name: Name, stimuli: str) -> str:
    settings = {"noise": asdict(name.noise), "rules": asdict(name.rules)}
    settings |= {"person": asdict(PEOPLE[name.subject])}
    return _key(name, stimuli, teacher=load_backbone(TEACHER).identity, **settings)


def _stimuli_of(name: Name) -> str:
    """The identity of the pictures that are there; that of drawn scenes where there are none."""
    if not name.pictures.exists():
        return SCENES
    return read_json(name.pictures, "what the simulated pictures show", "Delete it.")["stimuli"]


def _sizes(root: Path, *paths: Path) -> dict[str, int]:
    """The bytes of files, and of those in folders, by their path under the root."""
    files = [f for p in paths for f in ([p] if p.is_file() else p.iterdir())]
    return {str(f.relative_to(root)): f.stat().st_size for f in files}


def _is_whole(record: Path, key: str) -> bool:
    """Whether a part was written to its end by this code and settings, and is still there."""
    if not record.exists():
        return False
    made = json.loads(record.read_text())
    files = [(record.parents[1] / name, n) for name, n in made.get("files", {}).items()]
    return made["key"] == key and all(f.is_file() and f.stat().st_size == n for f, n in files)


def is_complete(name: str) -> bool:
    """Whether a simulated subject lies there whole, made by this code."""
    parsed = parse_name(name)
    return _is_whole(parsed.record, _subject_key(parsed, _stimuli_of(parsed)))


def simulate(name: str, folder: Path | None = None) -> bool:
    """Write a simulated subject's tree and truth; False if it was there already.

    `folder`: photographs to show; the subject is then called NAME@FOLDER.

    Raises:
        InputError: for an unknown name, too few photographs, or too small a disk.
    """
    parsed, photos = name_on(name, folder), None
    spec = SIZES[parsed.size]
    if folder is not None:
        photos = photographs(folder, spec.pictures)
    elif parsed.stimuli and not parsed.pictures.exists():
        raise InputError(
            f"subject {name!r}: {parsed.pictures} is not there; expected what simulating with"
            f" photographs writes. Run `simulate {name.split('@')[0]} --stimuli FOLDER`."
        )
    parsed.root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(parsed.root / f".{parsed.subject}.lock"):
        stimuli = photos.identity if photos else _stimuli_of(parsed)
        key = _subject_key(parsed, stimuli)
        if _is_whole(parsed.record, key):
            return False
        parsed.record.unlink(missing_ok=True)
        betas = 8 * spec.n_surface * spec.sessions * spec.trials_per_session
        require_space(parsed.root, betas + 2**28, f"simulating {name}")
        with filelock.FileLock(parsed.root / ".pictures.lock"):  # which others see too
            labels = _write_stimuli(parsed, photos, stimuli)
        truth = _write_subject(parsed, labels)
        with whole_file(parsed.truth) as scratch:
            save_file({k: np.ascontiguousarray(v) for k, v in asdict(truth).items()}, scratch)
        tree, subject = parsed.tree, parsed.subject
        files = [tree.stimuli, tree.design, parsed.truth, tree.beta_folder(subject)]
        for hemi in HEMIS:
            files += [tree.group_label(hemi, "nsdgeneral"), tree.to_fsaverage(subject, hemi)]
        files += [tree.native_label(subject, HEMIS[0], "").parent]
        made = {"key": key, "subject": subject, "teacher": TEACHER}
        write_json(parsed.record, made | {"files": _sizes(parsed.root, *files)})
    return True


def load_truth(name: str, vertices: Int[np.ndarray, " vertex"]) -> Truth:
    """The truth of a simulated subject at some of its vertices, in their order.

    Raises:
        InputError: if the subject has not been simulated, or has no such vertex.
    """
    path = parse_name(name).truth
    require(path, "a simulated subject's truth", "Simulate the subject first.")
    arrays = load_file(path)
    if (unknown := ~np.isin(vertices, arrays["vertices"])).any():
        raise InputError(f"vertices: {vertices[unknown][:5]} are not among those of {path}.")
    rows = np.searchsorted(arrays["vertices"], vertices)
    return Truth(**{k: v[rows] for k, v in arrays.items()})


def picture_labels(name: str) -> list[frozenset[str]]:
    """What each row of a simulated subject's stimulus file shows."""
    return _labels(parse_name(name))


def _labels(name: Name) -> list[frozenset[str]]:
    what = "what the simulated pictures show"
    found = read_json(name.pictures, what, "Simulate a subject first.")
    return [frozenset(kinds) for kinds in found["labels"]]


def _write_stimuli(name: Name, photos: Photographs | None, stimuli: str) -> list[frozenset[str]]:
    """Write the pictures and the design, unless they are there; returns what each shows."""
    spec, tree, key = SIZES[name.size], name.tree, _key(name, stimuli)
    if _is_whole(name.pictures, key):
        return _labels(name)
    if name.stimuli and photos is None:
        raise InputError(
            f"{tree.stimuli}: damaged, or of older code; expected the photographs {name.stimuli}."
            " Simulate with --stimuli again."
        )
    name.pictures.unlink(missing_ok=True)
    count = spec.shared + len(PEOPLE) * (spec.pictures - spec.shared)
    if photos:
        count = len(photos.files)
    side = spec.picture
    shown = shown_photographs(photos, side) if photos else shown_scenes(count, side)
    labels = write_pictures(tree.stimuli, shown, count, side)
    write_design(tree, spec, count, len(PEOPLE))
    made = {"key": key, "labels": labels, "stimuli": stimuli}
    write_json(name.pictures, made | {"files": _sizes(name.root, tree.stimuli, tree.design)})
    return [frozenset(kinds) for kinds in labels]


def _category_examples(
    pictures: torch.Tensor, labels: list[frozenset[str]]
) -> tuple[torch.Tensor, list[frozenset[str]]]:
    """Pictures with and without each category: the subject's own, or drawn scenes."""
    shares = [np.mean([category in kinds for kinds in labels]) for category in CATEGORY]
    if all(0 < share < 1 for share in shares):
        return pictures, labels
    drawn = list(shown_scenes(STANDARD, pictures.shape[1]))
    return torch.from_numpy(np.stack([p for p, _ in drawn])), [kinds for _, kinds in drawn]


def _write_subject(name: Name, labels: list[frozenset[str]]) -> Truth:
    """Betas, ncsnr and labels of one subject; returns its truth."""
    teacher, person = load_backbone(TEACHER), PEOPLE[name.subject]
    spec, tree, number = SIZES[name.size], name.tree, list(PEOPLE).index(name.subject)
    design = scipy.io.loadmat(tree.design)
    rows = design["subjectim"][number].astype(int) - 1
    order = np.argsort(rows)
    with h5py.File(tree.stimuli, "r") as f:
        pictures = torch.from_numpy(f["imgBrick"][rows[order]][np.argsort(order)])
    late = round(0.9 * (len(teacher.widths) - 1))
    first, kinds = pictures[:STANDARD], [labels[r] for r in rows[:STANDARD]]
    tokens = list(teacher_tokens(teacher, first))
    standard = token_standard(tokens, name.rules.standardised)
    examples, kinds = _category_examples(first, kinds)
    vectors = standard.vectors
    if examples is not first:
        vectors = torch.cat([global_ for _, global_ in teacher_tokens(teacher, examples)])
    directions = category_directions(standard, vectors, kinds, late)
    truth, areas, retinotopic = draw_truth(
        spec.n_surface, len(teacher.widths), directions, person, name.rules
    )
    others = teacher_tokens(teacher, pictures[STANDARD:])
    signal = noiseless(truth, standard, chain(tokens, others))
    trial_picture = design["masterordering"].ravel().astype(int) - 1
    rois = rois_of(truth, areas, retinotopic)
    snr = signal_to_noise(truth, rois, spec.n_surface, person, name.noise)
    shown = signal[trial_picture]
    betas = draw_betas(truth, snr, shown, spec.n_surface, spec.sessions, person, name.noise)
    shape = (spec.sessions, spec.trials_per_session, -1)
    standardised = np.concatenate([zscore(s) for s in betas.reshape(shape)])
    session_of = np.arange(len(trial_picture)) // spec.trials_per_session
    measured = explained.ncsnr(standardised, trial_picture, session_of)
    for i, hemi in enumerate(HEMIS):
        here = truth.vertices // spec.n_surface == i
        at = truth.vertices[here] - i * spec.n_surface
        for session, some in enumerate(betas.reshape(shape)):
            whole = np.zeros((spec.n_surface, spec.trials_per_session), ">f4", order="F")
            whole[at] = some[:, here].T
            mgh.write(tree.betas(name.subject, hemi, session + 1), whole)
        whole = np.zeros(spec.n_surface, np.float32)
        whole[at] = measured[here]
        mgh.write(tree.ncsnr(name.subject, hemi), whole)
        general = np.zeros(spec.n_surface, int)
        general[at] = 1
        mgh.write_labels(
            tree.group_label(hemi, "nsdgeneral"), general, {0: "Unknown", 1: "nsdgeneral"}
        )
        _write_native_labels(tree, name.subject, hemi, areas[i], retinotopic[i], number)
    return truth


def rois_of(
    truth: Truth,
    areas: list[dict[str, Int[np.ndarray, " _"]]],  # of every hemisphere
    retinotopic: list[Int[np.ndarray, " vertex"]],
) -> dict[str, Bool[np.ndarray, " visual"]]:
    """Which of the truth's vertices are in each ROI, of both hemispheres."""
    n_surface = len(retinotopic[0])
    early = np.concatenate(retinotopic)[truth.vertices]
    codes = anatomy.ROI_CODES["prf-visualrois"]
    rois = {name: early == code for code, name in codes.items() if code}
    for name in areas[0]:
        members = [one[name] + i * n_surface for i, one in enumerate(areas)]
        rois[name] = np.isin(truth.vertices, np.concatenate(members))
    return add_area_unions(rois)


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
