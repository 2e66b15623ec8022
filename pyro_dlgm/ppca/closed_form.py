r"""The closed-form maximum likelihood of PPCA, from the spectrum of the covariance (1/N).

Sums of products over the points (over the features, if those are more) are fast and need little memory. They are
accurate to rounding of the largest eigenvalue, so what they say of the noise is taken only where it is far above that.
Else the spectrum is that of a factor F with FᵀF = N · covariance, whose singular values are accurate to rounding of the
largest one: noise of 10⁻⁸ of the largest column is not lost.
"""

import torch
from torch import Tensor

from ..storage.sums import sums_dtype, widened
from .leading import Leading, of_columns, of_factor, of_points
from .scatter import keeps_digits

LARGEST = 1e150  # absolute values: their squares and sums of these are finite
FEWEST = 1e-6  # the smallest ratio of noise to a column's spread that can be told from rounding
DIGITS = 0.7  # of those of x are right in the noise, at least


def check(X: Tensor, latent_dim: int, *, missing: bool = True) -> None:
    r"""Raises a `ValueError` unless X is a finite matrix of two points or more and 1 <= D < P.

    Arguments:
        missing: whether NaN is allowed, as a missing entry.
    """
    if X.dim() != 2 or len(X) < 2:
        raise ValueError(f"X has shape {tuple(X.shape)}; expected (N, P) with N >= 2: use X.flatten(1) on images")
    if not X.is_floating_point():
        raise ValueError(f"X has dtype {X.dtype}; expected a floating type: use X.float() or X.double()")
    if not 1 <= latent_dim < X.shape[1]:
        raise ValueError(f"latent_dim is {latent_dim}; expected 1 <= latent_dim < P = {X.shape[1]}")
    if complete(X):
        return
    if bool(X.isinf().any()) or (not missing and bool(X.isnan().any())):
        raise ValueError(
            "X has infinite entries, or NaN that the mask calls observed; expected numbers, NaN for missing"
        )
    check_range(X)


def complete(X: Tensor) -> bool:
    r"""Returns whether all entries are numbers whose squares are finite in float64, in one pass without a copy."""
    low, high = map(float, X.aminmax())
    return low >= -LARGEST and high <= LARGEST  # false for NaN


def check_range(X: Tensor) -> None:
    r"""Raises a `ValueError` if squares of X overflow float64."""
    if bool(((X > LARGEST) | (X < -LARGEST)).any()):
        raise ValueError(f"X has entries above {LARGEST:g}, whose squares overflow: divide X by a constant")


def maximum_likelihood(X: Tensor, latent_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns W (P, D), μ (P,) and σ² () for complete data X (N, P), in float64.

    The cost is O(N P min(N, P)); for wide data no P x P matrix is built.

    Raises:
        ValueError: if X has no variance outside the leading D directions.
    """
    eps = torch.finfo(X.dtype).eps
    for dtype in dtypes(X.dtype, X.device):
        top = (of_points if len(X) > X.shape[1] else of_columns)(X, latent_dim, dtype)
        if trusted(top, dtype, eps):
            return solution(top, latent_dim, eps)
    x = widened(X)
    mu = x.mean(0)
    x = x - mu
    F = torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x
    return solution(of_factor(F, len(X), latent_dim, mu), latent_dim, eps)


def dtypes(dtype: torch.dtype, device: str | torch.device = "cpu") -> tuple[torch.dtype, ...]:
    r"""Returns the dtypes in which products of x are tried in turn, the fastest first."""
    first = (torch.float32,) if dtype == torch.float32 and keeps_digits(device) else ()
    return tuple(dict.fromkeys((*first, sums_dtype(device))))


def trusted(top: Leading, dtype: torch.dtype, eps: float) -> bool:
    r"""Returns whether rounding and underflow of products leave `DIGITS` of x's digits in the noise.

    Arguments:
        dtype: that of the products.
        eps: the relative rounding error of x.
    """
    products, total, left = torch.finfo(dtype), top.spread.sum(), top.left.sum()
    return bool((total * products.eps < eps**DIGITS * left) & (total > products.tiny / products.eps**2))


def solution(top: Leading, latent_dim: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns W = U (Λ − σ² I)^½ (P, D), μ (P,) and σ² (), the mean of the other eigenvalues.

    Arguments:
        top: the leading pairs; fewer than D if there are fewer points.
        latent_dim: D.
        eps: the relative rounding error of x.

    Raises:
        ValueError: if only rounding remains outside the leading D directions, so that the likelihood has no maximum.
    """
    check_noise(top.left.sqrt(), top.spread.sqrt(), top.mu, eps, latent_dim)
    sigma2 = top.left.sum() / (len(top.left) - latent_dim)
    return top.vectors * (top.values - sigma2).clamp_min(0).sqrt(), top.mu, sigma2


def check_noise(left: Tensor, spread: Tensor, mu: Tensor, eps: float, latent_dim: int) -> None:
    r"""Raises a `ValueError` unless some column, in its own units, has noise beyond rounding.

    Arguments:
        left: the residual of each column after D latents, root mean square, (P,).
        spread: the standard deviation of each column (P,).
        mu: its mean (P,).
        eps: the relative rounding error of x.
    """
    rounding = 4 * eps * mu.abs() + 4 * torch.finfo(spread.dtype).eps * spread.max()
    if not bool(((spread > 0) & (left > FEWEST * spread + rounding)).any()):
        raise ValueError(
            f"X has no variance outside its leading {latent_dim} directions (less than {FEWEST:g} of each column's "
            "spread), so the likelihood has no maximum: choose fewer latents, or more points"
        )
