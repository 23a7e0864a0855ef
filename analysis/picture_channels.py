"""Top channels of a reader's own pictures, from a saved fit alone: `predict --channels`.

    python -m analysis predict sim01/clip-mini photos/ --out predicted --channels

writes channels.npy [picture, region, colour, height, width] and a picture for each picture.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from analysis.backbones import Backbone
from analysis.files import InputError, require_space, whole_file, write_json
from analysis.maps import of_whom, provenance
from analysis.pictures import read_picture
from analysis.predict import load_network
from analysis.saved import SavedFit
from analysis.subject import AREAS
from analysis.top_channels import COLOURS, LIMIT, rgb, top_channels

INDEX = "channels.json"
COLUMNS = 5  # panels in a row of a picture's sheet


def local_tokens(
    network: Backbone, pictures: UInt8[np.ndarray, "picture height width 3"]
) -> list[Float[Tensor, "picture _ _h _w"]]:
    """A network's local tokens of each layer, all of them: no smaller grid."""
    device = next(network.parameters(), torch.empty(0)).device
    with torch.inference_mode():
        each = [
            next(iter(network.stream(torch.tensor(picture[None]).to(device))))[0]
            for picture in pictures
        ]
    return [torch.cat(layer).float().cpu() for layer in zip(*each, strict=True)]


def write_channels(
    fit: SavedFit, pictures: Sequence[Path], out: Path, weights: str | None = None
) -> Path:
    """Write the top channels of pictures in the areas that the fit has; returns channels.npy.

    Their mean over all of the pictures is grey, and a colour is full at `LIMIT` sd over them, for
    each area; the sign is that with which the area's vertices weigh the channel.

    Raises:
        InputError: for a fit without areas, or a network that is not the fit's.
    """
    areas = [name for name in AREAS if name in fit.rois]
    if not areas:
        raise InputError(f"{fit.folder}: has none of the areas {', '.join(AREAS)}.")
    tops = [top_channels(fit.model, fit.rois[name]) for name in areas]
    network = load_network(fit, weights)

    def maps_of(path: Path) -> Float[np.ndarray, "area colour h w"]:
        local = local_tokens(network, read_picture(path)[None])
        return np.stack([top.maps(local)[0] for top in tops])

    first = maps_of(pictures[0])
    shape = (len(pictures), *first.shape)
    require_space(out, 4 * int(np.prod(shape)), f"top channels of {len(areas)} areas")
    (out / INDEX).unlink(missing_ok=True)
    path = out / "channels.npy"
    with whole_file(path) as scratch:
        kept = np.lib.format.open_memmap(scratch, "w+", np.float32, shape)
        kept[0] = first
        for i, picture in enumerate(pictures[1:], 1):
            kept[i] = maps_of(picture)
        mean = kept.mean((0, 3, 4), dtype=np.float64)  # [area, colour]
        for i in range(len(kept)):
            kept[i] -= mean[..., None, None].astype(np.float32)
        square = np.mean([np.square(k, dtype=np.float64).mean((1, 2, 3)) for k in kept], axis=0)
        sd = np.sqrt(square)
        for i in range(len(kept)):
            kept[i] /= np.where(sd > 0, sd, 1)[:, None, None, None].astype(np.float32)
        kept.flush()
    shown = np.load(path, mmap_mode="r")
    for i, picture in enumerate(pictures):
        title = f"{picture.name}, top channels; {of_whom(fit)}"
        with plt.rc_context({"font.size": 9}):
            figure = _sheet(read_picture(picture), rgb(shown[i]), areas, title)
            with whole_file(out / "channels" / f"{i + 1:05d}_{picture.stem}.png") as scratch:
                figure.savefig(scratch, dpi=150, format="png")
            plt.close(figure)
    said = {"areas": areas, "colours": COLOURS, "full_at_sd": LIMIT, "sd": sd.tolist()}
    write_json(out / INDEX, provenance(fit) | said | {"pictures": [str(p) for p in pictures]})
    return path


def _sheet(
    picture: UInt8[np.ndarray, "height width 3"],
    colours: Float[np.ndarray, "area h w 3"],
    areas: Sequence[str],
    title: str,
) -> Figure:
    """A picture and its top channels in each area."""
    rows = -(-(1 + len(areas)) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, squeeze=False, figsize=(1.5 * COLUMNS, 1.75 * rows + 0.3)
    )
    panels = [("picture", picture), *zip(areas, colours, strict=True)]
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, panel) in zip(axes.flat, panels, strict=False):
        axis.imshow(panel, interpolation="nearest")
        axis.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=8)
    figure.tight_layout()
    return figure
