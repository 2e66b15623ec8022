r"""Units of columns: data standardized on their way in, and put back on the way out.

With z_j = (x_j − c_j) / s_j the density of x is that of z over ∏_j s_j:

    log p(x) = log p(z) − Σ_{j observed} log s_j .
"""

from dataclasses import dataclass

import numpy as np

from ..recipes import tables
from ..recipes.imports import is_path
from ..recipes.pairs import COLUMNS, REAL

ROUNDING = 10  # times eps and the mean: a spread below it is none


def continuous(likelihood: str, num_columns: int) -> np.ndarray:
    r"""Which columns are standardized, booleans (P,): those that a likelihood of all real numbers has.

    Counts, classes and values in [0, 1] stay as they are, and so does what a likelihood of a user's own takes.
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
        r"""Returns mean and standard deviation (1/N) of what is observed of X (N, P), NaN being missing.

        Arguments:
            standardized: the columns that get them, booleans (P,); the others have c = 0 and s = 1.
            num_groups: P for units of each column, C for units of each channel of images (C, H, W).

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
        r"""z = (x − c) / s (N, P), in float64."""
        return (X - self.centre) / self.scale

    def restore(self, Z: np.ndarray) -> np.ndarray:
        r"""x = c + s z (N, P), in float64."""
        return self.centre + self.scale * Z

    def log_jacobian(self, observed: np.ndarray) -> np.ndarray:
        r"""−Σ_{j observed} log s_j of each point, (N,): what log p(z) lacks to be log p(x)."""
        return -(observed @ np.log(self.scale))
