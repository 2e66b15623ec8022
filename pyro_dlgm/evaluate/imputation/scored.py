r"""The result of comparing imputations with the truth: errors, scores, ranks, coverage and verdicts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...storage.sums import sums_dtype
from ..diagnostics import verdicts
from ..diagnostics.uniformity import inside, shapes

LEVELS = (0.5, 0.9)
LEAST = 50  # ranks for a test, at least
RANKS = {word: text.replace("q ", "the draws ") for word, text in verdicts.RANKS.items()}


@dataclass(frozen=True)
class Imputations:
    r"""The result of `check_imputations`, for n values that were hidden.

    Attributes:
        rows, columns: the places of the values: points (n,), and flat indices within a point (n,).
        ranks: of the true value among its L draws, (n,), integers 0..L, ties broken at random.
        errors: the mean of the draws minus the true value (n,); for classes, whether the most frequent one is wrong.
        scores: the CRPS of each value (n,), for classes with the distance 1 between any two.
        classes: which values are classes (n,).
        pit: (rank + U) / (L + 1), U uniform: uniform on (0, 1) if the draws are right, (n,).
        chosen: a random value of each point, for tests, since values of one point are dependent.
        effective: the effective number of proposals of each point (B,), NaN for unweighted draws of q.
        num_samples: the number L of draws.
        conditions: the values at which global latents are held; empty without any.
    """

    rows: Tensor
    columns: Tensor
    ranks: Tensor
    errors: Tensor
    scores: Tensor
    classes: Tensor
    pit: Tensor
    chosen: Tensor
    effective: Tensor
    num_samples: int
    conditions: str = ""

    @property
    def rmse(self) -> float:
        r"""The root mean squared error of all values other than classes, in the units of x; NaN without any."""
        return float(self.errors[~self.classes].square().mean().sqrt())

    @property
    def crps(self) -> float:
        r"""The mean CRPS of all values other than classes, in the units of x; NaN without any."""
        return float(self.scores[~self.classes].mean())

    @property
    def error_rate(self) -> float:
        r"""The share of wrong classes; NaN without any."""
        return float(self.errors[self.classes].mean())

    @property
    def coverage(self) -> dict[float, tuple[float, float]]:
        r"""How often central 50% and 90% intervals contain the truth, with standard errors over points."""
        levels = torch.tensor(LEVELS, dtype=sums_dtype(self.pit.device), device=self.pit.device)
        held = inside(self.pit, levels)  # (2, n)
        found = held.mean(1)
        of_point = held.new_zeros(len(LEVELS), len(self.effective))
        off = of_point.index_add(1, self.rows, held - found.unsqueeze(1))
        errors = off.square().sum(1).sqrt() / held.shape[1]
        return dict(zip(LEVELS, zip(found.tolist(), errors.tolist(), strict=True), strict=True))

    @property
    def verdicts(self) -> dict[str, str]:
        r"""Verdicts on the coverage, and on the ranks of one value per point and of each column with 50 values."""
        return {"ranks": self._all_together(), "columns": self._by_column(), "coverage": self._covered()}

    def _all_together(self) -> str:
        found = self.ranks[self.chosen]
        if len(found) < LEAST:
            return f"{len(found)} points have hidden values: too few for a test, which needs {LEAST}"
        (word,) = shapes(found.unsqueeze(-1), self.num_samples, verdicts.ALPHA)
        said = RANKS.get(word, "").rstrip(",")
        return (
            f"over all columns, the draws are {said}"
            if word
            else f"no departure seen in {len(found)} ranks, one of each point"
        )

    def _by_column(self) -> str:
        counts = torch.bincount(self.columns)
        tested = (counts >= LEAST).nonzero().flatten().tolist()
        if not tested:
            return f"no column has {LEAST} hidden values, which a test of a column needs"
        alpha = verdicts.ALPHA / len(tested)
        words = {d: shapes(self.ranks[self.columns == d].unsqueeze(-1), self.num_samples, alpha)[0] for d in tested}
        where = {word: [d for d, said in words.items() if said == word] for word in RANKS}
        parts = [f"{RANKS[word].rstrip(',')} in {_named(found)}" for word, found in where.items() if found]
        said = f"column by column, the draws are {'; '.join(parts)}" if parts else ""
        return said or f"no departure seen in {len(tested)} of {len(counts)} columns, those with {LEAST} hidden values"

    def _covered(self) -> str:
        return ", ".join(f"{level:.0%}: {found:.1%} ± {s:.1%}" for level, (found, s) in self.coverage.items())

    def __str__(self) -> str:
        numbers = {}
        if not bool(self.classes.all()):
            numbers |= {"RMSE": f"{self.rmse:.4g}", "CRPS": f"{self.crps:.4g}"}
        if bool(self.classes.any()):
            numbers["wrong classes"] = f"{self.error_rate:.1%}"
        held = {"held": self.conditions} if self.conditions else {}
        return verdicts.listed(held | numbers | self.verdicts)


def _named(columns: list[int]) -> str:
    more = f" and {len(columns) - 10} more" if len(columns) > 10 else ""
    return f"column{'s' if len(columns) > 1 else ''} {', '.join(map(str, columns[:10]))}{more}"
