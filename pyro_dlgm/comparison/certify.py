r"""The certified cells of a comparison: log p(x), what bounds its error, and the inference gap taken apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import evaluate
from ..evaluate.marginal.estimate import check
from .table import Row

GAPS = ("approximation_gap", "amortization_gap", "gaps")
CERTIFIED = ("test_log_px", "test_bdmc_gap", "certified_points", *GAPS)
CELLS = {"test_log_px": "log_px", "approximation_gap": "approximation", "amortization_gap": "amortization"}
NO_GAPS = "gaps were not asked for"
NO_DENSITY = "a point mass or a chain has no F(q), and so no gap"


@dataclass(frozen=True)
class Certify:
    r"""Creates what certifies the rows of `compare`.

    log p(x) has one estimator in all rows, so that it scores w apart from q: AIS from a full-rank E-step on the test
    points, or IWAE with it, whichever has the larger mean (`evaluate.evidence`).

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
        check(self.num_samples, self.num_chains, self.num_temperatures, self.points)

    def settings(self, seed: int, *, progress: bool) -> dict:
        r"""The arguments of `evaluate.evidence` of the same names."""
        settings = {"num_samples": self.num_samples, "num_chains": self.num_chains, "seed": seed, "progress": progress}
        return settings | {"num_temperatures": self.num_temperatures, "num_simulated": self.points}

    def __call__(self, row: Row, model, q, judge, x: Tensor, seed: int, *, progress: bool = False) -> dict[str, str]:
        r"""Fills the cells of a row; returns the reasons of those that stay empty.

        Arguments:
            row: the row.
            model: its model.
            q: its guide, with rows for x where it has rows.
            judge: a full-rank guide fitted to x.
            x: test points (M, ...), of which the first are taken.
            seed: of all that is random.
            progress: whether annealing shows a bar.
        """
        x, settings = x[: self.points], self.settings(seed, progress=progress)
        dense = getattr(q, "has_density", True)
        if self.gaps and dense:
            index = torch.arange(len(x), device=x.device)
            row.gaps = found = evaluate.gaps(model, q, x, index, judge=judge, **settings).summary()
        else:
            found = evaluate.evidence(model, judge, x, **settings).summary()
        row.certified_points, row.test_bdmc_gap = len(x), found["bdmc"]["gap"]
        for cell, name in CELLS.items():
            if name in found:
                setattr(row, cell, found[name]["mean"])
                row.standard_errors[cell] = found[name]["standard_error"]
        return {} if row.gaps is not None else dict.fromkeys(GAPS, NO_DENSITY if self.gaps else NO_GAPS)
