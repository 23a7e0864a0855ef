"""Recipes by name, the models that they train, and changes of single settings.

    model, recipe = with_changes(ModelConfig(), named_recipe("brief", seed=0), {"channels": 64})

A recipe's own settings and their checks: `analysis.recipe`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from analysis.files import InputError
from analysis.model import ModelConfig
from analysis.recipe import Recipe

# short: what a CPU core learns the small default subject by in a minute, of larger batches and
# steps; brief: a third of that, for few vertices; check: a few, to see that all works first.
FAST = Recipe(batch=32, learning_rate=3e-3, patience=8)
RECIPES = {
    "paper": Recipe(),
    "check": Recipe(steps_per_epoch=20, max_steps=60, decay_steps=40),
    "brief": dataclasses.replace(
        FAST, batch=24, learning_rate=6e-3, steps_per_epoch=50, max_steps=200, decay_steps=100
    ),
    "short": dataclasses.replace(FAST, steps_per_epoch=100, max_steps=800, decay_steps=280),
}
# The model that they train, where it isn't the paper's: a narrow one learns as much in few steps.
NARROW = {"standardise": True, "channels": 32, "hidden": 64}
MODELS = {"brief": NARROW, "short": NARROW}


def named_recipe(name: str, seed: int) -> Recipe:
    """A recipe by name; InputError for an unknown one."""
    if name not in RECIPES:
        raise InputError(f"recipe {name!r}: expected one of {', '.join(RECIPES)}.")
    return dataclasses.replace(RECIPES[name], seed=seed)


def _parsed(field: dataclasses.Field, text: str) -> Any:
    """What a field's value written as text stands for."""
    kind = type(field.default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is tuple:
            return tuple(float(part) for part in text.split(","))
        return kind(text)
    except (ValueError, KeyError) as error:
        expected = {bool: "true or false", tuple: "numbers with commas between", int: "a number"}
        raise InputError(
            f"{field.name}={text}: expected {expected.get(kind, 'a number')}, such as"
            f" {field.default}."
        ) from error


def with_changes(
    model: ModelConfig, recipe: Recipe, changes: Mapping[str, Any]
) -> tuple[ModelConfig, Recipe]:
    """Model and recipe with other values of some fields, by name; text is read as the field's type.

    Raises:
        InputError: for an unknown name, with the known ones, or a value that is not allowed.
    """
    both = {f.name: f for f in (*dataclasses.fields(ModelConfig), *dataclasses.fields(Recipe))}
    if unknown := changes.keys() - both.keys():
        raise InputError(f"{', '.join(sorted(unknown))}: expected one of {', '.join(both)}.")
    read = {k: _parsed(both[k], v) if isinstance(v, str) else v for k, v in changes.items()}
    of_model = {f.name for f in dataclasses.fields(ModelConfig)}
    return (
        dataclasses.replace(model, **{k: v for k, v in read.items() if k in of_model}),
        dataclasses.replace(recipe, **{k: v for k, v in read.items() if k not in of_model}),
    )
