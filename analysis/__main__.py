"""The command line: `python -m analysis --help`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from analysis.files import InputError, data_root


class Commands(click.Group):
    """Commands that end bad input with one message and exit code 2, not with a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except InputError as error:
            raise click.UsageError(str(error)) from error


subject_argument = click.argument("subject")
backbone_option = click.option(
    "--backbone", default="clip-mini", show_default=True, help="A network; `backbones` lists them."
)
weights_option = click.option(
    "--weights", help="pretrained, random, or a checkpoint file. [default: pretrained where any]"
)


normalisation_option = click.option(
    "--normalisation",
    default="native",
    show_default=True,
    help="Of pictures: native, or imagenet for every network, as the authors did.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Predict visual cortex from a vision network, and map what each vertex reads of it.

    Data lie in the folder that BRAINMAPS_DATA names, or in data/ in the checkout. Each command
    makes what it needs and doesn't find; what is there is never made twice.
    """


@main.command()
@click.argument("subjects", nargs=-1)
@click.option(
    "--stimuli",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Show your own photographs: a folder of .png or .jpg files.",
)
@click.option(
    "--noise",
    type=click.Choice(["default", "nsd"]),
    default="default",
    show_default=True,
    help="Of trials: each worth ten of NSD's, or as noisy as NSD's (sim01 is then sim01-nsd).",
)
def simulate(subjects: tuple[str, ...], stimuli: Path | None, noise: str) -> None:
    """Write simulated subjects as NSD trees: all three, if none is named.

    Their truth is written beside the tree. SUBJECTS are sim01, sim02 and sim03; with -tiny or -full
    appended, of another size; then with -nsd, with NSD's noise; then with -raw, of a teacher whose
    tokens are not standardised. Who sees the photographs of a folder is called sim01@FOLDER.
    """
    from joblib import Parallel, delayed  # slow imports only where needed

    from analysis.cores import machine_cores
    from analysis.simulate import SIMULATED_SUBJECTS, name_on
    from analysis.simulate import simulate as write

    subjects = subjects or tuple(SIMULATED_SUBJECTS)
    names = [name_on(subject, stimuli, noise == "nsd") for subject in subjects]
    at_once = Parallel(min(machine_cores(), len(names)))
    written = at_once(delayed(write)(str(name), stimuli) for name in names)
    for name, made in zip(names, written, strict=True):
        click.echo(f"{name}: {'written to' if made else 'already in'} {name.tree.root}")


def _selected(
    subjects: tuple[str, ...],
    backbones: tuple[str, ...],
    sources: tuple[str, ...],
    kinds: tuple[str, ...],
    sessions: int | None,
    optional: bool,
) -> tuple:
    """The manifest, and the files that the options of `fetch` and `verify` name."""
    from analysis.manifest import data_manifest, select

    manifest = data_manifest()
    return manifest, select(manifest, subjects, kinds, backbones, sources, sessions, optional)


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """The options that name files of the manifest."""
    options = [
        click.option("--subject", "subjects", multiple=True, help="subj01, algonauts-subj01, …"),
        click.option("--backbone", "backbones", multiple=True, help="A network's weights."),
        click.option("--source", "sources", multiple=True, help="nsd, eurosat, isic2018, …"),
        click.option("--kind", "kinds", multiple=True, help="betas, labels, pictures, weights, …"),
        click.option("--sessions", type=int, help="Only the first so many of a subject."),
        click.option("--optional", is_flag=True, help="Also files that no finding needs."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _size(n_bytes: int) -> str:
    """Bytes in words, to three figures."""
    return f"{n_bytes / 1e9:,.2f} GB" if n_bytes >= 1e7 else f"{n_bytes / 1e6:,.3f} MB"


@main.command()
@selecting
@click.option("--dry-run", is_flag=True, help="List the files and their sizes; fetch nothing.")
@click.option("--accept-nsd-terms", is_flag=True, help="You have read NSD's terms and accept them.")
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="At a time.")
def fetch(dry_run: bool, accept_nsd_terms: bool, jobs: int, **named: object) -> None:
    """Fetch a subject, a network's weights, or another source's files.

    What is there is kept, what was begun goes on, and every file is verified. `--subject subj01`
    with `--kind betas` fetches only the betas.
    """
    from analysis.fetch import fetch as get
    from analysis.fetch import file_table, free_bytes

    manifest, files = _selected(**named)
    table = file_table(files)
    if dry_run:
        for row in table.itertuples():
            mark = "" if row.exact else "about "
            click.echo(f"{row.state:<8}{mark:>6}{row.bytes:>16,}  {row.file}")
    for kind, rows in [*table.groupby("kind", sort=False), ("all", table)]:
        need = _size(int(rows["bytes"].sum() - rows["present"].sum()))
        total = _size(int(rows["bytes"].sum()))
        click.echo(f"{kind:<12}{len(rows):>5} files {total:>12}   to fetch {need:>12}")
    click.echo(f"free on the disk of {data_root()}: {_size(free_bytes())}")
    if dry_run:
        return
    paths = get(manifest, files, jobs, accept_nsd_terms)
    click.echo(f"{len(paths)} files fetched to {data_root()}; all {len(files)} are there.")


@main.command()
@selecting
def verify(**named: object) -> None:
    """Read again what was fetched, and hold it against its checksum.

    Exit code 1 if a file is wrong or missing.
    """
    from analysis.fetch import verify as check

    rows = check(_selected(**named)[1])
    for row in rows[~rows["state"].isin(["right", "no checksum, size only"])].itertuples():
        click.echo(f"{row.state:<8} {row.file} {row.problem}")
    counts = rows["state"].value_counts()
    click.echo(", ".join(f"{n:,} {state}" for state, n in counts.items()))
    if counts.get("wrong", 0) or counts.get("missing", 0):
        sys.exit(1)


@main.command()
@subject_argument
@click.option("--sessions", type=int, help="The first so many; all if not given.")
def prepare(subject: str, sessions: int | None) -> None:
    """Turn a subject's session files into one array, read once.

    Done by itself where a fit needs it. Afterwards the session files may be deleted. SUBJECT is one
    of NSD's (subj01 to subj08) or simulated.
    """
    import numpy as np

    from analysis import explained
    from analysis.study import get_subject

    person = get_subject(subject, sessions=sessions)
    click.echo(
        f"{subject}: {len(person.responses):,} trials in {person.n_sessions} sessions,"
        f" {len(person.vertices):,} vertices, {person.dropped} left out (no data in some session)"
    )
    if np.bincount(person.trial_picture).max() == 3:
        again = explained.ncsnr(person.responses, person.trial_picture, person.trial_session)
        both = np.isfinite(again) & np.isfinite(person.ncsnr)
        away = np.abs(again - person.ncsnr)[both]
        same = np.corrcoef(again[both], person.ncsnr[both])[0, 1]
        click.echo(
            f"ncsnr from these trials against the file's: median difference {np.median(away):.4f},"
            f" largest {away.max():.4f}, correlation {same:.5f}"
        )


@main.command()
@subject_argument
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    default=["clip-mini"],
    show_default=True,
    help="A network; repeat for several. `backbones` lists them.",
)
@weights_option
@normalisation_option
@click.option(
    "--pooling", default="area", show_default=True, help="area, or bilinear: the paper's."
)
@click.option(
    "--grid", default=8, show_default=True, help="Local tokens are pooled to GRID x GRID."
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="float32 or bfloat16: of the network's arithmetic.",
)
@click.option(
    "--verify", is_flag=True, help="Read every byte that is there; make damaged ones anew."
)
def extract(
    subject: str,
    backbones: tuple[str, ...],
    weights: str | None,
    normalisation: str,
    verify: bool,
    **form: Any,
) -> None:
    """Cache networks' tokens of a subject's pictures.

    Says first how much there is to do. What was begun goes on at the picture where it stopped, and
    several processes share the work. SUBJECT is simulated (sim01 to sim03) or one of NSD's.
    """
    from analysis.backbones import require_backbone
    from analysis.features import Form
    from analysis.study import extract_tokens, get_subject

    for backbone in backbones:
        require_backbone(backbone)  # a wrong name is told before anything is made
    kept, person = Form(**form), get_subject(subject)
    for backbone in backbones:
        made = extract_tokens(person, backbone, weights, kept, verify, normalisation)
        for name, tokens in made.items():
            norms = tokens.statistics().local_norm  # kept with the cache from here on
            click.echo(
                f"{name}: tokens of {len(tokens):,} pictures in {tokens.folder}; mean length of a"
                f" local token {norms.min():.3g} to {norms.max():.3g} over layers"
            )


@main.command()
@subject_argument
@backbone_option
@weights_option
@normalisation_option
@click.option(
    "--recipe",
    default="fast",
    show_default=True,
    help="fast; paper: Appendix E.3's steps; released: with the released code's penalty on scale;"
    " check: a few steps, to see that all works.",
)
@click.option(
    "--model",
    "variant",
    default="factortopy",
    show_default=True,
    help="Or paper: of the paper's width, tokens as they come, no receptive-field size; or one of"
    " Table 16: without-topology, no-layer, no-space, no-scale, no-size, three-samples,"
    " class-token, patch-token, gnet; of one layer: layer-3, class-token-layer-3; or ridge.",
)
@click.option("--seed", default=0, show_default=True, help="Of the weights and batches.")
@click.option("--sessions", type=int, help="Read the first so many.")
@click.option("--average", is_flag=True, help="Train on means over repeats, not on single trials.")
@click.option("--split", "scheme", help="shared, repository or algonauts. [default: by data]")
@click.option("--trials", type=int, help="Train on so many trials: 300, 1000, 3000, …")
@click.option(
    "--region", multiple=True, help="V1, FFA-1, streams/ventral, …; several: their union."
)
@click.option("--mesh", "n_surface", type=int, help="10242: fsaverage5; 40962: fsaverage6.")
@click.option(
    "--space",
    type=click.Choice(["inflated", "sphere"]),
    default="inflated",
    show_default=True,
    help="The surface whose coordinates place the vertices.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another value of a setting of model or recipe: channels=128, soup=test, …",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Cores that it holds; fits wait for free ones. [default: all, or OMP_NUM_THREADS]",
)
def fit(
    subject: str,
    backbone: str,
    weights: str | None,
    recipe: str,
    seed: int,
    changes: tuple[str, ...],
    threads: int | None,
    **data,
) -> None:
    """Train FactorTopy, or a rival, on a subject, print its score.

    SUBJECT is simulated (sim01 to sim03) or one of NSD's (subj01 to subj08). A fit that is there
    is read, not made again. A run that was stopped goes on from its last epoch.
    """
    import torch

    from analysis.study import get_fit

    if threads:
        torch.set_num_threads(threads)
    if wrong := [text for text in changes if "=" not in text]:
        raise InputError(f"--set {wrong[0]}: expected NAME=VALUE.")
    changed = dict(text.split("=", 1) for text in changes)
    made = get_fit(
        subject, backbone, recipe=recipe, seed=seed, weights=weights, changes=changed, **data
    )
    click.echo(f"fit: {made.folder}")
    click.echo(made.score("test"))
    click.echo(made.score("test", normalised=True))


fit_argument = click.argument("fit", metavar="FIT")


@main.command()
@fit_argument
@click.argument("pictures", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="predicted",
    show_default=True,
    help="The folder that is written.",
)
@click.option("--weights", help="The network's checkpoint, where it lies elsewhere than it did.")
@click.option("--skip", is_flag=True, help="Leave out pictures that can't be read.")
@click.option("--each", is_flag=True, help="A map of every picture too, not of their mean alone.")
@click.option("--channels", is_flag=True, help="Each area's top channels in every picture too.")
def predict(
    fit: str,
    pictures: tuple[Path, ...],
    out: Path,
    weights: str | None,
    skip: bool,
    each: bool,
    channels: bool,
) -> None:
    """Predict responses to pictures from a saved fit, without any fMRI data.

    FIT is a fit's folder, or SUBJECT/NETWORK for the default fit of the two. PICTURES are files
    and folders; frames are pictures in a folder. Written: responses of every vertex (.npy), means
    over ROIs (.json, .csv), and their map (.png, .gii).
    """
    import pandas as pd

    from analysis.picture_channels import write_channels
    from analysis.predict import predict as write
    from analysis.saved import find_fit, load_fit

    saved = load_fit(find_fit(fit))
    made = write(saved, pictures, out, weights, skip, each)
    shown = write_channels(saved, made.pictures, out, weights) if channels else None
    for why in made.skipped.values():
        click.echo(f"left out: {why}", err=True)
    whom = f"{saved.record['subject']}{' (simulated)' if saved.simulated else ''}"
    click.echo(f"responses of {len(saved.vertices):,} vertices of {whom}: {made.out}")
    if shown is not None:
        click.echo(f"top channels: {shown}, and a sheet of each picture in {out / 'channels'}")
    click.echo(f"{len(made.pictures):,} pictures, {len(made.skipped)} left out; mean BOLD z-score:")
    click.echo(pd.DataFrame(made.rois).to_string(index=False, float_format="{:.3f}".format))


@main.command()
@fit_argument
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="maps",
    show_default=True,
    help="The folder that is written.",
)
@click.option("--full", is_flag=True, help="On fsaverage's 163,842 vertices, by the nearest.")
def export(fit: str, out: Path, full: bool) -> None:
    """Write a fit's maps for other tools, as GIFTI and MGH surface files.

    Score, noise ceiling, layers, scale and place of every vertex, per hemisphere, and maps.json
    that says what each file is. FIT is a fit's folder, or SUBJECT/NETWORK for the default fit.
    """
    from analysis.maps import export as write
    from analysis.saved import find_fit, load_fit

    saved = load_fit(find_fit(fit))
    files = write(saved, out, full)
    whom = f"{saved.record['subject']}{' (simulated)' if saved.simulated else ''}"
    click.echo(f"{len(files)} files of {whom}: {out}")


@main.command()
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="As JSON, all of each card.")
def backbones(names: tuple[str, ...], as_json: bool) -> None:
    """List the networks and what the paper says of them.

    NAMES: only these; timm:NAME, open_clip:ARCHITECTURE/TAG and MODULE:FUNCTION too.
    """
    import json
    from dataclasses import asdict

    from analysis.backbones import CARDS, card_of

    cards = {name: card_of(name) for name in names or CARDS}
    if as_json:
        from analysis.manifest import data_manifest

        rows = {
            name: asdict(card) | {"widths": card.widths, "cache_bytes": card.cache_bytes}
            for name, card in cards.items()
        }
        for file in data_manifest().files:
            if file.backbone in rows:
                rows[file.backbone].setdefault("checkpoint", file.url)
        click.echo(json.dumps(rows, indent=1))
    else:
        click.echo(
            f"{'name':<16} {'layers':>6} {'width':>9} {'input':>5} {'patch':>5} {'parameters':>13}"
            f" {'MB/picture':>10} licence"
        )
        for name, card in cards.items():
            widths = sorted(set(card.widths))
            width = str(widths[0]) if len(widths) == 1 else f"{widths[0]}-{widths[-1]}"
            click.echo(
                f"{name:<16} {card.layers:>6} {width:>9} {card.input_size:>5}"
                f" {card.patch or '-':>5} {card.parameters:>13,}"
                f" {card.cache_bytes / 1e6:>10.3f} {card.licence}"
            )


study_argument = click.argument(
    "study", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)


@main.command()
@study_argument
@click.option("--jobs", is_flag=True, help="List the jobs, and which of them are there.")
@click.option("--quiet", is_flag=True, help="Draw it up; print nothing.")
def study(study: Path, jobs: bool, quiet: bool) -> None:
    """Draw up the jobs of a study, and say what they are expected to take.

    STUDY is a file such as workflow/studies/default.yaml. `make study STUDY=default` runs it.
    """
    from analysis.jobs import plan_file, read_plan, write_plan
    from analysis.study_file import read_study

    path = plan_file(study)
    if not path.exists():
        from analysis.plan import draw_up  # slow imports only where needed

        write_plan(path, draw_up(read_study(study)))
    if quiet:
        return
    from analysis.study_cost import said

    plan = read_plan(path)
    for job in plan.jobs.values() if jobs else ():
        click.echo(f"{'there' if job.there() else 'to do':<6} {job.name}")
    click.echo(said(plan))


@main.command()
@study_argument
@click.argument("job")
@click.option("--threads", type=click.IntRange(1), help="Cores that it holds. [default: all]")
@click.option("--accept-nsd-terms", is_flag=True, help="You have read NSD's terms and accept them.")
def make(study: Path, job: str, threads: int | None, accept_nsd_terms: bool) -> None:
    """Make one job of a study: what it names is read if it is there, else made.

    What the workflow runs for each stage up to the fits. JOB is a name that `study` lists.
    """
    from analysis.jobs import get_plan

    jobs = get_plan(study).jobs
    if job not in jobs:
        raise InputError(f"job {job!r}: not of {study}; `study --jobs` lists those that are.")
    import torch

    from analysis.making import make as make_job

    if threads:
        torch.set_num_threads(threads)
    make_job(jobs[job], accept_nsd_terms)


@main.command()
@click.argument("pictures")
@backbone_option
@weights_option
@normalisation_option
@click.option("--layer", type=int, help="That the head reads, from 1. [default: the last]")
@click.option("--method", default="whole", show_default=True, help="whole; head: no more; or lora.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs.")
@click.option("--epochs", type=int, default=6, show_default=True)
@click.option("--batch", type=int, default=16, show_default=True, help="Pictures at a time.")
@click.option(
    "--rate", "rates", type=float, multiple=True, help="To try; repeat. [default: by method]"
)
@click.option("--side", type=int, default=224, show_default=True, help="Pixels files come to.")
def finetune(
    pictures: str,
    backbone: str,
    weights: str | None,
    normalisation: str,
    seeds: int,
    side: int,
    **how: Any,
) -> None:
    """Fine-tune a vision transformer to labelled pictures.

    PICTURES: colour or shape, which are drawn; isic or eurosat, as `fetch --source` leaves them; or
    a folder with one of pictures for each class. What comes of it is a network by the name that is
    printed, which every other command takes as its --backbone.
    """
    from analysis.finetune import tune
    from analysis.forgetting import accuracy_of
    from analysis.labelled import get_labelled
    from analysis.learner import Tuning

    data = get_labelled(pictures, side)
    sizes = ", ".join(f"{len(rows):,} {part}" for part, rows in data.parts.items())
    click.echo(f"{data.name}: {len(data.classes)} classes; {sizes} pictures")
    made = []
    for seed in range(seeds):
        made.append(tune(backbone, data, Tuning(seed=seed, **how), weights, normalisation))
        click.echo(f"{made[-1].name}: accuracy {made[-1].accuracy:.3f}; {made[-1].recipe}")
    found, chance = accuracy_of(made), data.chance
    click.echo(
        f"accuracy on test pictures: {found}, interval over {found.over}; chance {chance:.3f}"
    )


@main.command()
def status() -> None:
    """Show what is there, how large and how old.

    Subjects, pictures, token caches and fits in the data folder.
    """
    from analysis.status import overview

    rows = overview()
    click.echo(f"data folder: {data_root()}")
    click.echo(rows.to_string(index=False) if len(rows) else "nothing there yet")


if __name__ == "__main__":
    sys.exit(main(prog_name="python -m analysis"))
