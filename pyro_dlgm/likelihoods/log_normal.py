r"""Amounts: numbers >= 0, often exactly 0, and log-normal elsewhere."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from ..distributions import Fisher, apart
from .base import Likelihood, check_heads, heads

THREE = (3, "three, for μ and r of the logarithm and the logit of a zero")


class ZeroInflatedLogNormal(Likelihood):
    r"""Creates p(x | t, w) = ∏_j [π_j 1(x_j = 0) + (1 − π_j) LogNormal(x_j; μ_j, σ_j²)], for amounts with zeros.

    Amounts are numbers >= 0, often exactly 0: spending, rainfall, frequencies of words. Given t, x_j is 0 with
    probability π = 1/(1 + e^{−g(t, w)}), else log x_j ~ N(μ(t, w), σ(t, w)²) with σ = floor + softplus(r(t, w)). At 0
    `log_prob` is log π, a probability; above 0 it is a log-density of x. Divide each column by its typical amount, the
    geometric mean of what is above 0: networks start at a median of about 1. The mean of such an x is never 0, and may
    be far above its median: for a guess at missing values take ``impute(by="median")``.

    Arguments:
        net: a network with three heads: μ, r and g.
        floor: lower bound of σ, a number without units, since σ is that of log x.

    Raises:
        ValueError: if the network has another number of heads, or the floor is negative.

    Example:
        >>> from pyro_dlgm import nets
        >>> p = ZeroInflatedLogNormal(nets.Linear(2, 5, heads=3))
        >>> p(torch.zeros(3, 2)).log_prob(torch.tensor([0.0, 0.0, 0.3, 1.0, 1e6])).shape
        torch.Size([3])

    References:
        Wang, Liu, Miao, "A deep probabilistic model for customer lifetime value prediction" (2019).
        https://arxiv.org/abs/1912.07753
    """

    heads = 3
    takes = "numbers >= 0, neither shifted nor logarithms; divide columns by their typical amounts"

    def __init__(self, net: nn.Module, *, floor: float = 1e-3):
        if not floor >= 0:
            raise ValueError(f"floor is {floor:g}; expected a number >= 0")
        super().__init__()
        check_heads(net, *THREE)
        self.net, self.floor = net, floor

    def pixels(self, t: Tensor) -> "ZeroInflatedLogNormalPixels":
        mu, r, gate = heads(self.net(t), *THREE)
        return ZeroInflatedLogNormalPixels(mu, self.floor + softplus(r), gate)


class ZeroInflatedLogNormalPixels(dist.TorchDistribution):
    r"""Creates the mixture of 0, with probability π = 1/(1 + e^{−g}), and a log-normal distribution.

    Arguments:
        loc, scale: mean and standard deviation of log x, given x > 0.
        gate: g. The parameters broadcast.
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "gate": constraints.real,
    }
    support = constraints.nonnegative

    def __init__(self, loc: Tensor, scale: Tensor, gate: Tensor, validate_args: bool | None = None):
        self.loc, self.scale, self.gate = torch.broadcast_tensors(loc, scale, gate)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> "ZeroInflatedLogNormalPixels":
        r"""Returns the same distribution with batch axes added on the left."""
        parts = (v.expand(batch_shape) for v in (self.loc, self.scale, self.gate))
        return ZeroInflatedLogNormalPixels(*parts, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log π at 0, else log (1 − π) plus the log-density of a log-normal x."""
        if self._validate_args:
            self._validate_sample(value)
        none = value == 0  # not value > 0: NaN and negative numbers must not count as zeros
        log_x = torch.where(none, 1, value).log()
        amount = dist.Normal(self.loc, self.scale, validate_args=False).log_prob(log_x) - log_x
        return torch.where(none, logsigmoid(self.gate), logsigmoid(-self.gate) + amount)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws amounts (*sample_shape, ...)."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            x = dist.LogNormal(self.loc, self.scale, validate_args=False).sample(sample_shape)
            return torch.where(torch.rand_like(x) < self.gate.sigmoid().expand(shape), 0.0, x)

    @property
    def mean(self) -> Tensor:
        r"""(1 − π) e^{μ + σ²/2}."""
        return (logsigmoid(-self.gate) + self.loc + 0.5 * self.scale.square()).exp()

    @property
    def variance(self) -> Tensor:
        r"""(1 − π) e^{2μ + σ²} (e^{σ²} − 1 + π)."""
        spread = self.scale.square()
        excess = spread + (-(-self.gate).sigmoid() * (-spread).exp()).log1p()  # log (e^{σ²} − (1 − π))
        return (logsigmoid(-self.gate) + 2 * self.loc + spread + excess).exp()

    def fisher(self) -> Fisher:
        r"""Returns the Fisher information of (μ, σ, g): (1 − π)/σ², 2(1 − π)/σ² and π(1 − π)."""
        some = (-self.gate).sigmoid()
        precision = some * self.scale**-2
        return apart((self.loc, precision), (self.scale, 2 * precision), (self.gate, some * self.gate.sigmoid()))
