r"""Families of q: maps from raw numbers to distributions of t.

A guide is made of two independent parts: its family, and the source of the raw numbers, which is a row of a table
(`per_point`) or a network of x (`amortized`).
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


def log_scale(init_scale: float) -> float:
    r"""Returns the logarithm of an initial scale.

    Raises:
        ValueError: unless it is a finite number > 0.
    """
    if not 0 < init_scale < math.inf:
        raise ValueError(f"init_scale is {init_scale}; expected a finite number > 0, such as 0.1")
    return math.log(init_scale)


class Family:
    r"""The base of families of q: maps from unconstrained raw numbers to distributions of t.

    Raw numbers are m (..., D), then log s (..., D) if q has scales, then numbers that start at 0.
    """

    has_density = True

    def start(self, mean: Tensor, log_scale: float) -> Tensor:
        r"""Returns the raw numbers (..., width) of the q with this mean (..., D) and one scale for all dimensions."""
        D = mean.shape[-1]
        raw = mean.new_zeros((*mean.shape[:-1], self.width(D)))
        raw[..., :D], raw[..., D : 2 * D] = mean, log_scale
        return raw


class Gaussian(Family):
    r"""The base of families with q(t) = N(m, L Lᵀ), that is t = m + L ε, ε ~ N(0, I).

    Around any member q, the family has coordinates η = (u, b) whose origin is q itself: the mean moves to m + L u, and
    b changes L. At the origin the Fisher information of η is diagonal, and the same for every q. So the gradient by η
    divided by `information` is the natural gradient: the direction in which F rises fastest per nat of KL.

    References:
        Amari, "Natural gradient works efficiently in learning" (1998). Neural Computation 10(2).
    """

    correlated = True  # whether L has entries off its diagonal

    def information(self, latent_dim: int) -> Tensor:
        r"""Returns the Fisher information of η at q itself, (width,): 1 for u, 2 for log-scales, 1 for the others."""
        return torch.ones(self.width(latent_dim)).index_fill(0, torch.arange(latent_dim, 2 * latent_dim), 2.0)


class MeanFieldFamily(Gaussian):
    r"""The family q(t) = ∏_j N(m_j, s_j²), from raw numbers (m, log s) of shape (..., 2D)."""

    name, correlated = "mean_field", False

    def width(self, latent_dim: int) -> int:
        r"""Returns the number of raw numbers for D latents."""
        return 2 * latent_dim

    def latent_dim(self, width: int) -> int:
        r"""Returns the number D of latents for ``width`` raw numbers."""
        return width // 2

    def of(self, q) -> Tensor:
        r"""Returns the raw numbers (..., 2D) of the q with the mean and scales of another distribution."""
        return torch.cat([q.mean, q.stddev.log()], -1)

    def __call__(self, raw: Tensor) -> dist.TorchDistribution:
        r"""Returns the distribution, of batch shape (...) and event shape (D,)."""
        mean, log_scale = raw.chunk(2, -1)
        return dist.Normal(mean, log_scale.exp()).to_event(1)

    def codes(self, raw: Tensor, noise: Tensor) -> Tensor:
        r"""Returns t = m + s ε (..., D) for noise ε (..., D)."""
        mean, log_scale = raw.chunk(2, -1)
        return mean + log_scale.exp() * noise

    def nearby(self, raw: Tensor, step: Tensor) -> Tensor:
        r"""Returns the raw numbers (..., 2D) of the q at η = (u, b) around this one: (m + s u, log s + b)."""
        u, b = step.chunk(2, -1)
        return torch.cat([self.codes(raw, u), raw.chunk(2, -1)[1] + b], -1)


class FullRankFamily(Gaussian):
    r"""The family q(t) = N(m, L Lᵀ), L = diag(s) (I + A/√D), from raw (m, log s, A) of shape (..., 2D + D(D−1)/2).

    A is strictly lower triangular. One learning rate serves all raw numbers: steps of equal length change q by about
    the same amount relative to its scales, whatever these scales and the number of dimensions are. If the raw numbers
    were the entries of L below its diagonal, a few steps would make L too ill-conditioned for a density.
    """

    name = "full_rank"

    def width(self, latent_dim: int) -> int:
        r"""Returns the number of raw numbers for D latents."""
        return 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def of(self, q) -> Tensor:
        r"""Returns the raw numbers of the q with the mean and covariance (or scales) of another distribution."""
        return self._raw(q.mean, q.scale_tril if isinstance(q, MultivariateNormal) else q.stddev.diag_embed())

    def __call__(self, raw: Tensor) -> dist.MultivariateNormal:
        r"""Returns the distribution, of batch shape (...) and event shape (D,)."""
        mean, L = self._factors(raw)
        return dist.MultivariateNormal(mean, scale_tril=L)

    def codes(self, raw: Tensor, noise: Tensor) -> Tensor:
        r"""Returns t = m + L ε (..., D) for noise ε (..., D)."""
        mean, L = self._factors(raw)
        # Unlike matmul, einsum copies no L for noise that is the same for all points, (S, 1, D).
        return mean + torch.einsum("...ij,...j->...i", L, noise)

    def nearby(self, raw: Tensor, step: Tensor) -> Tensor:
        r"""Returns the raw numbers of the q at η = (u, b, B) around this one: m + L u, and L (diag(exp b) + B)."""
        mean, L = self._factors(raw)
        u, b, below = self._split(step)
        return self._raw(mean + (L @ u.unsqueeze(-1)).squeeze(-1), L @ _lower(b.exp(), below))

    def latent_dim(self, width: int) -> int:
        r"""Returns the number D of latents for ``width`` = D(D + 3)/2 raw numbers."""
        return int(((9 + 8 * width) ** 0.5 - 3) / 2 + 0.5)

    def _split(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        D = self.latent_dim(raw.shape[-1])
        return raw.split([D, D, D * (D - 1) // 2], -1)

    def _factors(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns m (..., D) and L (..., D, D)."""
        mean, log_scale, below = self._split(raw)
        scale, D = log_scale.exp(), mean.shape[-1]
        i, _ = torch.tril_indices(D, D, -1, device=raw.device)
        return mean, _lower(scale, scale[..., i] * below / math.sqrt(D))

    def _raw(self, mean: Tensor, L: Tensor) -> Tensor:
        D, scale = L.shape[-1], L.diagonal(dim1=-2, dim2=-1)
        i, j = torch.tril_indices(D, D, -1, device=L.device)
        return torch.cat([mean, scale.log(), math.sqrt(D) * L[..., i, j] / scale[..., i]], -1)


def _lower(diagonal: Tensor, below: Tensor) -> Tensor:
    r"""Returns the lower triangular matrix (..., D, D) with that diagonal, and ``below`` row by row under it."""
    D = diagonal.shape[-1]
    i, j = torch.tril_indices(D, D, -1, device=diagonal.device)
    L = diagonal.diag_embed()
    L[..., i, j] = below
    return L


class PointFamily(Family):
    r"""The family q(t) = δ(t − m), from raw numbers m of shape (..., D). It has no density."""

    name, has_density = "point", False

    def width(self, latent_dim: int) -> int:
        r"""Returns the number of raw numbers for D latents."""
        return latent_dim

    def __call__(self, raw: Tensor) -> dist.Delta:
        r"""Returns the distribution, of batch shape (...) and event shape (D,)."""
        return dist.Delta(raw, event_dim=1)


mean_field, full_rank, point = MeanFieldFamily(), FullRankFamily(), PointFamily()
FAMILIES = {family.name: family for family in (mean_field, full_rank)}
