"""The token cache: what a backbone makes of each picture, kept on disk and read in any order.

    tokens = read_tokens(cache_folder(view), digests)
    local, global_ = tokens[rows]  # [n, channels of all layers, 8, 8], [n, channels of all layers]

A folder per backbone holds parts (safetensors) and one manifest. A picture is known by the sha256
of its pixels, a backbone by that of its weights and preprocessing, and the folder also by grid,
pooling and arithmetic, so nothing stale can be read. `extraction.py` makes the parts.

Tokens are kept in float16. Each layer of each picture is first scaled by a power of two, so that
its largest lies just within range: reading gives back every value down to 2⁻²⁸ of that largest with
float16's relative precision, 2⁻¹¹, whether the layer's values are about 10⁻⁹ or 10⁹.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from analysis.backbones import View
from analysis.files import (
    InputError,
    digest,
    features_root,
    file_digest,
    folder_name,
    read_json,
    require,
    whole_file,
)
from analysis.versions import VERSIONS

MEND = "Extract again: what is damaged is found and made anew."
STATISTICS_AT_ONCE = 64  # pictures

Pictures = UInt8[np.ndarray, "n height width 3"]


@dataclass(frozen=True)
class Form:
    """In which form tokens are made and kept."""

    grid: int = 8  # local tokens are pooled to grid x grid (Listing 1, 2a)
    pooling: str = "area"  # or bilinear: the authors' resizing
    precision: str = "float32"  # or bfloat16: of the network's arithmetic

    def __post_init__(self):
        choices = {"pooling": ("area", "bilinear"), "precision": ("float32", "bfloat16")}
        for field, known in choices.items():
            if getattr(self, field) not in known:
                expected = " or ".join(map(repr, known))
                raise InputError(f"{field}={getattr(self, field)!r}: expected {expected}.")
        if self.grid < 1:
            raise InputError(f"grid={self.grid}: expected 1 or more.")


DEFAULT = Form()


def pool(
    local: list[Float[Tensor, "batch _ _h _w"]],
    global_: list[Float[Tensor, "batch _"]],
    form: Form = DEFAULT,
) -> tuple[Float[Tensor, "batch channels grid grid"], Float[Tensor, "batch channels"]]:
    """Tokens of all layers side by side: local ones pooled to the grid, global ones as they are.

    Averaging over areas reads every token; bilinear resizing from 64 x 64 to 8 x 8 reads 1 in 16.
    """
    if form.pooling == "area":
        pooled = [adaptive_avg_pool2d(t.float(), form.grid) for t in local]
    else:
        size = (form.grid, form.grid)
        pooled = [interpolate(t.float(), size, mode="bilinear", align_corners=False) for t in local]
    return torch.cat(pooled, 1), torch.cat([t.float() for t in global_], 1)


def layer_of_channel(widths: tuple[int, ...]) -> Int[Tensor, " channels"]:
    """The layer of each of the channels side by side."""
    return torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))


def layer_maxima(
    tokens: Float[Tensor, "batch channels *place"], widths: tuple[int, ...]
) -> Float[Tensor, "batch layer"]:
    """The largest absolute value in each layer; NaN or infinite where one is."""
    split = tokens.flatten(2).split(widths, 1) if tokens.ndim > 2 else tokens.split(widths, 1)
    return torch.stack([t.abs().flatten(1).amax(1) for t in split], 1)


def powers(maxima: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The power of two by which values up to these are to be divided to lie below 2¹⁵."""
    exponent = torch.frexp(maxima).exponent - 15
    return torch.ldexp(torch.ones_like(maxima), exponent.clamp(-126, 126).to(maxima.dtype))


@dataclass(frozen=True)
class Part:
    """A part file, mapped: what is not asked for is not read."""

    local: Float[Tensor, "picture channels grid grid"]
    global_: Float[Tensor, "picture channels"]
    scale: Float[Tensor, "picture 2 layer"]  # of local and of global tokens


def open_part(path: Path, record: dict) -> Part:
    """A part whose own record is this one.

    Raises:
        InputError: if it is missing, cut, damaged in its header, or holds other pictures.
    """
    require(path, "a part of the token cache", MEND)
    try:
        with safetensors.safe_open(path, "np") as whole:  # checks the header and the file's size
            own = json.loads(whole.metadata()["record"])
        with path.open("rb") as f:
            start = 8 + int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(start - 8))
        maps = {}
        for name, kind in (("local", "F16"), ("global", "F16"), ("scale", "F32")):
            entry = header[name]
            if entry["dtype"] != kind:
                raise ValueError(f"{name} is {entry['dtype']}")
            dtype = {"F16": "<f2", "F32": "<f4"}[kind]
            place = start + entry["data_offsets"][0]
            # "c": torch wants memory that may be written; the file never is
            mapped = np.memmap(path, dtype, "c", place, tuple(entry["shape"]))
            maps[name] = torch.from_numpy(mapped)
    except (safetensors.SafetensorError, OSError, TypeError, LookupError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}). {MEND}") from error
    if own != record:
        raise InputError(f"{path}: holds other pictures than the manifest says. {MEND}")
    return Part(maps["local"], maps["global"], maps["scale"])


@dataclass(frozen=True)
class Statistics:
    """Of the tokens of some pictures, per channel of all layers side by side, or per layer."""

    local_mean: Float[Tensor, " channels"]
    local_sd: Float[Tensor, " channels"]
    global_mean: Float[Tensor, " channels"]
    global_sd: Float[Tensor, " channels"]
    local_norm: Float[Tensor, " layer"]  # mean length of a local token
    global_norm: Float[Tensor, " layer"]


@dataclass(frozen=True)
class Tokens:
    """Rows of pictures in the token cache, read from disk as they are asked for."""

    folder: Path
    widths: list[int]  # channels of each layer
    layer_names: list[str]
    parts: list[Part]
    part: Int[np.ndarray, " picture"]  # where each picture lies
    row: Int[np.ndarray, " picture"]
    digests: list[str]  # of the pictures
    key: str  # sha256 of backbone and form: `cache_key`
    identity: str  # sha256 of these and the pictures

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(
        self, rows: Int[np.ndarray, " n"]
    ) -> tuple[Float[Tensor, "n channels grid grid"], Float[Tensor, "n channels"]]:
        """Local and global tokens of all layers side by side, float32."""
        grid = self.parts[0].local.shape[2:] if self.parts else (DEFAULT.grid, DEFAULT.grid)
        local = torch.empty(len(rows), sum(self.widths), *grid)
        global_ = torch.empty(len(rows), sum(self.widths))
        # a row to be scaled is a layer where all are of one width, which is faster; else a channel
        alike = len(set(self.widths)) == 1
        of = slice(None) if alike else layer_of_channel(tuple(self.widths))
        shape = (len(self.widths) if alike else sum(self.widths), -1)
        for i, r in enumerate(rows):
            part, row = self.parts[self.part[r]], int(self.row[r])
            near, far = part.scale[row][:, of].unsqueeze(2)
            torch.mul(part.local[row].view(shape), near, out=local[i].view(shape))
            torch.mul(part.global_[row].view(shape), far, out=global_[i].view(shape))
        return local, global_

    def of_layer(
        self, rows: Int[np.ndarray, " n"], layer: int, channels: slice = slice(None)
    ) -> tuple[Float[Tensor, "n channel grid grid"], Float[Tensor, "n channel"]]:
        """Local and global tokens of some channels of one layer, counted from 0; no other is read.

        For what goes through all pictures a layer at a time, and can't hold all layers.
        """
        before = sum(self.widths[:layer])
        start, stop, _ = channels.indices(self.widths[layer])
        here = slice(before + start, before + stop)
        grid = self.parts[0].local.shape[2:]
        local = torch.empty(len(rows), stop - start, *grid)
        global_ = torch.empty(len(rows), stop - start)
        for i, r in enumerate(rows):
            part, row = self.parts[self.part[r]], int(self.row[r])
            near, far = part.scale[row, :, layer : layer + 1]  # no scalars: these keep float16
            torch.mul(part.local[row, here], near, out=local[i])
            torch.mul(part.global_[row, here], far, out=global_[i])
        return local, global_

    def statistics(self, rows: Int[np.ndarray, " n"] | None = None) -> Statistics:
        """Of the tokens of these pictures (all, if None), kept in the cache for the next time.

        In float64, in an order that doesn't depend on that of the pictures.
        """
        chosen = sorted(
            {self.digests[r]: r for r in (range(len(self)) if rows is None else rows)}.items()
        )
        name = digest([d for d, _ in chosen])[:16]
        path = self.folder / "statistics" / f"{name}.safetensors"
        if not path.exists():
            found = _statistics(self, np.array([r for _, r in chosen]))
            with whole_file(path) as scratch:
                save_file({k: v.contiguous() for k, v in vars(found).items()}, scratch)
        try:
            return Statistics(**load_file(path))
        except (safetensors.SafetensorError, OSError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}). Delete it.") from error


def _statistics(tokens: Tokens, rows: Int[np.ndarray, " n"]) -> Statistics:
    """Two passes: means, then squares about them."""
    if not len(rows):
        raise InputError("statistics of no pictures; expected some.")

    def batches():
        for start in range(0, len(rows), STATISTICS_AT_ONCE):
            local, global_ = tokens[rows[start : start + STATISTICS_AT_ONCE]]
            yield local.double().flatten(2), global_.double()

    n = len(rows)
    local_mean = sum(local.mean(2).sum(0) for local, _ in batches()) / n
    global_mean = sum(global_.sum(0) for _, global_ in batches()) / n
    squares = [torch.zeros_like(local_mean) for _ in range(2)]
    norms = [torch.zeros(len(tokens.widths), dtype=torch.double) for _ in range(2)]
    for local, global_ in batches():
        squares[0] += (local - local_mean[:, None]).square().mean(2).sum(0)
        squares[1] += (global_ - global_mean).square().sum(0)
        for i, (near, far) in enumerate(
            zip(local.split(tokens.widths, 1), global_.split(tokens.widths, 1), strict=True)
        ):
            norms[0][i] += near.norm(dim=1).mean(1).sum()
            norms[1][i] += far.norm(dim=1).sum()
    return Statistics(
        local_mean.float(),
        (squares[0] / n).sqrt().float(),
        global_mean.float(),
        (squares[1] / n).sqrt().float(),
        *((norm / n).float() for norm in norms),
    )


def cache_key(view: View, form: Form = DEFAULT) -> str:
    """The sha256 of all that determines a picture's tokens, but the picture."""
    return _key(view.identity, form)


def _key(identity: str, form: Form) -> str:
    return digest({"backbone": identity, "form": asdict(form), "version": VERSIONS["tokens"]})


def cache_folder(view: View, form: Form = DEFAULT) -> Path:
    return folder_of(view.name, view.identity, form)


def folder_of(name: str, identity: str, form: Form = DEFAULT) -> Path:
    """The cache of a network of this name and identity, which needn't be loaded."""
    return features_root() / f"{folder_name(name)}-{_key(identity, form)[:12]}"


def read_manifest(folder: Path) -> dict:
    """A cache's parts, {name: {sha256, pictures}}, and the widths and names of its layers."""
    what = "the token cache's manifest"
    mend = "Delete this folder: its tokens are made again when asked for."
    manifest = read_json(folder / "manifest.json", what, mend)
    parts = manifest.get("parts") if isinstance(manifest, dict) else None
    if (
        not isinstance(parts, dict)
        or {"widths", "layer_names", "key"} - manifest.keys()
        or not all(
            isinstance(p, dict) and {"sha256", "pictures"} <= p.keys() for p in parts.values()
        )
    ):
        raise InputError(f"{folder / 'manifest.json'}: expected {what}, with its parts. {mend}")
    return manifest


def known(folder: Path) -> dict[str, tuple[str, int]]:
    """Each cached picture's part and row."""
    if not (folder / "manifest.json").exists():
        return {}
    parts = read_manifest(folder)["parts"]
    return {d: (name, i) for name, p in parts.items() for i, d in enumerate(p["pictures"])}


def part_record(manifest: dict, name: str) -> dict:
    """What a part has to say of itself."""
    return {"pictures": manifest["parts"][name]["pictures"], "key": manifest["key"]}


def read_tokens(folder: Path, digests: list[str]) -> Tokens:
    """The tokens of pictures that are all in the cache.

    Raises:
        InputError: if a picture or a part is not there, or a part is damaged or another's.
    """
    there = known(folder)
    if absent := [d for d in digests if d not in there]:
        raise InputError(f"{folder}: {len(absent)} of {len(digests)} pictures not cached. {MEND}")
    manifest = read_manifest(folder)
    names = sorted({there[d][0] for d in digests})
    return Tokens(
        folder=folder,
        widths=manifest["widths"],
        layer_names=manifest["layer_names"],
        parts=[open_part(folder / name, part_record(manifest, name)) for name in names],
        part=np.array([names.index(there[d][0]) for d in digests]),
        row=np.array([there[d][1] for d in digests]),
        digests=digests,
        key=manifest["key"],
        identity=digest({"key": manifest["key"], "pictures": digests}),
    )


def verify(folder: Path) -> list[str]:
    """The parts whose bytes differ from the manifest's sha256, or that are gone."""
    wrong = []
    for name, part in read_manifest(folder)["parts"].items():
        path = folder / name
        if not path.exists() or file_digest(path) != part["sha256"]:
            wrong.append(name)
    return wrong
