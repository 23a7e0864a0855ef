"""Backbones that others add, by name: registered in Python, or offered by an installed package.

    register("my-net", builder)  # a function without arguments that gives a Backbone

A package offers one in its pyproject.toml, and is imported only when that name is asked for:

    [project.entry-points."brainmaps.backbones"]
    my-net = "my_package.networks:builder"
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from analysis.backbones import registry
from analysis.backbones.base import Backbone
from analysis.backbones.cards import CARDS, card_of
from analysis.backbones.own import require_name
from analysis.files import InputError

GROUP = "brainmaps.backbones"
TUNED = "tuned:"  # of the names of fine-tuned networks
Builder = Callable[[], Backbone]
_registered: dict[str, Builder] = {}


def register(name: str, builder: Builder) -> None:
    """Make a backbone known by its name in this process; the same name again replaces it.

    Raises:
        InputError: for a name that this project or an installed package has.
    """
    require_name(name)
    if name in CARDS:
        raise InputError(f"backbone {name!r}: one of this project's own; register another name.")
    if found := _offered(name):
        raise InputError(
            f"backbone {name!r}: the package {_package(found[0])} has it; register another name."
        )
    if isinstance(builder, Backbone) or not callable(builder):
        raise InputError(
            f"backbone {name!r}: its builder is {type(builder).__name__}; expected a function"
            " without arguments that gives a Backbone, as lambda: backbone."
        )
    _registered[name] = builder


def unregister(name: str) -> None:
    """Forget a backbone that was registered."""
    _registered.pop(name, None)


def plugin_names() -> dict[str, str]:
    """The names that were added, and by what: "registered", or a package and its version."""
    offered = {entry.name: _package(entry) for entry in entry_points(group=GROUP)}
    added = offered | dict.fromkeys(_registered, "registered")
    return {name: by for name, by in sorted(added.items()) if name not in CARDS}


def require_backbone(name: str) -> None:
    """Pass if there is a backbone of that name; nothing is loaded.

    Raises:
        InputError: for an unknown name, with the known ones.
    """
    if _is_own(name):
        return
    if name.startswith(TUNED):
        from analysis.backbones.tuned import require_tuned  # slow imports only where needed

        require_tuned(name)
        return
    try:
        card_of(name)
    except InputError as error:
        added = plugin_names()
        more = f" Added: {', '.join(added)}." if added else ""
        raise InputError(f"{error}{more}") from error


def load_backbone(name: str, weights: str | None = None, normalisation: str = "native") -> Backbone:
    """A frozen backbone in evaluation mode: the project's own, a registered or a package's one.

    `weights`: "pretrained" (downloaded once), "random" (drawn from a fixed seed), or a checkpoint
    file; by default pretrained where there is a checkpoint. A backbone that was added brings its
    own.
    `normalisation`: "imagenet" takes ImageNet's mean and std for every network, as the authors did.

    Raises:
        InputError: for an unknown name, weights that can't be had, or a package that fails.
    """
    tuned = name.startswith(TUNED)
    if not (tuned or _is_own(name)):
        require_backbone(name)
        return registry.load_backbone(name, weights, normalisation)
    if weights is not None:
        raise InputError(f"weights={weights!r}: {name} brings its own; leave them out.")
    if normalisation != "native":
        raise InputError(f"normalisation={normalisation!r}: {name} has its own; leave it out.")
    if tuned:
        from analysis.backbones.tuned import load_tuned

        return load_tuned(name)
    if name in _registered:
        return _built(name, _registered[name], "its registered builder")
    entry = _one(name)
    by = f"the package {_package(entry)} ({entry.value})"
    try:
        builder = entry.load()
    except Exception as error:  # whatever a stranger's module raises when imported
        raise InputError(
            f"backbone {name!r}: {by} can't be imported: {type(error).__name__}: {error}."
            " Mend or remove that package; other backbones don't need it."
        ) from error
    return _built(name, builder, by)


def _is_own(name: str) -> bool:
    """Whether a name was added; this project's own names can't be."""
    return name not in CARDS and (name in _registered or bool(_offered(name)))


def _offered(name: str) -> list[EntryPoint]:
    """The packages' offers of a name."""
    return list(entry_points(group=GROUP, name=name))


def _one(name: str) -> EntryPoint:
    offers = {entry.value: entry for entry in _offered(name)}
    if len(offers) > 1:
        raise InputError(
            f"backbone {name!r}: offered by {' and '.join(map(_package, offers.values()))};"
            " expected one package. Remove the others."
        )
    return next(iter(offers.values()))


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _built(name: str, builder: Builder, by: str) -> Backbone:
    """What a builder gives, if it is a finished Backbone of that name."""
    try:
        backbone = builder()
    except Exception as error:  # whatever a stranger's code raises
        raise InputError(
            f"backbone {name!r}: {by} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(backbone, Backbone):
        raise InputError(
            f"backbone {name!r}: {by} gave {type(backbone).__name__}; expected a Backbone, as"
            " from_module or from_function make it."
        )
    if backbone.name != name:
        raise InputError(
            f"backbone {name!r}: what {by} gave is named {backbone.name!r}; expected {name!r}."
        )
    if not hasattr(backbone, "identity"):
        raise InputError(
            f"backbone {name!r}: what {by} gave has no identity; expected freeze() to be called at"
            " the end of its __init__."
        )
    return backbone
