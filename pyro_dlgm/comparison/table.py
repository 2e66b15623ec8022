r"""The table of a comparison as text: its header, a line for each row while it grows, and footnotes."""

from ..data.dataset import Dataset
from ..data.transforms import Dequantize
from ..evaluate.marginal.certificate import NOT_CERTIFIED
from .columns import EMPTY, Column, Row, columns, filled, groups, number

CERTIFIED = (
    "{}: means over {} test points. log p(x) is AIS from Gaussians that x and w determine, or IWAE, the larger "
    "mean, or within errors the smaller error; lower bounds in expectation. BDMC: what bounds the error of AIS on "
    "points that the row's model makes."
)
GAPS = "approx. gap: log p(x) − F(q*), q* the best q of the family; amort. gap: F(q*) − F(q)."


def header(shown: list[Column] | None = None, certified: int | None = None) -> str:
    r"""The headings of `groups` above the titles of the columns, by default of those that are always filled."""
    shown = columns() if shown is None else shown
    over = [(_over(name, of), sum(abs(column.width) + 1 for column in of) - 1) for name, of in groups(shown, certified)]
    return _line(over) + "\n" + _line([(column.title, column.width) for column in shown])


def _over(name: str, of: list[Column]) -> str:
    r"""The heading of a group, on a line over its columns."""
    return f" {name} ".center(sum(abs(column.width) + 1 for column in of) - 1, "─") if name else ""


def line(row: Row, shown: list[Column] | None = None) -> str:
    r"""One row, under that header."""
    return _line([(column.text(row), column.width) for column in (columns() if shown is None else shown)])


def _line(cells: list[tuple[str, int]]) -> str:
    return " ".join(text.ljust(-w) if w < 0 else text.rjust(w) for text, w in cells).rstrip()


def footnotes(rows: list[Row], dataset: Dataset, num_samples: int) -> list[str]:
    r"""What the columns mean and why cells are empty, a sentence a line."""
    notes = [
        f"Nats per test point, larger is better, over {len(dataset.test)} points; ± is the standard error over points; "
        "one seed, so no winner is named.",
        f"IWAE: {num_samples} samples of the row's own q. ESS (of {num_samples}) and Pareto k̂ are medians over points; "
        "above k̂ = 0.7 the IWAE is not to be trusted.",
        "grads, seconds: per training point + per test point (the row's own E-step); training + scoring.",
    ]
    compared = [row for row in rows if row.difference is not None]
    if compared:
        notes.append(f"Δ: paired difference of log p(x) to {compared[0].difference['to']}.")
    certified = [row.certified_points for row in rows if row.certified_points is not None]
    if certified:
        gaps = any(column.needs == "gaps" for column in filled(rows))
        notes += [CERTIFIED.format("log p(x) and the gaps" if gaps else "log p(x)", certified[0]), *[GAPS] * gaps]
        paid = [row.certifying_gradients_per_point for row in rows if row.certifying_gradients_per_point]
        notes += (
            [f"Gradients a point for log p(x) and its certificate: {min(paid):.0f} to {max(paid):.0f}."] if paid else []
        )
    notes += _doubtful([row for row in rows if row.not_certified])
    apart = _counts(rows, "uncertain")
    notes += [f"Points at which walks do not agree on log p(x): {apart}."] if apart else []
    notes += [f"Scored given global latents: {held}." for held in dict.fromkeys(row.conditions for row in rows) if held]
    frozen = [row.w for row in rows if row.w != "own"]
    if frozen:
        notes.append(f"One w in all rows, that of {frozen[0]}: F(q) and the gaps compare what guides can do at it.")
    # A density of dequantized values bounds a probability; a density of values on a grid bounds nothing.
    if isinstance(dataset.transform, Dequantize):
        notes += _bits(rows, dataset.transform, dataset.test[0].numel())
    notes.append(f"Test points whose E-step had not converged: {_counts(rows, 'test_unconverged') or 'none'}.")
    slow = [f"{row.name} {row.gaps['unconverged']}" for row in rows if row.gaps and row.gaps["unconverged"]]
    if slow:
        notes.append(f"Points at which the climb to q* had not converged: {', '.join(slow)}.")
    notes.append(f"Scales at their floor: {_counts(rows, 'scales_at_floor') or 'none'}.")
    return notes + _reasons(rows)


def _doubtful(rows: list[Row]) -> list[str]:
    r"""The rows whose log p(x) the certificate does not cover."""
    said = ", ".join(
        f"{row.name} (BDMC {number(row.test_bdmc_gap, row.standard_errors['test_bdmc_gap'])})" for row in rows
    )
    return [f"{NOT_CERTIFIED}: {said}; what a gap says is known beyond |BDMC| + 2 standard errors."] if said else []


def _bits(rows: list[Row], values: Dequantize, P: int) -> list[str]:
    scored = [row for row in rows if row.test_log_px is not None]
    said = ", ".join(f"{row.name} {values.bits_per_dim(row.test_log_px, P):.3f}" for row in scored)
    return [f"Bits per dimension at log p(x): {said}."] if said else []


def _counts(rows: list[Row], name: str) -> str:
    return ", ".join(f"{row.name} {row.cells[name]}" for row in rows if row.cells[name])


def _reasons(rows: list[Row]) -> list[str]:
    r"""Each reason for an empty cell once, with the columns and the rows; for a column that is not shown, no rows."""
    shown, found = filled(rows), {}
    for row in rows:
        empty = [column for column in columns("log_px", "gaps") if column.text(row) == EMPTY]
        for column in empty if not row.reference else [column for column in empty if column in shown]:
            for reason in [row.reasons[name] for name in column.values if name in row.reasons][:1]:
                found.setdefault((reason, column in shown, row.name), []).append(column.title)
    merged: dict[tuple, list[str]] = {}
    for (reason, seen, name), titles in found.items():
        merged.setdefault((reason, seen, ", ".join(titles)), []).append(name)
    return [
        f"{EMPTY} in {titles}: {reason} ({', '.join(names)})." if seen else f"No {titles}: {reason}."
        for (reason, seen, titles), names in merged.items()
    ]
