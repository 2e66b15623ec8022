r"""The sheet of a comparison over seeds: learning curves above paired differences."""

import math
import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from ...plots.curves import learning_curves
from ...plots.differences import Shown, differences
from ...plots.palette import colour
from .gathered import SCORES, SeedRow, first


def sheet(rows: Sequence[SeedRow]) -> Figure:
    r"""Draws the training objective against the budget, and the differences of `panels` below."""
    shown = panels(rows)
    height = 0.9 + 0.45 * len(rows)
    figure = Figure(figsize=(11, 3.6 + height * bool(shown)), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=[3.6, height]) if shown else (figure, None)
    learning_curves(top, histories(rows), levels(rows))
    if shown:
        draw(below, shown)
    return figure


def panels(rows: Sequence[SeedRow]) -> dict[str, dict[str, Shown]]:
    r"""Returns, by the title of a panel, the differences of rows to the first one with the score, paired over seeds.

    A score that fewer than two rows have at two seeds has no panel.
    """
    found = {}
    for key, title in SCORES.items():
        to = first(rows, key)
        shown = _shown(rows, to, key) if to is not None else {}
        if shown:
            found[f"{title}, difference to {to.name}, nats per test point"] = shown
    return found


def _shown(rows: Sequence[SeedRow], to: SeedRow, key: str) -> dict[str, Shown]:
    own, theirs = [row for row in rows if row.rows and not row.reference], to.scores(key)
    found = {}
    for number, row in enumerate(own):
        paired = row.differences[key].get(to.name)
        if paired is not None and math.isfinite(paired.low):
            values = [value - theirs[seed] for seed, value in row.scores(key).items() if seed in theirs]
            found[row.name] = Shown(values, paired.mean, paired.low, paired.high, colour(number))
    return found


def draw(figure, shown: dict[str, dict[str, Shown]]) -> None:
    r"""Draws the panels side by side."""
    for axis, (title, of) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        differences(axis, of, title)


def histories(rows: Sequence[SeedRow]) -> dict[str, list[dict]]:
    r"""Returns the records of `fit` by the rows' names: means over the seeds, record by record."""
    by_name = {row.name: [one["history"] for one in row.rows.values() if one["history"]] for row in rows}
    return {name: [_mean(records) for records in zip(*of, strict=True)] for name, of in by_name.items() if of}


def _mean(records: Sequence[dict]) -> dict:
    common = set.intersection(*({k for k, v in record.items() if v is not None} for record in records))
    return {key: statistics.fmean(record[key] for record in records) for key in records[0] if key in common}


def levels(rows: Sequence[SeedRow]) -> dict[str, float]:
    r"""Returns log p(x) of the references at the test points, means over seeds, by what they are."""
    return {
        f"{row.name}: exact log p(x), test points": row.spread("test_elbo").mean
        for row in rows
        if row.reference and row.rows
    }
