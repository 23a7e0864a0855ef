"""Tokens made of pictures and added to the cache: streamed, resumed, by several writers at once.

    (tokens,) = extract(backbone, subject.pictures, digests, report=print)

Pictures are taken in chunks, each of which becomes a part. A part under way lies in `under_way/`
and is filled batch by batch; how many batches are safe on the disk stands beside it, so that a run
that was killed goes on with the next one, to the same bytes. Memory is that of two batches.
"""

import errno
import itertools
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from analysis.backbones import Backbone, View
from analysis.features import (
    DEFAULT,
    MEND,
    Form,
    Pictures,
    Tokens,
    cache_folder,
    known,
    open_part,
    part_record,
    pool,
    read_manifest,
    read_tokens,
    verify,
)
from analysis.files import InputError, features_root, require_space, write_json
from analysis.growing import Growing, pictures_under_way, stored

PART_BYTES = 64 * 2**20  # of one view
MOST_AT_ONCE = 16  # pictures in a batch
BATCH_BYTES = 2**29  # of unpooled tokens in a batch
ReadPictures = Callable[[Int[np.ndarray, " n"]], Pictures]
Report = Callable[[str], None]


def row_bytes(view: View, form: Form = DEFAULT) -> int:
    """Bytes on disk of one picture's tokens."""
    return 2 * sum(view.widths) * (form.grid**2 + 1) + 8 * len(view.widths)


def _take_out(folder: Path, names: list[str]) -> None:
    """Take damaged parts out of a cache, so that their pictures are made again."""
    with filelock.FileLock(folder / ".manifest.lock"):
        manifest = read_manifest(folder)
        for name in names:
            manifest["parts"].pop(name, None)
            (folder / name).unlink(missing_ok=True)
        write_json(folder / "manifest.json", manifest)


def mend(folder: Path, every_byte: bool, report: Report | None = None) -> list[str]:
    """Take out the parts that are gone, cut or another's; with `every_byte` also changed ones."""
    if not (folder / "manifest.json").exists():
        return []
    manifest = read_manifest(folder)
    wrong = {}
    for name in manifest["parts"]:
        try:
            open_part(folder / name, part_record(manifest, name))
        except InputError as error:
            wrong[name] = str(error).removesuffix(MEND).rstrip()
    for name in verify(folder) if every_byte else ():
        wrong.setdefault(name, f"{folder / name}: other bytes than were written.")
    if wrong:
        _take_out(folder, list(wrong))
        for said in wrong.values() if report else ():
            report(f"{said} Its pictures are made again.")
    return list(wrong)


def pooled(
    backbone: Backbone, pictures: Pictures, form: Form, wanted: Container[str]
) -> dict[str, tuple[Float[Tensor, "n channels grid grid"], Float[Tensor, "n channels"]]]:
    """The pooled tokens of a batch of pictures, by view, of the views wanted."""
    device = next(backbone.parameters(), torch.empty(0)).device
    pixels = torch.from_numpy(pictures).to(device)
    low = form.precision == "bfloat16"
    out = {}
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
        for view, (local, global_) in zip(backbone.views, backbone.stream(pixels), strict=True):
            if view.name in wanted:
                out[view.name] = pool(local, global_, form)
    return out


@dataclass
class _Run:
    """One extraction."""

    backbone: Backbone
    read_pictures: ReadPictures
    digests: list[str]  # of all rows
    form: Form
    batch: int
    bar: tqdm
    report: Report | None
    told: bool = False  # the forecast of time

    def folder(self, view: View) -> Path:
        return cache_folder(view, self.form)

    def missing(self, rows: list[int]) -> dict[str, list[int]]:
        """Of these rows, those that each view lacks."""
        out = {}
        for view in self.backbone.views:
            there = known(self.folder(view))
            out[view.name] = [r for r in rows if self.digests[r] not in there]
        return {name: some for name, some in out.items() if some}

    def do(self, rows: list[int], wait: bool) -> bool:
        """Make one chunk's parts; False if another writer is at it and we don't wait."""
        while lacking := self.missing(rows):
            views = {v.name: v for v in self.backbone.views}
            parts = {
                name: Growing(
                    views[name],
                    self.form,
                    self.folder(views[name]),
                    [self.digests[r] for r in some],
                )
                for name, some in sorted(lacking.items())
            }
            with ExitStack() as locks:
                try:
                    for part in parts.values():
                        part.path.parent.mkdir(parents=True, exist_ok=True)
                        lock = filelock.FileLock(part.path.with_suffix(".lock"))
                        locks.enter_context(lock.acquire(timeout=-1 if wait else 0))
                except filelock.Timeout:
                    return False
                if self.missing(rows) == lacking:
                    self.fill(parts, lacking)
                    self.bar.update(len(set(itertools.chain(*lacking.values()))))
                    return True
        return True

    def fill(self, parts: dict[str, Growing], lacking: dict[str, list[int]]) -> None:
        """Make the missing tokens of a chunk, a batch at a time."""
        for part in parts.values():
            part.open()
        rows = sorted(set(itertools.chain(*lacking.values())))
        batches = [rows[i : i + self.batch] for i in range(0, len(rows), self.batch)]
        begun = min(part.batches for part in parts.values())
        for part in parts.values():
            part.batches = begun
        pending: Future | None = None
        with ThreadPoolExecutor(1) as writer:
            for some in batches[begun:]:
                started = time.perf_counter()
                made = self.tokens(some, set(parts))
                if pending:
                    pending.result()
                pending = writer.submit(self.write, parts, lacking, some, made)
                self.forecast(time.perf_counter() - started, len(some))
            if pending:
                pending.result()
        for part in parts.values():
            part.finish()

    def tokens(
        self, rows: list[int], wanted: set[str]
    ) -> dict[str, tuple[Float[Tensor, "n channels grid grid"], Float[Tensor, "n channels"]]]:
        """The pooled tokens of a batch, by view."""
        return pooled(self.backbone, self.read_pictures(np.array(rows)), self.form, wanted)

    def write(
        self,
        parts: dict[str, Growing],
        lacking: dict[str, list[int]],
        rows: list[int],
        made: dict[str, tuple[Tensor, Tensor]],
    ) -> None:
        """Add a batch to the part of each view."""
        for name, part in parts.items():
            place = {r: i for i, r in enumerate(lacking[name])}
            mine = [i for i, r in enumerate(rows) if r in place]
            if not mine:
                part.add(0, None)
                continue
            local, global_ = (t[mine] for t in made[name])
            names = [self.digests[rows[i]] for i in mine]
            try:
                part.add(place[rows[mine[0]]], stored(part.view, local, global_, names))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise InputError(
                        f"{part.path}: the disk is full. What was made before is kept: free some"
                        " space, or set BRAINMAPS_DATA to a larger disk, and run again."
                    ) from error
                raise

    def forecast(self, seconds: float, pictures: int) -> None:
        """Say once how long the rest will take at this pace."""
        if self.report and not self.told:
            self.told = True
            left = (self.bar.total - self.bar.n - pictures) * seconds / pictures
            unit = f"{left / 3600:.1f} h" if left >= 3600 else f"{left / 60:.1f} min"
            self.report(
                f"{self.backbone.name}: {pictures / seconds:.1f} pictures a second; about {unit}."
            )


def batch_size(backbone: Backbone, pictures: Pictures) -> int:
    """How many pictures at once keep the unpooled tokens of a view in bounds, by one picture's."""
    device = next(backbone.parameters(), torch.empty(0)).device
    with torch.inference_mode():
        local, _ = next(iter(backbone.stream(torch.from_numpy(pictures[:1]).to(device))))
    return int(np.clip(BATCH_BYTES // max(sum(t.nbytes for t in local), 1), 1, MOST_AT_ONCE))


def tidy(folder: Path) -> None:
    """Remove what is under way of pictures that are all there by now, and locks of what is done."""
    there = known(folder).keys()
    for lock in (folder / "under_way").glob("*.lock"):
        part = lock.with_suffix(".safetensors")
        try:
            with filelock.FileLock(lock).acquire(timeout=0):
                if not part.exists() or set(pictures_under_way(part)) <= there:
                    for path in (part, lock.with_suffix(".json"), lock):
                        path.unlink(missing_ok=True)
        except filelock.Timeout:
            continue  # another process is at it


def _chunks(rows: list[int], size: int) -> Iterator[list[int]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def extract(
    backbone: Backbone,
    read_pictures: ReadPictures,
    digests: list[str],
    form: Form = DEFAULT,
    batch: int | None = None,
    report: Report | None = None,
    every_byte: bool = False,
) -> list[Tokens]:
    """The tokens of all pictures, of each view: those in the cache are read, the others made.

    `read_pictures(rows)` gives the pixels of the pictures whose sha256 are `digests[rows]`.
    `batch`: pictures at once; by default as many as keep memory in bounds, at most 16.
    `report`: called with what is to be done, how large and how long, and with what was damaged.
    `every_byte`: also hash the parts that are there, and make again what differs.

    Raises:
        InputError: if the disk is too small, or tokens are not finite.
    """
    folders = [cache_folder(view, form) for view in backbone.views]
    for folder in folders:
        mend(folder, every_byte, report)
    first: dict[str, int] = {}
    for row, picture in enumerate(digests):
        first.setdefault(picture, row)
    rows = list(first.values())  # each picture once
    views = backbone.views
    lacking = [sum(digests[r] not in known(f) for r in rows) for f in folders]
    if todo := max(lacking, default=0):
        sizes = [row_bytes(view, form) for view in views]
        need = sum(n * size for n, size in zip(lacking, sizes, strict=True))
        what = f"the token cache of {backbone.name}"
        require_space(features_root(), need, what)
        if report:
            report(f"{backbone.name}: tokens of {todo:,} pictures are made, {need / 1e9:,.3f} GB.")
        batch = batch or batch_size(backbone, read_pictures(np.array(rows[:1])))
        per_chunk = max(1, PART_BYTES // max(sizes))
        if per_chunk > batch:
            per_chunk -= per_chunk % batch
        with tqdm(
            total=todo, desc=f"tokens of {backbone.name}", unit="picture", disable=None
        ) as bar:
            run = _Run(backbone, read_pictures, digests, form, batch, bar, report)
            left = [c for c in _chunks(rows, per_chunk) if not run.do(c, wait=False)]
            for chunk in left:  # that another process is at
                run.do(chunk, wait=True)
        for folder in folders:
            tidy(folder)
    return [read_tokens(folder, digests) for folder in folders]
