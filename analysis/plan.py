"""A study drawn up as jobs: which subjects, tokens and fits its pages need, and in what order.

    plan = draw_up(read_study(Path("workflow/studies/default.yaml")))

A job is there when the receipts of what it makes stand, whoever made it: a page, a command, a job.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from analysis.backbones import card_of
from analysis.files import ROOT, data_root, digest, folder_name
from analysis.jobs import Job, Plan, Stage
from analysis.labelled import DRAWN_PARTS, SHARES
from analysis.learner import METHODS
from analysis.lessons import Lesson
from analysis.manifest import data_manifest
from analysis.nsd import SESSIONS
from analysis.page_needs import ALONE, LAST, NEEDS, OTHERS, TUNES
from analysis.receipts import receipt
from analysis.simulate import parse_name
from analysis.stimuli import SIZES
from analysis.study import Wanted, simulated_receipt
from analysis.study_cost import RATES, STEPS, fit_seconds, picture_seconds, tuning_seconds
from analysis.study_file import NOTEBOOKS, Study, package_digest
from analysis.sweep import sized

BATCH_SECONDS = 60.0  # of one core: fits of so long together are one job, which loads data once
TOGETHER = 3  # miniature networks run by one job
SHARE_SECONDS = 7200.0  # of a GPU: jobs that take longer share their pictures with others
FULL = 37_984  # vertices of subj01; others have about as many
VERTICES = {163_842: FULL, 10_242: 2_371}  # by mesh
NSD_PICTURES, SHARED = 10_000, 1_000
# Labelled pictures that are fetched, and of which source; others are drawn.
LABELLED = {"isic": ("isic2018", 10_015), "eurosat": ("eurosat", 27_000)}


def _name(*parts: str, of: object) -> str:
    return folder_name("-".join([*parts, digest(of)[:8]]))


def _relative(*paths: Any) -> list[str]:
    return [str(path.relative_to(data_root())) for path in paths]


def _vertices(wanted: Wanted) -> int:
    """About how many vertices a subject has."""
    if wanted.subject in SESSIONS:
        full = 163_842
    elif wanted.subject.startswith("sim"):
        full = SIZES[parse_name(wanted.subject).size].n_surface
    else:
        return FULL
    mesh = wanted.n_surface or full
    return VERTICES.get(mesh, int(FULL * mesh / 163_842))


def _pictures(wanted: Wanted) -> int:
    """About how many pictures a subject saw."""
    if not wanted.subject.startswith("sim"):
        share, of = (wanted.sessions or SESSIONS.get(wanted.subject, 40)) / 40, NSD_PICTURES
    else:
        spec = SIZES[parse_name(wanted.subject).size]
        share, of = (wanted.sessions or spec.sessions) / spec.sessions, spec.pictures
    return int(of * (1 - (1 - min(share, 1.0)) ** 3))  # each is shown three times, at random


def _fit_seconds(wanted: Wanted) -> float:
    model, recipe = wanted.configured()
    channels = 128 if model is None else model.channels
    return fit_seconds(
        wanted.variant,
        min(recipe.max_steps, STEPS.get(wanted.recipe, recipe.max_steps)),
        recipe.batch,
        _vertices(wanted),
        card_of(wanted.backbone).layers,
        channels,
    )


def _order(wanted: Wanted) -> tuple:
    """Those of one subject, and of one network, beside each other; tuned ones after all others."""
    return wanted.subject, wanted.sessions or 0, wanted.tuned is not None, wanted.backbone


def _big(wanted: Wanted) -> bool:
    """Whether a fit is of a size for a GPU of its own."""
    return _fit_seconds(wanted) > 3600


class _Drawing:
    """A plan under way."""

    def __init__(self, study: Study):
        self.study = study
        self.jobs: dict[str, Job] = {}
        self.makers: dict[str, list[str]] = {}  # of each receipt, the jobs
        self.files = data_manifest().files
        self.fetched = {file.backbone for file in self.files}
        # networks, with what is taken from them, whose tokens of the shared pictures are counted
        self.seen: set[tuple[str, str]] = set()
        self.running: dict[tuple[str, str], list[str]] = {}  # by subject and network, the jobs

    def add(self, stage: Stage, name: str, makes: list[str], **more: Any) -> str:
        job = Job(name=f"{stage}-{name}", stage=stage, makes=makes, **more)
        self.jobs[job.name] = job
        for made in makes:
            self.makers.setdefault(made, []).append(job.name)
        return job.name

    def subject(self, name: str) -> list[str]:
        """The job that simulates or fetches a subject; none for what the reader brought."""
        if name in SESSIONS:
            made = _relative(receipt("fetched", name, {"subject": name}))
            if made[0] not in self.makers:
                n_bytes = 79e9 * SESSIONS[name] / 40
                self.add("fetch", name, made, about={"subject": name}, n_bytes=n_bytes)
        elif name.startswith("sim"):
            made = _relative(simulated_receipt(name))
            spec = SIZES[parse_name(name).size]
            n_bytes = 8 * spec.n_surface * spec.sessions * spec.trials_per_session
            if made[0] not in self.makers:
                self.add(
                    "simulate", name, made, about={"subject": name},
                    seconds=3.0 + n_bytes / 2e7, n_bytes=n_bytes,
                )  # fmt: skip
        else:
            return []
        return self.makers[made[0]]

    def weights(self, backbone: str) -> list[str]:
        """The job that fetches a network's weights; none for one whose weights are drawn."""
        card = card_of(backbone)
        name = backbone.partition("@")[0].partition(",")[0]
        if card.tag is None or name not in self.fetched:
            return []
        made = _relative(receipt("fetched", name, {"backbone": name}))
        if made[0] not in self.makers:
            about, n_bytes = {"backbone": name}, 4.0 * card.parameters
            self.add("fetch", name, made, about=about, n_bytes=n_bytes)
        return self.makers[made[0]]

    def labelled(self, task: str) -> list[str]:
        """The job that fetches labelled pictures; none for those that are drawn."""
        if task not in LABELLED:
            return []
        source, _ = LABELLED[task]
        made = _relative(receipt("fetched", source, {"source": source}))
        if made[0] not in self.makers:
            n_bytes = float(sum(f.n_bytes for f in self.files if f.source == source))
            self.add("fetch", source, made, about={"source": source}, n_bytes=n_bytes)
        return self.makers[made[0]]

    def tuned(self, lesson: Lesson) -> list[str]:
        """The job that tunes a network."""
        made = _relative(lesson.receipt())
        if made[0] not in self.makers:
            card, how = card_of(lesson.backbone), lesson.tuning
            _, count = LABELLED.get(lesson.task, ("", 0))
            parts = [int(count * share) for share in SHARES] if count else DRAWN_PARTS
            tried = len(how.rates or METHODS[how.method])
            seconds = tuning_seconds(card, parts, how.epochs, tried, how.method, how.layer)
            self.add(
                "finetune", _name(lesson.backbone, lesson.task, of=made), made,
                needs=[*self.weights(lesson.backbone), *self.labelled(lesson.task)],
                about=lesson.names, seconds=seconds, gpu=seconds > 3600,
                memory=4.0 + 60 * card.parameters / 1e9, n_bytes=4.0 * card.parameters,
            )  # fmt: skip
        return self.makers[made[0]]

    def prepared(self, wanted: Wanted) -> list[str]:
        """The job that prepares a subject's responses."""
        first = self.subject(wanted.subject)
        if not first:
            return []
        (made,) = _relative(wanted.subject_receipt())
        if made not in self.makers:
            sessions = wanted.sessions or SESSIONS.get(wanted.subject, 40)
            self.add(
                "prepare", _name(wanted.subject, of=made), [made], needs=first,
                about={"wanted": [_plain(dataclasses.replace(wanted, average=False))]},
                seconds=RATES.session * sessions, n_bytes=4 * 750 * sessions * _vertices(wanted),
            )  # fmt: skip
        return self.makers[made]

    def tokens(self, wanted: Iterable[Wanted]) -> None:
        """The jobs that run networks: views of one together, and miniatures some together."""
        groups: dict[Any, dict[str, Wanted]] = {}
        for w in wanted:
            family, _, view = w.backbone.partition("@")
            small = card_of(w.backbone).data.startswith("none")
            key = (
                w.subject,
                w.sessions,
                w.weights,
                w.normalisation,
                (small and not view) or (w.network if w.tuned else family),
                w.tuned is not None,  # which wait for more
            )
            (made,) = _relative(w.tokens_receipt())
            groups.setdefault(key, {}).setdefault(made, w)
        # those of all sessions first: fewer are among them
        for (*_, kind, _), some in sorted(groups.items(), key=lambda item: -(item[0][1] or 1000)):
            each = list(some.items())
            step = TOGETHER if kind is True else len(each)
            for i in range(0, len(each), step):
                self._extract(dict(each[i : i + step]))

    def _extract(self, some: dict[str, Wanted]) -> None:
        first = next(iter(some.values()))
        networks = {w.network: w for w in some.values()}
        pictures, card = _pictures(first), card_of(first.backbone)
        cards = [card_of(w.backbone.partition("@")[0]) for w in networks.values()]
        seconds = sum(pictures * picture_seconds(each) for each in cards)
        new = pictures
        if first.subject in SESSIONS:  # the shared pictures' tokens are of the first who needs them
            own = first.backbone, first.network
            new = pictures - (SHARED if own in self.seen else 0)
            self.seen.add(own)
        n_bytes = new * sum(card_of(w.backbone).cache_bytes for w in some.values())
        seconds *= new / pictures
        shares = math.ceil(seconds / RATES.gpu / SHARE_SECONDS)
        name = _name(first.subject, first.backbone.partition("@")[0], of=list(some))
        needs = dict.fromkeys(n for w in some.values() for n in self.prepared(w))
        for network, w in networks.items():
            before = self.running.get((first.subject, network), [])
            made = self.tuned(w.lesson) if w.lesson else self.weights(network)
            needs |= dict.fromkeys([*made, *before])
        for share in range(shares):
            job = self.add(
                "extract", name + (f"-{share + 1}" if shares > 1 else ""), list(some),
                needs=list(needs),
                about={"wanted": [_plain(w) for w in some.values()]}, seconds=seconds / shares,
                gpu=seconds > 3600, memory=2.0 + 12 * card.parameters / 1e9,
                n_bytes=n_bytes / shares,
            )  # fmt: skip
            for network in networks:
                self.running.setdefault((first.subject, network), []).append(job)

    def fits(self, wanted: Iterable[Wanted], alone: bool) -> None:
        """The jobs that train: several short fits together, each long one by itself."""
        batch: dict[str, Wanted] = {}
        took = 0.0
        for w in sorted(wanted, key=_order):
            (made,) = _relative(w.receipt())
            if made in self.makers or made in batch:
                continue
            seconds = _fit_seconds(w)
            mixed = batch and next(iter(batch.values())).who != w.who
            if batch and (took + seconds > BATCH_SECONDS or mixed or alone):
                self._fit(batch, took, alone)
                batch, took = {}, 0.0
            batch[made] = w
            took += seconds
        if batch:
            self._fit(batch, took, alone)

    def _fit(self, batch: dict[str, Wanted], seconds: float, alone: bool) -> None:
        some = list(batch.values())
        needs = dict.fromkeys(
            n for w in some for n in self.makers[_relative(w.tokens_receipt())[0]]
        )
        needs |= dict.fromkeys(n for w in some for n in self.prepared(w))
        sizes = []
        for w in some:
            model, _ = w.configured()
            channels = 128 if model is None else model.channels
            sizes.append(4 * channels * (_vertices(w) + 2 * sum(card_of(w.backbone).widths)))
        read = {w.what: _pictures(w) * card_of(w.backbone).cache_bytes for w in some}
        held = 4 * 750 * (some[0].sessions or SESSIONS.get(some[0].subject, 8)) * _vertices(some[0])
        self.add(
            "fit", _name(some[0].subject, some[0].backbone, of=list(batch)), list(batch),
            needs=list(needs), about={"wanted": [_plain(w) for w in some]}, seconds=seconds,
            gpu=any(map(_big, some)), whole=alone, memory=2.0 + (held + 20 * max(sizes)) / 1e9,
            n_bytes=sum(sizes), n_read=sum(read.values()),
        )  # fmt: skip

    def page(self, page: str, subject: str) -> None:
        """The job that runs a notebook."""
        parameters = self.study.parameters(page, subject)
        needs = {n: None for n in self.subject(subject)}
        for asks in (some[page] for some in (ALONE, NEEDS) if page in some):
            wanted = asks(parameters)
            needs |= dict.fromkeys(
                n for w in wanted for n in self.makers[_relative(w.receipt())[0]]
            )
        for lesson in TUNES[page](parameters) if page in TUNES else ():
            needs |= dict.fromkeys(self.tuned(lesson))
        for other in parameters.get(OTHERS.get(page, ""), []):
            needs |= dict.fromkeys(self.subject(other))
        if page in LAST:
            needs |= {n: None for n in self.jobs if n.startswith(f"page-{subject}-")}
        names = {
            "text": (NOTEBOOKS / f"{page}.md").read_text("utf8"),
            "parameters": parameters,
            "package": package_digest(),
        }
        own = self.study.is_book_page(page, subject)
        big = self.study.size == "paper" and not subject.startswith("sim")
        self.add(
            "page", f"{subject}-{page}", _relative(receipt("page", f"{subject}-{page}", names)),
            needs=list(needs), n_bytes=5e6,
            seconds=RATES.paper_page if big else RATES.page, memory=32.0 if big else 4.0,
            about={"page": page, "parameters": parameters, "own": own},
        )  # fmt: skip

    def book(self) -> None:
        """The job that builds the book of all pages."""
        pages = [j for j in self.jobs.values() if j.stage == "page"]
        texts = {p.name: p.read_text("utf8") for p in sorted((ROOT / "book").glob("*.*"))}
        made = receipt("page", "book", {"pages": [j.makes for j in pages], "texts": texts})
        self.add(
            "book", self.study.name, _relative(made), needs=[j.name for j in pages],
            seconds=60.0, n_bytes=1e8,
        )  # fmt: skip


def _plain(wanted: Wanted) -> dict[str, Any]:
    """A fit's names that are not as by default."""
    return {
        f.name: value
        for f in dataclasses.fields(Wanted)
        if (value := getattr(wanted, f.name)) != f.default
    }


def _of_grids(study: Study) -> list[Wanted]:
    wanted = []
    for grid in study.fits:
        options = sized(grid.size or study.size, grid.recipe or study.recipe)
        for subject in grid.subjects or study.subjects:
            for backbone in grid.backbones:
                for variant in grid.models:
                    changes = {"changes": None} if variant == "ridge" else {}
                    own = {"subject": subject, "backbone": backbone, "variant": variant}
                    wanted += [
                        Wanted(**{**options, **own, **changes, "seed": seed, "trials": n})
                        for seed in grid.seeds
                        for n in grid.trials
                    ]
    return wanted


def draw_up(study: Study) -> Plan:
    """All jobs of a study.

    Raises:
        InputError: for an unknown subject, network, model, recipe or parameter.
    """
    drawing = _Drawing(study)
    wanted, alone = _of_grids(study), []
    for page in study.pages:
        for subject in study.subjects:
            parameters = study.parameters(page, subject)
            for asks, found in ((ALONE, alone), (NEEDS, wanted)):
                found += asks[page](parameters) if page in asks else []
    for w in (*alone, *wanted):
        w.configured()
        drawing.prepared(w)
    drawing.tokens([*alone, *wanted])
    drawing.fits(alone, alone=True)
    drawing.fits(wanted, alone=False)
    for page in sorted(study.pages, key=lambda page: page in LAST):
        for subject in study.subjects:
            drawing.page(page, subject)
    if study.book:
        drawing.book()
    return Plan(study.name, drawing.jobs)
