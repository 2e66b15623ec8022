r"""`DLGMImputer`: missing values filled in by a deep latent Gaussian model."""

import numpy as np
from sklearn.base import OneToOneFeatureMixin

from ..evaluate.imputation.filling import impute
from .trained import Trained


class DLGMImputer(OneToOneFeatureMixin, Trained):
    r"""Creates an imputer that replaces NaN by the posterior mean E_q E[x | t, x_o] of a deep latent Gaussian model.

    Observed values are returned unchanged. Values are assumed to be missing at random; missing classes become the most
    probable one. Arguments, attributes and `score` are those of `DeepLatentGaussian`. "amortized" reads a missing value
    as 0, the mean of a standardized column; "mean-field" and "full-rank" have no encoder that could suffer from missing
    values, and need an E-step at each `transform`.

    Example:
        >>> import numpy as np
        >>> X = np.array([[1.0, 2.0], [2.0, np.nan], [3.0, 6.0], [4.0, 8.0]])
        >>> DLGMImputer(1, max_iter=10, random_state=0).fit_transform(X)[0]
        array([1., 2.])
    """

    def transform(self, X) -> np.ndarray:
        r"""Returns X with missing entries filled in, in the units of X, (N, P)."""
        rows = self._read(X)
        missing = np.isnan(rows)
        if not missing.any():
            return rows.copy()
        points = self._points(rows).numbered()
        guide = self._posterior_of(points)
        made = impute(self.model_, guide, points, num_samples=self.num_samples, seed=self._later)
        filled = self.units_.restore(made.reshape(len(rows), -1).double().numpy())
        return np.where(missing, filled, rows).astype(rows.dtype)
