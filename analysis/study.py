"""Ask for a subject, its tokens or a fit by name: what is there is read, what isn't is made.

fit = get_fit("sim01", "clip-mini", recipe="short")
"""

import dataclasses

import torch

from analysis.backbones import card_of, load_backbone
from analysis.features import Tokens, absent, cache_folder, extract, picture_digests
from analysis.files import InputError, NSDTree, data_root
from analysis.fit import Fit, fit_folder, fit_key, fit_model
from analysis.model import ModelConfig
from analysis.simulate import is_complete, parse_name, simulate, simulated_tree
from analysis.subject import SESSIONS, Space, Subject, load_subject, split_pictures
from analysis.trainer import Recipe

# short: a seventh of the paper's steps, in which two CPU cores learn the small default subject;
# check: a few, to see that all works before a long run.
RECIPES = {
    "paper": Recipe(),
    "check": Recipe(steps_per_epoch=20, max_steps=60, decay_steps=40),
    "short": Recipe(steps_per_epoch=250, max_steps=7500, decay_steps=1500, patience=8),
}
PICTURES_AT_ONCE = 500  # hashed at a time


def get_subject(name: str, space: Space = "inflated") -> Subject:
    """A subject of NSD from the tree in the data folder, or a simulated one, made if need be.

    Raises:
        InputError: for an unknown name, or a tree that is missing or damaged.
    """
    if name in SESSIONS:
        return load_subject(name, NSDTree(data_root() / "nsd"), space=space)
    if not name.startswith("sim"):
        raise InputError(
            f"subject {name!r}: expected {', '.join(SESSIONS)} of NSD, or a simulated one: sim01,"
            " sim02 or sim03, with -tiny or -full for another size."
        )
    if not is_complete(name):
        print(f"{name}: not there, or of older code; simulated now.")
        simulate(name)
    inside, size = parse_name(name)
    subject = load_subject(inside, simulated_tree(size), space=space)
    return dataclasses.replace(subject, name=name)


def get_tokens(subject: Subject, backbone: str, weights: str | None = None) -> Tokens:
    """A backbone's tokens of all of a subject's pictures, from the cache or made."""
    rows = range(0, len(subject.picture_ids), PICTURES_AT_ONCE)
    known = [
        picture_digests(subject.pictures(some))
        for some in (slice(r, r + PICTURES_AT_ONCE) for r in rows)
    ]
    digests = [d for some in known for d in some]
    network = load_backbone(backbone, weights)
    if missing := len(absent(cache_folder(network), digests)):
        print(
            f"{backbone}: tokens of {missing:,} pictures of {subject.name} are not there; made now."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return extract(network.to(device), subject.pictures, digests)


def get_fit(
    subject: str,
    backbone: str,
    recipe: str = "paper",
    seed: int = 0,
    split_seed: int = 0,
    config: ModelConfig | None = None,
    weights: str | None = None,
) -> Fit:
    """A fit of FactorTopy by names, each thing that it needs made if it is not there.

    Raises:
        InputError: for an unknown name, or data that can't be used.
    """
    if recipe not in RECIPES:
        raise InputError(f"recipe {recipe!r}: expected one of {', '.join(RECIPES)}.")
    card_of(backbone)  # a wrong name is told before anything is made
    person = get_subject(subject)
    tokens = get_tokens(person, backbone, weights)
    model, steps = config or ModelConfig(), dataclasses.replace(RECIPES[recipe], seed=seed)
    split = split_pictures(person, split_seed)
    key = fit_key(person, tokens, model, steps, split)
    if not (fit_folder(subject, backbone, key) / "fit.json").exists():
        print(f"{subject}, {backbone}: no such fit is there; trained now, {recipe} recipe.")
    return fit_model(person, backbone, tokens, model, steps, split)
