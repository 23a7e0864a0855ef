"""What training reads: trials in seeded batches, from the token cache or from a GPU's memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from analysis.features import Tokens, layer_of_channel
from analysis.files import InputError
from analysis.progress import say

GPU_SHARE = 0.6  # of a GPU's free memory that tokens may take; the rest is for training


@dataclass(frozen=True)
class Part:
    """Trials of one part of the split: which pictures, and the responses to them."""

    pictures: Int[np.ndarray, " picture"]  # rows of the tokens
    trial_picture: Int[np.ndarray, " trial"]  # row of `pictures`
    responses: Float[np.ndarray, "trial vertex"]  # BOLD z-score


def _named(vertices: Bool[np.ndarray, " vertex"]) -> str:
    """How many vertices, and which are the first."""
    rows = np.flatnonzero(vertices)
    some = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
    return f"{len(rows):,} of {len(vertices):,} vertices (rows {some})"


def check_part(part: Part, name: str) -> None:
    """Pass if a part can be trained on or scored."""
    mend = "Leave these out of the subject."
    responses = part.responses
    if not len(responses):
        raise InputError(f"{name}: no trial; expected some. Check the split and the sessions.")
    wrong = ~np.isfinite(responses).all(0)
    if wrong.any():
        n = int((~np.isfinite(responses)).sum())
        raise InputError(
            f"{name}: responses of {_named(wrong)} are not finite, {n:,} values. {mend}"
        )
    same = ~(responses != responses[0]).any(0)
    if same.any():
        raise InputError(
            f"{name}: responses of {_named(same)} don't vary over {len(responses):,} trials. {mend}"
        )


@dataclass(frozen=True)
class Resident:
    """Tokens of some pictures in a device's memory, as they are kept: float16 and their scale."""

    position: Int[np.ndarray, " cached"]  # of each cached picture; -1: not held
    local: Float[Tensor, "picture channels grid grid"]
    global_: Float[Tensor, "picture channels"]
    scale: Float[Tensor, "picture 2 layer"]
    layer: Int[Tensor, " channels"]

    def __getitem__(
        self, rows: Int[np.ndarray, " n"]
    ) -> tuple[Float[Tensor, "n channels grid grid"], Float[Tensor, "n channels"]]:
        """The same numbers as the cache's, on the device."""
        at = torch.from_numpy(self.position[rows]).to(self.local.device)
        near, far = self.scale[at][:, :, self.layer].unbind(1)
        return self.local[at] * near[:, :, None, None], self.global_[at] * far


def resident(tokens: Tokens, pictures: Int[np.ndarray, " n"], device: torch.device) -> Resident:
    """The tokens of these pictures in a device's memory."""
    held = np.unique(pictures)
    position = np.full(len(tokens), -1)
    position[held] = np.arange(len(held))
    channels = sum(tokens.widths)
    grid = tokens.parts[0].local.shape[2:]
    local = torch.empty(len(held), channels, *grid, dtype=torch.float16, device=device)
    global_ = torch.empty(len(held), channels, dtype=torch.float16, device=device)
    scale = torch.empty(len(held), 2, len(tokens.widths), device=device)
    for at, picture in enumerate(held):
        part, row = tokens.parts[tokens.part[picture]], int(tokens.row[picture])
        local[at].copy_(part.local[row])
        global_[at].copy_(part.global_[row])
        scale[at].copy_(part.scale[row])
    layer = layer_of_channel(tuple(tokens.widths)).to(device)
    return Resident(position, local, global_, scale, layer)


def nearest(
    tokens: Tokens, pictures: Int[np.ndarray, " n"], device: torch.device
) -> Tokens | Resident:
    """Tokens in a GPU's memory where those of these pictures fit, else streamed from the cache."""
    if device.type != "cuda" or not tokens.parts:
        return tokens
    count, part = len(np.unique(pictures)), tokens.parts[0]
    each = 2 * (part.local[0].numel() + part.global_[0].numel())
    free, _ = torch.cuda.mem_get_info(device)
    if count * each > GPU_SHARE * free:
        say(
            f"tokens of {count:,} pictures, {count * each / 1e9:,.1f} GB, don't fit in the GPU's"
            f" {free / 1e9:,.1f} GB of free memory: they are streamed from the cache."
        )
        return tokens
    return resident(tokens, pictures, device)


class Trials(Dataset):
    """Tokens of the pictures shown in some trials, and the responses to them."""

    def __init__(self, tokens: Tokens | Resident, part: Part):
        self.tokens, self.part = tokens, part
        self.responses = torch.from_numpy(part.responses)

    def __getitem__(self, trials: Int[np.ndarray, " batch"]) -> tuple[Tensor, Tensor, Tensor]:
        pictures = self.part.pictures[self.part.trial_picture[trials]]
        return *self.tokens[pictures], self.responses[torch.from_numpy(trials)]


class Shuffled(Sampler):
    """Batches of trials for one epoch, a function of seed and epoch alone, so that a fit resumes.

    Within an epoch every trial is drawn once before any is drawn again.
    """

    def __init__(self, n_trials: int, batch: int, steps: int, seed: int):
        self.n_trials, self.batch, self.steps, self.seed = n_trials, batch, steps, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:  # called by Lightning
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Int[np.ndarray, " batch"]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        needed = self.steps * self.batch
        passes = [generator.permutation(self.n_trials) for _ in range(-(-needed // self.n_trials))]
        yield from np.concatenate(passes)[:needed].reshape(self.steps, self.batch)
