"""Ask for a subject, its tokens or a fit by name: what is there is read, what isn't is made.

fit = get_fit("sim01", "clip-mini")
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analysis.algonauts import load_algonauts
from analysis.backbones import (
    Backbone,
    View,
    load_backbone,
    network_identity,
    require_backbone,
)
from analysis.extraction import extract, mend
from analysis.features import (
    DEFAULT,
    Form,
    Tokens,
    folder_of,
    known,
    read_tokens,
)
from analysis.files import InputError, NSDTree, data_root, fits_root, folder_name
from analysis.fit import Fit, fit_folder, fit_key, fit_model
from analysis.lessons import Lesson, lesson_of
from analysis.model import ModelConfig, named_model
from analysis.nsd import MASK, SESSIONS, read_subject
from analysis.own import load_own
from analysis.prepare import Prepared
from analysis.progress import say
from analysis.receipts import note, receipt
from analysis.recipe import Recipe
from analysis.recipes import DEFAULT_RECIPE, named_recipe, with_changes
from analysis.ridge import RidgeFit, ridge_fit, ridge_key
from analysis.saved import Network
from analysis.simulate import is_complete, parse_name, simulate
from analysis.splits import Split, default_scheme, limit, split_pictures
from analysis.subject import Space, Subject, average_repeats, shuffled


def get_subject(
    name: str,
    space: Space = "inflated",
    sessions: int | None = None,
    average: bool = False,
    region: Sequence[str] = (),
    n_surface: int | None = None,
) -> Subject:
    """A subject by name, read from the data folder; a simulated one is made if need be.

    `subj01`..`subj08`: NSD's; `algonauts-subj01`..: of the Algonauts 2023 challenge; `own-NAME`:
    the reader's own folder; `sim01`..`sim03`: simulated.

    `region`: ROIs whose union is read in place of nsdgeneral; `n_surface`: vertices per hemisphere
    of a coarser mesh nested in fsaverage. These and `sessions`: of NSD and simulated subjects.

    Raises:
        InputError: for an unknown name, or a tree that is missing or damaged.
    """
    of_tree = name in SESSIONS or name.startswith("sim")
    if of_tree:
        subject = _of_tree(name, space, sessions, region, n_surface)[0]
    elif name.startswith("algonauts-"):
        subject = load_algonauts(name, data_root() / "algonauts2023", space)
    elif name.startswith("own-"):
        subject = load_own(name, data_root() / "own")
    else:
        raise InputError(
            f"subject {name!r}: expected {', '.join(SESSIONS)} of NSD, algonauts-subj01 to"
            " algonauts-subj08, own-NAME, or a simulated one: sim01, sim02 or sim03, with -tiny or"
            " -full for another size."
        )
    given = {"sessions": sessions, "region": tuple(region) or None, "n_surface": n_surface}
    if not of_tree and (said := [f"{k}={v}" for k, v in given.items() if v is not None]):
        raise InputError(f"{', '.join(said)}: {name} is read whole; leave it out.")
    return average_repeats(subject) if average else subject


def get_prepared(name: str, sessions: int | None = None) -> Prepared:
    """The prepared responses of one of NSD's subjects or a simulated one, made if need be."""
    return _of_tree(name, "inflated", sessions)[1]


def _of_tree(
    name: str,
    space: Space,
    sessions: int | None,
    region: Sequence[str] = (),
    n_surface: int | None = None,
) -> tuple[Subject, Prepared]:
    """A subject read from an NSD tree; a simulated one is written first if it is not there."""
    where = (sessions, space, region or MASK, n_surface)
    if name in SESSIONS:
        return read_subject(name, NSDTree(data_root() / "nsd"), *where)
    parsed = parse_name(name)
    if not is_complete(name):
        say(f"{name}: not there, or of older code; simulated now.")
        simulate(name)
    note(simulated_receipt(name), [parsed.record, parsed.truth, parsed.tree.stimuli])
    subject, prepared = read_subject(parsed.subject, parsed.tree, *where)
    return dataclasses.replace(subject, name=name), prepared


def simulated_receipt(name: str) -> Path:
    """Tells that a simulated subject is there."""
    return receipt("simulated", name, {"name": name})


def _files_of(subject: Subject) -> list[Path]:
    """What was prepared of a subject and is read from there; nothing of one read otherwise."""
    where = getattr(subject.responses, "filename", None)
    return sorted(Path(where).parent.glob("*.[jn]*")) if where else []


def _parts_of(tokens: Tokens) -> list[Path]:
    """The files that tokens are read from."""
    there = known(tokens.folder)
    return sorted({tokens.folder / there[d][0] for d in tokens.digests})


def extract_tokens(
    subject: Subject,
    backbone: str,
    weights: str | None = None,
    form: Form = DEFAULT,
    every_byte: bool = False,
    normalisation: str = "native",
) -> dict[str, Tokens]:
    """A backbone's tokens of all of a subject's pictures, of each of its views by name."""
    network = load_backbone(backbone, weights, normalisation)
    return _tokens_of(subject, network, form, every_byte)


def _tokens_of(
    subject: Subject, network: Backbone, form: Form, every_byte: bool = False
) -> dict[str, Tokens]:
    network = network.to("cuda" if torch.cuda.is_available() else "cpu")
    made = extract(
        network, subject.pictures, subject.picture_digests, form, report=say, every_byte=every_byte
    )
    return dict(zip([view.name for view in network.views], made, strict=True))


def the_view(network: Backbone) -> View:
    """A network's only view.

    Raises:
        InputError: naming its views, if there are several.
    """
    if len(network.views) > 1:
        names = ", ".join(view.name for view in network.views)
        raise InputError(
            f"backbone {network.name!r}: several sets of layers; expected one of them: {names}."
        )
    return network.views[0]


def get_tokens(
    subject: Subject,
    backbone: str,
    weights: str | None = None,
    form: Form = DEFAULT,
    normalisation: str = "native",
) -> Tokens:
    """A backbone's tokens of all of a subject's pictures, from the cache or made.

    Raises:
        InputError: for a backbone of several views, with their names.
    """
    identity = network_identity(backbone, weights, normalisation)
    folder = folder_of(backbone, identity, form)
    mend(folder, every_byte=False, report=say)
    if known(folder).keys() >= set(subject.picture_digests):
        return read_tokens(folder, subject.picture_digests)
    network = load_backbone(backbone, weights, normalisation)
    the_view(network)
    (tokens,) = _tokens_of(subject, network, form).values()
    return tokens


@dataclass(frozen=True)
class Wanted:
    """A fit, by names.

    `variant`: the model: of `model.VARIANTS` (the paper's own is paper); of one layer, counted from
    1: layer-3, class-token-layer-3; or ridge, to which neither recipe nor seed means anything.
    `changes`: other values of fields of `ModelConfig` or `Recipe`, by name.
    `scheme`: the split, by name (`splits.SCHEMES`); by default the data set's own.
    `trials`: train on so many trials only. `shuffle`: a control, whose responses are in another
    order. `tuned`: the network is tuned first, as `Lesson.names` has it. The others are
    `get_subject`'s and `load_backbone`'s.
    """

    subject: str
    backbone: str
    recipe: str = DEFAULT_RECIPE
    seed: int = 0
    split_seed: int = 0
    variant: str = "factortopy"
    weights: str | None = None
    normalisation: str = "native"
    sessions: int | None = None
    average: bool = False
    scheme: str | None = None
    trials: int | None = None
    space: Space = "inflated"
    region: Sequence[str] = ()
    n_surface: int | None = None
    changes: Mapping[str, Any] | None = None
    shuffle: bool = False
    tuned: Mapping[str, Any] | None = None

    def configured(self) -> tuple[ModelConfig | None, Recipe]:
        """The model, None for ridge, and how it is trained.

        Raises:
            InputError: for an unknown name.
        """
        steps, changes = named_recipe(self.recipe, self.seed), self.changes or {}
        if self.variant == "ridge":
            if changes:
                raise InputError(f"{', '.join(changes)}: ridge has no such setting; leave it out.")
            return None, steps
        return with_changes(named_model(self.variant), steps, changes)

    @property
    def who(self) -> tuple:
        """What `get_subject` is asked for."""
        return (
            self.subject,
            self.space,
            self.sessions,
            self.average,
            tuple(self.region),
            self.n_surface,
        )

    @property
    def lesson(self) -> Lesson | None:
        """What the network is tuned to; None if it is not."""
        if self.tuned is None:
            return None
        return lesson_of(self.backbone, self.tuned, self.weights, self.normalisation)

    @property
    def network(self) -> str:
        """A name of the network, whatever is taken from it; of a tuned one, that of its receipt."""
        return self.lesson.receipt().stem if self.lesson else self.backbone.partition("@")[0]

    @property
    def what(self) -> tuple:
        """What decides the tokens."""
        what = (self.subject, self.sessions, self.backbone, self.weights, self.normalisation)
        return (*what, self.network) if self.lesson else what

    def subject_receipt(self) -> Path:
        """Tells that the subject is there and prepared; means over repeats are of the same."""
        who = dataclasses.replace(self, average=False).who
        return receipt("subject", self.subject, {"who": who})

    def tokens_receipt(self) -> Path:
        """Tells that the tokens are there."""
        return receipt("tokens", f"{self.subject}-{self.backbone}", {"what": self.what})

    def receipt(self) -> Path:
        """Tells that the fit is there; the same for all names of one fit.

        Raises:
            InputError: for an unknown name.
        """
        model, steps = self.configured()
        names = {"who": self.who, "what": self.what, "trials": self.trials, "split": self.scheme}
        names |= {"split_seed": self.split_seed, "shuffle": self.shuffle, "model": None}
        if model is not None:
            names |= {"model": dataclasses.asdict(model), "recipe": dataclasses.asdict(steps)}
        return receipt("fit", f"{self.subject}-{self.backbone}", names)


class Study:
    """Subjects and tokens, read once, and fits of them."""

    def __init__(self):
        self.people: dict[tuple, Subject] = {}
        self.caches: dict[tuple, Tokens] = {}
        self.tuned: dict[str, str] = {}  # names of tuned networks, by those that are asked for

    def person(self, wanted: Wanted) -> Subject:
        """Whom a fit is of."""
        if wanted.who not in self.people:
            self.people[wanted.who] = person = get_subject(*wanted.who)
            if files := _files_of(person):
                note(wanted.subject_receipt(), files)
        return self.people[wanted.who]

    def named(self, wanted: Wanted) -> Wanted:
        """The same of a tuned network by the name that it has; it is tuned if it is not there."""
        if wanted.lesson is None:
            return wanted
        if wanted.network not in self.tuned:
            self.tuned[wanted.network] = wanted.lesson.tuned().name
        own = {"weights": None, "normalisation": "native", "tuned": None}
        return dataclasses.replace(wanted, backbone=self.tuned[wanted.network], **own)

    def data(self, wanted: Wanted) -> tuple[Subject, Tokens, Split]:
        """What a fit is made of, made if it is not there."""
        w = wanted
        require_backbone(w.backbone)  # a wrong name is told before anything is made
        person = self.person(w)
        what = (w.who, w.what)
        if what not in self.caches:
            n = self.named(w)
            tokens = get_tokens(person, n.backbone, n.weights, normalisation=n.normalisation)
            self.caches[what] = tokens
            note(w.tokens_receipt(), _parts_of(tokens), [tokens.folder / "manifest.json"])
        split = split_pictures(person, w.split_seed, scheme=w.scheme or default_scheme(person))
        if w.trials is not None:
            split = limit(split, person, w.trials, w.split_seed)
        return shuffled(person) if w.shuffle else person, self.caches[what], split

    def missing(self, wanted: Wanted) -> bool:
        """Whether a fit has to be made; its subject and tokens are there then."""
        model, steps = wanted.configured()
        person, tokens, split = self.data(wanted)
        if model is None:
            key = ridge_key(person, tokens, split)
        else:
            key = fit_key(person, tokens, model, steps, split)
        backbone = self.named(wanted).backbone
        return not (fit_folder(wanted.subject, backbone, key) / "fit.json").exists()

    def fit(self, wanted: Wanted) -> Fit | RidgeFit:
        """The fit, read if it is there, else made."""
        model, steps = wanted.configured()
        person, tokens, split = self.data(wanted)
        named = self.named(wanted)
        if model is None:
            made = ridge_fit(person, named.backbone, tokens, split)
        else:
            if self.missing(wanted):
                say(
                    f"{named.subject}, {named.backbone}: no such fit is there; trained now,"
                    f" {named.recipe} recipe."
                )
            network = Network(named.weights, named.normalisation)
            made = fit_model(person, named.backbone, tokens, model, steps, split, network)
        files = (path for path in made.folder.iterdir() if path.suffix in (".json", ".safetensors"))
        note(wanted.receipt(), files)
        return made


def get_fit(subject: str, backbone: str, **options: Any) -> Fit | RidgeFit:
    """A fit by names, each thing that it needs made if it is not there; `options`: see `Wanted`.

    Raises:
        InputError: for an unknown name, or data that can't be used.
    """
    return Study().fit(Wanted(subject, backbone, **options))


def fit_if_there(
    subject: str, backbone: str, recipe: str = DEFAULT_RECIPE, seed: int = 0
) -> Fit | None:
    """The fit that `get_fit` would give, if it is already made; None if it isn't.

    Raises:
        InputError: for an unknown recipe, or a fit or cache that is damaged.
    """
    model, steps = Wanted(subject, backbone, recipe, seed).configured()
    if not any((fits_root() / subject).glob(f"{folder_name(backbone)}-*/fit.json")):
        return None
    person = get_subject(subject)
    folder, digests = folder_of(backbone, network_identity(backbone)), person.picture_digests
    if set(digests) - known(folder).keys():
        return None
    tokens = read_tokens(folder, digests)
    split = split_pictures(person, 0, scheme=default_scheme(person))
    key = fit_key(person, tokens, model, steps, split)
    if not (fit_folder(subject, backbone, key) / "fit.json").exists():
        return None
    return fit_model(person, backbone, tokens, model, steps, split)
