"""What the page on channels compares: clusters, early and late areas, and places; and in words.

    fits = channel_fits("sim01", "small", [0, 1])     # each network by each seed
    reads = reads_of(fits)                            # what its vertices read of its channels
    groups = clusters_of(reads)                       # numbered alike in all networks

`tops_compared` has the top channels in pictures. The first seed's fits are those of other pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pandas.io.formats.style import Styler

from analysis import evidence
from analysis.alignment import LATE, patches_of, roi_sums
from analysis.channels import agreement, channel_clusters, responding, same_colours
from analysis.files import InputError
from analysis.fit import Fit
from analysis.readings import EARLY, PATCHES, Reading, read, truth_of, with_truth
from analysis.report import DASH, plain_table, ranged
from analysis.rivals import make_model
from analysis.simulate import TEACHER
from analysis.subject import Subject
from analysis.sweep import BASE, get_fits, sized
from analysis.verdicts import Judged, Measured, judge

Fits = Mapping[str, Sequence[Fit]]  # by the paper's name of a network, then by seed
Reads = Mapping[str, Sequence[Float[np.ndarray, "vertex _"]]]
Groups = Mapping[str, Int[np.ndarray, " vertex"]]
PAIRED = 2000  # vertices all of whose pairs are looked at
PICTURES_READ = 128  # whose tokens say how the channels vary
PARTS = ("channels", "places", "global token")  # of row 14
TRUE = "truth"
PANELS = (
    ("channels", "cosine of\nwhat is read"),
    ("clusters", "share of pairs\nin one cluster"),
    ("places", "spread of places"),
    ("global", "scale, late less early"),
)


def channel_fits(subject: str, size: str, seeds: Sequence[int]) -> dict[str, list[Fit]]:
    """Fits of the six networks of one size, by the paper's names, one for each seed.

    Raises:
        InputError: for an unknown name, or fewer than two seeds, of which no agreement is known.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds={list(seeds)}: expected two or more different ones.")
    options = sized(size)
    wanted = {
        (name, seed): {"backbone": backbone, "seed": seed}
        for name, backbone in BASE[size].items()
        for seed in seeds
    }
    fits = get_fits(wanted, subject=subject, **options)
    return {name: [fits[name, seed] for seed in seeds] for name in BASE[size]}


def control_fit(subject: str, size: str, seed: int) -> Fit:
    """CLIP fitted to responses in another order."""
    wanted = {"CLIP": {"backbone": BASE[size]["CLIP"], "seed": seed, "shuffle": True}}
    return get_fits(wanted, subject=subject, **sized(size))["CLIP"]


def readings_of(fits: Fits) -> dict[str, Reading]:
    """What the first seed's fit of each network says."""
    return {name: read(each[0]) for name, each in fits.items()}


def channel_spread(fit: Fit, n: int = PICTURES_READ) -> Float[np.ndarray, "channel channel"]:
    """How the channels vary together over pictures trained on, mixed by the mean layer weights.

    Of local tokens over pictures and places, and of global tokens, each with a total of 1/2.
    """
    with torch.inference_mode():
        local, global_ = fit.model.squeezed(*fit.tokens[fit.split.train[:n]])
        layer = fit.model.selectors().layer.mean(0)
        near = torch.einsum("l,bldhw->bhwd", layer, local).flatten(0, 2)
        far = torch.einsum("l,bld->bd", layer, global_)
    each = [np.cov(tokens.double().numpy().T) for tokens in (near, far)]
    return sum(spread / np.trace(spread) for spread in each) / 2


def what_is_read(fit: Fit) -> Float[np.ndarray, "vertex channel"]:
    """What the vertices of a fit read, by `channels.responding`: as the paper's W, but in terms of
    what the channels do.
    """
    return responding(fit.model.weight.numpy(), channel_spread(fit))


def reads_of(fits: Fits) -> dict[str, list[Float[np.ndarray, "vertex channel"]]]:
    """`what_is_read` in each fit."""
    return {name: [what_is_read(fit) for fit in each] for name, each in fits.items()}


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
    """
    rows = []
    forms = {
        "as read": reads,
        "weights": {name: [f.model.weight.numpy() for f in each] for name, each in fits.items()},
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


def _compared(
    name: str, reading: Reading, read_: np.ndarray, group: np.ndarray
) -> dict[str, float | str]:
    found = evidence.channels_and_places(reading)
    values = {
        "weights": found["channels"],
        "channels": evidence.channels_and_places(replace(reading, channel=read_))["channels"],
        "clusters": Measured.of(in_one_cluster(group, reading.subject), PATCHES),
        "places": found["places"],
        "global": found["global token"],
    }
    row: dict[str, float | str] = {"network": name}
    for part, m in values.items():
        row |= {part: m.value, f"{part} low": m.low, f"{part} high": m.high}
    return row


def early_and_late(readings: Mapping[str, Reading], reads: Reads, groups: Groups) -> pd.DataFrame:
    """A row per network, and one of a simulated truth: V1 to V3 less the areas beyond V4.

    Of the mean cosine between vertices of their weights and of what they read; of how likely two
    share a cluster; of the spread of places; and, the other way round, of the scale. Each with its
    interval over patches.
    """
    rows = [_compared(n, reading, reads[n][0], groups[n]) for n, reading in readings.items()]
    for name, reading in readings.items():
        true = with_truth(reading)
        if true is not reading:
            clusters = channel_clusters(true.channel)
            rows.append(_compared(f"{name}, {TRUE}", true, true.channel, clusters))
    return pd.DataFrame(rows)


def judged(reading: Reading, control: Reading, subject: str = "", run: str = "") -> Judged:
    """Row 14, recorded for the scoreboard if a subject is named."""
    return evidence.evaluate(
        "channels-and-places", evidence.channels_and_places, reading, control, subject, run
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


def recovery(fits: Fits, reads: Reads, control: Fit, name: str = "CLIP") -> pd.DataFrame | None:
    """How well clusters of one network are the true channels', a row per form of the weights and of
    the control: adjusted Rand index with its interval, and the correlation of pairs' cosines.

    None where no truth is known.
    """
    fit = fits[name][0]
    if not (fit.subject.simulated and fit.record["backbone"] == TEACHER):
        return None
    true = truth_of(fit.subject).channel
    clusters = channel_clusters(true)
    forms = {
        "what is read": reads[name][0],
        "what is read, another seed": reads[name][1],
        "weights as they are": fit.model.weight.numpy(),
        "responses shuffled: what is read": what_is_read(control),
    }
    rows = []
    for form, weights in forms.items():
        m = _agree(channel_clusters(weights), clusters, fit.subject)
        row = {"form": form, "Rand": m.value, "low": m.low, "high": m.high}
        rows.append(row | {"pairs": _similar(weights, true)})
    return pd.DataFrame(rows)


# in words


def recovery_text(table: pd.DataFrame | None) -> str:
    """What `recovery` found, with its table."""
    if table is None:
        return (
            "What these vertices read is not known: there is no truth to hold the clusters against."
        )
    rows = table.set_index("form")
    found, mixed = rows.loc["what is read"], rows.loc["responses shuffled: what is read"]
    start = rows.loc["weights as they are"]
    verdict = (
        "recover part of the true groups" if found["low"] > mixed["high"]
        else "do not recover the true groups better than the control does"
    )  # fmt: skip
    lines = "\n".join(
        f"| {r.form} | {ranged(r.Rand, r.low, r.high, 3)} | {r.pairs:.2f} |"
        for r in table.itertuples()
    )
    return (
        f"Clusters of what vertices read {verdict}: their adjusted Rand index with the clusters of"
        f" the true channels is {found.Rand:.3f} [{found.low:.3f}, {found.high:.3f}], 1 if they"
        f" were the same, 0 by chance; of shuffled responses it is {mixed.Rand:.3f}. Clusters are a"
        " blunt measure here: true channels change smoothly over the cortex, and where a continuum"
        " is cut a little noise moves the cut. How alike two vertices read correlates with how"
        f" alike they truly do by {found.pairs:.2f} over all pairs, of shuffled responses by"
        f" {mixed.pairs:.2f}. The weights as they are give {start.Rand:.3f} and"
        f" {start.pairs:.2f}.\n\n"
        "| Clusters of | Adjusted Rand index with truth | Correlation of pairs |\n|:--|--:|--:|\n"
        f"{lines}"
    )


def start_text(fits: Fits, agreed: pd.DataFrame) -> str:
    """How much of the weights is their random start, and what that does to clusters."""
    shares = [share_of_start(each[0]) for each in fits.values()]
    steps = max(each[0].record["result"]["steps"] for each in fits.values())
    mean = {
        (form, column): np.mean([m.value for m in rows[column] if isinstance(m, Measured)])
        for form, rows in agreed.groupby("form")
        for column in ("another seed", "first, same seed", "first, another seed")
    }
    columns = ("first, same seed", "first, another seed", "another seed")
    weights, read_ = ([f"{mean[form, c]:.2f}" for c in columns] for form in ("weights", "as read"))
    own = agreed.loc[agreed["form"] == "as read", "another seed"]
    beyond = sum(m.low > 0 for m in own)
    return (
        f"After {steps:,} steps {100 * min(shares):.0f} to {100 * max(shares):.0f} % of the"
        " variance of read-out weights is still that of the weights drawn at the start. Clusters"
        " of the weights as they are show that start: another network from the same seed agrees by"
        f" {weights[0]} on average, from another seed by {weights[1]}, and a network's two seeds"
        f" agree by {weights[2]}. Of what is read the three are {read_[0]}, {read_[1]} and"
        f" {read_[2]}: what networks of one seed share is in part their start there too, so only"
        " agreement between seeds counts. It is above chance in"
        f" {beyond} of {len(own)} networks."
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
        ("weights", "Cosine of weights"),
        ("channels", "Cosine of what is read"),
        ("clusters", "One cluster"),
        ("places", "Spread of places"),
        ("global", "Global token"),
    ):
        ends = table[[part, f"{part} low", f"{part} high"]].itertuples(index=False)
        cells[title] = [_range(Measured(*row, PATCHES)) for row in ends]
    return plain_table(pd.DataFrame(cells))


def key_finding(found: Judged, reading: Reading, table: pd.DataFrame, agreed: pd.DataFrame) -> str:
    """The finding, in a box; every number from the verdict and the tables."""
    true = with_truth(reading)
    said = ""
    if true is not reading:
        truth = judge(found.finding, evidence.channels_and_places(true)).verdict
        said = f" Of what the simulated vertices truly read, by the same rule: {truth}."
    networks = table[~table["network"].str.endswith(TRUE)]
    kinds = ("places", "global", "channels")
    counts = {kind: int((networks[f"{kind} low"] > 0).sum()) for kind in kinds}
    seeds = [m.value for m in agreed.loc[agreed["form"] == "as read", "another seed"]]
    parts = "; ".join(f"{part} {found.measured[part]}" for part in PARTS)
    return (
        ":::{admonition} Key finding\n:class: tip\n"
        f"**{found.finding.claim}** {found.verdict.capitalize()}, by CLIP: {parts}; V1 to V3"
        f" against the areas beyond V4.{said}\n\n"
        f"Of {len(networks)} networks early areas read more diverse places in {counts['places']},"
        f" late areas more of the global token in {counts['global']}, and early areas more similar"
        f" channels in {counts['channels']}. Two seeds of a network agree in their clusters with an"
        f" adjusted Rand index of {min(seeds):.2f} to {max(seeds):.2f}.\n:::"
    )
