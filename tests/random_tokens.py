"""Random tokens in a real token cache, for what is trained on them."""

from pathlib import Path

import torch

from analysis.backbones import View
from analysis.features import Form, Tokens, read_tokens
from analysis.growing import Growing, stored


def random_tokens(folder: Path, widths: list[int], n_pictures: int, seed: int = 0) -> Tokens:
    """Neighbouring local tokens are alike, as a picture's are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n_pictures, sum(widths), 3, 3, generator=generator)
    local = torch.nn.functional.interpolate(coarse, (8, 8), mode="bilinear", align_corners=True)
    global_ = torch.randn(n_pictures, sum(widths), generator=generator)
    names = tuple(str(i + 1) for i in range(len(widths)))
    view = View("random", f"{widths} {n_pictures} {seed}", slice(None), tuple(widths), names)
    digests = [f"picture {i}" for i in range(n_pictures)]
    part = Growing(view, Form(), folder / f"tokens-{seed}-{n_pictures}", digests)
    if not (part.folder / part.name).exists():
        part.open()
        part.add(0, stored(view, local, global_, digests))
        part.finish()
    return read_tokens(part.folder, digests)
