"""How a network's depth runs along the hierarchy of visual areas: slope, ends, fit, rank.

    align(maps, fit.subject)                     # our definition
    ranking_table(maps_by_network, fit.subject)  # and how a ranking depends on it

z = start + slope h: z the layer of a vertex (0 the first, 1 the last), h the level of its ROI (0
the lowest, 1 the highest). A network that runs as the cortex does has start 0, end 1 and slope 1.
The paper's own number (its Table 2) is defined in its main text alone; this one is ours, all its
choices are in `Definition`, and an area that two ROIs share counts in both.

What an interval is over. The vertices of a region are not independent: their layers are a smooth
function of the place on the cortex, so drawing vertices would give intervals that shrink with the
mesh. Here patches of cortex are drawn, within each ROI, of a width over which the selectors can
change: this says how far the line depends on which pieces of each ROI were seen. A ROI smaller than
a patch adds nothing to it. It doesn't say how another training would differ: several seeds or
subjects do, with Student's interval over them (`over_runs_table`), and picture bootstraps of the
contributions (`attribution.layer_maps`). Networks that are compared share their draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float, Int

from analysis import explained, metrics
from analysis.attribution import ATTRIBUTIONS, LayerMaps
from analysis.files import InputError
from analysis.metrics import Masks
from analysis.subject import Subject

PATCH = 15.0  # mm: half the shortest wavelength of the selectors' encoding, about 28 mm
EARLY = {"V1": 0.0, "V2": 0.25, "V3": 0.5, "V4": 0.75}
MAIN = ("OPA", "PPA", "EBA", "FFA")  # those of the paper's main tables, beside V1 to V3
LATE = ("EBA", "FBA", "OFA", "FFA", "OPA", "PPA", "OWFA", "VWFA")  # all of Table 4's
LEVELS: dict[str, dict[str, float]] = {
    "main areas": EARLY | dict.fromkeys(MAIN, 1.0),
    "all areas": EARLY | dict.fromkeys(LATE, 1.0),
    "three tiers": {"V1": 0.0, "V2": 0.0, "V3": 0.0, "V4": 0.5} | dict.fromkeys(LATE, 1.0),
    "six steps": {"V1": 0.0, "V2": 0.2, "V3": 0.4, "V4": 0.6}
    | dict.fromkeys(("OFA", "OPA", "EBA", "OWFA"), 0.8)
    | dict.fromkeys(("FBA", "FFA", "PPA", "VWFA"), 1.0),
}
STATISTICS = ("slope", "start", "end", "R²", "rank")
CHOICES = {
    "balance": ("level", "roi", "vertex"),
    "weight": ("equal", "confidence", "ceiling"),
    "attribution": ATTRIBUTIONS,
    "layer": ("expected", "argmax"),
}


@dataclass(frozen=True)
class Definition:
    """What alignment means: every choice that the number depends on."""

    # of the hierarchy, ROI to level: one of LEVELS, or the reader's own
    levels: Mapping[str, float] = field(default_factory=lambda: LEVELS["main areas"])
    # what counts the same: each level and each of its ROIs, each ROI, or each vertex
    balance: str = "level"
    weight: str = "equal"  # of a vertex: also Eq. 2 or noise
    attribution: str = "weight"  # of the selector, or contribution to predicted variance
    layer: str = "expected"  # mean over layers, or the largest

    def __post_init__(self):
        for name, known in CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise InputError(
                    f"definition: {name}={given!r}; expected one of {', '.join(known)}."
                )
        if len(set(self.levels.values())) < 2 or not np.isfinite([*self.levels.values()]).all():
            raise InputError(
                f"definition: levels={dict(self.levels)}; expected a number for each ROI, and two"
                " or more different ones."
            )

    def __str__(self) -> str:
        steps: dict[float, list[str]] = {}
        for roi, level in self.levels.items():
            steps.setdefault(level, []).append(roi)
        levels = ", ".join(f"{' '.join(rois)} {level:g}" for level, rois in steps.items())
        return (
            f"{self.layer} layer by {self.attribution}; every {self.balance} counts the same,"
            f" vertices weighted {self.weight}; levels: {levels}"
        )

    def weights(
        self, rois: Sequence[str], vertices: Float[np.ndarray, "draw roi"]
    ) -> Float[np.ndarray, "draw roi"]:
        """What each ROI weighs, from the sum of its vertices' weights."""
        if self.balance == "vertex":
            return vertices
        if self.balance == "roi":
            return np.ones_like(vertices)
        steps = [self.levels[roi] for roi in rois]
        return np.ones_like(vertices) / [steps.count(step) for step in steps]


OURS = Definition()
# Ours, and each other choice alone.
DEFINITIONS = {"ours": OURS}
DEFINITIONS |= {
    f"levels: {name}": replace(OURS, levels=levels)
    for name, levels in LEVELS.items()
    if levels != OURS.levels
}
DEFINITIONS |= {
    f"{name}: {other}": replace(OURS, **{name: other})
    for name, known in CHOICES.items()
    for other in known
    if other != getattr(OURS, name)
}


@dataclass(frozen=True)
class Alignment:
    """The line of a network's depth over the hierarchy: as it is first, then of drawn patches."""

    slope: Float[np.ndarray, " draw"]
    start: Float[np.ndarray, " draw"]  # depth at the lowest level
    end: Float[np.ndarray, " draw"]  # depth at the highest
    r2: Float[np.ndarray, " draw"]  # share of the vertices' depth that the line explains
    rank: Float[np.ndarray, " draw"]  # Spearman's, of the ROIs' mean depth with their level
    definition: Definition
    rois: tuple[str, ...]  # those that the subject has
    samples: dict[str, Float[np.ndarray, " draw"]] = field(init=False, repr=False)

    def __post_init__(self):
        values = (self.slope, self.start, self.end, self.r2, self.rank)
        object.__setattr__(self, "samples", dict(zip(STATISTICS, values, strict=True)))

    def row(self) -> dict[str, float]:
        """Each statistic with the ends of its interval over patches."""
        row = {}
        for name, values in self.samples.items():
            low, high = metrics.quantiles(values[1:])
            row |= {name: float(values[0]), f"{name} low": float(low), f"{name} high": float(high)}
        return row


def patches_of(
    coordinates: Float[np.ndarray, "vertex 3"], size: float = PATCH
) -> Int[np.ndarray, " vertex"]:
    """The patch of each vertex: the cube of so many mm, in a fixed grid, that it lies in."""
    cube = np.floor((coordinates - coordinates.min(0)) / size).astype(int)
    number = np.ravel_multi_index(cube.T, cube.max(0) + 1)
    return np.unique(number, return_inverse=True)[1]


def roi_sums(
    values: Float[np.ndarray, "vertex value"],
    patches: Int[np.ndarray, " vertex"],
    masks: Masks,
    samples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "draw roi value"]:
    """Sums over each ROI's vertices, of the data first, then of its patches drawn again.

    The draws depend on the seed, the ROI's place in `masks` and its patches, not on the values.
    """
    out = np.empty((1 + samples, len(masks), values.shape[1]))
    for i, mask in enumerate(masks.values()):
        _, patch = np.unique(patches[mask], return_inverse=True)
        n = int(patch.max()) + 1
        each = np.zeros((n, values.shape[1]))
        np.add.at(each, patch, values[mask])
        drawn = np.random.default_rng((seed, i)).multinomial(n, np.full(n, 1 / n), size=samples)
        out[0, i], out[1:, i] = each.sum(0), drawn @ each
    return out


def roi_means(
    values: Float[np.ndarray, "vertex value"],
    subject: Subject,
    names: Sequence[str],
    samples: int = 1000,
    seed: int = 0,
    patch: float = PATCH,
) -> tuple[tuple[str, ...], Float[np.ndarray, "draw roi value"]]:
    """The named ROIs that there are, and their mean values, of drawn patches too."""
    masks = {name: subject.rois[name] for name in names if name in subject.rois}
    with_count = np.concatenate([values, np.ones((len(values), 1))], 1)
    sums = roi_sums(with_count, patches_of(subject.coordinates, patch), masks, samples, seed)
    return tuple(masks), sums[..., :-1] / sums[..., -1:]


def line(
    level: Float[np.ndarray, " roi"],
    weight: Float[np.ndarray, "draw roi"],
    mean: Float[np.ndarray, "draw roi"],
    square: Float[np.ndarray, "draw roi"],
) -> dict[str, Float[np.ndarray, " draw"]]:
    """Weighted least squares of depth on level, from each ROI's weight, mean and mean square.

    All vertices of a ROI have its level, so the line through them is that through their means.
    """
    share = weight / weight.sum(1, keepdims=True)
    middle, centre = share @ level, (share * mean).sum(1)
    away = level - middle[:, None]
    slope = (share * away * mean).sum(1) / (share * np.square(away)).sum(1)
    start = centre - slope * middle
    total = (share * square).sum(1) - np.square(centre)
    explained = np.square(slope) * (share * np.square(away)).sum(1)
    r2 = explained / np.where(total > 1e-12, total, np.nan)
    ranks = scipy.stats.rankdata(mean, axis=1) - (len(level) + 1) / 2
    steps = scipy.stats.rankdata(level) - (len(level) + 1) / 2
    spread = np.sqrt(np.square(ranks).sum(1) * np.square(steps).sum())
    rank = ranks @ steps / np.where(spread > 0, spread, np.nan)
    return dict(zip(STATISTICS, (slope, start, start + slope, r2, rank), strict=True))


def _layer(maps: LayerMaps, definition: Definition) -> Float[np.ndarray, " vertex"]:
    if definition.layer == "expected":
        return maps.depth(definition.attribution)
    argmax = maps.argmax(definition.attribution) / (maps.weights.shape[1] - 1)
    return np.where(np.isfinite(maps.of(definition.attribution)[:, 0]), argmax, np.nan)


def align(
    maps: LayerMaps,
    subject: Subject,
    definition: Definition = OURS,
    samples: int = 1000,
    seed: int = 0,
    patch: float = PATCH,
) -> Alignment:
    """The line of depth over the hierarchy, and the same of drawn patches of cortex.

    A vertex whose depth isn't known (its prediction never varies) has no weight.

    Raises:
        InputError: if the subject's ROIs don't reach over two levels, or have no noise ceiling
            where the definition weights by it.
    """
    levels = definition.levels
    masks = {name: subject.rois[name] for name in levels if name in subject.rois}
    if len({levels[name] for name in masks}) < 2:
        raise InputError(
            f"{subject.name}: has {', '.join(masks) or 'none'} of the ROIs of the definition's"
            f" levels; expected two or more, of different levels: {', '.join(levels)}."
        )
    depth = _layer(maps, definition)
    weight = np.ones(len(depth))
    if definition.weight == "confidence":
        weight = maps.confidence(definition.attribution)
    elif definition.weight == "ceiling":
        weight = explained.noise_ceiling(subject.ncsnr)
        if not np.isfinite(weight).any():
            raise InputError(f"{subject.name}: no noise ceiling is known; weight otherwise.")
    known = np.isfinite(depth) & np.isfinite(weight)
    w, z = np.where(known, weight, 0), np.where(known, depth, 0)
    moments = np.stack([w, w * z, w * np.square(z)], 1)
    sums = roi_sums(moments, patches_of(subject.coordinates, patch), masks, samples, seed)
    total, first, second = np.moveaxis(sums, -1, 0)
    by_roi = definition.weights(tuple(masks), total)
    found = line(np.array([levels[name] for name in masks]), by_roi, first / total, second / total)
    return Alignment(*found.values(), definition, tuple(masks))


def alignment_table(found: Mapping[str, Alignment]) -> pd.DataFrame:
    """A row per network: each statistic with its interval over patches of cortex."""
    return pd.DataFrame([{"network": name} | a.row() for name, a in found.items()])


def over_runs_table(found: Mapping[str, Sequence[Alignment]]) -> pd.DataFrame:
    """A row per network: each statistic's mean over runs (seeds or subjects), with its interval.

    Student's over runs; empty where there is one.
    """
    rows = []
    for name, runs in found.items():
        row: dict[str, float | str | int] = {"network": name, "runs": len(runs)}
        for statistic in STATISTICS:
            values = np.array([run.samples[statistic][0] for run in runs])
            low, high = metrics.over_runs(values)
            row[statistic] = float(values.mean())
            row |= {f"{statistic} low": float(low), f"{statistic} high": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


def depth_table(
    maps: LayerMaps, subject: Subject, definition: Definition = OURS, samples: int = 1000
) -> pd.DataFrame:
    """A row per ROI of the hierarchy: its level and mean depth, with an interval over patches."""
    levels = definition.levels
    depth = _layer(maps, definition)[:, None]
    names, means = roi_means(depth, subject, tuple(levels), samples)
    low, high = metrics.quantiles(means[1:, :, 0])
    return pd.DataFrame(
        {
            "ROI": names,
            "level": [levels[name] for name in names],
            "depth": means[0, :, 0],
            "low": low,
            "high": high,
        }
    )


def ranking_table(
    maps: Mapping[str, LayerMaps],
    subject: Subject,
    statistic: str = "slope",
    definitions: Mapping[str, Definition] = DEFINITIONS,
) -> pd.DataFrame:
    """A row per definition: each network's rank (1 the largest), and Kendall's τ with the first.

    Raises:
        InputError: for an unknown statistic.
    """
    if statistic not in STATISTICS:
        raise InputError(f"statistic={statistic!r}: expected one of {', '.join(STATISTICS)}.")
    rows: list[dict[str, float | str]] = []
    first: np.ndarray | None = None
    for name, definition in definitions.items():
        found = [align(m, subject, definition, samples=1) for m in maps.values()]
        values = np.array([a.samples[statistic][0] for a in found])
        first = values if first is None else first
        ranks = scipy.stats.rankdata(-values, method="min").astype(int)
        tau = float(scipy.stats.kendalltau(first, values).statistic) if len(maps) > 1 else np.nan
        row = {"definition": name} | dict(zip(maps, ranks.tolist(), strict=True))
        rows.append(row | {"τ with the first": tau})
    return pd.DataFrame(rows)
