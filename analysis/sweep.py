"""Many fits at once: what is not there is made, one to each core.

    fits = get_fits({"CLIP": {"backbone": "clip-mini"}, "SAM": {"backbone": "sam-mini"}},
                    subject="sim01", **sized("small"))
    fits["CLIP"]

`SIZES` says which networks the findings' pages compare: small, miniatures; or paper, the paper's.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import torch

from analysis.cores import machine_cores, pool
from analysis.files import InputError
from analysis.finetune import Tuned
from analysis.fit import Fit
from analysis.lessons import Lesson
from analysis.ridge import RidgeFit
from analysis.study import Study, Wanted

Name = TypeVar("Name", bound=Hashable)

SIZES = ("small", "paper")
# The networks that the findings compare, by the paper's names of their families, smallest first.
FAMILIES = {
    "small": {
        "CLIP": ("clip-mini-s", "clip-mini", "clip-mini-l"),
        "SAM": ("sam-mini-s", "sam-mini", "sam-mini-l"),
        "ImageNet": ("imagenet-mini-s", "imagenet-mini", "imagenet-mini-l"),
        "DiNOv2": ("dinov2-mini-s", "dinov2-mini", "dinov2-mini-l"),
        "MAE": ("mae-mini-s", "mae-mini", "mae-mini-l"),
        "MoCov3": ("mocov3-mini-s", "mocov3-mini", "mocov3-mini-l"),
    },
    "paper": {
        "CLIP": ("clip-s", "clip-m", "clip-l", "clip-xl"),
        "SAM": ("sam-b", "sam-l", "sam-h"),
        "ImageNet": ("imagenet-b", "imagenet-l"),
        "DiNOv2": ("dinov2-b", "dinov2-l", "dinov2-g"),
        "MAE": ("mae-b", "mae-l", "mae-h"),
        "MoCov3": ("mocov3-s", "mocov3-b", "mocov3-l"),
    },
}
# Of those, the ones of one size, which are compared with each other: 12 layers in the paper.
BASE = {
    "small": {name: sizes[1] for name, sizes in FAMILIES["small"].items()},
    "paper": {
        "CLIP": "clip-l",
        "SAM": "sam-b",
        "ImageNet": "imagenet-b",
        "DiNOv2": "dinov2-b",
        "MAE": "mae-b",
        "MoCov3": "mocov3-b",
    },
}
DIFFUSION = {"small": "sd-mini", "paper": "sd15"}


def sized(size: str, recipe: str = "fast") -> dict[str, Any]:
    """The options that all fits of a page share: all sessions and vertices, one recipe.

    Raises:
        InputError: for an unknown size.
    """
    if size not in SIZES:
        raise InputError(f"size {size!r}: expected one of {', '.join(SIZES)}.")
    return {"recipe": recipe}


def different(seeds: Sequence[Any], least: int = 1) -> list[int]:
    """The seeds of a page.

    Raises:
        InputError: for fewer than asked, the same one twice, or what is no whole number.
    """
    wrong = any(type(seed) is not int for seed in seeds)
    if wrong or len(set(seeds)) < max(least, len(seeds)):
        few = {1: "one", 2: "two"}[least]
        raise InputError(f"seeds={list(seeds)}: expected {few} or more different whole numbers.")
    return list(seeds)


class _Planned(Exception):
    """Ends what asks for fits while a plan is drawn up, since there are none."""


_plan: ContextVar[list[Wanted] | None] = ContextVar("plan", default=None)


def asked(*makers: Callable[[], object]) -> list[Wanted]:
    """The fits that functions ask `get_fits` for, each up to its first such call; none is made."""
    plan: list[Wanted] = []
    token = _plan.set(plan)
    try:
        for make in makers:
            with suppress(_Planned):
                make()
    finally:
        _plan.reset(token)
    return plan


def planning() -> bool:
    """Whether a plan is being drawn up, for which nothing may be made."""
    return _plan.get() is not None


@cache
def _study() -> Study:
    """One for each process that trains."""
    return Study()


def _make(each: Wanted | Lesson) -> None:
    if isinstance(each, Lesson):
        each.tuned()
    else:
        _study().fit(each)


def _at_once(missing: Sequence[Wanted | Lesson]) -> int:
    """How many are made at a time."""
    return min(len(missing), 1 if torch.cuda.is_available() else machine_cores())


def _side_by_side(missing: Sequence[Wanted | Lesson]) -> None:
    """Make each in a process of one core; what takes longest is best named first."""
    if missing:
        with pool(_at_once(missing), __name__, "analysis.trainer") as processes:
            for made in [processes.submit(_make, each) for each in missing]:
                made.result()


def get_tuned(lessons: Mapping[Name, Lesson]) -> dict[Name, Tuned]:
    """The tuned networks of these names; what isn't there is tuned side by side, on one core each.

    Raises:
        InputError: for an unknown name, or what can't be tuned.
    """
    each = {lesson.receipt(): lesson for lesson in lessons.values()}
    _side_by_side([lesson for lesson in each.values() if not lesson.is_there()])
    return {name: lesson.tuned() for name, lesson in lessons.items()}


def get_fits(wanted: Mapping[Name, Mapping[str, Any]], **common: Any) -> dict[Name, Fit | RidgeFit]:
    """The fits of these names; each has options of its own, the others are common: see `Wanted`.

    Networks are tuned first, where that is asked for; then they are run, here; then fits are
    trained side by side, on one core each.

    Raises:
        InputError: for an unknown name, or data that can't be used.
    """
    named = {name: Wanted(**{**common, **own}) for name, own in wanted.items()}
    for each in named.values():
        each.configured()  # a wrong name is told before anything is made
    if planning():
        _plan.get().extend(named.values())
        raise _Planned
    get_tuned({each.network: each.lesson for each in named.values() if each.lesson})
    study = Study()
    missing = [each for each in named.values() if study.missing(each)]
    if _at_once(missing) > 1:
        _side_by_side(missing)
    return {name: study.fit(each) for name, each in named.items()}
