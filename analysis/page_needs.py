"""What each page of a study asks for, by its parameters: fits, and networks to be tuned.

    NEEDS["channels"]({"subject": "sim01", "size": "small", "seeds": [0, 1]})

It is asked of the functions that the page itself calls, so a study and its pages can't part ways.
"""

from collections.abc import Callable, Mapping
from typing import Any

from analysis import (
    by_channels,
    by_size,
    by_trials,
    forgetting,
    forgetting_truth,
    identifiability,
    methods_compared,
    networks_compared,
)
from analysis.lessons import Lesson
from analysis.study import Wanted
from analysis.sweep import asked


def _one(p: Mapping[str, Any]) -> list[Wanted]:
    """Of a page of single fits."""
    names = p.get("backbones") or [p["backbone"]]
    return [Wanted(p["subject"], name, recipe=p["recipe"], seed=p["seed"]) for name in names]


def _sizes(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seed"]
    return asked(
        lambda: by_size.fits_by_size(*who),
        lambda: by_size.fits_by_size(*who, ends=True, shuffle=True),
    )


def _trials(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seed"]
    return asked(lambda: by_trials.limited(*who), lambda: by_trials.controls(*who))


def _scores(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seed"]
    return asked(
        lambda: networks_compared.networks(*who),
        lambda: networks_compared.time_steps(*who),
        lambda: networks_compared.by_person(*who[:2], [p["seed"]], p["others"]),
        lambda: networks_compared.networks(*who, shuffle=True),
        lambda: networks_compared.time_steps(*who, shuffle=True),
    )


def _alignment(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seeds"][0]
    people = p["subject"], p["size"], p["seeds"], p["others"]
    return asked(
        lambda: networks_compared.networks(*who),
        lambda: networks_compared.axes(*who),
        lambda: networks_compared.by_person(*people),
        lambda: networks_compared.networks(*who, shuffle=True),
        lambda: networks_compared.axes(*who, shuffle=True),
        lambda: networks_compared.by_person(*people, shuffle=True),
    )


def _channels(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"]
    return asked(
        lambda: by_channels.channel_fits(*who, p["seeds"]),
        lambda: by_channels.control_fit(*who, p["seeds"][0]),
    )


def _forgetting(p: Mapping[str, Any]) -> list[Wanted]:
    who = p["subject"], p["size"], p["seed"]
    return asked(lambda: forgetting.mapped(*who), lambda: forgetting_truth.teachers(*who))


def _lessons(p: Mapping[str, Any]) -> list[Lesson]:
    """All that the page on fine-tuning tunes, fitted or not."""
    return [
        *forgetting_truth.lessons(p["subject"]),
        *forgetting.lessons(p["size"], p["seeds"]).values(),
        *forgetting.other_lessons(p["size"]).values(),
        *(forgetting.layer_lessons(p["size"]).values() if p["grid"] == "whole" else ()),
    ]


# What each page asks for together, by its parameters. Others make what they need themselves.
NEEDS: dict[str, Callable[[Mapping[str, Any]], list[Wanted]]] = {
    "alignment": _alignment,
    "brain_score": _scores,
    "channels": _channels,
    "fine_tuning": _forgetting,
    "identifiability": lambda p: asked(
        lambda: identifiability.sweep(p["subject"], p["backbone"], p["size"], p["seeds"])
    ),
    "limited_data": _trials,
    "methods": lambda p: asked(
        lambda: methods_compared.compared(p["subject"], p["size"], p["seeds"])
    ),
    "model_size": _sizes,
}
# And what it asks for one by one, each trained by all cores.
ALONE: dict[str, Callable[[Mapping[str, Any]], list[Wanted]]] = {
    "brain_score": _one,
    "cortex": _one,
}
# And which networks it tunes, each a job for all people.
TUNES: dict[str, Callable[[Mapping[str, Any]], list[Lesson]]] = {"fine_tuning": _lessons}
OTHERS = {"fidelity": "beside"}  # pages of several people, and the parameter that names them
LAST = ("scoreboard",)  # pages of what other pages found
