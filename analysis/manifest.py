"""`data_manifest.yaml`: every file the project can use, checked and expanded to single files.

manifest = read_manifest()
entries = select(manifest, subjects=["subj01"], sessions=3)
"""

import difflib
import itertools
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from analysis.files import ROOT, InputError, require

Kind = Literal[
    "betas", "ncsnr", "labels", "transforms", "surfaces", "design", "pictures", "behaviour",
    "archive", "weights",
]  # fmt: skip
Finding = Literal[
    "brain_score", "alignment", "model_size", "fine_tuning", "channels", "limited_data"
]
KINDS: tuple[str, ...] = get_args(Kind)
FINDINGS: tuple[str, ...] = get_args(Finding)
DIGITS = {"md5": 32, "sha256": 64}
MEND = "Mend the manifest, or take it from the project again."
Text = Annotated[str, Field(min_length=1)]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Checksum(Model):
    """What is published of a file's checksum."""

    algorithm: Literal["md5", "sha256"]
    value: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
    prefix: bool = False  # only its first digits are published

    @model_validator(mode="after")
    def _has_its_digits(self) -> "Checksum":
        digits, whole = len(self.value), DIGITS[self.algorithm]
        if not (6 <= digits < whole if self.prefix else digits == whole):
            raise ValueError(f"{digits} digits; {self.algorithm} has {whole}, a prefix 6 or more")
        return self


def _inside(path: str) -> str:
    """The path, if it can't leave its root."""
    parts = PurePosixPath(path).parts
    if not path.strip() or "\\" in path or ":" in path.replace("{session:02d}", "") or "\0" in path:
        raise ValueError(f"{path!r} is empty, or has a backslash or a colon")
    if path.startswith(("/", "~")) or ".." in parts:
        raise ValueError(f"{path!r} leads out of its root")
    return path


Inside = Annotated[str, AfterValidator(_inside)]


class Source(Model):
    """Where files come from, and on what terms."""

    title: Text
    base: Annotated[str, Field(pattern=r"^(s3|https)://[^\s]+[^/\s]$")]
    root: Inside  # folder in the data folder
    licence: Text
    terms: Annotated[str, Field(pattern=r"^https://\S+$")]
    meaning: Text  # of the terms, in plain words
    citation: Text
    splits: Text | None = None  # how labelled pictures are divided
    accept: bool = False  # the terms have to be accepted before anything is fetched
    manual: bool = False  # can't be fetched by a program; `how` says what to do
    how: str | None = None

    @model_validator(mode="after")
    def _says_how(self) -> "Source":
        if self.manual and not self.how:
            raise ValueError("a manual source has to say how")
        return self


class Line(Model):
    """One line of the manifest: a file, or several that differ in what `each` names."""

    source: Text
    kind: Kind
    path: Inside
    bytes: Annotated[int, Field(gt=0)]
    each: dict[Text, Literal["all"] | Annotated[list[Text], Field(min_length=1)]] = {}
    url: Annotated[str, Field(pattern=r"^(s3|https)://\S+$")] | None = None
    about: bool = False
    checksum: Checksum | None = None
    backbone: Text | None = None
    findings: Literal["all"] | list[Finding] = []
    required: bool = True
    unpack: bool = False

    @model_validator(mode="after")
    def _is_consistent(self) -> "Line":
        try:
            found = {name for _, name, _, _ in string.Formatter().parse(self.path) if name}
        except ValueError as error:
            raise ValueError(f"path {self.path!r}: {error}") from error
        if found != set(self.each):
            raise ValueError(f"path names {sorted(found)}, each {sorted(self.each)}")
        if wrong := {k for k, v in self.each.items() if v == "all"} - {"subject", "session"}:
            raise ValueError(f"each: {sorted(wrong)} can't be 'all'")
        if self.each.get("session") and self.each.get("subject") != "all":
            raise ValueError("each: sessions are those of all subjects")
        if self.url and self.each:
            raise ValueError("url: of one file only")
        if (self.kind == "weights") != (self.backbone is not None):
            raise ValueError("backbone: named by weights, and only by them")
        return self


class Document(Model):
    version: Literal[1]
    subjects: dict[Text, Annotated[int, Field(ge=1, le=99)]]
    sources: dict[Text, Source]
    files: Annotated[list[Line], Field(min_length=1)]


@dataclass(frozen=True)
class Entry:
    """One file."""

    path: Path  # below the data folder
    url: str
    source: str
    kind: str
    subject: str | None
    session: int | None
    backbone: str | None
    n_bytes: int
    about: bool  # n_bytes is no published size
    checksum: Checksum | None
    findings: tuple[str, ...]
    required: bool
    unpack: bool


@dataclass(frozen=True)
class Manifest:
    """All sources and files."""

    sources: dict[str, Source]
    entries: tuple[Entry, ...]


def _line_of(node: yaml.Node | None, where: Sequence[str | int]) -> int:
    """The line, from 1, of the field at `where`, or of the nearest thing above it."""
    line = node.start_mark.line + 1 if node else 1
    for step in where:
        following = None
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            following = node.value[step] if step < len(node.value) else None
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    following, line = value, key.start_mark.line + 1
        if following is None:
            break
        node = following
        if isinstance(node, yaml.MappingNode | yaml.SequenceNode) and isinstance(step, int):
            line = node.start_mark.line + 1
    return line


def _field(where: Sequence[str | int]) -> str:
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in where).lstrip(".")


def _expanded(document: Document, line: Line) -> list[Entry]:
    """The files of one line."""
    source = document.sources[line.source]
    names = [n for n in line.each if n != "session"]
    choices = [list(document.subjects) if line.each[n] == "all" else line.each[n] for n in names]
    found = []
    for values in itertools.product(*choices):
        chosen: dict[str, Any] = dict(zip(names, values, strict=True))
        count = document.subjects[chosen["subject"]] if "session" in line.each else 0
        for session in range(1, count + 1) if count else [None]:
            path = line.path.format(**chosen, session=session)
            subject = chosen.get("subject")
            found.append(
                Entry(
                    path=Path(source.root) / path,
                    url=line.url or f"{source.base}/{path}",
                    source=line.source,
                    kind=line.kind,
                    subject=f"algonauts-{subject}"
                    if subject and line.source == "algonauts2023"
                    else subject,
                    session=session,
                    backbone=line.backbone,
                    n_bytes=line.bytes,
                    about=line.about,
                    checksum=line.checksum,
                    findings=FINDINGS if line.findings == "all" else tuple(line.findings),
                    required=line.required,
                    unpack=line.unpack,
                )
            )
    return found


def read_manifest(path: Path = ROOT / "data_manifest.yaml") -> Manifest:
    """The manifest, checked.

    Raises:
        InputError: with the file, the line, the field, and what was expected.
    """
    require(path, "the manifest of data", MEND)
    try:
        text = path.read_text("utf8")
        node = yaml.compose(text, yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not YAML ({error}). {MEND}".replace("\n", " ")) from error

    def refuse(where: Sequence[str | int], why: str) -> InputError:
        return InputError(f"{path}, line {_line_of(node, where)}: {_field(where)}: {why}. {MEND}")

    try:
        document = Document.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        found = first["input"] if isinstance(first["input"], str | int | float) else ""
        raise refuse(first["loc"], f"{first['msg']}; found {found!r}") from error
    entries, seen = [], {}
    for i, line in enumerate(document.files):
        if line.source not in document.sources:
            known = ", ".join(document.sources)
            raise refuse(("files", i, "source"), f"{line.source!r}; expected one of {known}")
        for entry in _expanded(document, line):
            if entry.path in seen:
                other = f"{entry.path} is that of files[{seen[entry.path]}] too"
                raise refuse(("files", i, "path"), other)
            seen[entry.path] = i
            entries.append(entry)
    return Manifest(document.sources, tuple(entries))


def _check(what: str, wanted: Sequence[str], known: set[str]) -> None:
    """Pass if all that is wanted is known.

    Raises:
        InputError: with what is known, the nearest first.
    """
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 3, 0.5)
            rest = [k for k in sorted(known) if k not in near]
            raise InputError(f"{what} {name!r}: expected one of {', '.join([*near, *rest])}.")


def select(
    manifest: Manifest,
    subjects: Sequence[str] = (),
    kinds: Sequence[str] = (),
    backbones: Sequence[str] = (),
    sources: Sequence[str] = (),
    sessions: int | None = None,
    optional: bool = False,
) -> list[Entry]:
    """The files of subjects (with those their source shares), backbones and sources.

    `kinds`: only of these; alone, of everything. `sessions`: the first so many of a subject's.
    `optional`: also files that no finding needs.

    Raises:
        InputError: for an unknown name, or if nothing is selected.
    """
    every = manifest.entries
    _check("subject", subjects, {e.subject for e in every if e.subject})
    _check("backbone", backbones, {e.backbone for e in every if e.backbone})
    _check("source", sources, set(manifest.sources))
    _check("kind", kinds, set(KINDS))
    if sessions is not None and sessions < 1:
        raise InputError(f"sessions={sessions}: expected 1 or more.")
    shared = {e.source for e in every if e.subject in subjects}
    anything = not (subjects or backbones or sources) and bool(kinds)
    found = [
        e
        for e in every
        if (
            anything
            or e.source in sources
            or (e.subject in subjects if e.subject else e.source in shared)
            or (e.backbone is not None and e.backbone in backbones)
        )
        and (not kinds or e.kind in kinds)
        and (e.session is None or sessions is None or e.session <= sessions)
        and (e.required or optional)
    ]
    if not found:
        raise InputError(
            "nothing selected: name a subject (--subject subj01), a network (--backbone clip-l), a"
            " source (--source eurosat) or a kind (--kind labels)."
        )
    return found
