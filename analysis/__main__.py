"""The command line: `python -m analysis --help`."""

import sys

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


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Predict visual cortex from a vision network, and map what each vertex reads of it.

    Data lie in the folder that BRAINMAPS_DATA names, or in data/ beside the package. Each command
    makes what it needs and doesn't find; what is there is never made twice.
    """


@main.command()
@subject_argument
def simulate(subject: str) -> None:
    """Write a simulated subject as an NSD tree.

    Its truth is written beside the tree. SUBJECT is sim01, sim02 or sim03; with -tiny or -full
    appended, of another size.
    """
    from analysis.simulate import parse_name, simulated_tree  # slow imports only where needed
    from analysis.simulate import simulate as write

    made = write(subject)
    _, size = parse_name(subject)
    click.echo(f"{subject}: {'written to' if made else 'already in'} {simulated_tree(size).root}")


@main.command()
@subject_argument
@backbone_option
@weights_option
def extract(subject: str, backbone: str, weights: str | None) -> None:
    """Cache a network's tokens of a subject's pictures.

    SUBJECT is simulated (sim01 to sim03) or one of NSD's (subj01 to subj08).
    """
    from analysis.backbones import card_of
    from analysis.study import get_subject, get_tokens

    card_of(backbone)  # a wrong name is told before anything is made
    tokens = get_tokens(get_subject(subject), backbone, weights)
    click.echo(f"{backbone}: tokens of {len(tokens):,} pictures in {data_root() / 'features'}")


@main.command()
@subject_argument
@backbone_option
@weights_option
@click.option(
    "--recipe",
    default="paper",
    show_default=True,
    help="paper: the paper's steps; short: for the small default subject on two cores.",
)
@click.option("--seed", default=0, show_default=True, help="Of the weights and batches.")
def fit(subject: str, backbone: str, weights: str | None, recipe: str, seed: int) -> None:
    """Train FactorTopy on a subject, print its score.

    SUBJECT is simulated (sim01 to sim03) or one of NSD's (subj01 to subj08). A fit that is there
    is read, not made again. A run that was stopped goes on from its last epoch.
    """
    import numpy as np

    from analysis.study import get_fit

    made = get_fit(subject, backbone, recipe=recipe, seed=seed, weights=weights)
    scores = made.scores("test")
    everywhere = np.isfinite(scores.r2)
    click.echo(f"fit: {made.folder}")
    click.echo(scores.over(everywhere))
    click.echo(scores.over(everywhere, normalised=True))


@main.command()
def backbones() -> None:
    """List the networks and what the paper says of them."""
    from analysis.backbones import CARDS

    for name, card in CARDS.items():
        click.echo(
            f"{name:<10} {card.title:<15} {card.layers:>2} layers x {card.width:<5}"
            f" {card.input_size}² px, patch {card.patch:<3} {card.tag or 'random weights'}"
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
