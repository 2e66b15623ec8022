r"""The base of estimators that train a pair (model, guide): its parameters, `fit`, and the bound as a score."""

import warnings
from math import prod

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..evaluate.bounds import iwae
from ..evaluate.e_step.infer import infer
from ..guides.base import adapted
from ..points import Points
from ..recipes.pairs import AMOUNTS, REAL, Recipe
from ..seeding import forked, seeds
from ..training.fit import fit
from ..training.options import COUNT
from .reading import Reader, flattened
from .units import Units, columns_with

COUNTS = ("n_components", "max_iter", "infer_max_iter", "num_samples")
ONE_SCALE = ("fixed", "linear")  # likelihoods with one σ, which a constant column alone cannot drive to its floor
# Checks of scikit-learn that a Monte Carlo estimate cannot pass, with the reason.
DRAWN = (
    "score_samples averages importance weights of draws, which depend on the place of a row; a per-point guide is "
    "fitted to the rows of X together. transform with an amortized guide depends on the row alone"
)
EXCEPTIONS = {"check_methods_sample_order_invariance": DRAWN, "check_methods_subset_invariance": DRAWN}
SEEDS = 4  # of weights, of the validation split, of the training, of everything later


class Trained(Reader):
    r"""The base of estimators around a pair (model, guide) from `pyro_dlgm.recipes`.

    Its arguments are those of `DeepLatentGaussian`.
    """

    def __init__(
        self,
        n_components=2,
        *,
        likelihood="fixed",
        guide="amortized",
        image_shape=None,
        max_iter=2000,
        batch_size=None,
        lr=2e-3,
        row_lr=0.1,
        patience=None,
        validation_fraction=0.1,
        infer_max_iter=3000,
        num_samples=100,
        random_state=None,
    ):
        self.n_components = n_components
        self.likelihood = likelihood
        self.guide = guide
        self.image_shape = image_shape
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.lr = lr
        self.row_lr = row_lr
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.infer_max_iter = infer_max_iter
        self.num_samples = num_samples
        self.random_state = random_state

    def fit(self, X, y=None):
        r"""Trains model and guide on X, and returns the estimator.

        Arguments:
            X: data (N, P), NaN for missing; with ``image_shape`` also (N, C, H, W).
            y: ignored.

        Raises:
            ValueError: on infinite values, fewer than two points, a column without an observed entry, an invalid
                parameter, or values outside the support of the likelihood.
        """
        self._check()
        rows = self._read(X, fitting=True)
        self._shape = (rows.shape[1],) if self.image_shape is None else tuple(self.image_shape)
        self._point_shape = rows.shape[1:] if self.image_shape is None else np.shape(X)[1:]
        self._dtype = rows.dtype
        weights, split, training, self._later = seeds(SEEDS, self._drawn_seed())
        self.units_ = self._units(rows)
        train, val = self._split(self._points(rows), split)
        recipe = Recipe(self.likelihood, self.guide, self.n_components, self._shape, len(train))
        with forked(weights):
            self.model_ = recipe.new_model().to(train.x)
            self.guide_ = recipe.new_guide(self.model_).to(train.x)
        self._train(train, val, training)
        return self

    def score_samples(self, X) -> np.ndarray:
        r"""Returns the IWAE-K bound on log p(x) of each point, (N,), in nats, in the units of X; K is ``num_samples``.

        It is a bound in expectation, over the observed entries. A per-point guide is first fitted to the points of X,
        with w frozen (`evaluate.infer`). All random numbers follow from the seed of the fit.

        Raises:
            TypeError: if q is a point mass or a chain (hard-em, mcem), which has no density.
        """
        rows = self._read(X)
        points = self._points(rows).numbered()
        bound = iwae(self.model_, self._posterior_of(points), points, num_samples=self.num_samples, seed=self._later)
        return (bound.double().numpy() + self.units_.log_jacobian(rows)).astype(rows.dtype)

    @property
    def score_bound_(self) -> str:
        r"""The name of the bound whose mean is `score`."""
        return f"IWAE-{self.num_samples}"

    def _check(self) -> None:
        for name in COUNTS:
            if not COUNT.fits(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {COUNT.expected}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction!r}; expected a number in (0, 1)")

    def _drawn_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _read(self, X, *, fitting: bool = False) -> np.ndarray:
        shape = None if self.image_shape is None else tuple(self.image_shape)
        rows = super()._read(flattened(X, shape), fitting=fitting)
        if shape is not None and prod(shape) != rows.shape[1]:
            raise ValueError(
                f"X has {rows.shape[1]} columns and image_shape is {shape}; expected {prod(shape)} of them, C·H·W"
            )
        return rows

    def _units(self, rows: np.ndarray) -> Units:
        real, amounts = (columns_with(names, self.likelihood, rows.shape[1]) for names in (REAL, AMOUNTS))
        units = Units.of(rows, real, amounts, rows.shape[1] if self.image_shape is None else self._shape[0])
        constant = (units.constant & real).nonzero()[0].tolist()
        if constant and self.likelihood not in ONE_SCALE:
            warnings.warn(
                f"columns {constant} of X are constant: their σ goes to its floor, which alone determines their part "
                "of log p(x); drop them, or use likelihood='fixed', with one σ for all columns",
                stacklevel=3,
            )
        return units

    def _points(self, rows: np.ndarray) -> Points:
        r"""Returns the points for model and guide: standardized, in the model's dtype, with a mask if there is NaN."""
        x = torch.from_numpy(self.units_.standardize(rows).astype(self._dtype)).reshape(-1, *self._shape)
        mask = ~x.isnan()
        return Points(x, None, None if mask.all() else mask)

    def _split(self, points: Points, seed: int) -> tuple[Points, Points | None]:
        r"""Returns training points, and validation points if there is a ``patience``."""
        if self.patience is None:
            return points, None
        with forked(seed):
            order = torch.randperm(len(points))
        num_val = max(1, round(self.validation_fraction * len(points)))
        return points[order[num_val:]], points[order[:num_val]]

    def _train(self, train: Points, val: Points | None, seed: int) -> None:
        result = fit(
            self.model_,
            self.guide_,
            train,
            steps=self.max_iter,
            batch_size=self.batch_size,
            lr=self.lr,
            row_lr=self.row_lr,
            x_val=val,
            patience=self.patience,
            seed=seed,
        )
        self.history_, self.n_iter_ = result.history, result.history[-1]["step"]

    def _posterior_of(self, points: Points):
        r"""Returns a guide with q for the points: the trained one, or rows fitted to them."""
        if not adapted(self.guide_).per_point:
            return self.guide_
        return infer(self.model_, self.guide_, points, max_steps=self.infer_max_iter, seed=self._later)
