r"""A row of a comparison, and its columns: each is one object with title, width, text and values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from ..evaluate.estimates import Mean
from ..evaluate.marginal.certificate import doubts, verdicts
from ..runs.files import finite

NO_DENSITY = "a point mass or a chain has no density, so F(q) does not exist"
NO_LOG_PX = "log p(x) was not estimated; leave out --no-ais, in Python certify=Certify()"
NO_GAPS = "gaps were not asked for"
NO_GAP = "a point mass or a chain has no F(q), and a q that is not Gaussian no best one of its family: so no gap"


WEIGHTS = ("ess", "pareto_k")


class Reason(str):
    r"""Why a cell is empty."""


@dataclass
class Scored:
    r"""The scores, certificates and costs that the cells of a row are filled from.

    Attributes:
        training: the last record of the training's history.
        own: `point_scores` of the row's q.
        certified: the summary of `evaluate.gaps` or `evaluate.evidence`; empty if log p(x) was not asked for.
        gaps_asked: whether gaps were asked for.
        gradients_per_point: of the row's own E-step.
        unconverged: test points where its E-step had not converged.
        scales_at_floor: pixel scales of the likelihood that touch their floor, or `None` where there is no floor.
        seconds: wall time of the scoring.
        log_px: log p(x) of the certified points, or `None` if it was not asked for.
        reference: the name of the first row, and its ``log_px``.
        conditions: the global latents at which the points were scored, in words; empty without any.
    """

    training: dict
    own: dict[str, Tensor]
    certified: dict
    gaps_asked: bool
    gradients_per_point: float
    unconverged: int
    scales_at_floor: int | None
    seconds: float
    log_px: Tensor | None
    reference: tuple[str, Tensor | None]
    conditions: str = ""

    def bound(self, name: str) -> Mean | Reason:
        r"""A bound of the row's q."""
        return Mean.of(self.own[name]) if name in self.own else Reason(NO_DENSITY)

    def certificate(self, name: str) -> Mean | Reason:
        r"""A certified mean: "log_px", or a gap."""
        if name in self.certified:
            return Mean(self.certified[name]["mean"], self.certified[name]["standard_error"])
        return Reason(NO_GAP if self.gaps_asked else NO_GAPS) if self.certified else Reason(NO_LOG_PX)

    def bdmc_gap(self) -> Mean | Reason:
        r"""The gap of BDMC, which bounds the error of AIS."""
        found = self.certified.get("bdmc")
        return Mean(found["gap"], found["standard_error"]) if found else Reason(NO_LOG_PX)

    def not_certified(self) -> str | Reason:
        r"""That log p(x), or what would be said of the gap, is not certified, and why; empty where it is."""
        if not self.certified:
            return Reason(NO_LOG_PX)
        return " ".join(doubts(verdicts(self.certified, self.certified.get("bdmc"))))

    def certified_points(self) -> int | Reason:
        r"""How many test points were certified."""
        return self.certified["points"] if self.certified else Reason(NO_LOG_PX)

    def certifying(self) -> float | Reason:
        r"""Gradient evaluations of a certified point, for log p(x) with all that certifies it."""
        return self.certified.get("gradients_per_point", Reason(NO_LOG_PX))

    def gaps(self) -> dict | Mean | Reason:
        r"""The summary of `evaluate.gaps`."""
        return self.certified if "total" in self.certified else self.certificate("total")

    def difference(self) -> dict | Reason:
        r"""The paired difference between log p(x) of this row and that of the first one."""
        name, log_px = self.reference
        return Reason(NO_LOG_PX) if self.log_px is None else Mean.of(self.log_px - log_px)._asdict() | {"to": name}


def _median(scores: dict[str, Tensor], name: str) -> float | Reason:
    return float(scores[name].median()) if name in scores else Reason(NO_DENSITY)


@dataclass
class Row:
    r"""One method of a comparison. Each value of a column is an attribute as well: ``row.test_elbo``.

    Means are over the test points, in nats per point.

    Attributes:
        guide, model: names of q and of the generative model.
        w: "own", or the name of the row whose w is this row's, frozen.
        cells: the values of the columns by name, `None` where there is none.
        standard_errors: of the means, over test points, by name.
        reasons: for each empty cell, why.
        history: the records of `fit`.
        pair: model and guide for the test points; ``(model, None)`` where the posterior is exact.
    """

    guide: str
    model: str
    w: str = "own"
    cells: dict = field(default_factory=lambda: dict.fromkeys(KEYS))
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    pair: tuple | None = field(default=None, repr=False)

    def __getattr__(self, name: str):
        if name not in KEYS:
            raise AttributeError(f"a row has no {name!r}; expected one of {', '.join(KEYS)}")
        return self.cells[name]

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
        certified: whether it is shown only where log p(x) was asked for.
    """

    title: str
    width: int
    text: Callable[[Row], str]
    values: dict[str, Callable[[Scored], object]]
    certified: bool = False


def number(value: float | None, error: float | None = None, digits: int = 2) -> str:
    r"""A number with its error, as text."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"


def _mean(title: str, width: int, name: str, value: Callable, *, error=False, certified=False, **more) -> Column:
    r"""A column of one number, with its standard error if asked for; ``more`` is kept and not shown."""
    text = lambda row: number(row.cells[name], row.standard_errors.get(name) if error else None)  # noqa: E731
    return Column(title, width, text, {name: value, **more}, certified)


def _gap(title: str, part: str, **more) -> Column:
    r"""A column of one part of the inference gap."""
    return _mean(title, 12, f"{part}_gap", lambda s: s.certificate(part), error=True, certified=True, **more)


def _spent(title: str, width: int, name: str) -> Column:
    r"""A column of what the training spent and what the scoring spent."""
    values = {name: lambda s: s.training[name], f"test_{name}": lambda s: getattr(s, name)}
    return Column(title, width, lambda row: " + ".join(f"{row.cells[spent]:.0f}" for spent in values), values)


def _weights(row: Row) -> str:
    return "–" if row.ess is None else f"{row.ess:.0f} / {row.pareto_k:.2f}"


def _delta(row: Row) -> str:
    return "–" if row.difference is None else number(row.difference["mean"], row.difference["standard_error"])


CERTIFIED = {"certified_points": Scored.certified_points, "certifying_gradients_per_point": Scored.certifying}
COLUMNS = (
    Column("guide", -12, lambda row: row.guide, {}),
    Column("model", -12, lambda row: row.model, {}),
    _mean("test ELBO", 14, "test_elbo", lambda s: s.bound("elbo"), error=True),
    _mean("IWAE", 6, "test_iwae", lambda s: s.bound("iwae")),
    Column("ESS / k-hat", 11, _weights, {name: (lambda s, name=name: _median(s.own, name)) for name in WEIGHTS}),
    _mean("log p(x)", 14, "test_log_px", lambda s: s.certificate("log_px"), error=True, certified=True),
    Column("Δ log p(x)", 13, _delta, {"difference": Scored.difference}, True),
    _mean("BDMC", 12, "test_bdmc_gap", Scored.bdmc_gap, error=True, certified=True, **CERTIFIED),
    _gap("approx. gap", "approximation"),
    _gap("amort. gap", "amortization", gaps=Scored.gaps),
    _spent("grads", 11, "gradients_per_point"),
    _spent("seconds", 9, "seconds"),
    Column("", 0, str, {"scales_at_floor": lambda s: s.scales_at_floor, "test_unconverged": lambda s: s.unconverged}),
    Column("", 0, str, {"not_certified": Scored.not_certified, "conditions": lambda s: s.conditions}),
)
KEYS = tuple(name for column in COLUMNS for name in column.values)


def columns(certified: bool) -> list[Column]:
    r"""The columns with a heading; ``certified``: with those that AIS and BDMC fill."""
    return [column for column in COLUMNS if column.title and (certified or not column.certified)]
