"""Ask for a subject, its tokens or a fit by name: what is there is read, what isn't is made.

fit = get_fit("sim01", "clip-mini", recipe="short")
"""

import dataclasses

import torch

from analysis.algonauts import load_algonauts
from analysis.backbones import load_backbone, require_backbone
from analysis.features import (
    Tokens,
    absent,
    cache_folder,
    extract,
    picture_digests,
    read_tokens,
)
from analysis.files import InputError, NSDTree, data_root, fits_root
from analysis.fit import Fit, fit_folder, fit_key, fit_model
from analysis.model import ModelConfig
from analysis.nsd import SESSIONS, read_subject
from analysis.own import load_own
from analysis.prepare import Prepared
from analysis.simulate import is_complete, parse_name, simulate, simulated_tree
from analysis.splits import default_scheme, limit, split_pictures
from analysis.subject import Space, Subject, over_repeats
from analysis.trainer import Recipe

# short: a seventh of the paper's steps, in which two CPU cores learn the small default subject;
# brief: for a small network, in under a minute; check: a few, to see that all works before a long
# run.
RECIPES = {
    "paper": Recipe(),
    "check": Recipe(steps_per_epoch=20, max_steps=60, decay_steps=40),
    "brief": Recipe(steps_per_epoch=250, max_steps=1500, decay_steps=400, patience=8),
    "short": Recipe(steps_per_epoch=250, max_steps=7500, decay_steps=1500, patience=8),
}
PICTURES_AT_ONCE = 500  # hashed at a time


def _recipe(name: str, seed: int) -> Recipe:
    if name not in RECIPES:
        raise InputError(f"recipe {name!r}: expected one of {', '.join(RECIPES)}.")
    return dataclasses.replace(RECIPES[name], seed=seed)


def get_subject(
    name: str, space: Space = "inflated", sessions: int | None = None, average: bool = False
) -> Subject:
    """A subject by name, read from the data folder; a simulated one is made if need be.

    `subj01`..`subj08`: NSD's; `algonauts-subj01`..: of the Algonauts 2023 challenge; `own-NAME`:
    the reader's own folder; `sim01`..`sim03`: simulated.

    Raises:
        InputError: for an unknown name, or a tree that is missing or damaged.
    """
    if name in SESSIONS or name.startswith("sim"):
        subject = _of_tree(name, space, sessions)[0]
    elif name.startswith("algonauts-"):
        subject = load_algonauts(name, data_root() / "algonauts2023", space)
    elif name.startswith("own-"):
        subject = load_own(name, data_root() / "own")
    else:
        raise InputError(
            f"subject {name!r}: expected {', '.join(SESSIONS)} of NSD, algonauts-subj01 to"
            " algonauts-subj08, own-NAME, or a simulated one: sim01, sim02 or sim03, with -tiny or"
            " -full for another size."
        )
    if sessions is not None and name not in SESSIONS and not name.startswith("sim"):
        raise InputError(f"sessions={sessions}: {name} is read whole; leave it out.")
    return over_repeats(subject) if average else subject


def get_prepared(name: str, sessions: int | None = None) -> Prepared:
    """The prepared responses of one of NSD's subjects or a simulated one, made if need be."""
    return _of_tree(name, "inflated", sessions)[1]


def _of_tree(name: str, space: Space, sessions: int | None) -> tuple[Subject, Prepared]:
    """A subject read from an NSD tree; a simulated one is written first if it is not there."""
    if name in SESSIONS:
        return read_subject(name, NSDTree(data_root() / "nsd"), sessions, space)
    inside, size = parse_name(name)
    if not is_complete(name):
        print(f"{name}: not there, or of older code; simulated now.")
        simulate(name)
    subject, prepared = read_subject(inside, simulated_tree(size), sessions, space)
    return dataclasses.replace(subject, name=name), prepared


def _digests(subject: Subject) -> list[str]:
    """The sha256 of each of a subject's pictures."""
    rows = range(0, len(subject.picture_ids), PICTURES_AT_ONCE)
    known = [
        picture_digests(subject.pictures(some))
        for some in (slice(r, r + PICTURES_AT_ONCE) for r in rows)
    ]
    return [d for some in known for d in some]


def get_tokens(subject: Subject, backbone: str, weights: str | None = None) -> Tokens:
    """A backbone's tokens of all of a subject's pictures, from the cache or made."""
    digests = _digests(subject)
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
    sessions: int | None = None,
    average: bool = False,
    scheme: str | None = None,
    trials: int | None = None,
) -> Fit:
    """A fit of FactorTopy by names, each thing that it needs made if it is not there.

    `scheme`: the split, by name (`splits.SCHEMES`); by default the data set's own.
    `trials`: train on so many trials only.

    Raises:
        InputError: for an unknown name, or data that can't be used.
    """
    steps = _recipe(recipe, seed)
    require_backbone(backbone)  # a wrong name is told before anything is made
    person = get_subject(subject, sessions=sessions, average=average)
    split = split_pictures(person, split_seed, scheme=scheme or default_scheme(person))
    if trials is not None:
        split = limit(split, person, trials, split_seed)
    tokens = get_tokens(person, backbone, weights)
    model = config or ModelConfig()
    key = fit_key(person, tokens, model, steps, split)
    if not (fit_folder(subject, backbone, key) / "fit.json").exists():
        print(f"{subject}, {backbone}: no such fit is there; trained now, {recipe} recipe.")
    return fit_model(person, backbone, tokens, model, steps, split)


def fit_if_there(subject: str, backbone: str, recipe: str = "paper", seed: int = 0) -> Fit | None:
    """The fit that `get_fit` would give, if it is already made; None if it isn't.

    Raises:
        InputError: for an unknown recipe, or a fit or cache that is damaged.
    """
    steps = _recipe(recipe, seed)
    if not any((fits_root() / subject).glob(f"{backbone}-*/fit.json")):
        return None
    person = get_subject(subject)
    network, digests = load_backbone(backbone), _digests(person)
    if absent(cache_folder(network), digests):
        return None
    tokens = read_tokens(cache_folder(network), digests)
    split = split_pictures(person, 0, scheme=default_scheme(person))
    model = ModelConfig()
    key = fit_key(person, tokens, model, steps, split)
    if not (fit_folder(subject, backbone, key) / "fit.json").exists():
        return None
    return fit_model(person, backbone, tokens, model, steps, split)
