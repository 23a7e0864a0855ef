"""What the paper's own numbers say, by the same rules as ours: `evidence_of_paper()`.

The ± that a table gives is taken as a standard error, alike and independent for all its numbers;
what was read off Figure 5 has the error of its last digit. Where the paper shows no number there is
none here.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import digitised, evidence, published
from analysis.alignment import OURS, STATISTICS, Definition, line
from analysis.files import InputError
from analysis.findings import FAMILIES
from analysis.readings import RoiDraws
from analysis.verdicts import PREDICTS, Measured

DRAWS = 1000
TABLE, FIGURE = "± of the table", "last digit read off the figure"


def scores(rows: Sequence[str]) -> dict[str, RoiDraws]:
    """Rows of Table 13 as it is, then with its error drawn again and again."""
    rng = np.random.default_rng(0)
    drawn = {}
    for row in rows:
        values = published.TABLE_13.loc[row].to_numpy(float)
        error = rng.normal(0, published.R2_ERROR, (DRAWS, len(values)))
        draws = np.concatenate([values[None], values + error])
        drawn[row] = dict(zip(published.COLUMNS, draws.T, strict=True))
    return drawn


def figure_5(
    definition: Definition = OURS,
) -> dict[tuple[str, str], dict[str, Float[np.ndarray, " draw"]]]:
    """Slope, start, end and rank of each panel's networks, from ROIs' mean largest layer.

    The share that the line explains is of the ROIs' means here, not of vertices as in ours. Of the
    definition, levels and balance are taken: the figure shows largest layers by weight alone.

    Raises:
        InputError: for balance "vertex": how many there are in a ROI the figure doesn't say.
    """
    if definition.balance == "vertex":
        raise InputError("definition: balance='vertex' of a figure; expected 'level' or 'roi'.")
    levels = definition.levels
    rng, found = np.random.default_rng(0), {}
    for (panel, network), rows in digitised.figure_5().groupby(["panel", "network"], sort=False):
        rows = rows[rows["ROI"].isin(levels)]
        layer = rows["layer"].to_numpy()
        error = rng.uniform(-1, 1, (DRAWS, len(layer))) * digitised.LAYER_ERROR
        depth = (np.concatenate([layer[None], layer + error]) - 1) / (rows["layers"].iloc[0] - 1)
        level = rows["ROI"].map(levels).to_numpy(float)
        weight = definition.weights(tuple(rows["ROI"]), np.ones_like(depth))
        fitted = line(level, weight, depth, np.square(depth))
        found[str(panel), str(network)] = {name: fitted[name] for name in STATISTICS}
    return found


def figure_5_table(definition: Definition = OURS) -> pd.DataFrame:
    """A row per panel and network: our statistics of what was read off the paper's Figure 5."""
    confidence = digitised.figure_5().groupby(["panel", "network"])["confidence"].mean()
    return pd.DataFrame(
        [
            {"panel": panel, "network": network}
            | {name: float(fitted[name][0]) for name in ("slope", "start", "end", "rank")}
            | {"confidence": float(confidence[panel, network])}
            for (panel, network), fitted in figure_5(definition).items()
        ]
    )


def _fine_tuning() -> Measured:
    """CLIP's accuracy less the best other's, mean over the two tasks of Table 14."""
    table, rng = published.TABLE_14, np.random.default_rng(0)
    names = [name for name in table if name != "±"]
    values = table[names].to_numpy()
    error = rng.normal(size=(DRAWS, *values.shape)) * table["±"].to_numpy()[:, None]
    mean = np.concatenate([values[None], values + error]).mean(1)
    others = [i for i, name in enumerate(names) if name != "CLIP"]
    return Measured.of(mean[:, names.index("CLIP")] - mean[:, others].max(1), TABLE)


def evidence_of_paper() -> dict[str, dict[str, Measured]]:
    """By finding, the parts of which the paper shows numbers; of subject #1."""
    vits, steps = scores(published.VITS), scores(published.STEPS)
    tables = {
        "early-and-late": evidence.early_and_late(vits),
        "diffusion-uniform": evidence.diffusion_uniform(steps | vits),
        "diffusion-steps": evidence.diffusion_steps(steps),
    }
    found = {
        name: {
            part: Measured(m.value, m.low, m.high, TABLE)
            for part, m in parts.items()
            if part != PREDICTS
        }
        for name, parts in tables.items()
    }
    found["fine-tuning-accuracy"] = {"CLIP best": _fine_tuning()}
    lines = figure_5()
    base, large = (
        {network: fitted for (panel, network), fitted in lines.items() if panel == f"#1 {size}"}
        for size in ("base", "large")
    )
    draws = {
        ("clip-best", f"over {name}"): base["CLIP"]["slope"] - base[name]["slope"]
        for name in FAMILIES[1:]
    }
    clip = {name: large["CLIP"][name] - base["CLIP"][name] for name in ("slope", "start", "end")}
    draws |= {("clip-size", "slope"): clip["slope"], ("clip-size", "early"): -clip["start"]}
    draws |= {("clip-size", "late"): clip["end"]}
    for name in FAMILIES[1:]:
        fall = {of: base[name][of] - large[name][of] for of in ("slope", "start", "end")}
        draws["other-sizes", f"{name} slope"] = fall["slope"]
        early = name in ("ImageNet", "DiNOv2")
        part = f"{name} early" if early else f"{name} late"
        draws["other-sizes", part] = -fall["start"] if early else fall["end"]
    for (name, part), values in draws.items():
        found.setdefault(name, {})[part] = Measured.of(values, FIGURE)
    return found
