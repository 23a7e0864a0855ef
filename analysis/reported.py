"""The numbers that the paper prints of each finding, to stand beside ours: `printed_numbers()`.

Tables 13 and 14 as they are, and what was read off Figure 5. They are numbers without a verdict:
their intervals are not known. The figure shows largest layers where ours are expected ones, and its
sizes are base and large where ours are the smallest and the largest.
"""

import numpy as np
import pandas as pd

from analysis import digitised, published
from analysis.alignment import OURS, STATISTICS, Definition, line
from analysis.evidence import LATE_STEP
from analysis.files import InputError
from analysis.findings import FAMILIES
from analysis.readings import EARLY, LATE


def figure_5(definition: Definition = OURS) -> dict[tuple[str, str], dict[str, float]]:
    """Slope, start, end and rank of each panel's networks, from ROIs' mean largest layer.

    The share that the line explains is of the ROIs' means here, not of vertices as in ours. Of the
    definition, levels and balance are taken: the figure shows largest layers by weight alone.

    Raises:
        InputError: for balance "vertex": how many there are in a ROI the figure doesn't say.
    """
    if definition.balance == "vertex":
        raise InputError("definition: balance='vertex' of a figure; expected 'level' or 'roi'.")
    levels, found = definition.levels, {}
    for (panel, network), rows in digitised.figure_5().groupby(["panel", "network"], sort=False):
        rows = rows[rows["ROI"].isin(levels)]
        depth = (rows["layer"].to_numpy()[None] - 1) / (rows["layers"].iloc[0] - 1)
        level = rows["ROI"].map(levels).to_numpy(float)
        weight = definition.weights(tuple(rows["ROI"]), np.ones_like(depth))
        fitted = line(level, weight, depth, np.square(depth))
        found[str(panel), str(network)] = {name: float(fitted[name][0]) for name in STATISTICS}
    return found


def figure_5_table(definition: Definition = OURS) -> pd.DataFrame:
    """A row per panel and network: our statistics of what was read off the paper's Figure 5."""
    confidence = digitised.figure_5().groupby(["panel", "network"])["confidence"].mean()
    return pd.DataFrame(
        [
            {"panel": panel, "network": network}
            | {name: fitted[name] for name in ("slope", "start", "end", "rank")}
            | {"confidence": float(confidence[panel, network])}
            for (panel, network), fitted in figure_5(definition).items()
        ]
    )


def printed_numbers() -> dict[str, dict[str, float]]:
    """By finding, the parts of which the paper shows numbers; of subject #1."""
    table = published.TABLE_13
    steps = table.loc[list(published.STEPS)].rename(lambda row: int(row.removeprefix("SD T")))
    late = [name for name in LATE if name in table]
    away = table[list(EARLY)].mean(axis=1) - table[late].mean(axis=1)
    best = [steps[names].mean(axis=1).idxmax() for names in (list(EARLY), late)]
    share = steps.loc[LATE_STEP:].mean() / table.loc[list(published.VITS)].max()
    tuned = published.TABLE_14.drop(columns="±").mean()
    lines = figure_5()
    base, large = (
        {network: fitted for (panel, network), fitted in lines.items() if panel == f"#1 {size}"}
        for size in ("base", "large")
    )
    # of the larger less of the smaller: slope, start and end
    grown = {n: {of: large[n][of] - base[n][of] for of in base[n]} for n in base}
    clip = grown["CLIP"]
    others = {f"{name} slope": -grown[name]["slope"] for name in FAMILIES[1:]}
    for name in FAMILIES[1:]:
        if name in ("ImageNet", "DiNOv2"):
            others[f"{name} early"] = grown[name]["start"]
        else:
            others[f"{name} late"] = -grown[name]["end"]
    gap = (away["MAE"] + away["SAM"] - away["CLIP"] - away["DiNOv2"]) / 2
    return {
        "early-and-late": {"MAE, SAM against CLIP, DiNOv2": float(gap)},
        "diffusion-uniform": {"worst region": float(share.drop("all").min())},
        "diffusion-steps": {"steps between": float(best[0] - best[1])},
        "clip-best": {
            f"over {name}": base["CLIP"]["slope"] - base[name]["slope"] for name in FAMILIES[1:]
        },
        "clip-size": {"slope": clip["slope"], "early": -clip["start"], "late": clip["end"]},
        "other-sizes": others,
        "fine-tuning-accuracy": {"CLIP best": float(tuned["CLIP"] - tuned.drop("CLIP").max())},
    }
