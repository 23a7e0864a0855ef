"""A latent picture taken to noise by DDIM: the choices of the way, its noise levels, and a step."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analysis.files import InputError

T_MAX = 50
# Of the 1,000 noise levels that the network was trained on: 1, 21 … 981, as Stable Diffusion's
# released scheduler has them (steps_offset 1); a picture's own latent is at level 0, not noiseless
# (set_alpha_to_one false).
LEVELS_PER_T, LOWEST_LEVEL = 20, 1

# Share of a picture's variance left at each of these levels: Stable Diffusion's schedule.
SIGNAL = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def option(default: Any, choices: tuple, reason: str) -> Any:
    return field(default=default, metadata={"choices": choices, "reason": reason})


@dataclass(frozen=True)
class Inversion:
    """How pictures are taken to noise: the choices that the paper leaves open.

    `site`: which output of a layer; `level`: which noise level the U-Net is told; `latent`: what is
    taken from the encoder's distribution; `clean`: the T of the picture; `steps`: of the way. Each
    field has in its metadata the `choices`, and the `reason` for the default.
    """

    site: str = option(
        "block",
        ("block", "resnet", "conv"),
        "a layer is read where the next one reads it: after its attention (block), not before it"
        " (resnet), nor before what the layer adds is added (conv)",
    )
    level: str = option(
        "source",
        ("source", "target"),
        "the U-Net is told the noise level that the latent has (source), as in training, not that"
        " of the next latent (target; the last latent has none and keeps its own)",
    )
    latent: str = option(
        "mean",
        ("mean", "sample"),
        "the mean of the encoder's distribution is the picture's own; a sample adds noise, here"
        " the same for all pictures",
    )
    clean: int = option(
        T_MAX,
        (T_MAX, 0),
        "T counts steps of generation, from noise at T0 to the picture at T50: in Table 13 T0"
        " predicts worst; with 0 it counts steps of inversion",
    )
    steps: int = option(
        T_MAX,
        tuple(n for n in range(1, T_MAX + 1) if T_MAX % n == 0),
        "one for each T; fewer take larger steps between the same noise levels",
    )
    seed: int = option(0, (), "of the noise of a sample, and of nothing else")

    def __post_init__(self):
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata["choices"]
            if choices and value not in choices:
                expected = ", ".join(repr(choice) for choice in choices)
                raise InputError(f"{f.name}={value!r}: expected one of {expected}.")

    def times(self) -> list[int]:
        """The T of every latent on the way, from the picture's to that of noise."""
        away = range(0, T_MAX + 1, T_MAX // self.steps)
        return [T_MAX - n if self.clean == T_MAX else n for n in away]

    def noise_level(self, time: int) -> int:
        """The level of the latent at a T, from 0, a picture's own latent, to 981."""
        away = T_MAX - time if self.clean == T_MAX else time
        return LEVELS_PER_T * (away - 1) + LOWEST_LEVEL if away else 0

    def settings(self) -> dict[str, Any]:
        """What determines tokens."""
        return {k: v for k, v in asdict(self).items() if k != "seed" or self.latent == "sample"}


def signal(level: int) -> float:
    """The share of variance that is the picture's at a noise level."""
    return float(SIGNAL[level])


def next_latent(
    latent: Float[Tensor, "batch channel h w"],
    noise: Float[Tensor, "batch channel h w"],
    level: int,
    next_level: int,
) -> Float[Tensor, "batch channel h w"]:
    """The latent at another noise level, for the noise that the network sees in it (DDIM, η = 0).

    latent = √signal · picture + √(1 − signal) · noise, with picture and noise held.
    """
    here, there = signal(level), signal(next_level)
    picture = (latent - (1 - here) ** 0.5 * noise) / here**0.5
    return there**0.5 * picture + (1 - there) ** 0.5 * noise
