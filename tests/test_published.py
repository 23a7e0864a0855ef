"""Published tables against what the paper says of them in words: a wrong digit would be told."""

import numpy as np
import pytest

from analysis import digitised, reported
from analysis.findings import FINDINGS
from analysis.model import VARIANTS
from analysis.published import (
    CONTRADICTIONS,
    FINE_TUNED,
    STEPS,
    SUBJECTS,
    TABLE_13,
    TABLE_14,
    TABLE_15,
    TABLE_16,
    VITS,
    contradictions_table,
)


def best(rows, column: str) -> str:
    return TABLE_13.loc[list(rows), column].idxmax()


def test_table_13_is_whole_and_says_what_appendix_d1_says_of_it() -> None:
    assert TABLE_13.shape == (3 + 6 + 11, 13) and TABLE_13.notna().all(axis=None)
    assert TABLE_13.loc["CLIP"].equals(TABLE_13.loc[SUBJECTS[0]].rename("CLIP"))
    one, two, three = SUBJECTS
    assert best(SUBJECTS, "V1") == two
    assert {best(SUBJECTS, roi) for roi in ("FFA", "FBA")} == {one}
    assert (TABLE_13.loc[three, ["V1", "V2", "V3"]] == TABLE_13.loc[list(SUBJECTS)].min()[
        ["V1", "V2", "V3"]]).all()  # fmt: skip
    assert {best(VITS, roi) for roi in ("V1", "V2", "V3", "OPA", "OWFA")} == {"MAE"}
    assert best(VITS, "VWFA") != "MAE"
    assert {best(VITS, roi) for roi in ("EBA", "FBA", "OFA", "FFA", "PPA")} == {"CLIP"}
    early_steps = TABLE_13.loc[[f"SD T{t}" for t in range(0, 25, 5)]]
    assert (early_steps.max() < TABLE_13.loc[list(STEPS)].max()).all()
    for roi in ("EBA", "FBA", "OPA", "PPA"):
        assert TABLE_13.loc["SD T35", roi] == TABLE_13.loc[list(STEPS), roi].max()
    assert TABLE_13.loc["SD T45", ["V1", "V2", "V3"]].equals(
        TABLE_13.loc[list(STEPS), ["V1", "V2", "V3"]].max().rename("SD T45")
    )
    assert ((TABLE_13 > 0.02) & (TABLE_13 < 0.25)).all(axis=None)
    # over time each region's score rises, but for small steps back: a digit would stand out
    assert np.diff(TABLE_13.loc[list(STEPS)], axis=0).min() > -0.009


def test_the_other_tables_say_what_the_text_says_of_them() -> None:
    assert (TABLE_14[["CLIP", "MAE", "SAM", "DiNOv2"]].idxmax(axis=1) == "CLIP").all()
    assert TABLE_14.shape == (2, 5) and TABLE_14["±"].tolist() == [0.008, 0.004]
    assert TABLE_15.idxmin(axis=1).tolist() == [2000, 2000]
    assert TABLE_15.loc["DiNOv2"].idxmax() == 4000 and TABLE_15.loc["CLIP"].idxmax() == 8000
    assert len(TABLE_16) == 9 and set(TABLE_16["variant"]) == set(VARIANTS) & set(
        TABLE_16["variant"]
    )
    ours = TABLE_16.loc["FactorTopy"]
    assert TABLE_16["all"].idxmax() == "multiple sample" and ours["all"] == 0.132
    assert (TABLE_16.drop(index=["multiple sample", "FactorTopy"])["all"] < ours["all"]).all()
    assert TABLE_16["time ×"].idxmax() == TABLE_16["MACs ×"].idxmax() == "GNetViT"
    drop = FINE_TUNED["before"] - FINE_TUNED["after"]
    assert drop.round(3).to_dict() == {"CLIP": 0.016, "DiNOv2": 0.043, "SAM": 0.025}


def test_the_figure_read_off_lies_within_its_networks() -> None:
    table = digitised.figure_5()
    assert len(table) == 5 * 6 * 8 and set(table["network"]) == set(VITS)
    assert ((table["layer"] >= 1) & (table["layer"] <= table["layers"])).all()
    assert table["confidence"].between(0, 1).all()
    base = table[table["panel"] != "#1 large"]
    assert (base["layers"] == 12).all()
    # the last layer of DiNOv2 is nowhere the largest on average, as the paper says of it
    assert base[base["network"] == "DiNOv2"]["layer"].max() < 10.5
    giant = table[(table["panel"] == "#1 large") & (table["network"] == "DiNOv2")]
    assert giant["layers"].unique() == [40] and giant["layer"].min() > 30


def test_numbers_quoted_in_contradictions_are_the_tables() -> None:
    about = {c.about: c for c in CONTRADICTIONS}
    text = about["brain score before fine-tuning"]
    for name in ("CLIP", "DiNOv2", "SAM"):
        assert f"{name} {FINE_TUNED.loc[name, 'before']:.3f}".replace("0.", ".") in text.one
        assert f"{name} {TABLE_13.loc[name, 'all']:.3f}".replace("0.", ".") in text.other
        assert FINE_TUNED.loc[name, "before"] != TABLE_13.loc[name, "all"]
    ofa = TABLE_13.loc[list(VITS), "OFA"].sort_values(ascending=False)
    assert ofa.index[:2].tolist() == ["CLIP", "MAE"] and ofa.iloc[1] == 0.127
    assert TABLE_13.loc["DiNOv2", "OFA"] == 0.122
    assert TABLE_13.loc["MAE", "PPA"] == TABLE_13.loc["DiNOv2", "PPA"] == 0.126
    for roi, value in (("EBA", 0.170), ("FBA", 0.145)):
        assert TABLE_13.loc["SD T35", roi] == TABLE_13.loc["SD T45", roi] == value
    assert TABLE_13.loc[list(SUBJECTS[1:]), "FFA"].tolist() == [0.136, 0.151]
    assert TABLE_13.loc["CLIP", "all"] == TABLE_16.loc["FactorTopy", "all"] == 0.132
    assert TABLE_15.loc["CLIP", [2000, 6000]].tolist() == [0.093, 0.131]
    assert TABLE_14.loc["ISIC"].drop("±").idxmin() == "MAE"
    assert TABLE_14.loc["EuroSAT"].drop("±").idxmin() == "SAM"
    assert len(contradictions_table()) == len(CONTRADICTIONS) == len(about)


def test_the_papers_numbers_are_those_of_its_tables_and_its_figure() -> None:
    found = reported.printed_numbers()
    for name, parts in found.items():
        assert set(parts) <= {part.name for part in FINDINGS[name].parts}
    # from the rows of Table 13, by hand
    early = {"MAE": (0.219, 0.210, 0.186), "SAM": (0.212, 0.197, 0.172),
             "CLIP": (0.216, 0.209, 0.185), "DiNOv2": (0.208, 0.202, 0.175)}  # fmt: skip
    late = {"MAE": (0.165, 0.148, 0.127, 0.173, 0.093, 0.126, 0.124, 0.086),
            "SAM": (0.127, 0.120, 0.104, 0.142, 0.074, 0.104, 0.105, 0.066),
            "CLIP": (0.176, 0.157, 0.129, 0.182, 0.091, 0.130, 0.121, 0.092),
            "DiNOv2": (0.174, 0.152, 0.122, 0.178, 0.083, 0.126, 0.111, 0.088)}  # fmt: skip
    away = {n: np.mean(early[n]) - np.mean(late[n]) for n in early}
    gap = (away["MAE"] + away["SAM"] - away["CLIP"] - away["DiNOv2"]) / 2
    assert found["early-and-late"]["MAE, SAM against CLIP, DiNOv2"] == pytest.approx(gap)
    assert found["diffusion-steps"]["steps between"] == 45 - 35
    assert found["diffusion-uniform"]["worst region"] == pytest.approx(
        np.mean([0.083, 0.075, 0.078, 0.081]) / 0.092  # VWFA
    )
    best = (0.640 + 0.954) / 2 - (0.622 + 0.946) / 2  # CLIP and DiNOv2 of Table 14
    assert found["fine-tuning-accuracy"]["CLIP best"] == pytest.approx(best)
    lines = reported.figure_5_table().set_index(["panel", "network"])["slope"]
    assert found["clip-size"]["slope"] == pytest.approx(
        lines["#1 large", "CLIP"] - lines["#1 base", "CLIP"]
    )
    assert {p.name for p in FINDINGS["other-sizes"].parts} == set(found["other-sizes"])
    assert min(found["other-sizes"].values()) > 0  # as Table 5 says of the figure
