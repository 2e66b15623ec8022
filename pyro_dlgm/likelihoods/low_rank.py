r"""Correlated Gaussian pixels: Σ(t) = diag σ²(t) + F(t) F(t)ᵀ."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..masks import pixelwise
from ..storage.sums import sums_dtype, widened
from .base import Conditional, check_heads, heads


class LowRankNormal(Conditional):
    r"""Creates p(x | t, w) = N(μ(t, w), Σ(t, w)) with Σ = diag σ²(t, w) + F(t, w) F(t, w)ᵀ, F of shape (P, R).

    A practical form of a general Σ(t): R directions in which the pixels vary together given t, at a cost of O(P R²) per
    point. σ = floor + softplus(r(t, w)), as in `DiagonalNormal`. Missing pixels are marginalized exactly, by dropping
    their rows from F and σ².

    Arguments:
        net: a network with 2 + R heads that returns (μ, r, F_1, ..., F_R), each of x's shape.
        rank: the number R of directions.
        floor: lower bound of σ, in the units of x.

    Raises:
        ValueError: if the rank is below 1, the floor is negative, or the network has another number of heads.

    References:
        Dorta, Vicente, Agapito, Campbell, Simpson, "Structured uncertainty prediction networks" (2018), on why
        residuals of pixels should be correlated. https://arxiv.org/abs/1802.07079

    Example:
        >>> from pyro_dlgm import nets
        >>> p = LowRankNormal(nets.MLP(2, (1, 4, 4), heads=5), rank=3)
        >>> x = p(torch.zeros(7, 2)).sample()
        >>> x.shape, p(torch.zeros(7, 2)).log_prob(x).shape
        (torch.Size([7, 1, 4, 4]), torch.Size([7]))
    """

    def __init__(self, net: nn.Module, rank: int, *, floor: float = 1e-3):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}; expected at least 1, or use DiagonalNormal")
        if not floor >= 0:
            raise ValueError(f"floor is {floor:g}; expected a number >= 0")
        self._heads = 2 + rank, f"2 + rank = {2 + rank} for μ, σ and each direction"
        check_heads(net, *self._heads)
        self.net, self.rank, self.floor = net, rank, floor

    def forward(self, t: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> "LowRankPixels":
        r"""Returns p(x | t, w).

        Arguments:
            t: codes of shape (..., D).
            mask: boolean, True where observed, of x's shape or (B,).
            given: side information (..., C): the network decodes [t | c].
        """
        code = self.code(t, given)
        mu, r, *F = heads(self.net(code), *self._heads)
        event_dim = self.axes(mu.dim(), code)
        if mask is not None and code.dim() > 1:
            mask = pixelwise(mask, event_dim + 1)
        return LowRankPixels(mu, self.floor + softplus(r), torch.stack(F, -1), event_dim, mask)


class LowRankPixels(dist.TorchDistribution):
    r"""Creates N(μ, diag σ² + F Fᵀ) over arrays of pixels, with missing pixels integrated out.

    With u = (x − μ) / σ and U = F / σ, rows of missing pixels set to 0, and the capacitance C = I + UᵀU (R x R),

        log p = −½ (|u|² − uᵀU C⁻¹ Uᵀu + log det C) − Σ_j log σ_j − ½ n log 2π,

    where j runs over the n observed pixels (Woodbury and the matrix determinant lemma): no P x P matrix is built.

    Arguments:
        mu: μ of shape (..., *event).
        scale: σ > 0 of the same shape.
        factor: F of shape (..., *event, R).
        event_dim: the number of axes of a point.
        mask: boolean, True where observed; broadcasts with μ. Samples have all pixels.
    """

    arg_constraints: ClassVar = {"mu": constraints.real, "scale": constraints.positive, "factor": constraints.real}
    has_rsample = True

    def __init__(self, mu, scale, factor, event_dim: int, mask: Tensor | None = None, validate_args=None):
        self.mu, self.scale, self.factor, self.observed = mu, scale, factor, mask
        split = mu.dim() - event_dim
        super().__init__(mu.shape[:split], mu.shape[split:], validate_args=validate_args)

    @property
    def support(self):
        r"""All real arrays."""
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape, _instance=None) -> "LowRankPixels":
        r"""Returns the same density with batch axes added on the left."""
        shape = torch.Size(batch_shape) + self.event_shape
        factor = self.factor.expand(shape + self.factor.shape[-1:])
        arrays = self.mu.expand(shape), self.scale.expand(shape), factor
        return type(self)(*arrays, self.event_dim, self.observed, validate_args=False)

    @property
    def mean(self) -> Tensor:
        r"""μ."""
        return self.mu

    @property
    def variance(self) -> Tensor:
        r"""The diagonal of Σ, σ² + Σ_r F_r²."""
        return self.scale.square() + self.factor.square().sum(-1)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws μ + σ ε + F η with ε (P,) and η (R,) standard normal."""
        shape = self._extended_shape(sample_shape)
        epsilon = torch.randn(shape, dtype=self.mu.dtype, device=self.mu.device)
        lead = shape[: len(shape) - self.event_dim]
        eta = epsilon.new_empty(*lead, *[1] * self.event_dim, self.factor.shape[-1]).normal_()
        return self.mu + self.scale * epsilon + (self.factor * eta).sum(-1)

    def completed(self, x: Tensor, mask: Tensor) -> "LowRankPixels":
        r"""Returns p(x_m | x_o), the distribution of all pixels given those of x where the mask is True.

        The posterior of the directions' weights η is N(C⁻¹ Uᵀ u, C⁻¹), over the observed pixels. With C = L Lᵀ and
        F' = F L⁻ᵀ, missing pixels are μ + F' L⁻¹ Uᵀ u + F' η' + σ ε, again of low rank; the observed ones are those of
        x. The log-density is that of the missing pixels.

        Arguments:
            x: data (..., *event), with any number where missing.
            mask: boolean, True where observed, (..., *event).
        """
        u, U, _, _ = LowRankPixels(self.mu, self.scale, self.factor, self.event_dim, mask)._standardized(x)
        L, z = _whitened(u, U)
        flat = widened(self.factor).flatten(self.factor.dim() - 1 - self.event_dim, -2)
        F = torch.linalg.solve_triangular(L.mT, flat, upper=True, left=False)  # (..., P, R)
        shift = (F @ z.unsqueeze(-1)).squeeze(-1)
        shift, F = shift.to(x).unflatten(-1, self.event_shape), F.to(x).unflatten(-2, self.event_shape)
        mu, scale = torch.where(mask, x, self.mu + shift), torch.where(mask, 0.0, self.scale)
        F = torch.where(mask.unsqueeze(-1), 0.0, F)
        return LowRankPixels(mu, scale, F, self.event_dim, ~mask, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log p of the observed pixels, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        u, U, log_scale, count = self._standardized(value)
        L, z = _whitened(u, U)
        square = widened(u).square().sum(-1) - z.square().sum(-1)
        log_det = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 2 * widened(log_scale).sum(-1)
        return (-0.5 * (square + log_det + count * math.log(2 * math.pi))).to(value.dtype)

    def _standardized(self, value: Tensor):
        r"""Returns u (..., P), U (..., P, R), log σ (..., P) and n, with 0 for missing pixels."""
        residual, F, scale, count = value - self.mu, self.factor, self.scale, math.prod(self.event_shape)
        if self.observed is not None:
            # Before the division, so that missing pixels affect neither values nor gradients.
            residual = torch.where(self.observed, residual, 0.0)
            F = torch.where(self.observed.unsqueeze(-1), F, 0.0)
            scale = torch.where(self.observed, scale, 1.0)
            count = self._flat(self.observed.expand(residual.shape)).sum(-1, dtype=sums_dtype(residual.device))
        u, U = residual / scale, F / scale.unsqueeze(-1)
        start = U.dim() - 1 - self.event_dim
        return self._flat(u), U.flatten(start, -2), self._flat(scale.log()), count

    def _flat(self, v: Tensor) -> Tensor:
        return v.flatten(v.dim() - self.event_dim)


def _whitened(u: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the lower triangular L with L Lᵀ = C = I + UᵀU, (..., R, R), and z = L⁻¹ Uᵀ u, (..., R), in float64."""
    # In double: C has eigenvalues from 1 to |F|²/σ², too wide a range for floats where σ is small.
    u, U = widened(u), widened(U)
    C = U.mT @ U + torch.eye(U.shape[-1], dtype=U.dtype, device=U.device)
    # It cannot fail on finite numbers; NaN passes through, and the training loop reports it.
    L = torch.linalg.cholesky_ex(C).L
    return L, torch.linalg.solve_triangular(L, U.mT @ u.unsqueeze(-1), upper=False).squeeze(-1)
