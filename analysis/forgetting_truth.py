"""What fine-tuning must do, where that is known: on the network that simulated responses are of.

    told = teachers("sim01", "small")
    told.predicted, told.lost       # per vertex: what is lost of its response by truth; of R²
    planted_grid("small")

A simulated vertex reads known channels of known layers of the teacher. Of the tuned teacher it
would read something else: 1 - r² of the two, over test pictures, is what truth says is lost to who
keeps reading the same. A fit is made anew and may find it elsewhere, so it can lose less; but where
more is lost by truth, more must be lost by fits.

The layer grid has a truth of its own: tasks whose labels are planted in one layer of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn

from analysis import metrics
from analysis.alignment import patches_of, roi_sums
from analysis.backbones import load_backbone
from analysis.features import Tokens
from analysis.finetune import global_tokens, head_grid
from analysis.fit import Fit
from analysis.forgetting import GRID, NETWORKS, Page
from analysis.labelled import Labelled, drawn_set
from analysis.learner import Tuning
from analysis.lessons import Lesson
from analysis.readings import AREAS, PATCHES, PICTURES, Draws, truth_of
from analysis.simulate import TEACHER
from analysis.sweep import get_fits, sized
from analysis.truth import Truth, noiseless, token_standard
from analysis.tuning_figures import truth_panels
from analysis.verdicts import Measured

LEADING = (
    6  # principal components of a layer's tokens, of which a planted task's direction is drawn
)
# The teacher costs three times as much as the page's other networks, and its accuracy is not asked
TASK, TUNING = "colour", Tuning(epochs=2, rates=(3e-4,))


class Remembered(nn.Module):
    """A network's tokens by row of picture, as the network would give them."""

    def __init__(self, tokens: Tokens):
        super().__init__()
        self.tokens = tokens

    def forward(self, rows: Int[Tensor, " batch"]) -> tuple[list[Tensor], list[Tensor]]:
        local, global_ = self.tokens[rows.numpy()]
        widths = self.tokens.widths
        return list(local.split(widths, 1)), list(global_.split(widths, 1))


def read_from(
    truth: Truth,
    tokens: Tokens,
    standard_on: Int[np.ndarray, " n"],
    at: Int[np.ndarray, " picture"],
) -> Float[np.ndarray, "picture vertex"]:
    """Each vertex's response without noise, if it reads what truth says of these tokens."""
    network = Remembered(tokens)
    standard = token_standard(network, torch.from_numpy(standard_on))
    return noiseless(truth, network, standard, torch.from_numpy(at))


@dataclass(frozen=True)
class Told:
    """What tuning the teacher takes from each vertex."""

    task: str
    before: Fit
    after: Fit
    predicted: Float[np.ndarray, " vertex"]  # 1 - r² of what truth reads
    lost: Float[np.ndarray, " vertex"]  # R² before less after
    ceiling: Float[np.ndarray, " vertex"]  # of R²

    def _means(self, names: Sequence[str]) -> tuple[list[str], Float[np.ndarray, "draw roi 2"]]:
        """All vertices and ROIs: the share of the ceiling lost by truth and by fits, by draws."""
        subject = self.before.subject
        masks = metrics.regions(subject.rois, names, len(subject.vertices))
        values = np.stack([self.ceiling * self.predicted, self.lost, self.ceiling], 1)
        values = np.where(np.isfinite(values).all(1)[:, None], values, 0)
        sums = roi_sums(values, patches_of(subject.coordinates), masks)
        return list(masks), sums[..., :2] / sums[..., 2:]

    def table(self) -> pd.DataFrame:
        """A row per ROI: what is lost by truth and by fits, intervals over patches of cortex."""
        names, means = self._means(AREAS)
        low, high = metrics.quantiles(means[1:])
        return pd.DataFrame(
            {
                "ROI": names,
                "by truth": means[0, :, 0],
                "found": means[0, :, 1],
                "low": low[:, 1],
                "high": high[:, 1],
            }
        )

    def agreement(self) -> Measured:
        """Rank correlation over ROIs of what is lost by truth and by fits, over patches."""
        names, means = self._means(AREAS)
        areas = means[:, [i for i, name in enumerate(names) if name in AREAS]]
        draws = [metrics.rank_correlation(*each.T) for each in areas]
        return Measured.of(np.array(draws), PATCHES)


def lessons(subject: str) -> list[Lesson]:
    """The teacher tuned to a task; none for a person, who has no truth."""
    return [Lesson(TEACHER, TASK, tuning=TUNING)] if subject.startswith("sim") else []


def teachers(subject: str, size: str, seed: int = 0) -> "Told | None":
    """What truth says of the teacher before and after; None for a person."""
    tuned = [lesson.names for lesson in lessons(subject)]
    if not tuned:
        return None
    wanted = dict(enumerate([{"backbone": TEACHER}, *tuned]))
    return told(TASK, *get_fits(wanted, subject=subject, seed=seed, **sized(size)).values())


def told(task: str, before: Fit, after: Fit) -> Told:
    """What truth says of two fits, of the teacher and of the tuned teacher."""
    truth, split = truth_of(before.subject), before.split
    a, b = (read_from(truth, f.tokens, split.train, split.test) for f in (before, after))
    # both are standardised over the pictures
    shared = np.square((a * b).mean(0))
    scores = [f.scores("test") for f in (before, after)]
    lost = scores[0].r2 - scores[1].r2
    return Told(task, before, after, 1 - shared, lost, scores[0].ceiling)


def beyond(told: Told, page: Page) -> tuple[str, Measured]:
    """The network of the page that loses most R² in the same task, and how much more the teacher
    loses: its tokens made the responses, so truth says that it must lose most.
    """
    lost = {
        network: lost_by(
            page.readings[network, ""].scores, page.readings[network, told.task].scores
        )
        for network in page.networks
    }
    most = max(lost, key=lambda network: lost[network][0])
    own = lost_by(told.before.scores("test"), told.after.scores("test"))
    return most, Measured.of(own - lost[most], PICTURES)


def lost_by(before: metrics.Scores, after: metrics.Scores) -> Draws:
    """R² lost over all vertices, by drawn test pictures."""
    known = np.isfinite(before.r2) & np.isfinite(after.r2)
    return before.samples(known) - after.samples(known)


def planted_set(
    data: Labelled, token: Float[Tensor, "picture width"], layer: int, seed: int = 0
) -> Labelled:
    """The same pictures with labels that lie in one layer: the side of a drawn plane.

    The plane goes through the median, along a random mixture of the leading components.
    """
    own = token.double().numpy()
    own = (own - own.mean(0)) / own.std(0)
    components = np.linalg.svd(own, full_matrices=False)[0][:, :LEADING]
    side = components @ np.random.default_rng((seed, layer)).normal(size=LEADING)
    return replace(
        data,
        name=f"planted in layer {layer}",
        classes=("below", "above"),
        labels=(side > np.median(side)).astype(int),
    )


def planted_grid(size: str, seeds: int = 2) -> pd.DataFrame:
    """Accuracy of a head on each layer, of tasks whose labels lie in one layer.

    A row per planted layer, seed and layer, counted from 1; of the page's first network.
    """
    data = drawn_set("shape")
    tokens = global_tokens(load_backbone(next(iter(NETWORKS[size].values()))), data)
    rows = []
    for planted, token in enumerate(tokens, 1):
        for seed in range(seeds):
            task = planted_set(data, token, planted, seed)
            found = head_grid(tokens, task, replace(GRID["small"], seed=seed))
            rows += [
                {"planted": planted, "seed": seed, "layer": layer, "accuracy": accuracy}
                for layer, accuracy in enumerate(found, 1)
            ]
    return pd.DataFrame(rows)


def peaks(grid: pd.DataFrame) -> pd.DataFrame:
    """A row per planted layer: the layer of the highest mean accuracy, and how high it is."""
    means = grid.groupby(["planted", "layer"])["accuracy"].mean().unstack()
    return pd.DataFrame(
        {
            "planted": means.index,
            "found": means.idxmax(1).to_numpy(),
            "accuracy": means.max(1).to_numpy(),
        }
    )


def truth_text(told: Told | None, planted: pd.DataFrame, page: Page) -> str:
    """Whether who must lose most does, where, and whether the grid finds planted layers."""
    found = peaks(planted)
    right = int((found["planted"] == found["found"]).sum())
    grid = (
        f"**Layer grid.** Of {len(found)} tasks whose labels were planted in one layer of"
        f" `{NETWORKS[page.size][page.networks[0]]}`, the grid peaks at that layer for {right}."
        " Neighbours come near it: each layer adds to what it was given."
    )
    if told is None:
        return f"What these vertices read is not known: forgetting has no truth here.\n\n{grid}"
    agree, table = told.agreement(), told.table().set_index("ROI")
    before, after = (f.score("test").value for f in (told.before, told.after))
    most, more = beyond(told, page)
    ranks = (
        "as truth says it must"
        if more.low > 0
        else "most, as truth says, though not beyond its interval"
        if more.value > 0
        else "not most, as truth says it must"
    )
    return (
        f"**Who forgets.** Responses were made from `{TEACHER}`; the other networks' layers never"
        f" had anything to do with them, and what a tuned one offers is as good as before. Tuned to"
        f" {told.task}, `{TEACHER}` goes from R² {before:.3f} to {after:.3f}: {ranks}. It loses"
        f" {more} more than {most}, which loses most of the others.\n\n"
        f"**Where.** Reading the same as ever, its vertices would lose"
        f" {100 * table.loc['all', 'by truth']:.0f} % of what noise allows; the fit, made anew,"
        f" loses {100 * table.loc['all', 'found']:.0f} %: most of it is found elsewhere. So little"
        f" is left to rank regions by: over regions the rank correlation of the two is"
        f" {agree}.\n\n{grid}"
    )


def truth_figure(told: Told | None, planted: pd.DataFrame) -> Figure:
    """What is lost in each region, by fits over by truth; and the grids of planted tasks."""
    return truth_panels(None if told is None else told.table(), planted)
