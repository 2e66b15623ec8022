r"""Units of columns: standardizes data, and restores the units of results.

With z_j = (x_j − c_j) / s_j the density of x is that of z over ∏_j s_j:

    log p(x) = log p(z) − Σ_{j observed} log s_j .

Real numbers have their mean and standard deviation as c and s, amounts >= 0 have c = 0 and their typical size as s, the
geometric mean of those above 0. Amounts of 0 have a probability, which no unit changes, and are left out of the sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..recipes import tables
from ..recipes.imports import is_path
from ..recipes.pairs import COLUMNS

ROUNDING = 10  # times eps and |mean|: a smaller standard deviation counts as 0


def columns_with(names: Sequence[str], likelihood: str, num_columns: int) -> np.ndarray:
    r"""Returns which columns have a likelihood of one of these names, booleans (P,); none for a user's own."""
    if is_path(likelihood) or not tables.is_table(likelihood):
        return np.full(num_columns, likelihood in names)
    groups = tables.parts(likelihood, COLUMNS)
    return np.isin(np.arange(num_columns), [n for numbers, name in groups if name in names for n in numbers])


@dataclass(frozen=True)
class Units:
    r"""Creates the units of P columns.

    Attributes:
        centre: c (P,), in float64.
        scale: s (P,), in float64, above 0.
        constant: booleans (P,), columns without a spread; their s is 1 if they are real.
        amounts: booleans (P,), columns of amounts.
    """

    centre: np.ndarray
    scale: np.ndarray
    constant: np.ndarray
    amounts: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, real: np.ndarray, amounts: np.ndarray, num_groups: int) -> "Units":
        r"""Creates the units from the observed entries of X (N, P); standard deviations are those over N.

        Arguments:
            X: data, NaN where missing.
            real, amounts: the columns of real numbers and of amounts, booleans (P,); others have c = 0 and s = 1.
            num_groups: P for units per column, C for units per channel of images (C, H, W).

        Raises:
            ValueError: if a column has no observed entry, or its squares overflow.
        """
        never = np.isnan(X).all(0).nonzero()[0].tolist()
        if never:
            raise ValueError(f"columns {never} of X have no observed entry; expected one at least: drop them")
        v = X.astype(np.float64).reshape(len(X), num_groups, -1)
        with np.errstate(over="ignore", invalid="ignore"):
            centre, scale = np.nanmean(v, (0, 2)), np.nanstd(v, (0, 2))
        centre, scale, typical = (np.repeat(u, v.shape[2]) for u in (centre, scale, _typical(v)))
        if not np.isfinite(scale).all():
            raise ValueError("X has entries whose squares overflow; expected smaller ones: divide X by a constant")
        constant = scale <= ROUNDING * np.finfo(X.dtype).eps * np.abs(centre)
        scale = np.select([real & ~constant, amounts], [scale, typical], 1.0)
        return cls(np.where(real, centre, 0.0), scale, constant, amounts)

    def standardize(self, X: np.ndarray) -> np.ndarray:
        r"""Returns z = (x − c) / s (N, P), in float64."""
        return (X - self.centre) / self.scale

    def restore(self, Z: np.ndarray) -> np.ndarray:
        r"""Returns x = c + s z (N, P), in float64."""
        return self.centre + self.scale * Z

    def log_jacobian(self, X: np.ndarray) -> np.ndarray:
        r"""Returns the difference log p(x) − log p(z) of each point of X (N, P), (N,)."""
        densities = ~np.isnan(X) & ~(self.amounts & (X == 0))
        return -(densities @ np.log(self.scale))


def _typical(v: np.ndarray) -> np.ndarray:
    r"""Returns the geometric mean of what is above 0 in (N, G, M), for each of G groups; 1 where nothing is."""
    positive = v > 0
    logs = np.log(v, out=np.zeros_like(v), where=positive)
    return np.exp(logs.sum((0, 2)) / np.maximum(positive.sum((0, 2)), 1))
