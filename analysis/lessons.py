"""A tuned network, asked for by names: what is there is read, what isn't is made.

    lesson = Lesson("clip-mini", "colour", tuning=Tuning(layer=8))
    load_backbone(lesson.tuned().name)

Its receipt tells whether it is there, and loads neither network nor pictures.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from analysis.backbones import card_of
from analysis.files import data_root
from analysis.finetune import Tuned, is_tuned, tune
from analysis.labelled import DRAWN_SIDE, Labelled, get_labelled
from analysis.learner import DEFAULT, Tuning
from analysis.receipts import note, receipt


@cache
def _labelled(task: str, side: int, root: Path) -> Labelled:
    """A set of pictures, all of which are hashed: once for each process and data folder."""
    return get_labelled(task, side)


@dataclass(frozen=True)
class Lesson:
    """Which network is tuned to which task, and how."""

    backbone: str
    task: str  # and `side`: as `get_labelled` takes them
    side: int = DRAWN_SIDE
    tuning: Tuning = DEFAULT
    weights: str | None = None  # and `normalisation`: as `load_backbone` takes them
    normalisation: str = "native"

    @property
    def names(self) -> dict[str, Any]:
        """All that it says, as JSON has it and as `Wanted` and `lesson_of` take it."""
        tuned = {"task": self.task, "side": self.side, "tuning": asdict(self.tuning)}
        return {
            "backbone": self.backbone,
            "tuned": json.loads(json.dumps(tuned)),
            "weights": self.weights,
            "normalisation": self.normalisation,
        }

    def receipt(self) -> Path:
        """Tells that the tuned network is there; the last layer may be named or not."""
        layer = self.tuning.layer or card_of(self.backbone).layers
        named = replace(self, tuning=replace(self.tuning, layer=layer))
        label = f"{self.backbone}-{self.task}-{self.tuning.method}-{layer}"
        return receipt("finetuned", label, named.names)

    def _pictures(self) -> Labelled:
        return _labelled(self.task, self.side, data_root())

    def is_there(self) -> bool:
        """Whether there is nothing to train."""
        how = (self.tuning, self.weights, self.normalisation)
        return is_tuned(self.backbone, self._pictures(), *how)

    def tuned(self) -> Tuned:
        """The tuned network, read if it is there, else made.

        Raises:
            InputError: for a name that is unknown, or what can't be tuned: see `tune`.
        """
        how = (self.tuning, self.weights, self.normalisation)
        made = tune(self.backbone, self._pictures(), *how)
        note(self.receipt(), made.folder.iterdir())
        return made


def lesson_of(
    backbone: str,
    tuned: Mapping[str, Any],
    weights: str | None = None,
    normalisation: str = "native",
) -> Lesson:
    """The lesson of these names: `Lesson.names` read again."""
    tuning = {**tuned["tuning"], "rates": tuple(tuned["tuning"]["rates"])}
    how = {**tuned, "tuning": Tuning(**tuning)}
    return Lesson(backbone, **how, weights=weights, normalisation=normalisation)
