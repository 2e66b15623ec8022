r"""The table of a comparison: its rows, and the lines of text that show them one at a time while it grows."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from ..data.dataset import Dataset
from ..data.transforms import Dequantize
from ..runs.plain import finite


@dataclass
class Row:
    r"""One method. Bounds are means over the test points, in nats per point; `None` where there is none.

    Attributes:
        guide, model: names of q and of the generative model.
        test_elbo: F(q) on the test points.
        test_iwae: IWAE-K with the row's own q.
        test_iwae_full_rank: IWAE-K with a full-rank q fitted to the test points for this row's w, the same in every
            row: it scores w apart from q.
        test_log_px: log p(x), where it is exact or certified.
        test_bdmc_gap: what bounds the error of test_log_px: BDMC's gap at this row's model.
        approximation_gap, amortization_gap: the parts of log p(x) − F(q) on the certified points.
        certified_points: how many test points, the first ones, test_log_px and the gaps are means over; `None`: all.
        gaps: the summary of `evaluate.gaps`, where it was asked for.
        w: "own", or the name of the row whose w is this row's, frozen.
        ess, pareto_k: medians over the test points, of the weights of test_iwae.
        ess_full_rank, pareto_k_full_rank: the same of test_iwae_full_rank.
        standard_errors: of the means, over test points.
        difference: mean and paired standard error of this row's test_iwae_full_rank minus the reference row's.
        scales_at_floor: how many pixel scales of the likelihood touch their floor.
        gradients_per_point: gradient evaluations per training point.
        test_gradients_per_point: per test point, of the row's own E-step; that of test_iwae_full_rank is not counted.
        test_unconverged: test points of which one of the two E-steps had not converged.
        seconds: wall time of the training; test_seconds: of the scoring.
        reasons: for each empty cell, why.
        history: the records of `fit`.
    """

    guide: str
    model: str
    test_elbo: float | None = None
    test_iwae: float | None = None
    test_iwae_full_rank: float | None = None
    test_log_px: float | None = None
    test_bdmc_gap: float | None = None
    approximation_gap: float | None = None
    amortization_gap: float | None = None
    certified_points: int | None = None
    gaps: dict | None = None
    w: str = "own"
    ess: float | None = None
    pareto_k: float | None = None
    ess_full_rank: float | None = None
    pareto_k_full_rank: float | None = None
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    difference: dict[str, float | str | None] | None = None
    scales_at_floor: int | None = None
    gradients_per_point: float = 0.0
    test_gradients_per_point: float = 0.0
    test_unconverged: int = 0
    seconds: float = 0.0
    test_seconds: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    pair: tuple | None = field(default=None, repr=False)

    def plain(self) -> dict:
        r"""The row as plain values, for JSON, which has no word for what is not finite: `None` stands there."""
        row = replace(self, pair=None)
        return {name: finite(value) for name, value in asdict(row).items() if name != "pair"}


def _number(value: float | None, error: float | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if error is None else f"{value:.2f} ± {error:.2f}"


def _with_error(name: str) -> Callable[[Row], str]:
    return lambda row: _number(getattr(row, name), row.standard_errors.get(name))


def _weights(kind: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        ess, k = getattr(row, f"ess{kind}"), getattr(row, f"pareto_k{kind}")
        return "–" if ess is None else f"{ess:.0f} / {k:.2f}"

    return cell


def _difference(row: Row) -> str:
    return "–" if row.difference is None else _number(row.difference["mean"], row.difference["standard_error"])


COLUMNS: tuple[tuple[str, int, Callable[[Row], str]], ...] = (
    ("guide", -12, lambda row: row.guide),
    ("model", -12, lambda row: row.model),
    ("test ELBO", 14, _with_error("test_elbo")),
    ("IWAE", 6, lambda row: _number(row.test_iwae)),
    ("ESS / k-hat", 11, _weights("")),
    ("IWAE(w)", 7, lambda row: _number(row.test_iwae_full_rank)),
    ("ESS / k-hat", 11, _weights("_full_rank")),
    ("Δ IWAE(w)", 13, _difference),
    ("log p(x)", 14, _with_error("test_log_px")),
    ("grads", 11, lambda row: f"{row.gradients_per_point:.0f} + {row.test_gradients_per_point:.0f}"),
    ("seconds", 9, lambda row: f"{row.seconds:.0f} + {row.test_seconds:.0f}"),
)
CERTIFIED: tuple[tuple[str, int, Callable[[Row], str]], ...] = (
    ("BDMC", 6, lambda row: _number(row.test_bdmc_gap)),
    ("approx. gap", 12, _with_error("approximation_gap")),
    ("amort. gap", 12, _with_error("amortization_gap")),
)


def columns(certified: bool = False):
    r"""The columns: title, width (negative: flush left), and the text of a row."""
    return COLUMNS + CERTIFIED if certified else COLUMNS


def header(certified: bool = False) -> str:
    r"""The titles of the columns; ``certified``: with those that AIS and BDMC fill."""
    return _line([(title, width) for title, width, _ in columns(certified)])


def line(row: Row, certified: bool = False) -> str:
    r"""One row, under that header."""
    return _line([(render(row), width) for _, width, render in columns(certified)])


def _line(cells: list[tuple[str, int]]) -> str:
    return " ".join(text.ljust(-w) if w < 0 else text.rjust(w) for text, w in cells).rstrip()


def footnotes(rows: list[Row], dataset: Dataset, num_samples: int) -> list[str]:
    r"""What the columns mean and why cells are empty, a sentence a line."""
    notes = [
        f"Nats per test point, larger is better, over {len(dataset.test)} points; ± is the standard error over points; "
        "one seed, so no winner is named.",
        f"IWAE: {num_samples} samples of the row's own q. ESS (of {num_samples}) and Pareto k̂ are medians over points; "
        "above k̂ = 0.7 the IWAE is not to be trusted.",
        "IWAE(w): the same bound with a full-rank q fitted to the test points, in every row: it scores w alone.",
        "grads, seconds: per training point + per test point (the row's own E-step); training + scoring.",
    ]
    compared = [row for row in rows if row.difference is not None]
    if compared:
        notes.append(f"Δ: paired difference of IWAE(w) to {compared[0].difference['to']}.")
    certified = [row for row in rows if row.certified_points is not None]
    if certified:
        notes.append(
            f"log p(x) and the gaps: means over the first {certified[0].certified_points} test points (exact ones over "
            "all). log p(x) is AIS or IWAE from a fitted full-rank q, the larger mean, lower bounds in expectation; "
            "BDMC: what bounds the error of AIS on points that the row's model makes."
        )
        notes.append("approx. gap: log p(x) − F(q*), q* the best q of the family; amort. gap: F(q*) − F(q).")
    frozen = [row.w for row in rows if row.w != "own"]
    if frozen:
        notes.append(f"One w in all rows, that of {frozen[0]}: F(q) and the gaps compare what guides can do at it.")
    best = [row for row in rows if row.test_iwae_full_rank is not None]
    # A density of dequantized values bounds a probability; a density of values on a grid bounds nothing.
    if isinstance(dataset.transform, Dequantize) and best:
        P = dataset.test[0].numel()
        bits = ", ".join(
            f"{row.guide} {dataset.transform.bits_per_dim(row.test_iwae_full_rank, P):.3f}" for row in best
        )
        notes.append(f"Bits per dimension at IWAE(w): {bits}.")
    touched = [f"{row.guide} {row.scales_at_floor}" for row in rows if row.scales_at_floor]
    late = [f"{row.guide} {row.test_unconverged}" for row in rows if row.test_unconverged]
    notes.append(f"Test points whose E-step had not converged: {', '.join(late) or 'none'}.")
    slow = [f"{row.guide} {row.gaps['unconverged']}" for row in rows if row.gaps and row.gaps["unconverged"]]
    if slow:
        notes.append(f"Points at which the climb to q* had not converged: {', '.join(slow)}.")
    notes.append(f"Scales at their floor: {', '.join(touched) or 'none'}.")
    return notes + [f"–: {note}." for note in _reasons(rows)]


def _reasons(rows: list[Row]) -> list[str]:
    r"""Each reason once, with the rows and the columns that it empties."""
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        by_reason: dict[str, list[str]] = {}
        for name, reason in row.reasons.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            cells.setdefault((reason, ", ".join(names)), []).append(row.guide)
    return [f"{reason} ({names}: {', '.join(guides)})" for (reason, names), guides in cells.items()]
