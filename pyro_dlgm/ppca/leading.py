r"""The leading eigenpairs of a covariance (1/N): from sums of products in blocks, or from a factor."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..storage.sums import widened
from .scatter import Scatter, add_products, blocks, centred, eigenpairs


class Leading(NamedTuple):
    r"""The leading eigenpairs of a covariance (1/N), and what they leave.

    Attributes:
        values: Λ (D,), in descending order.
        vectors: U (P, D).
        left: the variance of each column outside of these directions (P,).
        spread: the variance of each column (P,).
        mu: the mean (P,).
    """

    values: Tensor
    vectors: Tensor
    left: Tensor
    spread: Tensor
    mu: Tensor


def of_points(X: Tensor, latent_dim: int, dtype: torch.dtype) -> Leading:
    r"""Returns the leading eigenpairs of X (N, P) from the P x P products of its centred columns, in ``dtype``."""
    sums = Scatter(X.shape[1], dtype, X.device)
    for x in blocks(X):
        sums.add(x)
    return of_scatter(sums, latent_dim)


def of_scatter(sums: Scatter, latent_dim: int) -> Leading:
    r"""Returns the leading eigenpairs of the covariance of points that were summed."""
    values, vectors = (v[..., :latent_dim] for v in eigenpairs(sums.upper / sums.count))
    spread = sums.upper.diagonal() / sums.count
    return Leading(values, vectors, _left(spread, values.clamp_min(0).sqrt() * vectors), spread, sums.mean)


def of_columns(X: Tensor, latent_dim: int, dtype: torch.dtype) -> Leading:
    r"""Returns the leading eigenpairs of X (N, P), N <= P, from the N x N products of its centred points.

    With X Xᵀ = V Λ Vᵀ, the covariance has the eigenvectors Xᵀ V Λ^−½.
    """
    N, wide = len(X), widened(X[:1])
    gram, parts = wide.new_zeros(N, N), []
    for x in blocks(X.mT):
        add_products(gram, centred(x.mT.to(dtype))[0].mT)
    values, V = (v[..., :latent_dim] for v in eigenpairs(gram / N))
    for x in blocks(X.mT):
        x, mu = centred(widened(x.mT))
        parts.append((x.mT @ V / N**0.5, x.square().mean(0), mu))
    A, spread, mu = map(torch.cat, zip(*parts, strict=True))
    return Leading(values, A / values.sqrt(), _left(spread, A), spread, mu)


def _left(spread: Tensor, A: Tensor) -> Tensor:
    r"""Returns the variance of each column (P,) outside of the directions A = U Λ^½ (P, D)."""
    return (spread - A.square().sum(1)).clamp_min(0)


def of_factor(F: Tensor, N: int, latent_dim: int, mu: Tensor) -> Leading:
    r"""Returns the leading eigenpairs from a factor F (rows, P), FᵀF = Σ_i (x_i − μ)(x_i − μ)ᵀ, of N points."""
    _, s, Vh = torch.linalg.svd(F, full_matrices=False)
    U = Vh[:latent_dim].mT
    left, spread = ((v.square().sum(0) / N) for v in (F - F @ U @ U.mT, F))
    return Leading(s[:latent_dim].square() / N, U, left, spread, mu)
