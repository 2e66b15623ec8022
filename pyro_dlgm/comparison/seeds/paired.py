r"""Differences that are paired over seeds, their intervals, and which row may be called the winner."""

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

LEVEL = 0.95  # of intervals

Scores = Mapping[int, float]  # the score of a row, by seed


class Spread(NamedTuple):
    r"""A score over seeds.

    Attributes:
        mean: over the seeds.
        standard_deviation: over the seeds; `None` for one seed.
        standard_error: of the mean; `None` for one seed.
    """

    mean: float
    standard_deviation: float | None
    standard_error: float | None

    @classmethod
    def of(cls, scores: Scores) -> "Spread | None":
        r"""Creates the spread of a score, `None` where no seed has it."""
        values = list(scores.values())
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, deviation and deviation / len(values) ** 0.5)


class Paired(NamedTuple):
    r"""The difference between the scores of two rows, paired over the seeds that both have.

    With d_s the difference at seed s, and d̄ and sd(d) over S seeds, the interval is d̄ ± t sd(d) / √S, where t is the
    quantile of Student's t with S − 1 degrees of freedom: 12.7 for two seeds, 2.8 for five, 2.0 for many.

    Attributes:
        mean: d̄, in the units of the scores.
        standard_error: sd(d) / √S; `None` for fewer than two seeds.
        low, high: the interval at 95%; infinite for fewer than two seeds.
        seeds: the number S of seeds that both rows have.
    """

    mean: float
    standard_error: float | None
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, ours: Scores, theirs: Scores) -> "Paired | None":
        r"""Creates the difference ours − theirs; `None` where the rows share no seed."""
        from scipy import stats  # imported here: it is slow to import

        found = Spread.of({seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs})
        if found is None:
            return None
        S = len(ours.keys() & theirs.keys())
        half = math.inf if S == 1 else stats.t.ppf((1 + LEVEL) / 2, S - 1) * found.standard_error
        return cls(found.mean, found.standard_error, found.mean - half, found.mean + half, S)


class Lead(NamedTuple):
    r"""The row with the highest mean, and the other one that it is least surely ahead of.

    Attributes:
        best: its name.
        other: the name of that other row.
        paired: the difference best − other.
        allowance: by how much the score of the other row may be too low, in nats.
        missing: at how many seeds the best row has no score, and another row has one.
    """

    best: str
    other: str
    paired: Paired
    allowance: float
    missing: int

    @property
    def wins(self) -> bool:
        r"""Whether the best row may be called the winner."""
        return self.missing == 0 and self.paired.low > self.allowance


def lead(scores: Mapping[str, Scores], allowances: Mapping[str, float] | None = None) -> Lead | None:
    r"""Returns the row with the highest mean, and whether it is ahead of each other row by more than the error.

    It is the winner where the interval of its paired difference to each other row lies above what the score of that
    row leaves open, and where it has a score at each seed: one that failed at the hard seeds wins nothing. If no row
    is better than all others, one is called the winner in at most 5% of comparisons: the worst case is two equal rows
    ahead of all others, whose interval leaves out 0 with that probability.

    Arguments:
        scores: of each row by name, by seed.
        allowances: by how much the score of a row may be too low, in nats; 0 where it is left out.

    Returns:
        `None` unless at least two rows have scores, and the best one shares a seed with each of the others.
    """
    scores = {name: values for name, values in scores.items() if values}
    if len(scores) < 2:
        return None
    best = max(scores, key=lambda name: statistics.fmean(scores[name].values()))
    others = {name: Paired.of(scores[best], values) for name, values in scores.items() if name != best}
    if None in others.values():
        return None
    missing = len(set().union(*scores.values()) - scores[best].keys())
    leads = [Lead(best, name, paired, (allowances or {}).get(name, 0.0), missing) for name, paired in others.items()]
    return min(leads, key=lambda found: found.paired.low - found.allowance)
