"""The files that can be fetched, `data_manifest.yaml`, checked and expanded to single files.

files = select(data_manifest(), subjects=["subj01"], sessions=3)
"""

import itertools
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from analysis.files import HEMIS, InputError, data_root

MANIFEST = Path(__file__).with_name("data_manifest.yaml")
Kind = Literal[
    "betas", "ncsnr", "labels", "transforms", "design", "pictures", "archive", "weights"
]  # fmt: skip
Checksum = Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{6,32}|sha256:[0-9a-f]{8,64})$")]
Address = Annotated[str, Field(pattern=r"^https?://\S+[^/\s]$")]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Table):
    """Where files come from, and on what terms."""

    title: str
    base: Address
    folder: str  # in the data folder
    terms: Address
    meaning: str  # of the terms, in plain words
    accept: bool = False  # the terms have to be accepted before anything is fetched
    manual: str = ""  # how to get the files where no program can
    prefix: str = ""  # of the names of its subjects in this project


class DataFile(Table):
    """One file, or a row of the table that stands for several."""

    source: str
    kind: Kind
    path: str  # below the source's folder; of a single file below the data folder
    n_bytes: Annotated[int, Field(gt=0)]
    exact: bool = False  # whether n_bytes is the published size, not an estimate
    checksum: Checksum | None = None  # may be the first digits only
    url: Address | None = None
    names: list[str] = []
    optional: bool = False  # no finding needs it
    backbone: str | None = None
    subject: str | None = None
    session: int | None = None

    @property
    def place(self) -> Path:
        return data_root() / self.path


class Manifest(Table):
    """All sources and files."""

    sessions: dict[str, Annotated[int, Field(ge=1)]]  # of each subject
    sources: dict[str, Source]
    files: list[DataFile]


def _single_files(row: DataFile, manifest: Manifest) -> list[DataFile]:
    """The files that one row of the table stands for."""
    source = manifest.sources[row.source]
    subjects = manifest.sessions if "{subject}" in row.path else {None: 1}
    hemis = HEMIS if "{hemi}" in row.path else (None,)
    files = []
    for subject, hemi, name in itertools.product(subjects, hemis, row.names or [None]):
        n_sessions = subjects[subject] if "{session" in row.path else 0
        for session in range(1, n_sessions + 1) if n_sessions else [None]:
            path = row.path.format(subject=subject, hemi=hemi, name=name, session=session)
            update = {
                "path": f"{source.folder}/{path}",
                "url": row.url or f"{source.base}/{path}",
                "subject": subject and source.prefix + subject,
                "session": session,
            }
            files.append(row.model_copy(update=update))
    return files


@cache
def data_manifest(path: Path = MANIFEST) -> Manifest:
    """The manifest, each of its files single."""
    manifest = Manifest.model_validate(yaml.safe_load(path.read_text("utf8")))
    files = [file for row in manifest.files for file in _single_files(row, manifest)]
    return manifest.model_copy(update={"files": files})


def _require_known(what: str, names: Sequence[str], known: Collection[str | None]) -> None:
    """Raise InputError with the known names unless all are among them."""
    for name in names:
        if name not in known:
            expected = ", ".join(sorted(k for k in known if k))
            raise InputError(f"{what} {name!r}: expected one of {expected}.")


def select(
    manifest: Manifest,
    subjects: Sequence[str] = (),
    kinds: Sequence[str] = (),
    backbones: Sequence[str] = (),
    sources: Sequence[str] = (),
    sessions: int | None = None,
    optional: bool = False,
) -> list[DataFile]:
    """The files of subjects (with those their source shares), backbones and sources.

    `kinds`: only of these; alone, of everything. `sessions`: the first so many of a subject's.
    `optional`: also files that no finding needs.

    Raises:
        InputError: for an unknown name, or if nothing is selected.
    """
    _require_known("subject", subjects, {f.subject for f in manifest.files})
    _require_known("backbone", backbones, {f.backbone for f in manifest.files})
    _require_known("source", sources, manifest.sources)
    _require_known("kind", kinds, get_args(Kind))
    if sessions is not None and sessions < 1:
        raise InputError(f"sessions={sessions}: expected 1 or more.")
    shared = {f.source for f in manifest.files if f.subject in subjects}
    everything = bool(kinds) and not (subjects or backbones or sources)
    files = [
        f
        for f in manifest.files
        if (
            everything
            or f.source in sources
            or f.backbone in backbones
            or (f.subject in subjects if f.subject else f.source in shared)
        )
        and (not kinds or f.kind in kinds)
        and (f.session is None or sessions is None or f.session <= sessions)
        and (optional or not f.optional)
    ]
    if not files:
        raise InputError(
            "nothing selected: name a subject (--subject subj01), a network (--backbone clip-l), a"
            " source (--source eurosat) or a kind (--kind labels)."
        )
    return files
