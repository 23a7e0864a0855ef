"""FactorTopy beside its rivals and ablations, decays and single layers: Tables 15 and 16, Fig. 26.

    fits = compared("sim01", "small", seeds=[0, 1, 2])
    differences(fits), decays(fits), grid_of(fits)

All fits are of one subject and split, so any two are compared on the same trials.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import attribution, metrics, model
from analysis.attribution import layer_maps
from analysis.backbones import card_of
from analysis.comparison import compare, false_discovery
from analysis.costs import PAPERS, costs, multiply_accumulates
from analysis.fit import Fit
from analysis.layer_grid import Grid, layer_grid
from analysis.published import R2_ERROR, TABLE_15, TABLE_16
from analysis.readings import truth_of
from analysis.report import truth_pairs
from analysis.ridge import RidgeFit
from analysis.simulate import TEACHER
from analysis.study import Wanted
from analysis.sweep import BASE, different, get_fits, sized

OURS = "factortopy"
NETWORK = {"small": BASE["small"]["CLIP"], "paper": "clip-xl"}  # that methods are compared on
DECAY = 6000  # steps of Eq. 3's decay in the paper (E.3); ours is scaled as a recipe's
REGIONS = ("V1v", "V3v", "EBA")  # columns of Table 16, after all vertices
# Of Tables 16 and 15. Of the small size without those that take longest: GNet's pooling fields take
# several times as long as FactorTopy, three points nearly twice.
SLOW = ("gnet", "three-samples")
EVERY = [*TABLE_16["variant"], "no-size"]  # the last: ours without what the paper's hasn't
METHODS = {"small": [name for name in EVERY if name not in SLOW], "paper": EVERY}
DECAYS = {
    "small": {"CLIP": (2000, 6000, 8000)},
    "paper": {name: tuple(TABLE_15.columns) for name in TABLE_15.index},
}
NAMES = dict(zip(TABLE_16["variant"], TABLE_16.index, strict=True))  # as Table 16 calls them
Q = 0.05  # false discovery rate at which a difference is said to be there


@dataclass(frozen=True)
class Compared:
    """The fits of this page, of one subject and split."""

    methods: dict[str, Fit | RidgeFit]  # by variant, ridge last
    singles: list[Fit]  # a model of each layer alone; none unless asked for
    decays: dict[str, dict[int, Fit]]  # by network of Table 15 and its steps
    seeds: dict[int, Fit]  # FactorTopy again

    @property
    def ours(self) -> Fit:
        """FactorTopy as it is by default."""
        return self.methods[OURS]

    @property
    def truth_known(self) -> bool:
        """Whether it is known which layers of this network the vertices read."""
        return self.ours.subject.simulated and self.ours.record["backbone"] == TEACHER


def compared(
    subject: str,
    size: str,
    seeds: Sequence[int],
    recipe: str = "fast",
    single_layers: bool = False,
) -> Compared:
    """All fits, made if they are not there; all but FactorTopy's own with the first seed.

    `single_layers`: also a model of each layer alone (Fig. 26).

    Raises:
        InputError: for an unknown name, or fewer than 2 seeds.
    """
    options, seeds = sized(size, recipe), different(seeds, 2)
    common = {"subject": subject, "backbone": NETWORK[size], "seed": seeds[0], **options}
    _, usual = Wanted(**common).configured()
    layers = range(1, 1 + card_of(NETWORK[size]).layers) if single_layers else ()
    wanted = {("method", name): {"variant": name} for name in (*METHODS[size], "ridge")}
    wanted |= {("layer", layer): {"variant": f"layer-{layer}"} for layer in layers}
    for name, each in DECAYS[size].items():
        for steps in each:
            now = round(usual.decay_steps * steps / DECAY)
            change = {} if steps == DECAY else {"changes": {"decay_steps": now}}
            wanted[name, steps] = {"backbone": BASE[size][name], **change}
    wanted |= {("seed", seed): {"seed": seed} for seed in seeds}
    fits = get_fits(wanted, **common)
    return Compared(
        methods={name: fits["method", name] for name in (*METHODS[size], "ridge")},
        singles=[fits["layer", layer] for layer in layers],
        decays={n: {s: fits[n, s] for s in each} for n, each in DECAYS[size].items()},
        seeds={seed: fits["seed", seed] for seed in seeds},
    )


# rivals and ablations


def scores_table(fits: Compared) -> pd.DataFrame:
    """A row per method: R² of single trials, its interval over pictures, and Table 16's beside."""
    rows = []
    for name, fit in fits.methods.items():
        scores, row = fit.scores("test"), {"Method": NAMES.get(name, name)}
        table = metrics.roi_table(scores, fit.subject.rois, REGIONS).set_index("ROI")
        row |= {roi: table["R²"].get(roi, np.nan) for roi in ("all", *REGIONS)}
        row["95 % interval, all"] = f"{table['low']['all']:.3f} to {table['high']['all']:.3f}"
        printed = TABLE_16.loc[NAMES[name]] if name in NAMES else {}
        row |= {f"paper: {roi}": printed.get(roi, np.nan) for roi in ("all", *REGIONS)}
        rows.append(row)
    return pd.DataFrame(rows)


def _sign(value: float, sure: bool) -> int:
    return int(np.sign(value)) if sure else 0


def _beside(measured: int, printed: int | None) -> str:
    """What a sure sign (else 0) says of the printed one (0: within the paper's ±)."""
    if printed is None:
        return "not printed"
    if measured == printed:
        return "as printed" if printed else "none in either"
    if measured == 0:
        return "not told apart here"
    return "the other way" if printed else "only here"


def differences(fits: Compared) -> pd.DataFrame:
    """A row per other method and region: R² less FactorTopy's, on the same trials.

    p by sign flips of pictures, q over all rows; printed differences count as 0 within 1.96 √2
    times the ± of Table 16.
    """
    rows = []
    for name, fit in fits.methods.items():
        if name == OURS:
            continue
        found = compare(fit, fits.ours).roi_table(REGIONS)
        for row in found.to_dict("records"):
            paper = np.nan
            if name in NAMES:
                ours = TABLE_16.loc[NAMES[OURS], row["ROI"]]
                paper = float(TABLE_16.loc[NAMES[name], row["ROI"]] - ours)
            rows.append({"method": NAMES.get(name, name), **row, "paper": paper})
    table = pd.DataFrame(rows)
    table["q"] = false_discovery(table["p"].to_numpy())
    least = 1.96 * 2**0.5 * R2_ERROR
    table["beside the paper"] = [
        _beside(
            _sign(row["difference of R²"], row["q"] < Q),
            None if np.isnan(row["paper"]) else _sign(row["paper"], abs(row["paper"]) > least),
        )
        for row in table.to_dict("records")
    ]
    return table


def differences_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of all vertices, to be read: columns of numbers that belong together are one."""
    rows = table[table["ROI"] == "all"]
    return pd.DataFrame(
        {
            "Method": rows["method"],
            "R² less FactorTopy's": [
                f"{d:+.3f} ({low:+.3f} to {high:+.3f})"
                for d, low, high in rows[["difference of R²", "low", "high"]].to_numpy()
            ],
            "q": rows["q"],
            "Table 16": ["–" if np.isnan(d) else f"{d:+.3f}" for d in rows["paper"]],
            "Beside it": rows["beside the paper"],
        }
    )


def costs_table(fits: Compared, papers: bool = True) -> pd.DataFrame:
    """A row per method: multiply-accumulates and time as multiples of classToken's, and Table 16's.

    Here: of this page's models and vertices; `papers`: also counted at the size of Table 16, 24
    layers of 1024 and 37,984 vertices.
    """
    trained = {name: fit for name, fit in fits.methods.items() if isinstance(fit, Fit)}
    here = costs(
        fits.ours.tokens.widths,
        len(fits.ours.subject.vertices),
        models={name: fit.model.config for name, fit in trained.items()},
    )
    table = pd.DataFrame({"Method": [NAMES.get(name, name) for name in here.index]})
    table["MACs here, ×"] = here["× MACs"].to_numpy()
    if papers:
        counts = {
            name: multiply_accumulates(PAPERS[name], [1024] * 24, 37_984)
            for name in trained
            if name in PAPERS
        }
        of = counts["class-token"]
        table["at the paper's size, ×"] = [counts.get(name, np.nan) / of for name in here.index]
    table["Table 16: MACs, ×"] = here["Table 16: × MACs"].to_numpy()
    table["Step here, ms"] = here["step, ms"].fillna("–").to_numpy()
    table["Time here, ×"] = here["× step"].to_numpy()
    table["Table 16: time, ×"] = here["Table 16: × time"].to_numpy()
    return table


# how soon each recipe finds what is true


def convergence_runs() -> dict[str, dict[str, Any]]:
    """What `python -m benchmarks.convergence` kept of each simulated person, by name."""
    files = (Path(__file__).parents[1] / "benchmarks").glob("convergence-*.json")
    return {run["subject"]: run for run in (json.loads(f.read_text()) for f in sorted(files))}


def convergence_table(run: Mapping[str, Any]) -> pd.DataFrame:
    """A row per recipe at the end of its steps: minutes of training, score, and rank correlations
    with the truth.
    """
    last = pd.DataFrame(run["rows"]).groupby("recipe", sort=False).tail(1)
    minutes = (last.pop("seconds") / 60).round(1)
    last.insert(2, "minutes", minutes)
    return last.rename(columns={"x": "x in V1–V3", "y": "y in V1–V3"}).reset_index(drop=True)


def convergence_text(run: Mapping[str, Any]) -> str:
    """Of whom, of which code and on what machine a run is, and how much sooner `fast` is."""
    rows = pd.DataFrame(run["rows"])
    steps = rows.loc[rows["recipe"] == "paper", "step"].max()
    sooner = ", ".join(
        f"{name} never" if not np.isfinite(ratio) else f"{name} {ratio:.0f} times sooner"
        for name, ratio in ((n, np.nan if r is None else r) for n, r in run["sooner"].items())
    )
    return (
        f"`{run['subject']}`, {run['vertices']:,} vertices, `{run['backbone']}`; commit"
        f" {run['commit']}, {run['machine']}. What recipe `paper` has after {steps:,} steps, `fast`"
        f" has: {sooner}."
    )


# decay of Eq. 3's term


def _choice(fit: Fit) -> tuple[Float[np.ndarray, " vertex"], float]:
    """Expected layer of each vertex by weight, and the mean confidence (Eq. 2)."""
    weights = fit.selectors().layer.cpu().double()
    return attribution.depth(weights.numpy()), float(1 - model.entropy(weights).mean())


def decays(fits: Compared) -> pd.DataFrame:
    """A row per network and decay: R², its difference to the default's, confidence, and the map.

    `steps`: as Table 15 counts them, of which our recipe's are a share; `map`: rank correlation
    of depth with that of the default decay; `truth`: with the truth, NaN where it isn't known.
    """
    rows = []
    for network, by_steps in fits.decays.items():
        default = by_steps[DECAY]
        usual, _ = _choice(default)
        for steps, fit in by_steps.items():
            paired = compare(fit, default).roi_table(()).iloc[0]
            depth, confidence = _choice(fit)
            known = fits.truth_known and fit.record["backbone"] == TEACHER
            row = {"network": network, "steps": steps}
            row["here"] = fit.record["key"]["recipe"]["decay_steps"]
            row["R²"] = fit.score("test").value
            row |= {"low": fit.score("test").low, "high": fit.score("test").high}
            row |= {name: paired[name] for name in ("difference of R²", "p")}
            row |= {"least": paired["low"], "most": paired["high"], "confidence": confidence}
            row["map"] = metrics.rank_correlation(usual, depth)
            row["truth"] = layer_found(fit) if known else np.nan
            rows.append(row | {"paper": float(TABLE_15.loc[network, steps])})
    return pd.DataFrame(rows)


def decays_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The same, to be read."""
    return pd.DataFrame(
        {
            "Network": table["network"],
            "Steps": table["steps"],
            "here": table["here"],
            "R²": table["R²"],
            "less the default's": [
                "–" if steps == DECAY else f"{d:+.3f} ({low:+.3f} to {high:+.3f})"
                for steps, d, low, high in table[
                    ["steps", "difference of R²", "least", "most"]
                ].itertuples(index=False)
            ],
            "Table 15": table["paper"],
            "Confidence": table["confidence"],
            "Map's rank correlation": table["map"],
            "with truth": table["truth"],
        }
    )


def depth_maps(fits: Compared) -> dict[str, Float[np.ndarray, " vertex"]]:
    """The expected layer of each vertex, by network and decay."""
    return {
        f"{network}, {steps:,} steps": _choice(fit)[0]
        for network, by_steps in fits.decays.items()
        for steps, fit in by_steps.items()
    }


# layers, truth and seeds


def grid_of(fits: Compared) -> Grid:
    """Every layer alone, and what FactorTopy gives it (Fig. 26)."""
    truth = truth_of(fits.ours.subject).layer if fits.truth_known else None
    return layer_grid(fits.ours, fits.singles, truth)


def truth_table(fits: Compared) -> pd.DataFrame:
    """A row per method that says which layer a vertex reads: rank correlations with the truth.

    FactorTopy's are means over its seeds, the others' of one. A method that doesn't choose a
    quantity has none. Empty where the truth is not known.
    """
    if not fits.truth_known:
        return pd.DataFrame()
    rows = []
    for name, fit in fits.methods.items():
        if isinstance(fit, Fit) and fit.record["key"]["model"]["model"] == OURS:
            each = [*fits.seeds.values()] if name == OURS else [fit]
            found = pd.DataFrame([_recovered(one) for one in each]).mean()
            rows.append({"Method": NAMES.get(name, name), "Seeds": len(each), **found})
    true = truth_pairs(fits.ours)[0][1]
    found = {"ridge, best layer": fits.methods["ridge"].validation_r2}
    if fits.singles:
        alone = np.stack([f.scores("validation").r2 for f in fits.singles])
        found["best layer alone"] = alone
    for name, scores in found.items():  # chosen on validation pictures, as ridge does
        layer = np.nan_to_num(scores, nan=-np.inf).argmax(0).astype(float)
        rows.append({"Method": name, "Seeds": 1, "layer": metrics.rank_correlation(true, layer)})
    return pd.DataFrame(rows)


def _recovered(fit: Fit) -> dict[str, float]:
    """Rank correlations of what a fit chose with the truth; NaN for what it doesn't choose."""
    return {
        quantity: metrics.rank_correlation(true, found) if np.ptp(found) > 1e-6 else np.nan
        for quantity, true, found in truth_pairs(fit)
    }


def layer_found(fit: Fit) -> float:
    """Rank correlation over vertices of the expected layer with the true one."""
    return metrics.rank_correlation(truth_pairs(fit)[0][1], _choice(fit)[0])


def seeds_table(fits: Compared) -> pd.DataFrame:
    """A row per pair of seeds: how alike their maps and predictions are."""
    maps = [layer_maps(fit) for fit in fits.seeds.values()]
    table = attribution.agreement_table(maps, [str(seed) for seed in fits.seeds])
    scores = {str(seed): fit.score("test").value for seed, fit in fits.seeds.items()}
    table["difference of R²"] = table["and"].map(scores) - table["run"].map(scores)
    return table.rename(columns={"run": "seed", "and": "and seed"})
