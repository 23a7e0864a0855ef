"""What each page of a study asks for, by its parameters: fits, and networks to be tuned.

    NEEDS["channels"]({"subject": "sim01", "size": "small", "seeds": [0, 1]})

It is asked of the functions that the page itself calls, so a study and its pages can't part ways.
"""

from collections.abc import Callable, Mapping
from typing import Any

from analysis import (
    by_size,
    by_trials,
    forgetting,
    identifiability,
    methods_compared,
    networks_compared,
)
from analysis.lessons import Lesson
from analysis.study import Wanted
from analysis.sweep import asked


def _one(p: Mapping[str, Any]) -> list[Wanted]:
    """Of a page of single fits."""
    return [
        Wanted(p["subject"], name, recipe=p["recipe"], seed=p["seed"]) for name in p["backbones"]
    ]


def _sizes(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seeds"], p["other_seeds"], p["recipe"]
    return asked(lambda: by_size.fits_by_size(*who))


def _scores(p: Mapping[str, Any]) -> list[Wanted]:
    who, seeds, recipe = (p["subject"], p["size"]), p["seeds"], p["recipe"]
    first = Wanted(p["subject"], p["backbone"], recipe=recipe, seed=seeds[0])
    return [first] + asked(
        lambda: networks_compared.networks(*who, seeds, recipe),
        lambda: networks_compared.by_person(*who, seeds, p["others"], recipe),
    )


def _alignment(p: Mapping[str, Any]) -> list[Wanted]:
    who, seeds, recipe = (p["subject"], p["size"]), p["seeds"], p["recipe"]
    return asked(
        lambda: networks_compared.networks(*who, seeds, recipe),
        lambda: networks_compared.by_person(*who, seeds, p["others"], recipe),
    )


def _diffusion(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seeds"], p["recipe"]
    return asked(
        lambda: networks_compared.networks(*who),
        lambda: networks_compared.time_steps(*who),
        lambda: networks_compared.axes(*who),
    )


def _channels(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seeds"], p["recipe"]
    return asked(lambda: networks_compared.networks(*who))


def _forgetting(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seeds"], p["tuned_seeds"], p["recipe"]
    return asked(lambda: forgetting.mapped(*who))


def _lessons(p: Mapping[str, Any]) -> list[Lesson]:
    """All that the page on fine-tuning tunes, fitted or not."""
    return [
        *forgetting.lessons(p["size"], p["runs"]).values(),
        *(forgetting.layer_lessons(p["size"]).values() if p["grid"] == "whole" else ()),
    ]


# What each page asks for together, by its parameters. Others make what they need themselves.
NEEDS: dict[str, Callable[[Mapping[str, Any]], list[Wanted]]] = {
    "alignment": _alignment,
    "brain_score": _scores,
    "channels": _channels,
    "diffusion": _diffusion,
    "fine_tuning": _forgetting,
    "identifiability": lambda p: asked(
        lambda: identifiability.sweep(
            p["subject"], p["backbone"], p["size"], p["seeds"], p["recipe"]
        )
    ),
    "limited_data": lambda p: asked(
        lambda: by_trials.limited(p["subject"], p["size"], p["seeds"], p["recipe"])
    ),
    "methods": lambda p: asked(
        lambda: methods_compared.compared(
            p["subject"], p["size"], p["seeds"], p["recipe"], p["single_layers"]
        )
    ),
    "model_size": _sizes,
}
# And what it asks for one by one, each trained by all cores.
ALONE: dict[str, Callable[[Mapping[str, Any]], list[Wanted]]] = {"cortex": _one}
# And which networks it tunes, each a job for all people.
TUNES: dict[str, Callable[[Mapping[str, Any]], list[Lesson]]] = {"fine_tuning": _lessons}
OTHERS = {"fidelity": "beside"}  # pages of several people, and the parameter that names them
LAST = ("scoreboard",)  # pages of what other pages found
