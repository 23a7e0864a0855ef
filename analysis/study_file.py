"""A study: the YAML that says which subjects, pages and fits a run of the workflow makes.

study = read_study(Path("workflow/studies/default.yaml"))
"""

import ast
import functools
import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from analysis.files import ROOT, InputError, require

NOTEBOOKS = ROOT / "notebooks"
MEND = "See workflow/studies/ for examples."
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n:tags: \[[^\]]*\bparameters\b.*?\n(.*?)^```", re.M | re.S
)
Whole = Annotated[int, Field(ge=0, strict=True)]


@functools.cache
def parameters_of(page: str) -> dict[str, Any]:
    """The parameters of a notebook and their values in it.

    Raises:
        InputError: for a page that is not there, or one without a cell of parameters.
    """
    path = NOTEBOOKS / f"{page}.md"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("*.md")))
        raise InputError(f"page {page!r}: expected one of {names}.")
    found = CELL.search(path.read_text("utf8"))
    if not found:
        raise InputError(f"{path}: no cell tagged parameters; expected one. Add the tag.")
    body = ast.parse(found[1]).body
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign)
    }


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Grid(_Strict):
    """Fits of every network by every model, number of trials and seed."""

    about: str = ""  # which table or figure they are for
    backbones: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Whole], Field(min_length=1)] = [0]
    models: Annotated[list[str], Field(min_length=1)] = ["factortopy"]
    trials: Annotated[list[Whole | None], Field(min_length=1)] = [None]
    size: str | None = None  # the study's, if not given
    recipe: str | None = None  # the study's, if not given
    subjects: list[str] | None = None  # the study's, if not given


class Study(_Strict):
    """What a run of the workflow makes, for each of its subjects."""

    name: str  # the file's
    subjects: Annotated[list[str], Field(min_length=1)]
    size: Literal["small", "paper"]
    recipe: str = "fast"
    pages: dict[str, dict[str, Any]] = {}  # parameters that differ from the notebook's
    fits: list[Grid] = []  # beside those that the pages ask for
    book: bool = False  # build it at the end

    @model_validator(mode="before")
    @classmethod
    def _bare_pages(cls, given: Any) -> Any:
        """A page without parameters of its own is a bare name, or a list of names is given."""
        pages = given.get("pages") if isinstance(given, dict) else None
        if isinstance(pages, list):
            given = given | {"pages": {page: {} for page in pages}}
        elif isinstance(pages, dict):
            given = given | {"pages": {k: {} if v is None else v for k, v in pages.items()}}
        return given

    def parameters(self, page: str, subject: str) -> dict[str, Any]:
        """All parameters of a page: the notebook's, with the study's size, recipe and its own."""
        known = parameters_of(page)
        study = {"size": self.size, "recipe": self.recipe}
        common = {k: v for k, v in study.items() if k in known}
        return known | common | self.pages[page] | {"subject": subject}

    def is_book_page(self, page: str, subject: str) -> bool:
        """Whether this page of this subject is the book's own, which it would make itself."""
        return self.parameters(page, subject) == parameters_of(page)


def _said(error: Any) -> str:
    """One complaint of the schema: where, what was found, what was expected."""
    where = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    if error["type"] == "missing":
        return f"{where}: not given"
    return f"{where}: found {error['input']!r}; {error['msg'].lower()}"


def read_study(path: Path) -> Study:
    """The study that a file describes.

    Raises:
        InputError: naming each setting that is unknown, missing or of another kind.
    """
    require(path, "a study", MEND)
    try:
        given = yaml.safe_load(path.read_text("utf8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error}). {MEND}") from error
    if not isinstance(given, dict):
        raise InputError(f"{path}: found {type(given).__name__}; expected settings by name. {MEND}")
    try:
        study = Study(**({"name": path.stem} | given))
    except ValidationError as error:
        complaints = "; ".join(_said(e) for e in error.errors())
        raise InputError(f"{path}: {complaints}. {MEND}") from error
    for page, own in study.pages.items():
        try:
            unknown = own.keys() - parameters_of(page).keys()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if unknown:
            names = ", ".join(parameters_of(page))
            raise InputError(
                f"{path}: pages.{page}: no such parameter: {', '.join(sorted(unknown))}; expected"
                f" some of {names}."
            )
    return study


@functools.cache
def package_digest() -> str:
    """The sha256 of the whole package: what the text of a page may depend on."""
    package, hashed = ROOT / "analysis", hashlib.sha256()
    files = [*package.rglob("*.py"), *package.rglob("*.json"), *package.glob("templates/*")]
    for file in sorted(files):
        hashed.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return hashed.hexdigest()
