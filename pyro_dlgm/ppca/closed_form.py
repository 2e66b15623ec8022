r"""The closed-form maximum likelihood of PPCA, from the spectrum of the covariance (1/N).

It is computed from a factor F with FᵀF = N · covariance. The singular values of F are accurate to rounding of the
largest one; eigenvalues of the covariance only to rounding of its square, which loses noise of 10⁻⁸ of the largest
column.
"""

import torch
from torch import Tensor

from ..storage.sums import widened

LARGEST = 1e150  # absolute values: their squares and sums of these are finite
FEWEST = 1e-6  # the smallest ratio of noise to a column's spread that can be told from rounding


def check(X: Tensor, latent_dim: int, *, missing: bool = True) -> None:
    r"""Raises a `ValueError` unless X is a finite matrix of two points or more and 1 <= D < P.

    Arguments:
        missing: whether NaN is allowed, as a missing entry.
    """
    if X.dim() != 2 or len(X) < 2:
        raise ValueError(f"X has shape {tuple(X.shape)}; expected (N, P) with N >= 2: use X.flatten(1) on images")
    if not X.is_floating_point():
        raise ValueError(f"X has dtype {X.dtype}; expected a floating type: use X.float() or X.double()")
    if bool(X.isinf().any()) or (not missing and bool(X.isnan().any())):
        raise ValueError(
            "X has infinite entries, or NaN that the mask calls observed; expected numbers, NaN for missing"
        )
    check_range(X)
    if not 1 <= latent_dim < X.shape[1]:
        raise ValueError(f"latent_dim is {latent_dim}; expected 1 <= latent_dim < P = {X.shape[1]}")


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
    x = widened(X)
    mu = x.mean(0)
    x = x - mu
    F = torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x
    W, sigma2 = loadings(F, len(X), latent_dim, mu, torch.finfo(X.dtype).eps)
    return W, mu, sigma2


def loadings(F: Tensor, N: int, latent_dim: int, mu: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    r"""Returns W = U (Λ − σ² I)^½ (P, D) from the leading eigenpairs Λ (D,), U (P, D), and σ² (), the others' mean.

    Arguments:
        F: a factor of the scatter, FᵀF = Σ_i (x_i − μ)(x_i − μ)ᵀ, (rows, P).
        N: the number of points.
        mu: their mean (P,).
        eps: the relative rounding error of x.

    Raises:
        ValueError: if only rounding remains outside the leading D directions, so that the likelihood has no maximum.
    """
    _, s, Vh = torch.linalg.svd(F, full_matrices=False)
    U = Vh[:latent_dim].mT
    left = (F - F @ U @ U.mT).square().sum(0) / N
    check_noise(left.sqrt(), (F.square().sum(0) / N).sqrt(), mu, eps, latent_dim)
    sigma2 = left.sum() / (F.shape[1] - latent_dim)
    return U * (s[:latent_dim].square() / N - sigma2).clamp_min(0).sqrt(), sigma2


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
