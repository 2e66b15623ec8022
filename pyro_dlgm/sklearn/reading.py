r"""The base of all estimators: reads X like scikit-learn, with NaN for missing, and averages scores."""

from math import prod

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

FLOATS = (np.float64, np.float32)


class Reader(TransformerMixin, BaseEstimator):
    r"""The base of estimators of log p(x): a subclass defines `fit`, `transform` and `score_samples`."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def score(self, X, y=None) -> float:
        r"""Returns the mean of `score_samples` over the points of X, in nats per point, larger is better; ignores y."""
        return float(np.mean(self.score_samples(X), dtype=np.float64))

    def _read(self, X, *, fitting: bool = False) -> np.ndarray:
        r"""Returns X as an array (N, P) of float32 or float64, finite or NaN.

        Raises:
            NotFittedError: if the estimator has not been fitted and is not ``fitting``.
            ValueError: on infinite values, other columns than in the fit, or fewer than two points to fit.
        """
        if not fitting:
            check_is_fitted(self)
        least = 2 if fitting else 1
        return validate_data(
            self, X, reset=fitting, dtype=FLOATS, ensure_all_finite="allow-nan", ensure_min_samples=least
        )


def flattened(X, image_shape: tuple[int, ...] | None):
    r"""Returns images of that shape, (N, C, H, W), or (N, H, W) with C = 1, as rows, and rows unchanged.

    Raises:
        ValueError: if points of several axes have another shape.
    """
    if image_shape is None or np.ndim(X) <= 2:
        return X
    X = np.asarray(X)
    grey = image_shape[1:] if image_shape[0] == 1 else image_shape
    if X.shape[1:] not in (image_shape, grey):
        raise ValueError(
            f"X has shape {X.shape} and image_shape is {image_shape}; expected (N, {', '.join(map(str, image_shape))}) "
            f"or flat rows (N, {prod(image_shape)})"
        )
    return X.reshape(len(X), -1)
