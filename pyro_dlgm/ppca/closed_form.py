r"""The closed-form maximum likelihood of PPCA, from the spectrum of the covariance (1/N)."""

import torch
from torch import Tensor


def check(X: Tensor, latent_dim: int, *, missing: bool = True) -> None:
    r"""Raises a `ValueError` unless X is a finite matrix of two points or more and 1 <= D < P.

    Arguments:
        missing: whether NaN stands for a missing entry, and is allowed.
    """
    if X.dim() != 2 or len(X) < 2:
        raise ValueError(f"X has shape {tuple(X.shape)}; expected (N, P) with N >= 2: use X.flatten(1) on images")
    if not X.is_floating_point():
        raise ValueError(f"X has dtype {X.dtype}; expected a floating type: use X.float() or X.double()")
    if bool(X.isinf().any()) or (not missing and bool(X.isnan().any())):
        raise ValueError(
            "X has infinite entries, or NaN that the mask calls observed; expected numbers, NaN for missing"
        )
    if not 1 <= latent_dim < X.shape[1]:
        raise ValueError(f"latent_dim is {latent_dim}; expected 1 <= latent_dim < P = {X.shape[1]}")


def maximum_likelihood(X: Tensor, latent_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""W (P, D), μ (P,) and σ² () in the dtype of X, computed in float64.

    Costs O(N P min(N, P)): the smaller of the covariance (P, P) and the Gram matrix (N, N) is decomposed, so that
    wide data build no P x P matrix.
    """
    x = X.double()
    mu = x.mean(0)
    x = x - mu
    values, vectors = _leading(x, latent_dim)
    left = x.square().sum() / len(x) - values.sum()
    W, sigma2 = loadings(values, vectors, left / (X.shape[1] - latent_dim))
    return W.to(X), mu.to(X), sigma2.to(X)


def loadings(values: Tensor, vectors: Tensor, sigma2: Tensor) -> tuple[Tensor, Tensor]:
    r"""W = U (Λ − σ² I)^½ (P, D) and σ² (), from the leading eigenpairs Λ (D,), U (P, D) and the mean of the others.

    Raises:
        ValueError: if σ² is 0, so that the likelihood has no maximum.
    """
    if sigma2 <= 1e-12 * values.max().clamp_min(torch.finfo(values.dtype).tiny):
        raise ValueError(
            f"X has no variance outside its leading {len(values)} directions, so the likelihood has no maximum: "
            "choose fewer latents"
        )
    return vectors * (values - sigma2).clamp_min(0).sqrt(), sigma2


def _leading(x: Tensor, D: int) -> tuple[Tensor, Tensor]:
    r"""The D leading eigenvalues (D,), largest first, and eigenvectors (P, D) of xᵀx / N; zeros where rank < D."""
    N, P = x.shape
    if P <= N:
        values, vectors = torch.linalg.eigh(x.mT @ x / N)
    else:
        values, u = torch.linalg.eigh(x @ x.mT / N)
        vectors = x.mT @ u / (N * values.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
    values, vectors = values.flip(0)[:D], vectors.flip(1)[:, :D]
    if len(values) < D:  # fewer points than latents: the directions left have no variance
        values = torch.cat([values, values.new_zeros(D - len(values))])
        vectors = torch.cat([vectors, vectors.new_zeros(P, D - vectors.shape[1])], 1)
    return values.clamp_min(0), vectors
