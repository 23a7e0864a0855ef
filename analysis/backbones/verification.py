"""Whether each backbone is what its card says: built, counted, and its tokens held against hooks.

why_not = verify("mae-h")  # "" if all is as it should be

What was found stands in the data folder, and for the networks of the tables in verified.json beside
this file: a copy of it, to be made anew when the code of the adapters or a library changes.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.backbones.cards import CARDS, Card, card_of
from analysis.files import code_digest, data_root, digest, read_json, write_json

CODE = tuple(
    f"backbones/{n}.py"
    for n in ("base", "diffusion", "diffusion_weights", "drawn", "network", "vit")
)
LIBRARIES = {"open_clip": "open_clip_torch"}  # packages that are named otherwise
REAL = 100_000_000  # parameters; larger networks are checked without weights, by shapes alone


def _record() -> dict[str, Any]:
    found = {}
    for folder in (Path(__file__).parent, data_root()):
        if (path := folder / "verified.json").exists():
            found |= read_json(path, "what was verified", "Delete it.")
    return found


def _state(card: Card) -> str:
    """The sha256 of what a verification holds for: card, code and the library's version."""
    library = LIBRARIES.get(card.library, card.library)
    version = importlib.metadata.version(library)
    return digest({"card": asdict(card), "code": code_digest(CODE), "version": version})


def rows(names: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Per backbone, its card, what its tokens take in the cache, and whether it is verified."""
    record, found = _record(), {}
    for name in names or CARDS:
        card = card_of(name)
        known = record.get(name, {})
        current = known.get("state") == _state(card)
        verified = ("no" if known["why_not"] else "yes") if current else "not yet"
        more = {"widths": card.widths, "cache_bytes": card.cache_bytes, "verified": verified}
        found[name] = asdict(card) | more | ({"how": known["how"]} if current else {})
    return found


def verify(name: str) -> str:
    """What is not as a backbone's card says; empty if nothing. The result is recorded.

    Those of up to 100 million parameters run, and their tokens have to be exactly what hooks see;
    larger ones are built without weights, and their shapes compared.
    """
    import torch

    from analysis.backbones.registry import load_backbone

    card = card_of(name)
    real = card.parameters <= REAL
    with torch.device("cpu" if real else "meta"):
        backbone = load_backbone(name, "random") if real else _shapes_alone(name, card)
    differences = _of_diffusion if card.library == "diffusers" else _differences
    why_not = "; ".join(differences(backbone, card, real))
    how = "run, equal to hooks" if real else "shapes, without weights"
    result = {"state": _state(card), "why_not": why_not, "how": how}
    write_json(data_root() / "verified.json", _record() | {name: result})
    return why_not


def _shapes_alone(name: str, card: Card) -> Any:
    """A backbone on the meta device."""
    from analysis.backbones.base import Preprocessing

    size = (card.input_size, card.input_size)
    preprocess = Preprocessing(size, card.mean, card.std, card.interpolation)
    if card.library == "diffusers":
        from analysis.backbones import diffusion, diffusion_weights

        parts = diffusion_weights.bare_parts(diffusion_weights.ARCHITECTURES[name])
        return diffusion.Diffusion(name, parts, preprocess, diffusion.Inversion())
    if card.library == "timm":
        from analysis.backbones.network import TimmNetwork, timm_network

        return TimmNetwork(name, timm_network(card, drawn=False), preprocess)
    from analysis.backbones.vit import OpenClipViT, empty_tower

    return OpenClipViT(name, empty_tower(card.architecture), preprocess)


def _differences(backbone: Any, card: Card, real: bool) -> list[str]:
    """What differs between a built backbone and its card, and between its tokens and hooks'."""
    import torch

    inner = getattr(backbone, "network", None)
    inner = backbone.visual if inner is None else inner
    blocks = getattr(inner, "blocks", None)
    blocks = inner.transformer.resblocks if blocks is None and card.patch else blocks
    count = sum(p.numel() for p in backbone.parameters())
    found = []
    if tuple(backbone.widths) != card.widths:
        found.append(f"widths {tuple(backbone.widths)}, the card's {card.widths}")
    if count != card.parameters:
        found.append(f"{count:,} parameters, the card's {card.parameters:,}")
    if blocks is None or len(blocks) != card.layers:
        return found  # a pyramid: its stages are no single blocks
    seen: list[torch.Tensor] = []
    handles = [b.register_forward_hook(lambda m, i, out: seen.append(out)) for b in blocks]
    size = (1, *backbone.preprocess.size, 3)
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator, device="cpu")
    with torch.inference_mode():
        x = backbone.preprocess(pictures if real else pictures.to("meta"))
        inner(x)  # the network's own pass
        for handle in handles:
            handle.remove()
        local, global_ = backbone.tokens(x)
    for i, (maps, vector, block) in enumerate(zip(local, global_, seen, strict=True), 1):
        side = tuple(s // card.patch for s in backbone.preprocess.size)
        if tuple(maps.shape[1:]) != (card.widths[i - 1], *side):
            found.append(f"layer {i}: local tokens {tuple(maps.shape[1:])}")
        if not real:
            continue
        if block.ndim == 4:  # SAM's blocks give [picture, y, x, channel]
            expected, whole = block.permute(0, 3, 1, 2), block.permute(0, 3, 1, 2).mean((2, 3))
        else:
            n = block.shape[1] - side[0] * side[1]
            expected = block[:, n:].mT.unflatten(2, side)
            whole = block[:, 0] if n else expected.mean((2, 3))
        if not (torch.equal(maps, expected) and torch.equal(vector, whole)):
            found.append(f"layer {i}: tokens differ from a hook's")
    return found


def _of_diffusion(backbone: Any, card: Card, real: bool) -> list[str]:
    """As `_differences`, for a U-Net: its layers of a picture's own latents, against hooks."""
    import torch

    from analysis.backbones.diffusion import sites

    found = []
    count = sum(p.numel() for p in backbone.parameters())
    if count != card.parameters:
        found.append(f"{count:,} parameters, the card's {card.parameters:,}")
    if any(view.widths != card.widths for view in backbone.views):
        found.append(f"widths {backbone.views[0].widths}, the card's {card.widths}")
    modules = sites(backbone.unet, backbone.inversion.site)
    if len(modules) != card.layers:
        return [*found, f"{len(modules)} layers, the card's {card.layers}"]
    generator = torch.Generator().manual_seed(0)
    size = (1, *backbone.preprocess.size, 3)
    pictures = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator, device="cpu")
    pictures = pictures if real else pictures.to("meta")
    seen: list[torch.Tensor] = []
    with torch.inference_mode():
        local, global_ = next(backbone.stream(pictures))  # T50: the picture's own latents
        handles = [
            m.register_forward_hook(lambda m, i, out: seen.append(getattr(out, "sample", out)))
            for m in modules
        ]
        latents = backbone.latents(backbone.preprocess(pictures))
        backbone.unet(latents, 0, backbone.empty)
        for handle in handles:
            handle.remove()
    for i, (maps, vector, out) in enumerate(zip(local, global_, seen, strict=True)):
        expected = out[0] if isinstance(out, tuple) else out
        if maps.shape != expected.shape or maps.shape[1] != card.widths[i]:
            found.append(f"layer {i + 1}: local tokens {tuple(maps.shape[1:])}")
        elif real and not (
            torch.equal(maps, expected) and torch.equal(vector, expected.mean((2, 3)))
        ):
            found.append(f"layer {i + 1}: tokens differ from a hook's")
    return found
