"""What a finding is, and when it holds.

    judged = judge(finding, {"slope": Measured(0.2, 0.1, 0.3, "patches of cortex")})
    judged.verdict, judged.table()

A claim has one or several parts, each a number that lies above (or below) a bound if it is true. A
part holds if its whole interval does, doesn't if its whole interval lies beyond, and can't be told
in between. All parts have to hold; one that doesn't is enough against. And nothing is read from
networks that predict nothing: their smallest R² has to be above 0 first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis import metrics
from analysis.files import InputError

Verdict = Literal["holds", "does not hold", "cannot be told", "not run"]
NOT_RUN: Verdict = "not run"
TRUTH_UNKNOWN = "truth not known"
PREDICTS = "predicts"  # the part that every row read from networks has


@dataclass(frozen=True)
class Measured:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float
    over: str  # what the interval is over

    @classmethod
    def of(cls, draws: Float[np.ndarray, " draw"], over: str) -> "Measured":
        """From draws whose first is the data as they are."""
        low, high = metrics.quantiles(draws[1:])
        return cls(float(draws[0]), float(low), float(high), over)

    @classmethod
    def unbiased(cls, draws: Float[np.ndarray, " draw"], over: str) -> "Measured":
        """The same of a statistic that chance raises, as it does a squared difference.

        Draws are as far above the data as the data above the truth, so the one is taken from the
        other: the basic bootstrap interval.
        """
        low, high = metrics.quantiles(draws[1:])
        value = 2 * draws[0] - draws[1:].mean()
        return cls(float(value), float(2 * draws[0] - high), float(2 * draws[0] - low), over)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Rule:
    """Where a part's interval has to lie."""

    bound: float = 0.0
    side: Literal["above", "below"] = "above"

    def judge(self, m: Measured) -> Verdict:
        if not all(map(math.isfinite, (m.value, m.low, m.high))):
            return "cannot be told"
        above, below = m.low > self.bound, m.high < self.bound
        if above or below:
            return "holds" if above == (self.side == "above") else "does not hold"
        return "cannot be told"

    def __str__(self) -> str:
        return f"interval {self.side} {self.bound:g}"


@dataclass(frozen=True)
class Part:
    """One number that a claim is judged by."""

    name: str
    statistic: str  # in words
    rule: Rule = Rule()


@dataclass(frozen=True)
class Finding:
    """A row of Table 5."""

    name: str
    about: str  # its group
    claim: str
    sections: str
    shown: str  # figures and tables
    parts: tuple[Part, ...]

    @property
    def source(self) -> str:
        return f"Sec. {self.sections}; {self.shown}"


@dataclass(frozen=True)
class Judged:
    """A finding with its numbers and its verdict."""

    finding: Finding
    measured: Mapping[str, Measured]  # by part

    def part(self, part: Part) -> Verdict:
        """The verdict on one part."""
        return part.rule.judge(self.measured[part.name]) if part.name in self.measured else NOT_RUN

    @property
    def verdict(self) -> Verdict:
        if not self.measured:
            return NOT_RUN
        if PREDICTS in self.measured and Rule().judge(self.measured[PREDICTS]) != "holds":
            return "cannot be told"
        each = {self.part(part) for part in self.finding.parts}
        if "does not hold" in each:
            return "does not hold"
        return "holds" if each == {"holds"} else "cannot be told"

    @property
    def numbers(self) -> str:
        """Each part's value and interval, in a line."""
        return "; ".join(
            f"{p.name} {self.measured[p.name]}"
            for p in self.finding.parts
            if p.name in self.measured
        )

    def table(self) -> pd.DataFrame:
        """A row per part: statistic, value, interval, rule, verdict."""
        parts = list(self.finding.parts)
        if PREDICTS in self.measured:
            parts.insert(0, Part(PREDICTS, "smallest R² of the networks read, all vertices"))
        rows = []
        for part in parts:
            m = self.measured.get(part.name, Measured(math.nan, math.nan, math.nan, ""))
            rows.append(
                {
                    "Part": part.name,
                    "Statistic": part.statistic,
                    "Value": m.value,
                    "low": m.low,
                    "high": m.high,
                    "Interval over": m.over,
                    "Holds if": str(part.rule),
                    "Verdict": self.part(part),
                }
            )
        return pd.DataFrame(rows)


def over_runs(each: Sequence[Mapping[str, Measured]], over: str) -> dict[str, Measured]:
    """The same parts measured in several runs: their mean, and Student's interval over runs.

    `over`: "seeds" or "subjects". The smallest R² is the smallest of all runs.
    """
    found = {}
    for part in each[0]:
        runs = [run[part] for run in each]
        low, high = metrics.over_runs(np.array([m.value for m in runs]))
        mean = float(np.mean([m.value for m in runs]))
        least = min(runs, key=lambda m: m.value)
        found[part] = least if part == PREDICTS else Measured(mean, float(low), float(high), over)
    return found


def judge(finding: Finding, measured: Mapping[str, Measured]) -> Judged:
    """The finding with these numbers.

    Raises:
        InputError: for a number that the finding has no part for.
    """
    known = {part.name for part in finding.parts} | {PREDICTS}
    if unknown := measured.keys() - known:
        raise InputError(
            f"finding {finding.name!r}: no part {', '.join(sorted(unknown))}; expected"
            f" {', '.join(sorted(known))}."
        )
    return Judged(finding, measured)


def against_truth(judged: Judged, truth: Judged | None) -> str:
    """Whether what is there was found, and what isn't was claimed."""
    if truth is None or truth.verdict in (NOT_RUN, "cannot be told"):
        return TRUTH_UNKNOWN
    there, claimed = truth.verdict == "holds", judged.verdict == "holds"
    if claimed:
        return "found" if there else "claimed, and is not there"
    return "missed" if there else "not there, and not claimed"


def in_control(control: Judged | None) -> str:
    """Whether the same page claims it of shuffled responses, where nothing is there."""
    if control is None or control.verdict == NOT_RUN:
        return NOT_RUN
    return "claimed" if control.verdict == "holds" else "not claimed"
