r"""Distributions of counts 0, 1, 2, ... whose log-probabilities stay accurate at large counts.

The direct formula for log p(x) is a difference of terms of about x log x: at x = 10⁶, float32 loses a nat. Here it is
the sum of a deviance, which is small where the fit is good, and

    S(z) = log Γ(z + 1) − z log z + z ≈ ½ log 2πz .

References:
    Loader, "Fast and accurate computation of binomial probabilities" (2000), on this form of the densities.
"""

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

LARGE = 16.0  # from here on four terms of Stirling's series give S(z) to 1e-11
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)
REACH = 80.0  # e^l beyond it overflows in float32
SPREAD = 40.0  # bound of |log r|: beyond it lie the Poisson distribution and, to all digits, the one at 0


class CountPixels(dist.TorchDistribution):
    r"""The base of distributions of counts; the parameters broadcast."""

    support = constraints.nonnegative_integer

    def __init__(self, *parameters: Tensor, validate_args: bool | None = None):
        for name, value in zip(self.arg_constraints, parameters, strict=True):
            setattr(self, name, value)
        super().__init__(torch.broadcast_shapes(*(v.shape for v in parameters)), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> "CountPixels":
        r"""Returns the same distribution with batch axes added on the left."""
        parameters = (getattr(self, name).expand(batch_shape) for name in self.arg_constraints)
        return type(self)(*parameters, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-probability of each count, whole or real numbers; it has no gradient in the counts."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_prob(value.to(next(iter(vars(self).values())).dtype))


class PoissonPixels(CountPixels):
    r"""Creates the Poisson distribution of rate e^l.

    Arguments:
        log_rate: l, of any shape.
    """

    arg_constraints: ClassVar = {"log_rate": constraints.real}

    def _log_prob(self, x: Tensor) -> Tensor:
        r"""Returns log p(x) = −D(x, l) − S(x), with the `deviance` D."""
        return -deviance(x, self.log_rate) - stirling(x)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws counts, as numbers of the parameters' dtype."""
        with torch.no_grad():
            return torch.poisson(self.log_rate.exp().expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        r"""The rate."""
        return self.log_rate.exp()

    variance = mean


class NegativeBinomialPixels(CountPixels):
    r"""Creates the distribution of counts with mean μ = e^m and variance μ + μ²/r: Poisson with a Gamma rate.

    Arguments:
        log_mean: m, of any shape.
        log_r: the logarithm of the inverse dispersion r; for large r the distribution is Poisson.
    """

    arg_constraints: ClassVar = {"log_mean": constraints.real, "log_r": constraints.real}

    def _log_prob(self, x: Tensor) -> Tensor:
        r"""Returns the log-probability, with n = x + r and a = log (r + μ)/(r + x), which cancels to first order:

        log p(x) = log r/n + S(n) − S(r) − S(x) − D(x, m − a) − r (e^{−a} − 1 + a) .
        """
        log_r = self.log_r.clamp(-SPREAD, SPREAD)
        r = log_r.exp()
        a = self._ratio(x, r, log_r)
        parts = stirling(x + r) - stirling(r) - stirling(x) - (x / r).log1p()
        return parts - deviance(x, self.log_mean - a) - r * ((-a).expm1() + a)

    def _ratio(self, x: Tensor, r: Tensor, log_r: Tensor) -> Tensor:
        mu = self.log_mean.clamp(max=REACH).exp()
        change = (mu - x) / (r + x)
        near = change.abs() < 0.5
        far = torch.logaddexp(log_r, self.log_mean) - (r + x).log()
        return torch.where(near, torch.where(near, change, 0.0).log1p(), far)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws rates from Gamma(r, μ/r), then counts, as numbers of the parameters' dtype."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            r = self.log_r.clamp(-SPREAD, SPREAD).exp().expand(shape)
            return torch.poisson(dist.Gamma(r, r / self.log_mean.exp(), validate_args=False).sample())

    @property
    def mean(self) -> Tensor:
        r"""μ."""
        return self.log_mean.exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        r"""μ + μ²/r."""
        return self.mean + self.mean * (self.log_mean - self.log_r).exp()


class ZeroInflatedPixels(CountPixels):
    r"""Creates the mixture of 0, with probability π = 1/(1 + e^{−g}), and negative binomial counts.

    Arguments:
        log_mean, log_r: as in `NegativeBinomialPixels`.
        gate: g, of any shape.
    """

    arg_constraints: ClassVar = {"log_mean": constraints.real, "log_r": constraints.real, "gate": constraints.real}

    @property
    def counts(self) -> NegativeBinomialPixels:
        r"""The negative binomial part."""
        return NegativeBinomialPixels(self.log_mean, self.log_r, validate_args=False)

    def _log_prob(self, x: Tensor) -> Tensor:
        r"""Returns log (1 − π) p(x), and log (π + (1 − π) p(0)) at 0."""
        here = logsigmoid(-self.gate) + self.counts._log_prob(x)
        return torch.where(x == 0, torch.logaddexp(logsigmoid(self.gate), here), here)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws counts, as numbers of the parameters' dtype."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            x = self.counts.expand(self.batch_shape).sample(sample_shape)
            return torch.where(torch.rand_like(x) < self.gate.sigmoid().expand(shape), 0.0, x)

    @property
    def mean(self) -> Tensor:
        r"""(1 − π) μ."""
        return (-self.gate).sigmoid() * self.counts.mean

    @property
    def variance(self) -> Tensor:
        r"""(1 − π) (σ² + π μ²), with the variance σ² of the negative binomial part."""
        counts = self.counts
        return (-self.gate).sigmoid() * (counts.variance + self.gate.sigmoid() * counts.mean.square())


def deviance(x: Tensor, l: Tensor) -> Tensor:
    r"""Returns D(x, l) = x log x − x l − x + e^l >= 0, half the deviance of a Poisson count x from the rate e^l."""
    some = x > 0
    d = l - torch.where(some, x, 1.0).log()
    return torch.where(some, x * (d.expm1() - d), d.exp())


def stirling(z: Tensor) -> Tensor:
    r"""Returns S(z) = log Γ(z + 1) − z log z + z, for z >= 0."""
    small, large = z.clamp(max=LARGE), z.clamp(min=LARGE)
    direct = torch.lgamma(small + 1) - torch.xlogy(small, small) + small
    series = sum(c * large ** -(2 * n + 1) for n, c in enumerate(STIRLING))
    return torch.where(z < LARGE, direct, 0.5 * (2 * math.pi * large).log() + series)
