r"""`DeepLatentGaussian`: a deep latent Gaussian model as a transformer and a density."""

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ..distributions import averaged, guess, mean
from ..evaluate.blocks import blocks
from ..evaluate.quiet import quiet
from ..latents.asked import posterior
from .reading import FLOATS
from .trained import Trained


class DeepLatentGaussian(ClassNamePrefixFeaturesOutMixin, Trained):
    r"""Creates a deep latent Gaussian model p(x) = ∫ p(x | t) N(t; 0, I) dt with the API of scikit-learn.

    `transform` returns posterior means, `score` a lower bound on the mean of log p(x). NaN means missing, and is
    integrated out. Parameters and results have the dtype of X, float32 or float64.

    Columns with a likelihood on all real numbers (fixed, fixed-per-pixel, diagonal, low-rank, factor-analysis, linear,
    student-t) are standardized, and amounts (zero-inflated-log-normal) divided by the geometric mean of those above 0,
    images by channel; log-densities, reconstructions and samples are in the units of X. Other values are taken as they
    are.

    Arguments:
        n_components: the number D of latents.
        likelihood: p(x | t), as ``--likelihood`` on the command line: "fixed" (one σ), "diagonal" (σ(t)), "linear",
            "factor-analysis", "student-t", "bernoulli", "poisson", "categorical:K", ..., columns with likelihoods, such
            as "diagonal=0-3,poisson=4", or an import path "module:Name".
        guide: as ``--guide``: "amortized" (an encoder), "mean-field" or "full-rank" (a row for each point), "laplace",
            ... or an import path.
        image_shape: (C, H, W) for convolutional networks; X is then (N, C, H, W) or flat, (N, C·H·W).
        max_iter: the number of gradient steps.
        batch_size: the number of points in a batch, at most N; by default 100, or N if that is less.
        lr, row_lr: learning rates of networks and of rows.
        patience: stop once the bound on validation points has not risen for this many epochs, and restore the best
            epoch. By default all points are training points, for ``max_iter`` steps.
        validation_fraction: the share of validation points, if there is a ``patience``.
        infer_max_iter: the largest number of steps of the E-step that fits a per-point guide to new points.
        num_samples: the number K of importance samples of a score.
        random_state: seed of all random numbers in the fit, and in later computations with it.

    Attributes:
        model_: the trained model.
        guide_: the trained guide.
        units_: centre and scale of each column.
        history_: the history of `fit`, one record per epoch.
        n_iter_: the number of steps made.
        score_bound_: the name of the bound used as score, such as "IWAE-100".
        n_features_in_: the number of columns of X.
        feature_names_in_: the names of the columns of X, if it has any.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> X = load_wine().data
        >>> model = DeepLatentGaussian(2, likelihood="linear", max_iter=50, random_state=0).fit(X)
        >>> model.transform(X).shape, model.score_samples(X).shape, model.sample(3).shape
        ((178, 2), (178,), (3, 13))
    """

    def transform(self, X) -> np.ndarray:
        r"""Returns posterior means E_q[t | x] of the points, (N, D); per-point guides need an E-step for that."""
        rows = self._read(X)
        points = self._points(rows).numbered()
        guide = self._posterior_of(points)
        with quiet(self.model_, guide, seed=self._later):
            means = torch.cat([mean(posterior(guide, block)) for block, _ in blocks(points, 1)])
        return means.numpy().astype(rows.dtype)

    def inverse_transform(self, X) -> np.ndarray:
        r"""Returns the mean of p(x | t) for codes X (N, D), in the units and layout of the X of the fit.

        For classes it is the most probable one.
        """
        check_is_fitted(self)
        t = check_array(X, dtype=FLOATS)
        if t.shape[1] != self.n_components:
            raise ValueError(f"X has shape {t.shape}; expected codes (N, {self.n_components})")
        with quiet(self.model_, seed=self._later):
            p = self.model_.emission(torch.from_numpy(t).to(next(self.model_.parameters()).dtype))
            return self._restored(guess(p, averaged(p)), t.dtype)

    def sample(self, n_samples=1, random_state=None) -> np.ndarray:
        r"""Draws points from p(x), in the units and layout of the X of the fit.

        Arguments:
            n_samples: the number of points.
            random_state: a seed, a generator of NumPy, or `None` for NumPy's global one, as in scikit-learn.
        """
        check_is_fitted(self)
        with quiet(self.model_, seed=int(check_random_state(random_state).randint(2**31 - 1))):
            x = self.model_(size=n_samples)
        return self._restored(x, x.numpy().dtype)

    @property
    def _n_features_out(self) -> int:
        return self.n_components

    def _restored(self, x: Tensor, dtype) -> np.ndarray:
        rows = self.units_.restore(x.reshape(len(x), -1).double().numpy())
        return rows.astype(dtype).reshape(-1, *self._point_shape)
