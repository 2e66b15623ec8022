r"""The certified cells of a comparison: log p(x), what bounds its error, and the inference gap taken apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import evaluate
from .scores import standard_error
from .table import Row

GAPS = ("approximation_gap", "amortization_gap", "gaps")
CERTIFIED = ("test_log_px", "test_bdmc_gap", "certified_points", *GAPS)
NO_GAPS = "gaps were not asked for"
NO_DENSITY = "a point mass or a chain has no F(q), and so no gap"


@dataclass(frozen=True)
class Certify:
    r"""Creates what certifies the rows of `compare`.

    log p(x) has one estimator in all rows, so that it scores w apart from q: AIS from a full-rank E-step on the test
    points, or IWAE with it where that is larger.

    Attributes:
        gaps: whether log p(x) − F(q) is taken apart, too.
        points: how many test points, the first ones; as many are simulated for BDMC.
        num_chains, num_temperatures: of `evaluate.ais`.
        num_samples: the number K of samples of F(q), F(q*) and IWAE-K.
    """

    gaps: bool = False
    points: int = 64
    num_chains: int = 4
    num_temperatures: int = 200
    num_samples: int = 2000

    def __post_init__(self):
        if self.points < 2:
            raise ValueError(f"points is {self.points}; expected at least 2 points to certify")

    def __call__(self, row: Row, model, q, judge, x: Tensor, seed: int) -> dict[str, str]:
        r"""Fills the cells of a row; returns the reasons of those that stay empty.

        Arguments:
            row: the row.
            model: its model.
            q: its guide, with rows for x where it has rows.
            judge: a full-rank guide fitted to x.
            x: test points (M, ...), of which the first are taken.
            seed: of all that is random.
        """
        x = x[: self.points]
        index = torch.arange(len(x), device=x.device)
        row.certified_points = len(x)
        if self.gaps and getattr(q, "has_density", True):
            self._take_apart(row, model, q, x, index, seed)
            return {}
        self._anneal(row, model, judge, x, index, seed)
        return dict.fromkeys(GAPS, NO_DENSITY if self.gaps else NO_GAPS)

    def _take_apart(self, row: Row, model, q, x, index, seed) -> None:
        gaps = evaluate.gaps(
            model, q, x, index, families=("full_rank",), num_samples=self.num_samples, **self._annealing(seed)
        )
        row.gaps = gaps.summary()
        row.test_log_px, row.test_bdmc_gap = row.gaps["log_px"]["mean"], row.gaps["bdmc"]["gap"]
        row.approximation_gap, row.amortization_gap = (row.gaps[n]["mean"] for n in ("approximation", "amortization"))
        cells = {"test_log_px": "log_px", "approximation_gap": "approximation", "amortization_gap": "amortization"}
        row.standard_errors |= {cell: row.gaps[name]["standard_error"] for cell, name in cells.items()}

    def _anneal(self, row: Row, model, judge, x, index, seed) -> None:
        settings = self._annealing(seed)
        simulated = settings.pop("num_simulated")
        log_px = evaluate.ais(model, judge, x, index, **settings).log_px
        row.test_log_px, row.standard_errors["test_log_px"] = float(log_px.mean()), standard_error(log_px)
        row.test_bdmc_gap = evaluate.bdmc(model, judge, simulated, **settings).gap

    def _annealing(self, seed: int) -> dict:
        settings = {"num_chains": self.num_chains, "num_temperatures": self.num_temperatures, "seed": seed}
        return settings | {"num_simulated": self.points}
