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
    r"""Creates a deep latent Gaussian model p(x) = ∫ p(x | t) N(t; 0, I) dt with the face of scikit-learn.

    `transform` gives posterior means, `score` a lower bound on the mean of log p(x). NaN is missing, and integrated
    out. What is trained has the dtype of X, float32 or float64, and so has what comes out.

    Columns with a likelihood of all real numbers (fixed, fixed-per-pixel, diagonal, low-rank, factor-analysis, linear,
    student-t) are standardized, images by channel; log-densities, reconstructions and samples are in the units of X.
    Other values are taken as they are.

    Arguments:
        n_components: the number D of latents.
        likelihood: as ``--likelihood`` of the command line, p(x | t): "fixed" (one σ), "diagonal" (σ(t)), "linear",
            "factor-analysis", "student-t", "bernoulli", "poisson", "categorical:K", columns with likelihoods as
            "diagonal=0-3,poisson=4", ... or an import path "module:Name".
        guide: as ``--guide``: "amortized" (an encoder), "mean-field" or "full-rank" (a row for each point), "laplace",
            ... or an import path.
        image_shape: (C, H, W) for convolutional networks; X is then (N, C, H, W) or flat, (N, C·H·W).
        max_iter: gradient steps of the training.
        batch_size: points in a batch, at most N; by default 100, or N if that is less.
        lr, row_lr: learning rates of networks and of rows.
        patience: stop once the bound on points that validate has not risen for this many epochs, and go back to the
            best epoch. By default all points train, for ``max_iter`` steps.
        validation_fraction: the share of points that validate where there is a ``patience``.
        infer_max_iter: bound on the steps of the E-step with which a per-point guide is fitted to new points.
        num_samples: the number K of importance samples of a score.
        random_state: seed of all that is random in the fit, and in what is computed from it later.

    Attributes:
        model_, guide_: the trained pair.
        units_: centre and scale of each column.
        history_: one record for each epoch, of `fit`.
        n_iter_: steps that were made.
        score_bound_: the bound that is the score, "IWAE-100".
        n_features_in_, feature_names_in_: of X, as scikit-learn has them.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> X = load_wine().data
        >>> model = DeepLatentGaussian(2, likelihood="linear", max_iter=50, random_state=0).fit(X)
        >>> model.transform(X).shape, model.score_samples(X).shape, model.sample(3).shape
        ((178, 2), (178,), (3, 13))
    """

    def transform(self, X) -> np.ndarray:
        r"""Posterior means E_q[t | x] of the points, (N, D); those of per-point guides after an E-step of their own."""
        rows = self._read(X)
        points = self._points(rows).numbered()
        guide = self._posterior_of(points)
        with quiet(self.model_, guide, seed=self._later):
            means = torch.cat([mean(posterior(guide, block)) for block, _ in blocks(points, 1)])
        return means.numpy().astype(rows.dtype)

    def inverse_transform(self, X) -> np.ndarray:
        r"""The mean of p(x | t) for codes X (N, D), in the units and the layout of the X of the fit.

        Of classes it is the most probable one.
        """
        check_is_fitted(self)
        t = check_array(X, dtype=FLOATS)
        if t.shape[1] != self.n_components:
            raise ValueError(f"X has shape {t.shape}; expected codes (N, {self.n_components})")
        with quiet(self.model_, seed=self._later):
            p = self.model_.emission(torch.from_numpy(t).to(next(self.model_.parameters()).dtype))
            return self._restored(guess(p, averaged(p)), t.dtype)

    def sample(self, n_samples=1, random_state=None) -> np.ndarray:
        r"""Draws points from p(x), in the units and the layout of the X of the fit.

        Arguments:
            n_samples: their number.
            random_state: a seed, a generator of NumPy, or `None` for NumPy's global one, as elsewhere in scikit-learn.
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
