r"""The table of a comparison over seeds as text: its columns, footnotes, and what may be said of a winner."""

from collections.abc import Sequence

from ..columns import EMPTY, SPENT, Column, Q, W, number
from .gathered import SCORES, SeedRow, first, winner

RULE = (
    "A winner is named where the 95% interval of its paired difference over seeds to each other row is above 0 "
    "(Student's t), for log p(x) above what BDMC leaves open for that row."
)


def columns(rows: Sequence[SeedRow]) -> list[Column]:
    r"""Returns the columns in which a row has something."""
    made = [
        Column("method", -12, lambda row: row.name, {}),
        Column("model", -12, lambda row: "reference" if row.reference else row.model, {}),
        _spread("ELBO", 16, "test_elbo", Q),
        _delta("Δ ELBO", "test_elbo", rows, Q),
        _spread("IWAE", 16, "test_iwae", Q),
        _spread("approx. gap", 14, "approximation_gap", Q),
        _spread("amort. gap", 14, "amortization_gap", Q),
        _spread("log p(x)", 16, "test_log_px", W),
        _delta("Δ log p(x)", "test_log_px", rows, W),
        _spread("BDMC", 14, "test_bdmc_gap", W),
        _spent("grads", 11, "gradients_per_point"),
        _spent("seconds", 9, "seconds"),
    ]
    return [column for column in made if any(column.text(row) != EMPTY for row in rows if not row.reference)]


def _spread(title: str, width: int, key: str, group: str) -> Column:
    r"""A column of means over seeds, with the standard deviation over seeds in brackets."""

    def text(row: SeedRow) -> str:
        found = row.spread(key)
        if found is None:
            return EMPTY
        return number(found.mean) + ("" if found.standard_deviation is None else f" ({found.standard_deviation:.2f})")

    return Column(title, width, text, {}, "", group)


def _delta(title: str, key: str, rows: Sequence[SeedRow], group: str) -> Column:
    r"""A column of differences to the first row with the score, paired over seeds, with their standard errors."""
    to = first(rows, key)

    def text(row: SeedRow) -> str:
        found = None if to is None or row.reference else row.differences[key].get(to.name)
        return EMPTY if found is None else number(found.mean, found.standard_error)

    return Column(title, 13, text, {}, "", group)


def _spent(title: str, width: int, key: str) -> Column:
    r"""A column of what training and scoring spent, means over seeds."""

    def text(row: SeedRow) -> str:
        found = [row.spread(name) for name in (key, f"test_{key}")]
        return " + ".join(EMPTY if spread is None else f"{spread.mean:.0f}" for spread in found)

    return Column(title, width, text, {}, "", SPENT)


def footnotes(rows: Sequence[SeedRow], num_points: int, num_samples: int) -> list[str]:
    r"""Returns what the columns mean, who wins, and what is missing, a sentence a line."""
    own = [row for row in rows if not row.reference]
    seeds = sorted(set().union(*(row.rows for row in rows)))
    notes = [
        f"Nats per test point, larger is better, over {num_points} points: means over seeds {seeds[0]} to {seeds[-1]}, "
        "in brackets the standard deviation over seeds.",
        "Δ: difference to the first row that has the score, paired over seeds, ± its standard error over seeds. "
        "Data and test points are the same at all seeds.",
        f"IWAE: {num_samples} samples of the row's own q. grads, seconds: per training point + per test point; "
        "training + scoring, in a process with one thread.",
        RULE,
    ]
    notes += [said for score in SCORES if (said := verdict(rows, score))]
    notes += [f"{row.name} failed at seed {seed}: {why}." for row in rows for seed, why in row.failed.items()]
    notes += _doubtful(own)
    late = _counts(own, "test_unconverged")
    return [*notes, f"Test points whose E-step had not converged, over all seeds: {late or 'none'}.", *_reasons(own)]


def verdict(rows: Sequence[SeedRow], score: str) -> str | None:
    r"""Returns the sentence on the winner by a score, and how far it is ahead; `None` where too few rows have it."""
    found = winner(rows, score)
    if found is None:
        return None
    paired = found.paired
    if paired.standard_error is None:
        return f"{SCORES[score]}: one seed, so no winner is named."
    by = f"{number(paired.mean, paired.standard_error)} (95%: {number(paired.low)} to {number(paired.high)})"
    if found.wins:
        return f"{SCORES[score]}: the winner is {found.best}, ahead of {found.other}, the closest row, by {by}."
    because = f", and BDMC leaves {found.allowance:.2f} open" if found.allowance and paired.low > 0 else ""
    because += f", and {found.best} has no score at {found.missing} of the seeds" if found.missing else ""
    return f"{SCORES[score]}: no winner is named; {found.best} is ahead of {found.other} by {by}{because}."


def _doubtful(rows: Sequence[SeedRow]) -> list[str]:
    r"""The rows whose log p(x) a certificate does not cover, with the seeds."""
    found = {row.name: [seed for seed, one in row.rows.items() if one.get("not_certified")] for row in rows}
    said = ", ".join(f"{name} (seeds {', '.join(map(str, seeds))})" for name, seeds in found.items() if seeds)
    return [f"log p(x) is not certified here: {said}."] if said else []


def _counts(rows: Sequence[SeedRow], key: str) -> str:
    totals = {row.name: sum(row.scores(key).values()) for row in rows}
    return ", ".join(f"{name} {total}" for name, total in totals.items() if total)


def _reasons(rows: Sequence[SeedRow]) -> list[str]:
    r"""Why rows have no score that a winner could be named on."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for key in SCORES:
            for why in {one["reasons"][key] for one in row.rows.values() if one.get(key) is None}:
                found.setdefault(f"{EMPTY} in {SCORES[key]}: {why}", []).append(row.name)
    return [f"{why} ({', '.join(names)})." for why, names in found.items()]
