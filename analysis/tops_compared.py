"""Top channels of every region in several networks, on one scale and in one colouring (Figs 29-34).

    regions = regions_of(fits)                      # fits by name, then by seed
    show = test_pictures(fits["CLIP"][0])
    full = full_maps(fits, regions, show)           # ROI -> network -> maps at full resolution
    described(regions["FFA"])

Colours are set on test pictures by tokens from the cache; only pictures that are shown go through
the networks again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pandas.io.formats.style import Styler

from analysis import evidence
from analysis.category import CATEGORY, category_areas, shown
from analysis.channel_figures import top_grid
from analysis.features import Tokens
from analysis.figures import SCREEN_DPI, light_dark
from analysis.files import InputError
from analysis.findings import Run, recorded
from analysis.fit import Fit
from analysis.picture_channels import local_tokens
from analysis.predict import load_network
from analysis.readings import PICTURES, Draws, Reading, channel_spread, predicts, read, truth_of
from analysis.report import DASH, plain_table, ranged
from analysis.simulate import TEACHER
from analysis.subject import AREAS
from analysis.top_channels import (
    Maps,
    Top,
    alike,
    covered,
    directions,
    in_same_colours,
    read_through,
    rgb,
    top_channels,
)
from analysis.verdicts import Judged, Measured

Fits = Mapping[str, Sequence[Fit]]
MOST = 100  # test pictures that colours are set on
SHOWN = 5  # pictures in a sheet


@dataclass(frozen=True, repr=False)  # which a notebook would keep beside the figures
class Sheets:
    """Figures under each other, for the book."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Region:
    """Top channels of one region by network, turned to the first one's colours."""

    tops: dict[str, Top]
    maps: dict[str, Maps]  # of the test pictures, on the cache's grid
    stable: dict[str, float]  # correlation with the maps of another seed, turned to these
    plain: dict[str, Maps]  # before turning
    listed: dict[str, float]  # `stable` of components of the weights as they are, as Listing 2 has
    # correlation of the first's maps with true ones: of what is read, and of components of the
    # weights as they are; empty where no truth is known
    truth: dict[str, float]


def _pooled(tokens: Tokens, rows: Int[np.ndarray, " n"]) -> list[torch.Tensor]:
    return list(tokens[rows][0].split(list(tokens.widths), 1))


def areas_of(fit: Fit) -> list[str]:
    """The areas of Table 4 that a subject has."""
    return [name for name in AREAS if name in fit.rois]


def _turned_alike(one: Maps, other: Maps) -> float:
    """`alike` once the one is turned to the other's colours."""
    nothing = Top((torch.zeros(3, 1),), torch.zeros(3))
    maps = in_same_colours(dict.fromkeys("ab", nothing), {"a": one, "b": other})[1]
    return alike(maps["a"], maps["b"])


def regions_of(fits: Fits) -> dict[str, Region]:
    """Each area's top channels in all networks, colours set on the first `MOST` test pictures."""
    first = next(iter(fits.values()))[0]
    rows, areas = first.split.test[:MOST], areas_of(first)
    tops: dict[tuple, Top] = {}
    maps: dict[tuple, Maps] = {}  # by area, network, seed, and whether as listed
    true: dict[str, Maps] = {}
    for name, each in fits.items():
        local = _pooled(each[0].tokens, rows)
        if each[0] is first and _truth_known(first):
            true = _true_maps(first, areas, local)
        for seed, fit in enumerate(each[:2]):
            spread = channel_spread(fit)
            for area in areas:
                for listed in (False, True):
                    key = area, name, seed, listed
                    top = top_channels(fit.model, fit.rois[area], None if listed else spread)
                    tops[key], maps[key] = top, top.maps(local)
    name = next(iter(fits))
    found = {}
    for area in areas:
        plain = {n: maps[area, n, 0, False] for n in fits}
        turned, same = in_same_colours({n: tops[area, n, 0, False] for n in fits}, plain)
        stable, listed_stable = (
            {n: _turned_alike(maps[area, n, 0, how], maps[area, n, 1, how]) for n in fits}
            for how in (False, True)
        )
        against = {
            "read": maps[area, name, 0, False],
            "listed": maps[area, name, 0, True],
        }
        truth = {k: _turned_alike(true[area], v) for k, v in against.items()} if true else {}
        found[area] = Region(turned, same, stable, plain, listed_stable, truth)
    return found


def test_pictures(fit: Fit, n: int = SHOWN) -> Int[np.ndarray, " picture"]:
    """Rows of test pictures to show: of simulated ones the first of each category, then others."""
    rows = fit.split.test
    there = shown(fit.subject, rows) or {}
    first = [rows[kind.argmax()] for kind in there.values() if kind.any()]
    chosen = list(dict.fromkeys([*first, *rows]))
    return np.sort(np.array(chosen[:n]))


def full_maps(
    fits: Fits, regions: Mapping[str, Region], rows: Int[np.ndarray, " picture"]
) -> dict[str, dict[str, Float[np.ndarray, "picture _h _w 3"]]]:
    """By area and network, the colours of pictures at all of the network's tokens."""
    found: dict[str, dict[str, np.ndarray]] = {area: {} for area in regions}
    for name, each in fits.items():
        network = load_network(each[0])
        local = local_tokens(network, each[0].subject.pictures(rows))
        for area, region in regions.items():
            found[area][name] = rgb(region.tops[name].maps(local))
    return found


def described(region: Region) -> pd.DataFrame:
    """A row per network: how much of a picture its top channels take, how alike the first
    network's they are, and how stable over seeds.
    """
    rows = []
    first = next(iter(region.maps.values()))
    for name, maps in region.maps.items():
        rows.append(
            {
                "network": name,
                "covered": float(covered(maps).mean()),
                "like first": alike(maps, first),
                "stable": region.stable[name],
            }
        )
    return pd.DataFrame(rows)


def _ends(values: pd.Series) -> str:
    return f"{values.min():.2f}{DASH}{values.max():.2f}"


def described_table(regions: Mapping[str, Region]) -> Styler:
    """A row per area: the same, each as its range over networks."""
    rows = []
    for area, region in regions.items():
        table = described(region)
        rows.append(
            {
                "Area": area,
                "Picture taken": _ends(table["covered"]),
                f"Like {table['network'].iloc[0]}'s": _ends(table["like first"].iloc[1:]),
                "Stable over seeds": _ends(table["stable"]),
                "of weights as they are": _ends(pd.Series(region.listed)),
            }
        )
    return plain_table(pd.DataFrame(rows))


def truth_table(regions: Mapping[str, Region]) -> Styler | str:
    """A row per area: how the first network's maps correlate with those of the true channels."""
    if not all(region.truth for region in regions.values()):
        return "Which channels these areas read is not known: there is no truth to compare with."
    titles = {
        "read": "Of what is read",
        "listed": "Of weights as they are",
    }
    rows = [
        {"Area": area} | {title: f"{region.truth[k]:.2f}" for k, title in titles.items()}
        for area, region in regions.items()
    ]
    return plain_table(pd.DataFrame(rows))


def caption(area: str, region: Region) -> str:
    """A line about one sheet, computed."""
    table = described(region).set_index("network")
    low, high = table["stable"].idxmin(), table["stable"].idxmax()
    return (
        f"**{area}.** Top channels of two seeds correlate by {table.loc[low, 'stable']:.2f} ({low})"
        f" to {table.loc[high, 'stable']:.2f} ({high})."
    )


def sheets(
    pictures: UInt8[np.ndarray, "picture height width 3"],
    regions: Mapping[str, Region],
    colours: Mapping[str, Mapping[str, Float[np.ndarray, "picture _h _w 3"]]],
    areas: Sequence[str],
) -> Sheets:
    """A sheet for each of some areas (all, if none is named) that there are, with its caption.

    Raises:
        InputError: for an area that is none of Table 4's.
    """
    if unknown := [area for area in areas if area not in AREAS]:
        raise InputError(f"sheets={unknown}: expected some of {', '.join(AREAS)}.")
    made = []
    for area in (a for a in areas or regions if a in regions):
        text = caption(area, regions[area])
        networks = ", ".join(regions[area].tops)
        alt = f"Pictures and top channels of {area} in {networks}. {text.split('** ')[1]}"
        pair = light_dark(partial(top_grid, pictures, colours[area]), alt, SCREEN_DPI)
        words = escape(text).replace("**", "<b>", 1).replace("**", "</b>", 1)
        made.append(f"<p>{words}</p>{pair.html}")
    return Sheets("\n".join(made))


# row 15


def _true_maps(fit: Fit, areas: Sequence[str], local: list[torch.Tensor]) -> dict[str, Maps]:
    """The same of the channels that a simulated truth reads, standardised as the tokens were."""
    truth, seen = truth_of(fit.subject), fit.tokens.statistics(fit.split.train)
    width = truth.channel.shape[1]
    each = [torch.eye(width)] * truth.layer.shape[1]
    maps = {}
    for area in areas:
        roi = fit.subject.rois[area]
        seen_as = directions(truth.channel[roi]), truth.layer[roi].mean(0), each
        maps[area] = read_through(*seen_as, seen.local_mean, 1 / seen.local_sd).maps(local)
    return maps


def category_table(fits: Fits, regions: Mapping[str, Region]) -> pd.DataFrame | None:
    """A row per area with a category: area under the curve by network, as `Measured`.

    None where it is not known what pictures show.
    """
    fit = next(iter(fits.values()))[0]
    there = shown(fit.subject, fit.split.test[:MOST])
    if there is None:
        return None
    columns = {}
    for name in fits:
        areas = category_areas({a: r.plain[name] for a, r in regions.items()}, there)
        columns[name] = {a: Measured.of(draws, PICTURES) for a, draws in areas.items()}
    table = pd.DataFrame(columns)
    return table.assign(category=[CATEGORY[area] for area in table.index])


def _truth_known(fit: Fit) -> bool:
    return fit.subject.simulated and fit.record["backbone"] == TEACHER


def _curves(fit: Fit, there: Mapping[str, Bool[np.ndarray, " p"]]) -> dict[str, Draws]:
    """By area, how well its first channel of what one fit reads tells its category's pictures."""
    local, spread = _pooled(fit.tokens, fit.split.test[:MOST]), channel_spread(fit)
    areas = [area for area in CATEGORY if area in fit.rois]
    maps = {area: top_channels(fit.model, fit.rois[area], spread).maps(local) for area in areas}
    return category_areas(maps, there)


def judged_categories(
    fits: Sequence[Fit], subject: str = "", run: Run | None = None
) -> Judged | None:
    """Row 15 by one network's seeds, recorded for the scoreboard if a subject is named.

    None where it is not known what pictures show, or they show no category.
    """
    fit = fits[0]
    rows = fit.split.test[:MOST]
    there = shown(fit.subject, rows)
    areas = [area for area in CATEGORY if area in fit.rois]
    if there is None or not areas or not any(0 < kind.sum() < len(rows) for kind in there.values()):
        return None
    truth = None
    if _truth_known(fit):
        true = _true_maps(fit, areas, _pooled(fit.tokens, rows))
        truth = category_areas(true, there), read(fit)
    each = [(_curves(one, there), read(one)) for one in fits]
    return evidence.evaluate("top-channels", _category, each, subject, run, truth)


def _category(each: tuple[Mapping[str, Draws], Reading]) -> dict[str, Measured]:
    curves, reading = each
    return evidence.top_channels(curves) | predicts([reading])


def category_shown(table: pd.DataFrame | None) -> Styler | str:
    """`category_table` as a page shows it."""
    if table is None:
        return "What the pictures show is not known here."
    cells = table.drop(columns="category").map(lambda m: ranged(m.value, m.low, m.high))
    cells.insert(0, "Shows a", table["category"])
    return plain_table(cells.rename_axis("Area").reset_index())


def category_text(found: Judged | None, subject: str, run: Run) -> str:
    """The verdict on row 15, with what the true channels give."""
    if found is None:
        return "Row 15 of Table 5 is not judged: what the pictures show is not known here."
    truth = recorded(subject, found.finding, run).get("truth")
    said = (
        " Of the channels that the simulated areas truly read it is"
        f" {truth.measured['category']}, by the same rule: {truth.of(['category'])}."
        if truth
        else ""
    )
    return (
        f"**{found.finding.claim}** {found.verdict.capitalize()}, by CLIP: the smallest area under"
        f" the curve of all areas is {found.measured['category']}; the claim holds if that is"
        f" {found.finding.parts[0].rule}.{said}"
    )
