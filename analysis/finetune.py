"""A vision transformer fine-tuned to labelled pictures, through a head on one of its layers.

    done = tune("clip-mini", get_labelled("colour"), Tuning(layer=8, seed=0))
    done.accuracy, done.name        # load_backbone(done.name) is the tuned network

The head is an MLP on the layer's global token: the class token, or the average where there is none.
Layers after it are discarded. What is trained besides the head: the whole of what is left, nothing
(method "head"), or low-rank changes of its matrices (LoRA), which are then added to its weights.

The head is trained alone first, since the gradients of an untrained one spoil what the network
knows. The paper says neither steps nor rates. Here validation chooses: each rate is tried for an
epoch, the one of the lowest loss goes on, and the epoch of the highest accuracy is kept (of
several, that of the lowest loss). A result lies under the sha256 of what determined it, made once.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from analysis.backbones import Backbone, load_backbone
from analysis.backbones.tuned import (
    MEND,
    PREFIX,
    RECORD,
    WEIGHTS,
    Origin,
    cut,
    read_arrays,
    read_record,
    require_layer,
    tuned_root,
)
from analysis.cores import cores
from analysis.files import (
    InputError,
    digest,
    file_digest,
    folder_name,
    whole_file,
    write_json,
)
from analysis.labelled import PARTS, Labelled
from analysis.learner import DEFAULT, Tuning, learner_of, prepared, trained
from analysis.versions import VERSIONS

HEAD = "head.safetensors"
AT_ONCE = 32  # pictures, where nothing is trained


@dataclass(frozen=True)
class Tuned:
    """A tuned network's folder and what came of it."""

    name: str  # as `load_backbone` takes it
    folder: Path
    result: Mapping[str, Any]  # as tuned.json says it
    labels: Int[np.ndarray, " test"]
    predicted: Int[np.ndarray, " test"]

    @property
    def accuracy(self) -> float:
        """The share of test pictures whose class is named."""
        return float((self.labels == self.predicted).mean())

    @property
    def recipe(self) -> str:
        """What validation chose, in words."""
        r = self.result
        return (
            f"rate {r['rate']:g} of {', '.join(f'{x:g}' for x in r['rates'])}, epoch"
            f" {r['epoch']} of {r['epochs']}"
        )


def tuned_folder(backbone: Backbone, data: Labelled, tuning: Tuning) -> tuple[Path, dict]:
    """Where a tuned network lies, and all that determines it."""
    key = {
        "backbone": backbone.identity,
        "pictures": data.identity,
        "tuning": asdict(tuning),
        "version": VERSIONS["tuned"],
    }
    name = folder_name(f"{backbone.name}-{data.name}-{tuning.method}-{tuning.layer}")
    return tuned_root() / f"{name}-{digest(key)[:10]}", key


def _begun(
    name: str, data: Labelled, tuning: Tuning, weights: str | None, normalisation: str
) -> tuple[Backbone, Tuning, Path, dict]:
    """The network that is to be tuned, the layer named, the folder and its key."""
    whole = load_backbone(name, weights, normalisation)
    if tuning.layer is None:
        tuning = replace(tuning, layer=len(whole.widths))
    require_layer(whole, tuning.layer)
    return whole, tuning, *tuned_folder(whole, data, tuning)


def is_tuned(
    name: str,
    data: Labelled,
    tuning: Tuning,
    weights: str | None = None,
    normalisation: str = "native",
) -> bool:
    """Whether what `tune` gives is already there."""
    return (_begun(name, data, tuning, weights, normalisation)[2] / RECORD).exists()


def tune(
    name: str,
    data: Labelled,
    tuning: Tuning = DEFAULT,
    weights: str | None = None,
    normalisation: str = "native",
) -> Tuned:
    """A network fine-tuned to labelled pictures: read if it is there, else made.

    `weights`, `normalisation`: as `load_backbone` takes them.

    Raises:
        InputError: for a layer that doesn't exist, a network that is no vision transformer, a loss
            that diverges, or a folder that is damaged.
    """
    whole, tuning, folder, key = _begun(name, data, tuning, weights, normalisation)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not (folder / RECORD).exists():
            origin = Origin(name, whole.identity, weights, normalisation, tuning.layer)
            _make(folder, cut(whole, tuning.layer), data, tuning, {"key": key}, origin)
    return read_tuned(folder)


def _make(
    folder: Path, backbone: Backbone, data: Labelled, tuning: Tuning, record: dict, origin: Origin
) -> None:
    """Train, test and write: tuned.json last."""
    started = time.time()
    learner, merge = prepared(backbone, data, tuning)
    with cores(1 if learner.device == "cuda" else torch.get_num_threads()):
        chosen = trained(learner, tuning)
        said = {part: learner.of_part(part).argmax(1).cpu().numpy() for part in PARTS}
    merge()
    right = {p: float((said[p] == data.labels[data.parts[p]]).mean()) for p in PARTS}
    arrays = {f"head.{k}": v for k, v in learner.head.state_dict().items()}
    arrays["test.predicted"] = torch.from_numpy(said["test"])
    arrays["test.labels"] = torch.from_numpy(data.labels[data.parts["test"]])
    backbone.to("cpu")
    for name, state in ((WEIGHTS, backbone.state_dict()), (HEAD, arrays)):
        with whole_file(folder / name) as scratch:
            save_file({k: v.cpu().contiguous().clone() for k, v in state.items()}, scratch)
    result = chosen | {
        "accuracy": right,
        "chance": data.chance,
        "classes": list(data.classes),
        "pictures": {part: len(data.parts[part]) for part in PARTS},
        "set": data.name,
        "seconds": round(time.time() - started, 1),
    }
    files = {name: file_digest(folder / name) for name in (WEIGHTS, HEAD)}
    made = {"origin": asdict(origin), "result": result, "files": files}
    write_json(folder / RECORD, record | made)


def read_tuned(folder: Path) -> Tuned:
    """The tuned network in a folder.

    Raises:
        InputError: if it is damaged.
    """
    record = read_record(folder)
    arrays = read_arrays(folder / HEAD)
    try:
        labels, predicted = (arrays[f"test.{what}"].numpy() for what in ("labels", "predicted"))
    except KeyError as error:
        raise InputError(f"{folder / HEAD}: {error} missing. {MEND}") from error
    return Tuned(f"{PREFIX}{folder.name}", folder, record["result"], labels, predicted)


def global_tokens(backbone: Backbone, data: Labelled) -> list[Float[Tensor, "picture _"]]:
    """Each layer's global token of every picture, of a network that is not trained."""
    rows = np.arange(len(data.labels))
    pieces = np.array_split(rows, -(-len(rows) // AT_ONCE))
    with torch.inference_mode():
        each = [backbone(torch.from_numpy(data.pictures.read(some)))[1] for some in pieces]
    return [torch.cat(layer).clone() for layer in zip(*each, strict=True)]


def head_grid(
    tokens: list[Float[Tensor, "picture _"]], data: Labelled, tuning: Tuning
) -> list[float]:
    """Test accuracy of a head alone on each layer's global token, of a network as it is.

    Raises:
        InputError: if a loss diverges.
    """
    found = []
    for layer in tokens:
        held = {part: layer[torch.from_numpy(rows)] for part, rows in data.parts.items()}
        learner = learner_of(nn.Identity(), data, tuning, "cpu", held)
        trained(learner, replace(tuning, method="head"))
        labels = learner.labels(data.parts["test"])
        found.append(float((learner.of_part("test").argmax(1) == labels).float().mean()))
    return found
