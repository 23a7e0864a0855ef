"""Networks as timm and open_clip build them, with their weights, and how pictures are prepared."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from analysis.backbones.base import Preprocessing
from analysis.backbones.catalogue import Card, nearest
from analysis.backbones.weights import UNREADABLE
from analysis.files import InputError

CONFIGS = Path(__file__).parent / "configs"  # of clip-mini
Prepared = tuple[nn.Module, Preprocessing]


def timm_network(card: Card) -> nn.Module:
    """A card's architecture, its weights still to be filled."""
    import timm

    options = dict(card.options)
    if eps := options.pop("norm_eps", None):
        options["norm_layer"] = partial(nn.LayerNorm, eps=eps)
    with _seeded():
        return timm.create_model(card.architecture, pretrained=False, num_classes=0, **options)


def open_clip_tower(architecture: str, source: str | None, **options: Any) -> nn.Module:
    """The vision half of a model of open_clip, from a checkpoint's tag or file; None: as it is."""
    import open_clip

    open_clip.add_model_config(CONFIGS)
    with _library_errors("open_clip", architecture, source), _seeded():
        if source is None and not options:
            return open_clip.CLIP(**open_clip.get_model_config(architecture)).visual
        return open_clip.create_model(
            architecture,
            pretrained=source,
            require_pretrained=source is not None,
            weights_only=True,
            device=torch.get_default_device(),
            **options,
        ).visual


def any_of_timm(architecture: str, weights: str) -> Prepared:
    """A network of timm by its name there."""
    import timm
    from timm.data import resolve_model_data_config

    _require_known("timm", architecture, [*timm.list_models(), *timm.list_pretrained()])
    with _library_errors("timm", architecture, weights), _seeded():
        network = timm.create_model(architecture, pretrained=weights == "pretrained", num_classes=0)
        if weights not in ("pretrained", "random"):
            timm.models.load_checkpoint(network, weights, weights_only=True)
    if not hasattr(network, "forward_intermediates"):
        raise InputError(f"timm:{architecture}: timm gives no layers of it. Use it as a module.")
    return network, _preprocessing(resolve_model_data_config(network), "input_size")


def any_of_open_clip(name: str, weights: str) -> Prepared:
    """A network of open_clip by its name there, ARCHITECTURE or ARCHITECTURE/TAG."""
    import open_clip

    architecture, _, tag = name.partition("/")
    _require_known("open_clip", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise InputError(
            f"backbone 'open_clip:{name}': no such checkpoint; expected one of"
            f" {', '.join(nearest(tag, tags)) or 'none, and weights random'}."
        )
    if weights == "pretrained" and not tag:
        raise InputError(
            f"weights='pretrained': open_clip:{name} has no checkpoint; expected 'random', or a"
            f" name with one, such as open_clip:{name}/{tags[0] if tags else 'TAG'}."
        )
    published = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    visual = open_clip_tower(
        architecture,
        {"pretrained": tag, "random": None}.get(weights, weights),
        force_quick_gelu=bool(published.get("quick_gelu", False)),  # as it was trained
        pretrained_text=False,
    )
    known = {k: v for k, v in published.items() if k in ("mean", "std", "interpolation")}
    return getattr(visual, "trunk", visual), _preprocessing(visual.preprocess_cfg | known, "size")


def _preprocessing(known: dict[str, Any], key: str) -> Preprocessing:
    """A library's own; its crop is left out, since it would cut the visual field."""
    size = known[key] if isinstance(known[key], tuple | list) else (known[key],) * 2
    mode = "bilinear" if known["interpolation"] == "bilinear" else "bicubic"
    height, width = (int(side) for side in size[-2:])
    return Preprocessing((height, width), tuple(known["mean"]), tuple(known["std"]), mode)


def _require_known(library: str, architecture: str, names: Iterable[str]) -> None:
    if architecture not in names:
        near = ", ".join(f"{library}:{n}" for n in nearest(architecture, names)[:5])
        raise InputError(
            f"backbone '{library}:{architecture}': unknown to {library}; expected a name such as"
            f" {near}."
        )


@contextmanager
def _seeded() -> Iterator[None]:
    """Fix what a library draws, and leave the random streams, a GPU's too, as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed GPUs too
        yield


@contextmanager
def _library_errors(library: str, architecture: str, weights: str | None) -> Iterator[None]:
    """Turn what a library raises into what to do."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UNREADABLE as error:
        raise InputError(
            f"weights={weights or 'random'!r} of {architecture}: {type(error).__name__}: {error}. A"
            " checkpoint is downloaded at its first use: check the connection, or give weights= a"
            f" file in {library}'s format for {architecture}, or 'random' to try without."
        ) from error
