"""What a finding is, and when it holds.

    judged = judge(finding, {"slope": Measured(0.2, 0.1, 0.3, "31 patches of cortex, 3 seeds")})
    judged.verdict, judged.table()

A claim has one or several parts, each a number that lies above (or below) a bound if it is true. A
part holds if its whole 95 % interval does, doesn't if its whole interval lies beyond, and can't be
told in between. All parts have to hold; one that doesn't is enough against, so the intervals that
speak against a claim of several parts are widened (Bonferroni's correction). Nothing is read from
networks that predict nothing: the smallest R² of those that a part reads has to be above 0. And a
verdict is over several seeds: with fewer the numbers are shown and not judged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from analysis import metrics
from analysis.files import InputError

Verdict = Literal["holds", "does not hold", "cannot be told", "not judged", "not run"]
NOT_RUN: Verdict = "not run"
TRUTH_UNKNOWN = "truth not known"
PREDICTS = "predicts"  # the part that every row read from networks has
SEEDS = 3  # that a verdict is over
TAIL = (1 - metrics.LEVEL) / 2


def _wider(parts: int) -> float:
    """By how much an interval is wider for Bonferroni's correction, of so many numbers.

    The ratio of normal quantiles: far tails of few draws are not known.
    """
    return float(ndtri(1 - TAIL / parts) / ndtri(1 - TAIL))


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

    @classmethod
    def smallest(cls, draws: Mapping[str, Float[np.ndarray, " draw"]], over: str) -> "Measured":
        """The smallest of several numbers, in each draw anew.

        The smallest of noisy numbers lies too low, and that of drawn ones lower still. So the upper
        end is that of the number whose own interval, widened for how many there are, ends first.
        """
        each = np.stack(list(draws.values()))  # [number, draw]
        least = cls.of(each.min(0), over)
        above = metrics.quantiles(each[:, 1:].T)[1] - each[:, 0]
        high = float(np.min(each[:, 0] + _wider(len(each)) * above))
        return cls(least.value, least.low, max(least.value, high), over)

    @classmethod
    def largest(cls, draws: Mapping[str, Float[np.ndarray, " draw"]], over: str) -> "Measured":
        """The largest of several numbers, likewise."""
        return -cls.smallest({name: -of_one for name, of_one in draws.items()}, over)

    def __neg__(self) -> "Measured":
        return Measured(-self.value, -self.high, -self.low, self.over)

    def widened(self, parts: int) -> "Measured":
        """With the interval that one of so many numbers needs for all to have 95 % together."""
        by = _wider(parts)
        low, high = (self.value + by * (end - self.value) for end in (self.low, self.high))
        return Measured(self.value, low, high, self.over)

    @property
    def known(self) -> bool:
        """Whether there is an interval to judge by; if not, `over` says why."""
        return all(map(math.isfinite, (self.value, self.low, self.high)))

    def __str__(self) -> str:
        if self.known:
            return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f} ({self.over})" if math.isfinite(self.value) else self.over


@dataclass(frozen=True)
class Rule:
    """Where a part's interval has to lie."""

    bound: float = 0.0
    side: Literal["above", "below"] = "above"

    def judge(self, m: Measured, parts: int = 1) -> Verdict:
        """The verdict on one number; `parts`: of how many any one would speak against the claim."""
        if not m.known:
            return "cannot be told"
        wide = m.widened(parts)
        if self.side == "below":
            m, wide = -m, -wide
        bound = self.bound if self.side == "above" else -self.bound
        if m.low > bound:
            return "holds"
        return "does not hold" if wide.high < bound else "cannot be told"

    def __str__(self) -> str:
        return f"{self.side} {self.bound:g}"


@dataclass(frozen=True)
class Part:
    """One number that a claim is judged by."""

    name: str
    statistic: str  # in words
    rule: Rule = Rule()
    gate: str = PREDICTS  # the number that says whether the networks that it reads predict


@dataclass(frozen=True)
class Finding:
    """A row of Table 5."""

    name: str
    about: str  # its group
    claim: str
    sections: str
    shown: str  # figures and tables
    parts: tuple[Part, ...]
    true_parts: tuple[str, ...] = ()  # known of a simulated person, whatever was fitted

    @property
    def source(self) -> str:
        return f"Sec. {self.sections}; {self.shown}"


@dataclass(frozen=True)
class Judged:
    """A finding with its numbers and its verdict."""

    finding: Finding
    measured: Mapping[str, Measured]  # by part
    seeds: int = SEEDS  # that the numbers are over

    def part(self, part: Part) -> Verdict:
        """The verdict on one part."""
        if part.name not in self.measured:
            return NOT_RUN
        if self.seeds < SEEDS:
            return "not judged"
        gate = self.measured.get(part.gate)
        if gate is not None and Rule().judge(gate) != "holds":
            return "cannot be told"
        return part.rule.judge(self.measured[part.name], len(self.finding.parts))

    @property
    def verdict(self) -> Verdict:
        return self.of([part.name for part in self.finding.parts])

    def of(self, parts: Sequence[str]) -> Verdict:
        """The verdict on some parts together."""
        if not self.measured:
            return NOT_RUN
        if self.seeds < SEEDS:
            return "not judged"
        each = {self.part(part) for part in self.finding.parts if part.name in parts}
        if "does not hold" in each:
            return "does not hold"
        return "holds" if each == {"holds"} else "cannot be told"

    @property
    def why(self) -> str:
        """Why it isn't judged, or nothing."""
        if self.verdict != "not judged":
            return ""
        word = "seed" if self.seeds == 1 else "seeds"
        return f"{self.seeds} {word}; a verdict is over {SEEDS}"

    def table(self) -> pd.DataFrame:
        """A row per part: statistic, value, interval, rule, verdict."""
        parts = list(self.finding.parts)
        gates = sorted({part.gate for part in parts} & self.measured.keys())
        parts = [Part(gate, "smallest R² of the networks read") for gate in gates] + parts
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


def with_spread(m: Measured, seeds: Float[np.ndarray, " seed"]) -> Measured:
    """A number whose interval holds the spread of seeds too, beside what it is over.

    `seeds`: what each seed alone gives, or the jackknife's pseudo-values; NaN if a seed has none.
    The two half widths are joined as the sides of a right angle (MOVER; Zou and Donner 2008).
    """
    n = len(seeds)
    if n < 2:
        return replace(m, over=f"{m.over}, 1 seed")
    half = stdtrit(n - 1, 1 - TAIL) * np.std(seeds, ddof=1) / n**0.5
    low, high = (float(np.hypot(half, end)) for end in (m.value - m.low, m.high - m.value))
    return Measured(m.value, m.value - low, m.value + high, f"{m.over}, {n} seeds")


def over_seeds(each: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    """The mean over seeds of each part, its interval over seeds and what one fit's is over.

    Half widths below and above: the mean over seeds of one fit's, and Student's of the mean over
    seeds, joined by `with_spread`. A part that one seed can't measure has that seed's reason.
    """
    found = {}
    for part in each[0]:
        runs = [run[part] for run in each]
        value, low, high = np.mean([(m.value, m.low, m.high) for m in runs], axis=0).tolist()
        why = next((m for m in runs if not m.known), None)
        if why is not None:
            found[part] = Measured(value, math.nan, math.nan, why.over)
        else:
            mean = Measured(value, low, high, runs[0].over)
            found[part] = with_spread(mean, np.array([m.value for m in runs]))
    return found


def judge(finding: Finding, measured: Mapping[str, Measured], seeds: int = SEEDS) -> Judged:
    """The finding with these numbers, over so many seeds.

    Raises:
        InputError: for a number that the finding has no part for.
    """
    known = {part.name for part in finding.parts} | {part.gate for part in finding.parts}
    if unknown := measured.keys() - known:
        raise InputError(
            f"finding {finding.name!r}: no part {', '.join(sorted(unknown))}; expected"
            f" {', '.join(sorted(known))}."
        )
    return Judged(finding, measured, seeds)


def against_truth(judged: Judged, truth: Judged | None) -> str:
    """Whether what is true was found, and what isn't was claimed.

    Of the parts whose truth is known. Unknown where there is no truth, none on one side of the
    bound, or no verdict.
    """
    unjudged = ("not judged", NOT_RUN)
    if truth is None or judged.verdict in unjudged:
        return TRUTH_UNKNOWN
    true = truth.of(truth.finding.true_parts)
    if true not in ("holds", "does not hold"):
        return TRUTH_UNKNOWN
    claimed = judged.of(truth.finding.true_parts) == "holds"
    if true == "holds":
        return "found" if claimed else "missed"
    return "claimed, and is not there" if claimed else "not there, and not claimed"
