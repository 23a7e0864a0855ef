"""Stable Diffusion as a backbone: a picture is taken step by step towards noise, and each step of
the way shows the U-Net's layers.

    backbone = load_diffusion("sd15")      # the time steps of Table 13, each a view
    backbone = load_diffusion("sd-mini@T20")  # one time step of the miniature
    backbone = load_diffusion("sd15@T40E+T40D+D6")  # Fig. 16: encoder, decoder, one layer over time
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from analysis.backbones.base import Backbone, Preprocessing, View
from analysis.backbones.catalogue import card_of
from analysis.backbones.diffusion_weights import ARCHITECTURES, Parts, drawn_parts, read_parts
from analysis.backbones.inversion import T_MAX, Inversion, next_latent
from analysis.files import InputError, data_root, digest, file_digest
from analysis.versions import VERSIONS

TABLE_13 = tuple(range(0, T_MAX + 1, 5))
LAYER_NAMES = (*(f"E{i}" for i in range(1, 9)), *(f"D{i}" for i in range(1, 13)))
ENCODER = sum(name.startswith("E") for name in LAYER_NAMES)  # layers of it
PARTS = {"": slice(None), "E": slice(ENCODER), "D": slice(ENCODER, None)}

Layers = tuple[list[Float[Tensor, "batch _ _h _w"]], list[Float[Tensor, "batch _"]]]


def sites(unet: nn.Module, site: str) -> list[nn.Module]:
    """The modules whose outputs are the layers of Table 12, in the order of `LAYER_NAMES`.

    A layer is a ResNet with the attention after it, where there is one; the last level of the
    encoder and the first of the decoder have none.
    """
    found = []
    for block in (*unet.down_blocks, *unet.up_blocks):
        attentions = getattr(block, "attentions", block.resnets)
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            found.append({"block": attention, "resnet": resnet, "conv": resnet.conv2}[site])
    return found


def taken(view: str, passed: Collection[int]) -> dict[int, slice]:
    """Which layers at which T a view has: of "T40" all, of "T40E" the encoder's, of "T40D" the
    decoder's, of "D6" that layer at all T of Table 13 that are passed, from noise to the picture.
    """
    if view in LAYER_NAMES:
        i = LAYER_NAMES.index(view)
        return {t: slice(i, i + 1) for t in TABLE_13 if t in passed}
    time = int(view.strip("TED"))
    if time not in passed:
        raise InputError(
            f"time steps T{time}: expected one or more of"
            f" {', '.join(f'T{t}' for t in sorted(passed))}, those of steps={len(passed) - 1}."
        )
    return {time: PARTS[view.lstrip("T0123456789")]}


class Diffusion(Backbone):
    """The 8 encoder and 12 decoder layers of a U-Net, at time steps of an inversion.

    The encoder's latent of a picture is taken to noise by DDIM without added noise, with the empty
    prompt; every latent is made from the one before it, so one chain serves all time steps, and it
    ends with the last that is wanted. `inversion` holds the choices that the paper leaves open.

    Each time step is a view, or what `taken` knows, in the order in which they are complete, and
    `forward` gives their layers in this order: half a gigabyte for a picture of 512 pixels at the
    time steps of Table 13. `stream` gives one view at a time. Global tokens are averages.
    """

    def __init__(
        self,
        family: str,
        parts: Parts,
        preprocess: Preprocessing,
        inversion: Inversion,
        times: Sequence[int] = TABLE_13,
        shown: Sequence[str] = (),
        weights: str | None = None,
    ):
        """`times`: the wanted T; `shown`: the views, in place of these; `weights`: what tells
        them from others, by default a hash of them all.
        """
        super().__init__(family, preprocess)
        passed = inversion.times()
        shown = shown or [f"T{t}" for t in times]
        if not shown:
            raise InputError("time steps none: expected one or more.")
        takes = {view: taken(view, passed) for view in shown}
        ends = {view: max(map(passed.index, take)) for view, take in takes.items()}
        self.takes = {view: takes[view] for view in sorted(takes, key=ends.__getitem__)}
        self.times = tuple(t for t in passed if any(t in take for take in takes.values()))
        self.inversion = inversion
        self.unet = parts.unet
        self.encoder = nn.Sequential(parts.vae.encoder, parts.vae.quant_conv)  # no decoder
        self.scale = parts.vae.config.scaling_factor
        self.register_buffer("empty", parts.empty)
        resnets = [r for b in (*self.unet.down_blocks, *self.unet.up_blocks) for r in b.resnets]
        all_widths = tuple(resnet.out_channels for resnet in resnets)
        self.freeze(**inversion.settings(), scale=self.scale)
        if weights:
            self.identity = _network_identity(family, inversion, weights)
        self._views = []
        for view, take in self.takes.items():
            widths = tuple(w for layers in take.values() for w in all_widths[layers])
            names = [n for layers in take.values() for n in LAYER_NAMES[layers]]
            if len(take) > 1:
                names = [f"T{t}" for t in take]
            identity = _view_identity(self.identity, view)
            start = len(self.widths)
            here = slice(start, start + len(widths))
            self._views.append(View(f"{family}@{view}", identity, here, widths, tuple(names)))
            self.widths += widths
        if len(self._views) == 1:
            (only,) = self._views
            self.name, self.identity = only.name, only.identity
            self.layer_names = list(only.layer_names)
        else:
            self.identity = digest(sorted(view.identity for view in self._views))
            each = zip(self.takes, self._views, strict=True)
            self.layer_names = [f"{label} {n}" for label, view in each for n in view.layer_names]

    @property
    def views(self) -> list[View]:
        return self._views

    def latents(self, x: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 4 _h _w"]:
        """The encoder's latents, scaled."""
        mean, log_variance = self.encoder(x.to(self.empty.dtype)).chunk(2, 1)
        if self.inversion.latent == "sample":
            generator = torch.Generator().manual_seed(self.inversion.seed)
            noise = torch.randn(mean.shape[1:], generator=generator).to(mean)
            mean = mean + (log_variance.clamp(-30, 20) / 2).exp() * noise
        return self.scale * mean

    def chain(
        self, x: Float[Tensor, "batch 3 h w"]
    ) -> Iterator[tuple[int, list[Float[Tensor, "batch _ _h _w"]]]]:
        """Each T that a view needs, with its layers' local tokens, in turn."""
        levels = [self.inversion.noise_level(t) for t in self.inversion.times()]
        latent = self.latents(x)
        latent = latent.to(torch.promote_types(latent.dtype, torch.float32))  # steps add up
        for time, level, ahead in zip(
            self.inversion.times(), levels, [*levels[1:], levels[-1]], strict=True
        ):
            told = level if self.inversion.level == "source" else ahead
            noise, layers = self._noise(latent, told)
            if time in self.times:
                yield time, layers
            if time == self.times[-1]:
                return
            del layers
            latent = next_latent(latent, noise.to(latent), level, ahead)

    def _noise(
        self, latent: Float[Tensor, "batch 4 h w"], level: int
    ) -> tuple[Float[Tensor, "batch 4 h w"], list[Float[Tensor, "batch _ _h _w"]]]:
        """The noise that the U-Net sees in latents, and its layers."""
        seen: list[Tensor] = []

        def see(module: nn.Module, inputs: object, out: Any) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)

        handles = [m.register_forward_hook(see) for m in sites(self.unet, self.inversion.site)]
        try:
            prompt = self.empty.expand(len(latent), -1, -1)
            noise = self.unet(latent.to(prompt), level, prompt, return_dict=False)[0]
        finally:
            for handle in handles:
                handle.remove()
        return noise, seen

    def _each(self, x: Float[Tensor, "batch 3 h w"]) -> Iterator[Layers]:
        """The views in turn, each when the last of its T is passed."""
        seen: dict[str, dict[int, list[Tensor]]] = {view: {} for view in self.takes}
        for time, layers in self.chain(x):
            for view, take in self.takes.items():
                if time in take:
                    seen[view][time] = layers[take[time]]
            del layers
            for view in [v for v in seen if len(seen[v]) == len(self.takes[v])]:
                kept = seen.pop(view)
                local = [tokens for t in self.takes[view] for tokens in kept[t]]
                yield local, [tokens.mean((2, 3)) for tokens in local]
                del kept, local

    def tokens(self, x: Float[Tensor, "batch 3 h w"]) -> Layers:
        local, global_ = [], []
        for layers, averages in self._each(x):
            local += layers
            global_ += averages
        return local, global_

    def stream(self, pictures: UInt8[Tensor, "batch height width 3"]) -> Iterator[Layers]:
        return self._each(self.preprocess(pictures))


def _with(inversion: Inversion, options: str) -> Inversion:
    """The choices of a name, `,site=conv,steps=25`, in place of an inversion's."""
    chosen: dict[str, Any] = {}
    for option in options.split(",")[1:]:
        field, _, value = option.partition("=")
        known = [f.name for f in fields(Inversion)]
        if field not in known:
            raise InputError(f"option {option!r}: expected one of {', '.join(known)}.")
        of_number = isinstance(getattr(inversion, field), int)
        if of_number and not value.isdecimal():
            raise InputError(f"option {option!r}: expected a number.")
        chosen[field] = int(value) if of_number else value
    return replace(inversion, **chosen)


VIEW = rf"(?:T\d{{1,2}}[ED]?|{'|'.join(reversed(LAYER_NAMES))})"


def _network_identity(family: str, inversion: Inversion, weights: str) -> str:
    key = {"network": family, "weights": weights, "inversion": inversion.settings()}
    return digest(key | {"version": VERSIONS["network"]})


def _view_identity(network: str, view: str) -> str:
    return digest({"network": network, "view": view})


def diffusion_identity(name: str, weights: str) -> str:
    """The identity of `load_diffusion(name, weights)`, without reading more than files' content."""
    family, inversion, views = parse_name(name)
    network = _network_identity(family, inversion, _source(name, weights))
    identities = sorted(_view_identity(network, view) for view in views)
    return identities[0] if len(identities) == 1 else digest(identities)


def _source(name: str, weights: str) -> str:
    """What tells weights from others: a checkpoint's tag, "random", or the content of a folder."""
    if weights == "random":
        return weights
    if weights == "pretrained":
        return f"pretrained {card_of(name).tag}"
    files = sorted(p for p in Path(weights).glob("*/*") if p.suffix in (".json", ".safetensors"))
    return digest([(f"{p.parent.name}/{p.name}", file_digest(p)) for p in files])


def parse_name(
    name: str, inversion: Inversion | None = None
) -> tuple[str, Inversion, tuple[str, ...]]:
    """The family with its options, the inversion and the views of a name."""
    match = re.fullmatch(rf"([\w-]+?)((?:,\w+=\w+)*)(?:@({VIEW}(?:\+{VIEW})*))?", name)
    if not match or match[1] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(
            f"backbone {name!r}: expected one of {known}, or one with a time step, as sd15@T20."
        )
    inversion = inversion or Inversion(steps=ARCHITECTURES[match[1]].steps)
    inversion = _with(inversion, match[2])
    times = [f"T{t}" for t in TABLE_13 if t in inversion.times()]
    return (
        match[1] + match[2],
        inversion,
        tuple(dict.fromkeys(match[3].split("+") if match[3] else times)),
    )


def load_diffusion(
    name: str, weights: str | None = None, inversion: Inversion | None = None
) -> Diffusion:
    """A frozen diffusion network by name: `sd15@T20`, or `sd15`, at all T of Table 13 that the
    inversion passes; `sd-mini` likewise. `sd15,site=conv@T20` takes another choice of `Inversion`;
    `sd15@T40E` the encoder's layers alone, `sd15@T40D` the decoder's, `sd15@D6` one layer at all
    these T; `sd15@T50+T40E+D6` is several views from one pass.

    `weights`: "pretrained" (the files in the data folder), "random" (drawn from a fixed seed), or
    a folder of the same layout; by default pretrained where there is a checkpoint.
    """
    family, inversion, views = parse_name(name, inversion)
    short = family.partition(",")[0]
    architecture = ARCHITECTURES[short]
    weights = weights or ("pretrained" if architecture.checkpoint else "random")
    if weights == "pretrained" and not architecture.checkpoint:
        raise InputError(
            f"weights='pretrained': {short} has no checkpoint; expected 'random' or a folder."
        )
    if weights == "random":
        parts = drawn_parts(architecture)
    else:
        folder = data_root() / "weights" / short if weights == "pretrained" else Path(weights)
        parts = read_parts(folder, architecture)
    size = (architecture.size, architecture.size)
    preprocess = Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    source = _source(name, weights)
    return Diffusion(family, parts, preprocess, inversion, shown=views, weights=source)
