"""A saved fit: all that prediction needs, in a folder that stands alone.

    fit = load_fit(Path("data/fits/sim01/clip-mini-0123456789ab"))
    fit.model, fit.selectors(), fit.rois["V1"], fit.score("test")

`model.safetensors` holds the model's weights and `vertices.safetensors` what is known of each
vertex; `fit.json` says which fit it is, what made it, how it scores, and the sha256 of the other
two. Reading them runs nothing that they hold.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import numpy as of_numpy
from safetensors.torch import load_file, save_file

from analysis.features import DEFAULT, Form
from analysis.files import (
    InputError,
    MissingFile,
    file_digest,
    fits_root,
    folder_name,
    read_json,
    whole_file,
    write_json,
)
from analysis.metrics import Score
from analysis.model import FactorTopy, ModelConfig, Selectors
from analysis.rivals import Rival, make_model
from analysis.subject import Source

FORMAT = 2  # raise when a folder of another form is written; 1 had no record of its vertices
MEND = "Delete its folder: the fit is made again when asked for; or copy it again whole."
FILES = ("model.safetensors", "vertices.safetensors")
SAME = 1e-3  # of the probe's rms, by which another machine's rounding may differ
ROI = "roi/"


@dataclass(frozen=True)
class Network:
    """How a fit's network is loaded, and the form its tokens are made in."""

    weights: str | None = None  # as `load_backbone` takes them
    normalisation: str = "native"
    form: Form = DEFAULT


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TokensRecord(Part):
    """The tokens that a model reads, and how those of other pictures are made."""

    key: str  # sha256 of network, weights, preprocessing and form
    weights: str | None
    normalisation: str
    form: dict[str, Any]
    widths: list[int]
    layer_names: list[str]


class ScoreRecord(Part):
    """`metrics.Score`; None where a number isn't known."""

    value: float | None
    low: float | None
    high: float | None
    metric: str
    targets: str
    part: str
    n_pictures: int
    n_vertices: int


class Record(Part):
    """What fit.json holds."""

    format: Literal[2]
    key: dict[str, Any]  # all that determined the fit
    subject: str
    source: Source
    n_surface: int  # vertices per hemisphere of its mesh; 0: not on fsaverage
    backbone: str
    tokens: TokensRecord
    split: dict[str, int]  # pictures in each part, and trials trained on
    result: dict[str, Any]  # of training
    scores: list[ScoreRecord]
    files: dict[str, str]  # sha256 of each
    seconds: float
    versions: dict[str, str]


@dataclass(frozen=True)
class SavedFit:
    """A trained model and what is known of its vertices, without any responses or tokens."""

    folder: Path
    model: FactorTopy | Rival
    record: dict  # fit.json, as `Record` describes it
    vertices: Int[np.ndarray, " vertex"]  # index on the mesh, lh then rh (rh + n_surface)
    coordinates: Float[np.ndarray, "vertex 3"]  # mm
    rois: dict[str, Bool[np.ndarray, " vertex"]]
    ncsnr: Float[np.ndarray, " vertex"]  # signal sd / noise sd of a single trial; NaN: not known
    ceiling: Float[np.ndarray, " vertex"]  # of R² on the test set's targets
    r2: Float[np.ndarray, " vertex"]  # on the test set

    @property
    def n_surface(self) -> int:
        return self.record["n_surface"]

    @property
    def simulated(self) -> bool:
        return self.record["source"] == "simulated"

    @property
    def form(self) -> Form:
        """Of the tokens that the model reads."""
        return Form(**self.record["tokens"]["form"])

    def selectors(self) -> Selectors:
        """What each vertex chose.

        Raises:
            InputError: for a rival, which selects nothing.
        """
        with torch.inference_mode():
            chosen = self.model.selectors()
        if chosen is None:
            kind = self.record["key"]["model"]["model"]
            raise InputError(f"model {kind!r}: selects nothing; expected a fit of factortopy.")
        return chosen

    def score(self, part: str = "test", normalised: bool = False) -> Score:
        """The mean R² over vertices when it was made, or that as a share of the noise ceiling."""
        rows = [s for s in self.record["scores"] if s["part"].startswith(part)]
        row = rows[normalised]  # R² is written before its share
        return Score(**{k: np.nan if v is None else v for k, v in row.items()})


def probe(model: FactorTopy | Rival, widths: list[int], grid: int) -> Float[np.ndarray, " vertex"]:
    """Responses to tokens that are sines, which code that computes alike gives again."""
    n = sum(widths)
    local = torch.arange(n * grid**2, dtype=torch.float64).sin().float().view(1, n, grid, grid)
    global_ = torch.arange(n, dtype=torch.float64).cos().float().view(1, n)
    with torch.inference_mode():
        return model(local, global_)[0].numpy()


def save_fit(
    folder: Path, model: FactorTopy | Rival, arrays: dict[str, np.ndarray], record: dict
) -> None:
    """Write a fit's three files, fit.json last: a folder that has it is whole.

    `arrays`: of each vertex, by the names of `SavedFit`'s fields; ROIs as `roi/NAME`.
    `record`: `Record`'s fields but format and files.
    """
    tokens = record["tokens"]
    arrays = arrays | {"probe": probe(model, tokens["widths"], tokens["form"]["grid"])}
    with whole_file(folder / FILES[0]) as scratch:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, scratch)
    with whole_file(folder / FILES[1]) as scratch:
        of_numpy.save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, scratch)
    files = {name: file_digest(folder / name) for name in FILES}
    write_json(folder / "fit.json", record | {"format": FORMAT, "files": files})


def load_fit(folder: Path) -> SavedFit:
    """The fit in a folder, which may come from another machine.

    Raises:
        InputError: if it is no fit, unfinished, damaged, of another version, or holds what no fit
            does.
    """
    record = read_record(folder)
    for name in FILES:
        path = folder / name
        if not path.exists():
            raise MissingFile(f"{path}: not found; expected a file of the fit. {MEND}")
        if file_digest(path) != record["files"].get(name):
            raise InputError(f"{path}: damaged, or not of the fit that fit.json is of. {MEND}")
    try:
        arrays = of_numpy.load_file(folder / FILES[1])
        state = load_file(folder / FILES[0])
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: not safetensors ({error}). {MEND}") from error
    arrays, rois = _checked(folder / FILES[1], arrays)
    expected = arrays.pop("probe")
    model = _model(folder / FILES[0], record, arrays["coordinates"], state)
    found = probe(model, record["tokens"]["widths"], record["tokens"]["form"]["grid"])
    away = np.abs(found - expected).max(initial=0)
    if not away <= SAME * np.sqrt(np.square(expected).mean()):
        raise InputError(
            f"{folder}: this version of the project computes other responses than the one that made"
            f" the fit (by up to {away:.2g}). Use that version, or make the fit again."
        )
    return SavedFit(folder, model, record, rois=rois, **arrays)


def read_record(folder: Path) -> dict:
    """A fit's fit.json.

    Raises:
        InputError: if there is none, or not as this version writes it.
    """
    path = folder / "fit.json"
    if not path.exists():
        if (folder / "training").is_dir():
            raise MissingFile(f"{folder}: a fit that is not finished. Ask for it again by `fit`.")
        raise MissingFile(
            f"{folder}: not a fit; expected a folder with fit.json, {' and '.join(FILES)}."
        )
    record = read_json(path, "the record of a fit", MEND)
    if not isinstance(record, dict) or "key" not in record:
        raise InputError(f"{path}: not the record of a fit. {MEND}")
    made = record["key"].get("model") if isinstance(record["key"], dict) else None
    if isinstance(made, dict) and made.get("model") == "ridge":
        raise InputError(
            f"{folder}: a fit of ridge, which keeps no weights to predict other pictures from, nor"
            " selectors to map; expected one of another model. Give the folder of such a fit."
        )
    if (version := record.get("format", 1)) != FORMAT:
        age = "a newer" if isinstance(version, int) and version > FORMAT else "an older"
        raise InputError(
            f"{path}: format {json.dumps(version)}, of {age} version of the project; this one reads"
            f" format {FORMAT}. Use that version, or delete the folder and make the fit again."
        )
    try:
        Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg']}. {MEND}") from error
    return record


def _checked(
    path: Path, arrays: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays of the vertices, and the ROIs among them.

    Raises:
        InputError: for one that is missing, not expected, or of another kind or length.
    """
    rois = {k.removeprefix(ROI): v for k, v in arrays.items() if k.startswith(ROI)}
    others = {k: v for k, v in arrays.items() if not k.startswith(ROI)}
    kinds = {"vertices": "i"} | dict.fromkeys(("coordinates", "ncsnr", "ceiling", "r2"), "f")
    kinds["probe"] = "f"
    if strange := kinds.keys() ^ others.keys():
        raise InputError(f"{path}: {', '.join(sorted(strange))} missing or not expected. {MEND}")
    n = others["vertices"].shape[:1]
    wrong = [k for k, v in others.items() if v.dtype.kind != kinds[k]]
    wrong += [k for k, v in others.items() if v.shape != n + (3,) * (k == "coordinates")]
    wrong += [k for k, v in rois.items() if v.dtype.kind != "b" or v.shape != n]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)} of another kind or length. {MEND}")
    return others, rois


def _model(
    path: Path,
    record: dict,
    coordinates: Float[np.ndarray, "vertex 3"],
    state: dict[str, torch.Tensor],
) -> FactorTopy | Rival:
    """The model of a record with its weights.

    Raises:
        InputError: if configuration or weights are not those of such a model.
    """
    try:
        config = ModelConfig(**record["key"]["model"])
        with torch.random.fork_rng():
            widths = record["tokens"]["widths"]
            model = make_model(config, widths, torch.from_numpy(coordinates))
        model.load_state_dict(state)
    except (TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: not the weights of such a model ({error}). {MEND}") from error
    return model.eval().requires_grad_(False)


def find_fit(name: str) -> Path:
    """The folder of a finished fit: a path, or SUBJECT/LABEL, as in sim01/clip-mini-no-scale.

    SUBJECT/NETWORK is the default fit, never a control or an ablation; a label without its seed is
    that of the lowest seed.

    Raises:
        MissingFile: if there is none, or several that their labels don't tell apart, with those
            that are there.
    """
    if Path(name).is_dir():
        return Path(name)
    subject, _, label = name.partition("/")
    finished = [path.parent for path in sorted(fits_root().glob("*/*/fit.json"))]
    pattern = re.compile(re.escape(folder_name(label)) + r"(?:-seed(\d+))?-[0-9a-f]{12}")
    by_seed: dict[int, list[Path]] = {}
    for folder in finished:
        match = pattern.fullmatch(folder.name)
        if folder.parent.name == folder_name(subject) and match:
            by_seed.setdefault(int(match[1] or 0), []).append(folder)
    if not by_seed:
        there = [str(folder.relative_to(fits_root())) for folder in finished]
        raise MissingFile(
            f"fit {name!r}: no such folder, and no finished fit of that SUBJECT/NETWORK in"
            f" {fits_root()}, which has {', '.join(there) or 'none'}."
        )
    folders = by_seed[min(by_seed)]
    if len(folders) > 1:
        raise MissingFile(
            f"fit {name!r}: stands for {len(folders)} fits, of other data or versions:"
            f" {', '.join(map(str, folders))}. Give one of these folders."
        )
    return folders[0]


def score_records(scores: list[Score]) -> list[dict]:
    """Scores for fit.json, which has no NaN."""
    finite = [dataclasses.asdict(score) for score in scores]
    return [
        {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
        for row in finite
    ]
