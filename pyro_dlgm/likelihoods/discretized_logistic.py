r"""Pixels on a grid: a logistic density, integrated over the bin of each level."""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from ..distributions import Fisher
from .base import LocationScale


class DiscretizedLogistic(LocationScale):
    r"""Creates p(x | t, w) = ∏_j P(x_j; μ_j(t, w), s_j(t, w)), with probabilities of grey levels.

    x = k / (levels − 1) with whole k, as computed by `data.Grid`. With half a bin h = ½ / (levels − 1),

        P(x) = σ((x + h − μ) / s) − σ((x − h − μ) / s),

    and the levels 0 and 1 include the tails. s = floor + softplus(r(t, w)). Since this is a probability, its negative
    logarithm is a code length: see `bits_per_dim`.

    Arguments:
        net: a network with two heads that returns the pair (μ, r), or the network of μ if ``scale_net`` is given.
        scale_net: the network of r, if it is a separate one.
        levels: the number of levels, 256 for 8-bit images.
        floor: lower bound of s, in the units of x. It bounds the gradient of P; P itself is bounded without it.

    Raises:
        ValueError: if there are fewer than two levels or the floor is not above 0.

    References:
        Salimans, Karpathy, Chen, Kingma, "PixelCNN++: improving the PixelCNN with discretized logistic mixture
        likelihood and other modifications" (2017). https://arxiv.org/abs/1701.05517
    """

    def __init__(self, net: nn.Module, scale_net: nn.Module | None = None, *, levels: int = 256, floor: float = 5e-4):
        if levels < 2:
            raise ValueError(f"levels is {levels}; expected at least 2, 256 for 8-bit images")
        if not floor > 0:
            raise ValueError(f"floor is {floor:g}; expected a number > 0, in the units of x")
        super().__init__(net, scale_net, floor)
        self.levels = levels

    def pixels(self, t: Tensor) -> "DiscretizedLogisticPixels":
        return DiscretizedLogisticPixels(*self.location_scale(t), self.levels)

    @staticmethod
    def bits_per_dim(log_p: float, num_pixels: int) -> float:
        r"""Returns −log p(x) / (P ln 2), for log p(x) (or a bound) in nats per point and P = pixels · channels."""
        return -log_p / (num_pixels * math.log(2))


class Levels(constraints.Constraint):
    r"""Creates the support {0, 1/(levels − 1), ..., 1}, with a tolerance of a hundredth of a bin."""

    is_discrete = True

    def __init__(self, levels: int):
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        r"""Returns where the value is a level; nowhere for integer types such as bytes, in which k would overflow."""
        if not value.is_floating_point():
            return torch.zeros_like(value, dtype=torch.bool)
        k = value * (self.levels - 1)
        whole = k.round()
        return ((k - whole).abs() < 0.01) & (whole >= 0) & (whole < self.levels)


class DiscretizedLogisticPixels(dist.TorchDistribution):
    r"""Creates the distribution of a logistic variable, clamped to [0, 1] and rounded to the nearest level.

    Arguments:
        mu: μ, of any shape.
        scale: s > 0, of the same shape.
        levels: the number of levels.
    """

    arg_constraints: ClassVar = {"mu": constraints.real, "scale": constraints.positive}

    def __init__(self, mu: Tensor, scale: Tensor, levels: int, validate_args: bool | None = None):
        self.mu, self.scale, self.levels = mu, scale, levels
        super().__init__(mu.shape, validate_args=validate_args)

    @property
    def support(self) -> Levels:
        r"""The levels."""
        return Levels(self.levels)

    def expand(self, batch_shape, _instance=None) -> "DiscretizedLogisticPixels":
        r"""Returns the same distribution with batch axes added on the left."""
        return type(self)(self.mu.expand(batch_shape), self.scale.expand(batch_shape), self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-probability of each pixel's level, exact to rounding in both tails.

        With b − a = 1 / ((levels − 1) s): log(σ(b) − σ(a)) = log σ(b) + log σ(−a) + log(1 − e^{a − b}). This avoids
        differences of nearly equal numbers. At an edge it is one of the first two terms alone.
        """
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.levels - 1)
        below = logsigmoid((value + half - self.mu) / self.scale)
        above = logsigmoid((self.mu - value + half) / self.scale)
        bin = (-(-2 * half / self.scale).expm1()).log()
        lowest, highest = value < half, value > 1 - half
        return torch.where(lowest, below, torch.where(highest, above, below + above + bin))

    def fisher(self) -> Fisher:
        r"""Returns the Fisher information of (μ, s), a sum over the levels: Σ_k ∂P_k ∂P_kᵀ / P_k."""
        s, last, found = self.scale, self.levels - 1, 0.0
        bin, slope, left = -(-1 / last / s).expm1(), torch.zeros(2, *s.shape).to(s), torch.ones_like(s)
        for k in range(self.levels):
            u = ((k + 0.5) / last - self.mu) / s
            up, down = (u.sigmoid(), (-u).sigmoid()) if k < last else (torch.ones_like(s), torch.zeros_like(s))
            P = up * left * (bin if 0 < k < last else 1)  # σ(u) − σ(u of the level below), as in `log_prob`
            next_slope = -up * down / s * torch.stack([torch.ones_like(u), u])  # of σ(u), by μ and by s
            a, b = next_slope - slope
            found = found + torch.stack([a * a, a * b, b * b]) / P.clamp_min(torch.finfo(s.dtype).tiny)
            slope, left = next_slope, down
        information = found[[0, 1, 1, 2]].movedim(0, -1).unflatten(-1, (2, 2))
        return Fisher(torch.stack([self.mu, s], -1), information)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws μ + s logit(u) with u ~ U(0, 1), clamped and rounded."""
        with torch.no_grad():
            mu = self.mu.expand(self._extended_shape(sample_shape))
            x = (mu + self.scale * torch.rand_like(mu).logit()).clamp(0, 1)
            return (x * (self.levels - 1)).round() / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        r"""The mean before rounding, s (log(1 + e^{μ/s}) − log(1 + e^{(μ−1)/s})): off by less than half a bin."""
        return self.scale * (softplus(self.mu / self.scale) - softplus((self.mu - 1) / self.scale))

    @property
    def variance(self) -> Tensor:
        r"""The variance, from sums over the levels: E x = Σ_k P(x > x_k) / (levels − 1), and E x² likewise."""
        step = 1 / (self.levels - 1)
        first, second = torch.zeros_like(self.mu), torch.zeros_like(self.mu)
        for k in range(self.levels - 1):
            tail = ((self.mu - (k + 0.5) * step) / self.scale).sigmoid()
            first, second = first + step * tail, second + (2 * k + 1) * step**2 * tail
        return (second - first.square()).clamp_min(0)
