"""The optimiser of recipe `fast`: linear maps by Muon, all else by AdamW, as one.

    optimiser = MuonAndAdamW(matrices, [{"params": rest, "lr": 1e-2}], rate=1e-2, ...)

Muon (Jordan and others, 2024) moves a matrix by the orthogonal matrix nearest to its momentum:
every direction in which a selector's network can turn moves at one pace, not only the few that the
gradient is large in. Its rate is given as AdamW's (Liu and others, 2025: update of like size).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from analysis.model import Bottleneck


def matrices_of(model: nn.Module) -> list[nn.Parameter]:
    """The matrices of linear maps that all vertices share: bottleneck and selectors' networks."""
    maps = [m for m in model.modules() if isinstance(m, (nn.Linear, Bottleneck))]
    return [p for one in maps for p in one.parameters() if p.ndim == 2]


class MuonAndAdamW(torch.optim.Optimizer):
    """`matrices` by Muon at `rate`, `groups` of other parameters by AdamW, each at its own."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        groups: list[dict[str, Any]],
        rate: float,
        betas: tuple[float, float],
        weight_decay: float,
    ):
        decay = {"weight_decay": weight_decay}
        muon = torch.optim.Muon(
            matrices, rate, momentum=betas[0], adjust_lr_fn="match_rms_adamw", **decay
        )
        self.each = muon, torch.optim.AdamW(groups, betas=betas, fused=True, **decay)
        super().__init__([group for one in self.each for group in one.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the two work on this optimiser's groups and state: what is scheduled, saved, read."""
        for one, groups in zip(
            self.each, (self.param_groups[:1], self.param_groups[1:]), strict=True
        ):
            one.param_groups, one.state = groups, self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters; `closure`, if given, computes their gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.each:
            one.step()
        return loss
