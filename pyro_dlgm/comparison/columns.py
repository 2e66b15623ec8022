r"""A row of a comparison, and its columns: each is one object with title, width, text and values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from ..evaluate.estimates import Mean
from ..runs.files import finite
from .scored import WEIGHTS, Reason, Scored, median

EMPTY = "–"


@dataclass
class Row:
    r"""One method of a comparison. Each value of a column is an attribute as well: ``row.test_elbo``.

    Means are over the test points, in nats per point.

    Attributes:
        guide, model: names of q and of the generative model.
        w: "own", or the name of the row whose w is this row's, frozen.
        reference: whether it is another model, which the other rows are held against, as `PPCA`.
        cells: the values of the columns by name, `None` where there is none.
        standard_errors: of the means, over test points, by name.
        reasons: for each empty cell, why.
        history: the records of `fit`.
        pair: model and guide for the test points; ``(model, None)`` where the posterior is exact.
    """

    guide: str
    model: str
    w: str = "own"
    reference: bool = False
    cells: dict = field(default_factory=lambda: dict.fromkeys(KEYS))
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    pair: tuple | None = field(default=None, repr=False)

    def __getattr__(self, name: str):
        if name not in KEYS:
            raise AttributeError(f"a row has no {name!r}; expected one of {', '.join(KEYS)}")
        return self.cells[name]

    @property
    def name(self) -> str:
        r"""What the row is called everywhere: its guide, or its model where it is a reference."""
        return self.model if self.reference else self.guide

    def put(self, cells: dict) -> None:
        r"""Fills cells: with a `Mean` goes its standard error, a `Reason` leaves a cell empty."""
        for name, value in cells.items():
            if isinstance(value, Mean):
                self.cells[name], self.standard_errors[name] = value
            elif isinstance(value, Reason):
                self.reasons[name] = str(value)
            else:
                self.cells[name] = value

    def fill(self, scored: Scored) -> None:
        r"""Fills the cells of all columns."""
        self.put({name: value(scored) for column in COLUMNS for name, value in column.values.items()})

    def plain(self) -> dict:
        r"""The row as plain values, for JSON; what is not finite, for which JSON has no word, becomes `None`."""
        named = {name: value for name, value in vars(self).items() if name not in ("pair", "cells")}
        return finite(named | self.cells)


class Column(NamedTuple):
    r"""A column of the table, and what it keeps in ``compare.json``.

    Attributes:
        title: its heading; empty for what stands in the footnotes alone.
        width: in characters, negative: flush left.
        text: the text of a row's cell.
        values: by their names in ``compare.json``, how each is computed from a `Scored`.
        needs: what has to be asked for before it can be filled: "log_px", "gaps", or nothing.
        group: the heading of the group of columns that it is in, or nothing.
    """

    title: str
    width: int
    text: Callable[[Row], str]
    values: dict[str, Callable[[Scored], object]]
    needs: str = ""
    group: str = ""


def number(value: float | None, error: float | None = None, digits: int = 2) -> str:
    r"""A number with its error, as text; zero has no sign."""
    if value is None:
        return EMPTY
    said = f"{round(value, digits) + 0.0:.{digits}f}"
    return said if error is None else f"{said} ± {error:.{digits}f}"


Q, GAPS, W, SPENT = "q of the row", "gaps of q", "w alone", "spent"


def _mean(title: str, width: int, name: str, value: Callable, group: str, *, error=False, needs="", **more) -> Column:
    r"""A column of one number, with its standard error if asked for; ``more`` is kept and not shown."""
    text = lambda row: number(row.cells[name], row.standard_errors.get(name) if error else None)  # noqa: E731
    return Column(title, width, text, {name: value, **more}, needs, group)


def _gap(title: str, part: str, **more) -> Column:
    r"""A column of one part of the inference gap."""
    return _mean(title, 12, f"{part}_gap", lambda s: s.certificate(part), GAPS, error=True, needs="gaps", **more)


def _log_px(title: str, width: int, name: str, value: Callable, **more) -> Column:
    r"""A column of what scores w."""
    return _mean(title, width, name, value, W, error=True, needs="log_px", **more)


def _spent(title: str, width: int, name: str) -> Column:
    r"""A column of what the training spent and what the scoring spent."""
    values = {name: lambda s: s.training[name], f"test_{name}": lambda s: getattr(s, name)}
    text = lambda row: " + ".join(f"{row.cells[spent]:.0f}" for spent in values)  # noqa: E731
    return Column(title, width, text, values, "", SPENT)


def _weights(row: Row) -> str:
    return EMPTY if row.ess is None else f"{row.ess:.0f} / {row.pareto_k:.2f}"


def _delta(row: Row) -> str:
    return EMPTY if row.difference is None else number(row.difference["mean"], row.difference["standard_error"])


MEDIANS = {name: (lambda s, name=name: median(s.own, name)) for name in WEIGHTS}
CERTIFIED = {
    "certified_points": Scored.certified_points,
    "uncertain": Scored.uncertain,
    "certifying_gradients_per_point": Scored.certifying,
}
COLUMNS = (
    Column("method", -12, lambda row: row.name, {}),
    Column("model", -12, lambda row: "reference" if row.reference else row.model, {}),
    _mean("ELBO", 14, "test_elbo", lambda s: s.bound("elbo"), Q, error=True),
    _mean("IWAE", 7, "test_iwae", lambda s: s.bound("iwae"), Q),
    Column("ESS / k-hat", 11, _weights, MEDIANS, "", Q),
    _gap("approx. gap", "approximation"),
    _gap("amort. gap", "amortization", gaps=Scored.gaps),
    _log_px("log p(x)", 14, "test_log_px", lambda s: s.certificate("log_px")),
    Column("Δ log p(x)", 13, _delta, {"difference": Scored.difference}, "log_px", W),
    _log_px("BDMC", 12, "test_bdmc_gap", Scored.bdmc_gap, **CERTIFIED),
    _spent("grads", 11, "gradients_per_point"),
    _spent("seconds", 9, "seconds"),
    Column("", 0, str, {"scales_at_floor": lambda s: s.scales_at_floor, "test_unconverged": lambda s: s.unconverged}),
    Column("", 0, str, {"not_certified": Scored.not_certified, "conditions": lambda s: s.conditions}),
)
KEYS = tuple(name for column in COLUMNS for name in column.values)


def columns(*asked: str) -> list[Column]:
    r"""The columns with a heading that can be filled, where "log_px" and "gaps" were asked for or not."""
    return [column for column in COLUMNS if column.title and column.needs in ("", *asked)]


def filled(rows: list[Row]) -> list[Column]:
    r"""The columns with a heading in which a row has something; a reference fills none that has to be asked for."""
    own = [row for row in rows if not row.reference]
    return [
        column
        for column in columns("log_px", "gaps")
        if any(column.text(row) != EMPTY for row in (own if column.needs else rows))
    ]


def groups(shown: list[Column], certified: int | None = None) -> list[tuple[str, list[Column]]]:
    r"""The columns by the headings of their groups, in their order.

    Arguments:
        shown: the columns.
        certified: on how many points groups are computed that have to be asked for: their headings say so.
    """
    found = [(name, list(of)) for name, of in groupby(shown, lambda column: column.group)]
    few = "" if certified is None else f", {certified} points"
    return [(name + few * bool(name and of[0].needs), of) for name, of in found]
