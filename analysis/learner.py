"""A head on a network's layer, and how the two learn from labelled pictures.

    learner, merge = prepared(cut(backbone, 4), data, Tuning())
    log = trained(learner, tuning)      # at the rate, to the epoch, that validation chooses
    merge()                             # adds LoRA's changes to the weights

`finetune` says what is trained, and keeps what comes of it.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis.backbones import Backbone
from analysis.files import InputError
from analysis.labelled import Labelled

METHODS = {  # and the rates that are tried
    "whole": (3e-5, 1e-4, 3e-4),
    "head": (1e-3, 3e-3),
    "lora": (3e-4, 1e-3, 3e-3),
}
DIVERGED = 20.0  # times the loss of knowing nothing
WARM_RATE, WARM_EPOCHS = 3e-3, 20  # of the head alone, before more is trained
AT_ONCE = 32  # pictures, where nothing is trained


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned."""

    layer: int | None = None  # that the head reads, from 1; none: the last
    method: str = "whole"  # or head, or lora
    seed: int = 0  # of the head's first weights and the order of pictures
    epochs: int = 6  # the first is run at each rate
    batch: int = 16
    rates: tuple[float, ...] = ()  # that are tried; none: METHODS'
    hidden: int = 64  # units of the head
    weight_decay: float = 0.01
    clip: float = 1.0  # largest length of the gradient
    rank: int = 8  # of LoRA's changes

    def __post_init__(self):
        if self.method not in METHODS:
            raise InputError(f"method={self.method!r}: expected one of {', '.join(METHODS)}.")
        for name in ("epochs", "batch", "hidden", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected 1 or more.")
        if not all(rate > 0 for rate in self.rates):
            raise InputError(f"rates={self.rates}: expected numbers above 0.")


DEFAULT = Tuning()


class Head(nn.Module):
    """An MLP of one hidden layer on a global token, standardised as before any tuning."""

    def __init__(self, token: Float[Tensor, "picture width"], hidden: int, classes: int):
        super().__init__()
        self.register_buffer("mean", token.mean(0))
        self.register_buffer("sd", token.std(0).clamp_min(1e-6))
        self.hidden = nn.Linear(token.shape[1], hidden)
        self.out = nn.Linear(hidden, classes)

    def forward(self, token: Float[Tensor, "batch width"]) -> Float[Tensor, "batch class"]:
        return self.out(nn.functional.gelu(self.hidden((token - self.mean) / self.sd)))


@dataclass
class Learner:
    """A network cut at a layer, its head, and the pictures that it reads."""

    backbone: nn.Module
    data: Labelled
    device: str
    held: dict[str, Float[Tensor, "_ _"]]  # tokens of parts, of the network as it is now
    head: Head = field(init=False)
    trained: bool = False  # more than the head

    def token(self, rows: Int[np.ndarray, " n"]) -> Float[Tensor, "n width"]:
        """The last layer's global token of pictures."""
        pixels = torch.from_numpy(self.data.pictures.read(rows)).to(self.device)
        return self.backbone(pixels)[1][-1]

    def labels(self, rows: Int[np.ndarray, " n"]) -> Int[Tensor, " n"]:
        return torch.from_numpy(self.data.labels[rows]).to(self.device)

    def tokens(self, part: str) -> Float[Tensor, "part width"]:
        """Those of a part, computed again only where the network has changed."""
        if self.trained or part not in self.held:
            rows = self.data.parts[part]
            pieces = np.array_split(rows, -(-len(rows) // AT_ONCE))
            with torch.no_grad():
                self.held[part] = torch.cat([self.token(some) for some in pieces])
        return self.held[part]

    def of_part(self, part: str) -> Float[Tensor, "part class"]:
        """What the head says of a part's pictures."""
        with torch.no_grad():
            return self.head(self.tokens(part))

    def batch(self, at: Int[np.ndarray, " n"]) -> Float[Tensor, "n class"]:
        """What the head says of some training pictures, by their place in the part."""
        if self.trained:
            return self.head(self.token(self.data.parts["train"][at]))
        return self.head(self.tokens("train")[torch.from_numpy(at)])

    def state(self) -> dict[str, Tensor]:
        """A copy of what is trained."""
        parts = {"head": self.head} | ({"backbone": self.backbone} if self.trained else {})
        return {
            f"{name}.{key}": value.detach().clone()
            for name, part in parts.items()
            for key, value in part.state_dict().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, part in (("head", self.head), ("backbone", self.backbone)):
            own = {
                k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")
            }
            if own:
                part.load_state_dict(own)


def _adapted(backbone: Backbone, rank: int) -> Callable[[], None]:
    """Low-rank changes of a network's matrices, made trainable in place; adds them when called."""
    from peft import LoraConfig, get_peft_model  # slow to import

    inner = "visual" if hasattr(backbone, "visual") else "network"
    network = getattr(backbone, inner)
    targets = [
        name
        for name, part in network.named_modules()
        if "blocks." in name
        and isinstance(part, nn.Linear | nn.MultiheadAttention)
        and not name.endswith("attn.out_proj")  # which is changed with its attention
    ]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets)
    model = get_peft_model(network, config)

    def merge() -> None:
        setattr(backbone, inner, model.merge_and_unload())

    return merge


def _epoch(
    learner: Learner, optimiser: torch.optim.Optimizer, tuning: Tuning, order: Int[np.ndarray, " n"]
) -> float:
    """Train on every picture once; returns the mean loss, infinite once it diverges."""
    rows, losses = learner.data.parts["train"], []
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    most = DIVERGED * np.log(len(learner.data.classes))
    for at in np.array_split(order, -(-len(order) // tuning.batch)):
        optimiser.zero_grad()
        loss = cross_entropy(learner.batch(at), learner.labels(rows[at]))
        losses.append(float(loss.detach()))
        if not losses[-1] < most:
            return float("inf")
        loss.backward()
        nn.utils.clip_grad_norm_(weights, tuning.clip)
        optimiser.step()
    return float(np.mean(losses))


def _validated(learner: Learner) -> tuple[float, float]:
    """Accuracy and loss on validation pictures."""
    said = learner.of_part("validation")
    labels = learner.labels(learner.data.parts["validation"])
    right = (said.argmax(1) == labels).float().mean()
    return float(right), float(cross_entropy(said, labels))


def _orders(learner: Learner, seed: int, epochs: int) -> list[Int[np.ndarray, " n"]]:
    """In which order the training pictures come, an epoch each."""
    rng = np.random.default_rng((seed, 3, epochs))
    return [rng.permutation(len(learner.data.parts["train"])) for _ in range(epochs)]


def _warmed(learner: Learner, tuning: Tuning) -> None:
    """Train the head alone first: an untrained one's gradients spoil what the network knows."""
    optimiser = torch.optim.AdamW(
        learner.head.parameters(), WARM_RATE, weight_decay=tuning.weight_decay
    )
    for order in _orders(learner, tuning.seed, WARM_EPOCHS):
        _epoch(learner, optimiser, tuning, order)


def trained(learner: Learner, tuning: Tuning) -> dict[str, Any]:
    """Train at the rate that validation chooses, and keep the epoch that it chooses.

    Raises:
        InputError: if the loss diverges at every rate, or at the chosen one.
    """
    if learner.trained:
        learner.trained = False
        _warmed(learner, tuning)
        learner.trained = True
    rates = tuning.rates or METHODS[tuning.method]
    orders = _orders(learner, tuning.seed, tuning.epochs)
    weights = [
        *learner.head.parameters(),
        *(p for p in learner.backbone.parameters() if p.requires_grad),
    ]
    begin = learner.state()
    tried: dict[float, tuple[float, dict, dict]] = {}
    first: dict[float, dict[str, float]] = {}
    for rate in rates:
        learner.restore(begin)
        optimiser = torch.optim.AdamW(weights, rate, weight_decay=tuning.weight_decay)
        loss = _epoch(learner, optimiser, tuning, orders[0])
        accuracy, validation = _validated(learner)
        if np.isfinite(loss) and np.isfinite(validation):
            held = copy.deepcopy(optimiser.state_dict()), learner.state()
            tried[rate] = (validation, *held)
            first[rate] = {"loss": loss, "validation loss": validation, "accuracy": accuracy}
    if not tried:
        raise InputError(
            f"{learner.data.name}: the loss diverges in the first epoch at"
            f" {' and at '.join(f'{r:g}' for r in rates)}. Give smaller rates."
        )
    rate = min(tried, key=lambda r: tried[r][0])
    optimiser = torch.optim.AdamW(weights, rate, weight_decay=tuning.weight_decay)
    _, state, at = tried.pop(rate)
    learner.restore(at)
    optimiser.load_state_dict(state)
    log, best = [first[rate]], (first[rate]["accuracy"], -first[rate]["validation loss"])
    kept, chosen = learner.state(), 1
    for epoch, order in enumerate(orders[1:], 2):
        for group in optimiser.param_groups:  # down to 0 on a cosine
            group["lr"] = rate * (1 + np.cos(np.pi * (epoch - 1) / tuning.epochs)) / 2
        loss = _epoch(learner, optimiser, tuning, order)
        accuracy, validation = _validated(learner)
        if not (np.isfinite(loss) and np.isfinite(validation)):
            raise InputError(
                f"{learner.data.name}: the loss diverges in epoch {epoch}"
                f" at rate {rate:g}. Give smaller rates."
            )
        log.append({"loss": loss, "validation loss": validation, "accuracy": accuracy})
        if (accuracy, -validation) > best:
            best, kept, chosen = (accuracy, -validation), learner.state(), epoch
    learner.restore(kept)
    return {
        "rate": rate,
        "rates": list(rates),
        "epoch": chosen,
        "epochs": tuning.epochs,
        "validation": best[0],
        "log": log,
    }


def learner_of(
    backbone: nn.Module, data: Labelled, tuning: Tuning, device: str, held: dict[str, Tensor]
) -> Learner:
    """Who learns, with a head drawn from the seed."""
    learner = Learner(backbone, data, device, held)
    token = learner.tokens("train")
    with torch.random.fork_rng():
        torch.manual_seed(tuning.seed)
        learner.head = Head(token, tuning.hidden, len(data.classes)).to(device)
    return learner


def prepared(
    backbone: Backbone, data: Labelled, tuning: Tuning
) -> tuple[Learner, Callable[[], None]]:
    """Who learns; and what to call when that is done."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    learner = learner_of(backbone.to(device), data, tuning, device, {})
    merge: Callable[[], None] = _nothing
    learner.trained = tuning.method != "head"
    if tuning.method == "whole":
        backbone.requires_grad_(True)
    elif tuning.method == "lora":
        with torch.random.fork_rng():
            torch.manual_seed(tuning.seed)
            merge = _adapted(backbone, tuning.rank)
        backbone.to(device)
    return learner, merge


def _nothing() -> None:
    pass
