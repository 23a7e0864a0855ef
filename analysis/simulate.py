"""Simulated subjects, written as NSD's tree with the truth beside it.

    simulate("sim01")        # fsaverage5: the default
    simulate("sim01-full")   # 163,842 vertices per hemisphere
    simulate("sim01-nsd")    # with the noise of NSD's trials: by default one is worth ten of them
    simulate("sim01-raw")    # by a teacher whose tokens are not standardised
    simulate("sim01", Path("photos"))  # on your own photographs: named sim01@photos

Subjects of one size lie in one tree and share its pictures, design and visual mask. The pictures,
and each subject, are written to a scratch folder, then moved to their places, the record last: a
record is there when all of its files are.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import torch
from jaxtyping import Int
from safetensors.numpy import load_file, save_file

from analysis import anatomy, explained, mgh
from analysis.files import (
    HEMIS,
    Hemi,
    InputError,
    NSDTree,
    data_root,
    digest,
    file_digest,
    read_json,
    require,
    whole_file,
    write_json,
)
from analysis.noise import Noise, draw_betas, signal_to_noise
from analysis.responses import TEACHER, true_responses
from analysis.stimuli import SIZES, photographs, read_stimuli, set_name, write_stimuli
from analysis.subject import add_area_unions, zscore
from analysis.truth import SIMULATED_SUBJECTS, Truth, TruthParameters, visual_cortex
from analysis.versions import VERSIONS

SCENES = "drawn scenes"  # in place of the identity of photographs


class Name(NamedTuple):
    """A simulated subject's name, taken apart: `sim01`, `sim01-tiny`, `sim01-nsd-raw@photos`."""

    subject: str  # sim01, sim02 or sim03: its name in the tree
    size: str = "fs5"
    nsd: bool = False  # trials as noisy as NSD's
    raw: bool = False  # the teacher's tokens are not standardised
    stimuli: str = ""  # the name of a set of photographs; empty: drawn scenes

    def __str__(self) -> str:
        return self.subject + f"-{self.root.name}".removeprefix("-fs5")

    @property
    def noise(self) -> Noise:
        return replace(Noise(), trials_worth=1.0) if self.nsd else Noise()

    @property
    def parameters(self) -> TruthParameters:
        return TruthParameters(standardised=not self.raw)

    @property
    def root(self) -> Path:
        """The folder of all who are simulated so and see these pictures."""
        folder = self.size + "-nsd" * self.nsd + "-raw" * self.raw
        return data_root() / "simulated" / (folder + f"@{self.stimuli}" * bool(self.stimuli))

    @property
    def tree(self) -> NSDTree:
        return NSDTree(self.root / "nsd")

    @property
    def truth(self) -> Path:
        return self.root / "truth" / f"{self.subject}.safetensors"

    @property
    def record(self) -> Path:
        return self.root / "truth" / f"{self.subject}.json"

    @property
    def pictures(self) -> Path:
        """The record of pictures and design, with what each picture shows."""
        return self.root / "truth" / "pictures.json"


NAMES = "|".join(SIMULATED_SUBJECTS)
NAME = re.compile(rf"({NAMES})(?:-({'|'.join(SIZES)}))?(-nsd)?(-raw)?(?:@(\w+))?", re.ASCII)


def parse_name(name: str) -> Name:
    """The parts of a name such as `sim01`, `sim01-tiny` or `sim01-nsd@photos`.

    Raises:
        InputError: for any other name.
    """
    if not (match := NAME.fullmatch(name)):
        raise InputError(
            f"subject {name!r}: a simulated one is {', '.join(SIMULATED_SUBJECTS)}, with -tiny or"
            " -full for another size, then -nsd for the noise of NSD's trials, then -raw for a"
            " teacher whose tokens are not standardised, and @NAME for one who sees photographs."
        )
    subject, size, nsd, raw, stimuli = match.groups()
    return Name(subject, size or "fs5", bool(nsd), bool(raw), stimuli or "")


def name_on(name: str, folder: Path | None, nsd: bool = False) -> Name:
    """The name of a subject who sees a folder's photographs, or has NSD's noise, if asked for."""
    parsed = parse_name(name)
    stimuli = set_name(folder) if folder else parsed.stimuli
    return parsed._replace(nsd=parsed.nsd or nsd, stimuli=stimuli)


def keys(name: Name, pictures: str | None) -> tuple[str, str]:
    """The identities of a subject's stimulus set and of the subject.

    `pictures`: SCENES, or the identity of photographs.
    """
    size = asdict(SIZES[name.size])
    stimuli = digest({"version": VERSIONS["simulated"], "size": size, "pictures": pictures})
    settings = {
        "stimuli": stimuli,
        "noise": asdict(name.noise),
        "truth": asdict(name.parameters),
        "subject": asdict(SIMULATED_SUBJECTS[name.subject]),
        "teacher": TEACHER,
    }
    return stimuli, digest(settings)


def _is_whole(record: Path, key: str) -> bool:
    """Whether a record is there, of this key, and its files have their sizes."""
    if not record.exists():
        return False
    content = json.loads(record.read_text("utf8"))
    files = [(record.parents[1] / name, size) for name, size in content["files"].items()]
    return content["key"] == key and all(p.is_file() and p.stat().st_size == n for p, n in files)


def _pictures_of(name: Name) -> str | None:
    """The identity of a name's pictures; None of photographs that were never given."""
    if name.stimuli and name.pictures.exists():
        return json.loads(name.pictures.read_text("utf8")).get("pictures")
    return None if name.stimuli else SCENES


def is_complete(name: str) -> bool:
    """Whether a simulated subject is there, whole and of these settings; takes milliseconds."""
    parsed = parse_name(name)
    stimulus_key, subject_key = keys(parsed, _pictures_of(parsed))
    return _is_whole(parsed.pictures, stimulus_key) and _is_whole(parsed.record, subject_key)


@contextmanager
def _sole_writer(record: Path) -> Iterator[Path]:
    """An empty scratch folder beside the part that a record is of; other writers of it wait."""
    root = record.parents[1]
    root.mkdir(parents=True, exist_ok=True)
    scratch = root / f".{record.stem}.scratch"
    with filelock.FileLock(root / f".{record.stem}.lock"):
        if scratch.exists():  # of a run that was killed
            shutil.rmtree(scratch)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, record: Path, content: dict[str, object]) -> None:
    """Move a part's files from its scratch folder to their places, its record last."""
    root = record.parents[1]
    files = [p.relative_to(scratch) for p in scratch.rglob("*") if p.is_file()]
    sizes = {str(name): (scratch / name).stat().st_size for name in files}
    write_json(scratch / record.relative_to(root), content | {"files": sizes})
    record.unlink(missing_ok=True)
    for name in [*files, record.relative_to(root)]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (scratch / name).replace(root / name)


def simulate(name: str, folder: Path | None = None) -> bool:
    """Whether a simulated subject's tree and truth were written; False if they were there.

    `folder`: photographs to show; the subject is then called NAME@FOLDER.

    Raises:
        InputError: for an unknown name, or photographs that are too few or not there.
    """
    parsed = name_on(name, folder)
    spec = SIZES[parsed.size]
    photos = photographs(folder, spec.pictures) if folder else {}
    digests = {label: file_digest(path) for label, path in photos.items()}
    pictures = digest(digests) if photos else _pictures_of(parsed)
    stimulus_key, subject_key = keys(parsed, pictures)
    if parsed.stimuli and not photos and not _is_whole(parsed.pictures, stimulus_key):
        raise InputError(
            f"subject {name!r}: its photographs are not in {parsed.root}, or not as they were"
            f" written. Run `simulate {name.split('@')[0]} --stimuli FOLDER`."
        )
    with _sole_writer(parsed.record) as scratch:
        with _sole_writer(parsed.pictures) as stimulus_scratch:
            if written := not _is_whole(parsed.pictures, stimulus_key):
                tree = NSDTree(stimulus_scratch / "nsd")
                labels = write_stimuli(tree, spec, photos, len(SIMULATED_SUBJECTS))
                content = {"key": stimulus_key, "pictures": pictures, "labels": labels}
                _publish(stimulus_scratch, parsed.pictures, content)
        if _is_whole(parsed.record, subject_key):
            return written
        _write_subject(parsed, scratch)
        content = {"key": subject_key, "subject": str(parsed), "teacher": TEACHER}
        _publish(scratch, parsed.record, content)
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
    path, what = parse_name(name).pictures, "what the simulated pictures show"
    return [frozenset(k) for k in read_json(path, what, "Simulate a subject first.")["labels"]]


def _write_subject(name: Name, scratch: Path) -> None:
    """Write the truth, betas, ncsnr and labels of a subject who sees the pictures of its tree."""
    spec, subject = SIZES[name.size], SIMULATED_SUBJECTS[name.subject]
    number = list(SIMULATED_SUBJECTS).index(name.subject)
    picture_ids, pictures, trial_picture = read_stimuli(name.tree, number)
    labels = None  # photographs need not show every category
    if not name.stimuli:
        scenes = picture_labels(str(name))
        labels = [scenes[i] for i in picture_ids]
    cortex = visual_cortex(spec.n_surface, subject.shape)
    truth, responses = true_responses(
        cortex, torch.from_numpy(pictures), labels, subject, name.parameters
    )
    snr = signal_to_noise(truth, add_area_unions(cortex.rois), spec.n_surface, subject, name.noise)
    signal = responses[trial_picture]
    betas = draw_betas(truth, snr, signal, spec.n_surface, spec.sessions, subject, name.noise)
    betas = betas.reshape(spec.sessions, spec.trials_per_session, -1)
    standardised = np.concatenate([zscore(session) for session in betas])
    trial_session = np.repeat(np.arange(spec.sessions), spec.trials_per_session)
    ncsnr = explained.ncsnr(standardised, trial_picture, trial_session)

    tree = NSDTree(scratch / "nsd")
    for i, hemi in enumerate(HEMIS):
        columns = cortex.vertices // spec.n_surface == i
        vertices = cortex.vertices[columns] - i * spec.n_surface
        maps = {tree.betas(name.subject, hemi, s): b.T for s, b in enumerate(betas, 1)}
        maps[tree.ncsnr(name.subject, hemi)] = ncsnr
        for path, values in maps.items():
            surface = np.zeros((spec.n_surface, *values.shape[1:]), ">f4", order="F")
            surface[vertices] = values[columns]
            mgh.write(path, surface)
        rois = anatomy.roi_labels(hemi, spec.n_surface, subject.shape)
        _write_native_labels(tree, name.subject, hemi, rois, (number, 3, i))
    with whole_file(scratch / "truth" / name.truth.name) as path:
        save_file({k: np.ascontiguousarray(v) for k, v in vars(truth).items()}, path)


def _write_native_labels(
    tree: NSDTree,
    subject: str,
    hemi: Hemi,
    rois: dict[str, Int[np.ndarray, " vertex"]],
    seed: tuple[int, ...],
) -> None:
    """Write ROI labels on a native surface of another order and size, and its transform."""
    n_surface = len(rois["prf-visualrois"])
    n_native = n_surface + 17 + seed[0]  # a native surface is not the template's
    order = np.random.default_rng(seed).permutation(n_native)[:n_surface]
    mgh.write(tree.to_fsaverage(subject, hemi), (order + 1).astype(np.float32))
    for family, labels in rois.items():
        native = np.zeros(n_native, int)
        native[order] = labels
        names = anatomy.ROI_CODES[family]
        mgh.write_labels(tree.native_label(subject, hemi, family), native, names)
