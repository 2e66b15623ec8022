r"""Units of columns: standardizes data, and restores the units of results.

With z_j = (x_j − c_j) / s_j the density of x is that of z over ∏_j s_j:

    log p(x) = log p(z) − Σ_{j observed} log s_j .
"""

from dataclasses import dataclass

import numpy as np

from ..recipes import tables
from ..recipes.imports import is_path
from ..recipes.pairs import COLUMNS, REAL

ROUNDING = 10  # times eps and |mean|: a smaller standard deviation counts as 0


def continuous(likelihood: str, num_columns: int) -> np.ndarray:
    r"""Returns which columns to standardize, booleans (P,): those with a likelihood on all real numbers.

    Counts, classes and values in [0, 1] stay as they are, and so do values for a user's own likelihood.
    """
    if is_path(likelihood) or not tables.is_table(likelihood):
        return np.full(num_columns, likelihood in REAL)
    groups = tables.parts(likelihood, COLUMNS)
    return np.isin(np.arange(num_columns), [n for numbers, name in groups if name in REAL for n in numbers])


@dataclass(frozen=True)
class Units:
    r"""Creates the units of P columns.

    Attributes:
        centre: c (P,), in float64.
        scale: s (P,), in float64, above 0.
        constant: booleans (P,), columns without a spread; their s is 1.
    """

    centre: np.ndarray
    scale: np.ndarray
    constant: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, standardized: np.ndarray, num_groups: int) -> "Units":
        r"""Creates the units from mean and standard deviation (1/N) of the observed entries of X (N, P).

        Arguments:
            X: data, NaN where missing.
            standardized: the columns to standardize, booleans (P,); the others have c = 0 and s = 1.
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
        centre, scale = (np.repeat(u, v.shape[2]) for u in (centre, scale))
        if not np.isfinite(scale).all():
            raise ValueError("X has entries whose squares overflow; expected smaller ones: divide X by a constant")
        constant = scale <= ROUNDING * np.finfo(X.dtype).eps * np.abs(centre)
        return cls(np.where(standardized, centre, 0.0), np.where(standardized & ~constant, scale, 1.0), constant)

    def standardize(self, X: np.ndarray) -> np.ndarray:
        r"""Returns z = (x − c) / s (N, P), in float64."""
        return (X - self.centre) / self.scale

    def restore(self, Z: np.ndarray) -> np.ndarray:
        r"""Returns x = c + s z (N, P), in float64."""
        return self.centre + self.scale * Z

    def log_jacobian(self, observed: np.ndarray) -> np.ndarray:
        r"""Returns −Σ_{j observed} log s_j of each point, (N,): the difference log p(x) − log p(z)."""
        return -(observed @ np.log(self.scale))
