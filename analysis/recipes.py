"""Recipes by name, and changes of single settings of a model or recipe.

    model, recipe = with_changes(ModelConfig(), named_recipe("fast", seed=0), {"channels": 64})

A recipe's own settings and their checks: `analysis.recipe`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from analysis.files import InputError
from analysis.model import ModelConfig
from analysis.recipe import Recipe

# fast: what a few hundred steps take to find what the paper's recipe finds in many thousand: a
# one-cycle rate, matrices moved in all their directions at one pace, and a read-out at its own;
# chosen on sim01 (benchmarks/README.md).
# paper: E.3 to the letter. released: with the penalty on scale that the released code has.
# check: a few steps, to see that all works before a long run.
RECIPES = {
    "fast": Recipe(
        optimiser="muon",
        learning_rate=2e-2,
        readout_rate=10.0,
        schedule="one-cycle",
        batch=24,
        steps_per_epoch=50,
        max_steps=300,
        decay_steps=100,
        scale_penalty=0.1,
        scale_decay_steps=100,
        checkpoints=3,
    ),
    "paper": Recipe(),
    "released": Recipe(scale_penalty=0.1),
    "check": Recipe(
        steps_per_epoch=20, max_steps=60, decay_steps=40, scale_penalty=0.1, scale_decay_steps=40
    ),
}
DEFAULT_RECIPE = "fast"
REPLACED = {"short": "fast", "brief": "fast"}  # names of before, and what does their work


def named_recipe(name: str, seed: int) -> Recipe:
    """A recipe by name; InputError for an unknown one."""
    if name in REPLACED:
        raise InputError(
            f"recipe {name!r}: replaced by {REPLACED[name]!r}, which is the default. It trains"
            " longer and changes nothing of the model; that is chosen by --model."
        )
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
