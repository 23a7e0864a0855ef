"""What the page on channels compares: clusters, early and late areas, and places; and in words.

    fits = networks("sim01", "small", [0, 1, 2])      # each network by each seed
    reads = reads_of(readings_of(fits))               # what its vertices read of its channels
    groups = clusters_of(reads)                       # numbered alike in all networks

`tops_compared` has the top channels in pictures.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pandas.io.formats.style import Styler

from analysis import evidence
from analysis.alignment import LATE, patches_of, roi_sums
from analysis.channels import agreement, channel_clusters, kernel_factor, same_colours
from analysis.files import InputError
from analysis.findings import Run
from analysis.fit import Fit
from analysis.networks_compared import truth_known
from analysis.readings import EARLY, PATCHES, Reading, read, truth_of, truth_reading
from analysis.report import DASH, plain_table, ranged
from analysis.rivals import make_model
from analysis.simulate import TEACHER
from analysis.subject import Subject
from analysis.verdicts import Judged, Measured, over_seeds

Fits = Mapping[str, Sequence[Fit]]  # by the paper's name of a network, then by seed
Readings = Mapping[str, Sequence[Reading]]
Reads = Mapping[str, Sequence[Float[np.ndarray, "vertex _"]]]
Groups = Mapping[str, Int[np.ndarray, " vertex"]]
PAIRED = 2000  # vertices all of whose pairs are looked at
PARTS = ("channels", "places", "global token")  # of row 14
TRUE = "truth"
PANELS = (
    ("channels", "cosine of\nwhat is read"),
    ("clusters", "share of pairs\nin one cluster"),
    ("places", "spread of places"),
    ("global", "scale, late less early"),
)


def readings_of(fits: Fits) -> dict[str, list[Reading]]:
    """What each network's fits say."""
    return {name: [read(fit) for fit in each] for name, each in fits.items()}


def reads_of(readings: Readings) -> dict[str, list[Float[np.ndarray, "vertex channel"]]]:
    """`what_is_read` in each fit, of `readings_of`."""
    return {name: [reading.channel for reading in each] for name, each in readings.items()}


def clusters_of(reads: Reads) -> dict[str, Int[np.ndarray, " vertex"]]:
    """Each network's clusters by its first seed, numbered as those of the first network."""
    return same_colours({name: channel_clusters(each[0]) for name, each in reads.items()})


def share_of_start(fit: Fit) -> float:
    """The squared correlation of the read-out weights with those that the training began with."""
    key = fit.record["key"]
    with torch.random.fork_rng():
        torch.manual_seed(key["recipe"]["seed"])
        seen = fit.tokens.statistics(fit.split.train) if fit.model.config.standardise else None
        at = torch.from_numpy(fit.subject.coordinates)
        start = make_model(fit.model.config, fit.tokens.widths, at, seen).weight
    both = fit.model.weight.flatten().numpy(), start.detach().flatten().numpy()
    return float(np.corrcoef(*both)[0, 1] ** 2)


def _range(m: Measured, digits: int = 2) -> str:
    return ranged(m.value, m.low, m.high, digits)


def _agree(one: np.ndarray, other: np.ndarray, subject: Subject) -> Measured:
    return Measured.of(agreement(one, other, patches_of(subject.coordinates)), PATCHES)


def agreements(fits: Fits, reads: Reads, first: str = "CLIP") -> pd.DataFrame:
    """A row per network and form of the weights: the adjusted Rand index of its clusters with those
    of its second seed, and with the first network's by the same and by the other seed, each as
    `Measured`; none of the first with itself.

    Raises:
        InputError: for one seed.
    """
    if any(len(each) < 2 for each in fits.values()):
        raise InputError("seeds: one; expected two or more, of which agreement is told.")
    rows = []
    forms = {
        "as read": reads,
        "weights": {
            name: [kernel_factor(f.model.weight.numpy()) for f in each]
            for name, each in fits.items()
        },
    }
    for form, weights in forms.items():
        groups = {n: [channel_clusters(w) for w in each[:2]] for n, each in weights.items()}
        for name, (one, other) in groups.items():
            subject = fits[name][0].subject
            row = {"network": name, "form": form, "another seed": _agree(one, other, subject)}
            if name != first:
                row |= {
                    "first, same seed": _agree(one, groups[first][0], subject),
                    "first, another seed": _agree(one, groups[first][1], subject),
                }
            rows.append(row)
    return pd.DataFrame(rows)


def agreements_table(table: pd.DataFrame, first: str = "CLIP") -> Styler:
    """`agreements` as a page shows it."""
    names = {
        "network": "Network",
        "form": "Clusters of",
        "another seed": "With its other seed",
        "first, same seed": f"With {first}, same seed",
        "first, another seed": f"With {first}, other seed",
    }
    shown = table.assign(
        form=table["form"].map({"as read": "what is read", "weights": "weights as they are"})
    )
    cells = shown.map(lambda m: _range(m) if isinstance(m, Measured) else m)
    return plain_table(cells.fillna(DASH).rename(columns=names))


def in_one_cluster(
    group: Int[np.ndarray, " vertex"], subject: Subject
) -> Float[np.ndarray, " draw"]:
    """How much likelier two vertices of V1 to V3 are to share a cluster than two beyond V4."""
    masks = {
        name: np.any([subject.rois[r] for r in rois if r in subject.rois], axis=0)
        for name, rois in (("early", EARLY), ("late", LATE))
    }
    counts = roi_sums(np.eye(int(group.max()) + 1)[group], patches_of(subject.coordinates), masks)
    shared = np.square(counts / counts.sum(2, keepdims=True)).sum(2)
    return shared[:, 0] - shared[:, 1]


def _compared(reading: Reading, group: np.ndarray) -> dict[str, Measured]:
    found = evidence.channels_and_places(reading)
    return {
        "channels": found["channels"],
        "clusters": Measured.of(in_one_cluster(group, reading.subject), PATCHES),
        "places": found["places"],
        "global": found["global token"],
    }


def early_and_late(readings: Readings) -> pd.DataFrame:
    """A row per network, and one of a simulated truth: V1 to V3 less the areas beyond V4.

    Of the mean cosine between vertices of what they read; of how likely two share a cluster; of the
    spread of places; and, the other way round, of the scale. Each over patches and seeds.
    """
    each = dict(readings)
    for name, runs in readings.items():
        if truth_known(runs[0]):
            each[f"{name}, {TRUE}"] = [truth_reading(runs[0])]
    rows = []
    for name, runs in each.items():
        found = over_seeds([_compared(r, channel_clusters(r.channel)) for r in runs])
        row: dict[str, float | str] = {"network": name}
        for part, m in found.items():
            row |= {part: m.value, f"{part} low": m.low, f"{part} high": m.high}
        rows.append(row)
    return pd.DataFrame(rows)


def judged(runs: Sequence[Reading], subject: str = "", run: Run | None = None) -> Judged:
    """Row 14 by one network's seeds, recorded for the scoreboard if a subject is named."""
    truth = truth_reading(runs[0]) if truth_known(runs[0]) else None
    return evidence.evaluate(
        "channels-and-places", evidence.channels_and_places, runs, subject, run, truth
    )


def _similar(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation over pairs of vertices of the cosines between what they read.

    Of more vertices than `PAIRED`, that many drawn.
    """
    n = len(one)
    some = np.random.default_rng(0).choice(n, min(n, PAIRED), replace=False)
    one, other = one[some], other[some]
    pairs = np.triu_indices(len(one), 1)
    cosines = []
    for x in (one, other):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        cosines.append((unit @ unit.T)[pairs])
    return float(np.corrcoef(*cosines)[0, 1])


def recovery(fits: Fits, reads: Reads, name: str = "CLIP") -> pd.DataFrame | None:
    """How well clusters of one network are the true channels', a row per form of the weights:
    adjusted Rand index over patches and seeds, and the mean correlation of pairs' cosines.

    None where no truth is known.
    """
    fit = fits[name][0]
    if not (fit.subject.simulated and fit.record["backbone"] == TEACHER):
        return None
    true = truth_of(fit.subject).channel
    clusters = channel_clusters(true)
    forms = {
        "what is read": reads[name],
        "weights as they are": [kernel_factor(fit.model.weight.numpy()) for fit in fits[name]],
    }
    rows = []
    for form, each in forms.items():
        agreed = [_agree(channel_clusters(weights), clusters, fit.subject) for weights in each]
        m = over_seeds([{"": one} for one in agreed])[""]
        row = {"form": form, "Rand": m.value, "low": m.low, "high": m.high}
        rows.append(row | {"pairs": float(np.mean([_similar(w, true) for w in each]))})
    return pd.DataFrame(rows)


# in words


def recovery_text(table: pd.DataFrame | None) -> str:
    """What `recovery` found, with its table."""
    if table is None:
        return (
            "What these vertices read is not known: there is no truth to hold the clusters against."
        )
    lines = "\n".join(
        f"| {r.form} | {ranged(r.Rand, r.low, r.high, 3)} | {r.pairs:.2f} |"
        for r in table.itertuples()
    )
    return (
        "Clusters of what the vertices of CLIP's fits read beside those of the true channels: the"
        " adjusted Rand index is 1 if they are the same, 0 by chance. Clusters are a blunt measure"
        " here: true channels change smoothly over the cortex, and where a continuum is cut a"
        " little noise moves the cut. The last column is finer: over all pairs of vertices, how the"
        " cosine of what two read correlates with that of what they truly read.\n\n"
        "| Clusters of | Adjusted Rand index with truth | Correlation of pairs |\n|:--|--:|--:|\n"
        f"{lines}"
    )


def start_text(fits: Fits, agreed: pd.DataFrame) -> str:
    """How much of the weights is their random start, and how far clusters agree over seeds."""
    shares = [share_of_start(each[0]) for each in fits.values()]
    steps = max(each[0].record["result"]["steps"] for each in fits.values())
    mean = {
        (form, column): np.mean([m.value for m in rows[column] if isinstance(m, Measured)])
        for form, rows in agreed.groupby("form")
        for column in ("another seed", "first, same seed", "first, another seed")
    }
    columns = ("another seed", "first, same seed", "first, another seed")
    weights, read_ = ([f"{mean[form, c]:.2f}" for c in columns] for form in ("weights", "as read"))
    return (
        f"After {steps:,} steps {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the"
        " variance of read-out weights is still that of random weights at the start. Clusters of"
        f" what is read agree, in the mean over networks, by {read_[0]} between two seeds, by"
        f" {read_[1]} with CLIP's of the same seed, {read_[2]} of another. Of weights as they are:"
        f" {weights[0]}, {weights[1]} and {weights[2]}."
    )


def verdict_table(found: Judged) -> Styler:
    """A row per part of the row of Table 5."""
    table = found.table()
    ends = table[["Value", "low", "high"]].itertuples(index=False)
    shown = {
        "Part": table["Part"],
        "Statistic": table["Statistic"],
        "Measured": [_range(Measured(*row, "")) for row in ends],
        "Verdict": table["Verdict"],
    }
    return plain_table(pd.DataFrame(shown))


def early_late_table(table: pd.DataFrame) -> Styler:
    """`early_and_late` as a page shows it."""
    cells = {"Network": table["network"]}
    for part, title in (
        ("channels", "Cosine of what is read"),
        ("clusters", "One cluster"),
        ("places", "Spread of places"),
        ("global", "Global token"),
    ):
        ends = table[[part, f"{part} low", f"{part} high"]].itertuples(index=False)
        cells[title] = [_range(Measured(*row, PATCHES)) for row in ends]
    return plain_table(pd.DataFrame(cells))


def key_finding(
    found: Judged, truth: Judged | None, table: pd.DataFrame, agreed: pd.DataFrame
) -> str:
    """The finding, in a box; every number from the verdict and the tables."""
    said = ""
    if truth is not None:
        said = f" Of what the simulated vertices truly read, by the same rule: {truth.verdict}."
    networks = table[~table["network"].str.endswith(TRUE)]
    kinds = ("places", "global", "channels")
    counts = {kind: int((networks[f"{kind} low"] > 0).sum()) for kind in kinds}
    seeds = [m.value for m in agreed.loc[agreed["form"] == "as read", "another seed"]]
    parts = "; ".join(f"{part} {found.measured[part]}" for part in PARTS)
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"**{found.finding.claim}** {found.verdict.capitalize()}, by CLIP: {parts}; V1 to V3"
        f" against the areas beyond V4.{said}\n\n"
        f"Early areas read more diverse places in {counts['places']} of {len(networks)} networks,"
        f" late areas more of the global token in {counts['global']}, and early areas more similar"
        f" channels in {counts['channels']} (interval above 0). Two seeds of a network agree in"
        f" their clusters with an adjusted Rand index of {min(seeds):.2f} to {max(seeds):.2f}.\n:::"
    )
