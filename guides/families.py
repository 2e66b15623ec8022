r"""Families of q: maps from raw numbers to a distribution of t.

One of the two axes of a guide is its family, the other is where the raw numbers come from: a row of a table
(`per_point`) or a network of x (`amortized`). A family knows neither.
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


def log_scale(init_scale: float) -> float:
    r"""The logarithm of a scale at the start.

    Raises:
        ValueError: unless it is a finite number > 0.
    """
    if not 0 < init_scale < math.inf:
        raise ValueError(f"init_scale is {init_scale}; expected a finite number > 0, 0.1 say")
    return math.log(init_scale)


class Family:
    r"""Base of the families of q: maps from raw numbers, which are not constrained, to a distribution of t.

    Raw numbers are m (..., D), then log s (..., D) where q has scales, then what is 0 at the start.
    """

    has_density = True

    def start(self, mean: Tensor, log_scale: float) -> Tensor:
        r"""Raw numbers (..., width) of the q with this mean (..., D) and one scale for all dimensions."""
        D = mean.shape[-1]
        raw = mean.new_zeros((*mean.shape[:-1], self.width(D)))
        raw[..., :D], raw[..., D : 2 * D] = mean, log_scale
        return raw


class MeanFieldFamily(Family):
    r"""q(t) = ∏_j N(m_j, s_j²), from raw numbers (m, log s) of shape (..., 2D)."""

    name = "mean_field"

    def width(self, latent_dim: int) -> int:
        r"""The number of raw numbers for D latents."""
        return 2 * latent_dim

    def of(self, q) -> Tensor:
        r"""Raw numbers (..., 2D) of the q with the mean and the scales of another distribution."""
        return torch.cat([q.mean, q.stddev.log()], -1)

    def __call__(self, raw: Tensor) -> dist.TorchDistribution:
        r"""The distribution, of batch shape (...) and event shape (D,)."""
        mean, log_scale = raw.chunk(2, -1)
        return dist.Normal(mean, log_scale.exp()).to_event(1)


class FullRankFamily(Family):
    r"""q(t) = N(m, L Lᵀ), L = diag(s) (I + A/√D), from raw numbers (m, log s, A) of shape (..., 2D + D(D−1)/2).

    A is strictly lower triangular. One optimizer serves all raw numbers: a step of the same length in each of them
    changes q by about the same amount, relative to its scales, whatever they are and however many dimensions there are.
    Were L itself below its diagonal the raw numbers, a few steps would make it too ill-conditioned for a density.
    """

    name = "full_rank"

    def width(self, latent_dim: int) -> int:
        r"""The number of raw numbers for D latents."""
        return 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def of(self, q) -> Tensor:
        r"""Raw numbers of the q with the mean and the covariance (or the scales) of another distribution."""
        L = q.scale_tril if isinstance(q, MultivariateNormal) else q.stddev.diag_embed()
        D, scale = L.shape[-1], L.diagonal(dim1=-2, dim2=-1)
        i, j = torch.tril_indices(D, D, -1, device=L.device)
        return torch.cat([q.mean, scale.log(), math.sqrt(D) * L[..., i, j] / scale[..., i]], -1)

    def __call__(self, raw: Tensor) -> dist.MultivariateNormal:
        r"""The distribution, of batch shape (...) and event shape (D,)."""
        # width = D(D + 3)/2, hence D
        D = int(((9 + 8 * raw.shape[-1]) ** 0.5 - 3) / 2 + 0.5)
        mean, log_scale, below = raw.split([D, D, D * (D - 1) // 2], -1)
        i, j = torch.tril_indices(D, D, -1, device=raw.device)
        scale = log_scale.exp()
        L = scale.diag_embed()
        L[..., i, j] = scale[..., i] * below / math.sqrt(D)
        return dist.MultivariateNormal(mean, scale_tril=L)


class PointFamily(Family):
    r"""q(t) = δ(t − m), from raw numbers m of shape (..., D). It has no density."""

    name, has_density = "point", False

    def width(self, latent_dim: int) -> int:
        r"""The number of raw numbers for D latents."""
        return latent_dim

    def __call__(self, raw: Tensor) -> dist.Delta:
        r"""The distribution, of batch shape (...) and event shape (D,)."""
        return dist.Delta(raw, event_dim=1)


mean_field, full_rank, point = MeanFieldFamily(), FullRankFamily(), PointFamily()
FAMILIES = {family.name: family for family in (mean_field, full_rank)}
