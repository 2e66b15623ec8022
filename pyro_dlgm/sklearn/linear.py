r"""`PPCA`: the exact linear case, with missing entries."""

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..evaluate.quiet import quiet
from ..ppca import model as exact
from .reading import FLOATS, Reader


class PPCA(ClassNamePrefixFeaturesOutMixin, Reader):
    r"""Creates probabilistic PCA with the API of scikit-learn: `pyro_dlgm.PPCA` on arrays, in which NaN means missing.

    The fit is in closed form for complete data, and by EM otherwise. Scores are exact log p(x) over the observed
    entries. Data is not standardized. scikit-learn's `PCA.score` is the same likelihood with noise and loadings from
    the covariance over N − 1, whereas this is its maximum.

    Arguments:
        n_components: the number D of latents, 1 <= D < P.
        tol: EM stops when a step gains less than this, in nats per point.
        max_steps: after this number of steps EM stops with a warning.

    Attributes:
        model_: the `pyro_dlgm.PPCA`: W, mu and sigma2.
        n_features_in_: the number of columns of X.
        feature_names_in_: the names of the columns of X, if it has any.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> X = load_wine().data
        >>> PPCA(2).fit(X).transform(X).shape
        (178, 2)
    """

    def __init__(self, n_components=1, *, tol=1e-9, max_steps=10_000):
        self.n_components = n_components
        self.tol = tol
        self.max_steps = max_steps

    def fit(self, X, y=None):
        r"""Fits W, μ and σ² to X (N, P) by maximum likelihood, and returns the estimator; y is ignored.

        Raises:
            ValueError: on infinite values, and as `pyro_dlgm.PPCA.fit`.
        """
        rows = self._read(X, fitting=True)
        if not 1 <= self.n_components < rows.shape[1]:
            raise ValueError(
                f"n_components is {self.n_components!r} with n_features = {rows.shape[1]}; expected one latent at "
                "least, and fewer latents than features"
            )
        self.model_ = exact.PPCA.fit(torch.from_numpy(rows), self.n_components, tol=self.tol, max_steps=self.max_steps)
        return self

    def transform(self, X) -> np.ndarray:
        r"""Returns posterior means E[t | x], (N, D)."""
        rows = self._read(X)
        with torch.no_grad():
            return self.model_.posterior(*self._points(rows)).mean.numpy().astype(rows.dtype)

    def score_samples(self, X) -> np.ndarray:
        r"""Returns the exact log p(x) of each point, (N,), in nats."""
        rows = self._read(X)
        with torch.no_grad():
            return self.model_.log_prob(*self._points(rows)).numpy().astype(rows.dtype)

    def inverse_transform(self, X) -> np.ndarray:
        r"""Returns W t + μ for codes X (N, D)."""
        check_is_fitted(self)
        t = check_array(X, dtype=FLOATS)
        if t.shape[1] != self.n_components:
            raise ValueError(f"X has shape {t.shape}; expected codes (N, {self.n_components})")
        with torch.no_grad():
            return self.model_.likelihood.net(torch.from_numpy(t).to(self.model_.W)).numpy().astype(t.dtype)

    def sample(self, n_samples=1, random_state=None) -> np.ndarray:
        r"""Draws points from p(x), (n, P); ``random_state`` as in scikit-learn."""
        check_is_fitted(self)
        with quiet(self.model_, seed=int(check_random_state(random_state).randint(2**31 - 1))):
            return self.model_(size=n_samples).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.n_components

    def _points(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        r"""Returns x in the dtype of the model, and the mask of observed entries."""
        x = torch.from_numpy(rows).to(self.model_.W)
        return x, None if not x.isnan().any() else ~x.isnan()
