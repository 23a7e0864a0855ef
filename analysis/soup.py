"""Greedy model soup: the average of those checkpoints that raise the score together."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor]


def mean_state(states: Sequence[State]) -> State:
    """The average of each tensor, summed in float64."""
    return {
        key: torch.stack([s[key].double() for s in states]).mean(0).to(value.dtype)
        for key, value in states[0].items()
    }


def greedy_soup(states: Sequence[State], score: Callable[[State], float]) -> tuple[State, float]:
    """The soup of `states`, best first, and its score: one joins if the score does not fall.

    Source: Wortsman et al. 2022, Recipe 1. The soup never scores below its first member on what
    `score` measures.

    Raises:
        ValueError: without a state.
    """
    if not states:
        raise ValueError("states: none given; expected at least one checkpoint.")
    members, soup = [states[0]], states[0]
    best = score(soup)
    for state in states[1:]:
        candidate = mean_state([*members, state])
        if (value := score(candidate)) >= best:
            members, soup, best = [*members, state], candidate, value
    return soup, best
