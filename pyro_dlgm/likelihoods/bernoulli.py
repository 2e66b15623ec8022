r"""Pixels that are 0 or 1, and pixels in [0, 1]."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ..distributions import Fisher, apart
from ..masks import filled
from ..storage.sums import widened
from .base import Likelihood, check_heads


class _Logits(Likelihood):
    r"""The base of likelihoods whose pixels have logits l(t, w).

    Arguments:
        net: the network of the logits l, from t (..., D) to x's shape.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        check_heads(net, 1, "one, for the logits")
        self.net = net


class Bernoulli(_Logits):
    r"""Creates p(x | t, w) = ∏_j Bernoulli(x_j; logits l_j(t, w)), for binary x.

    Arguments:
        net: the network of the logits l, from t (..., D) to x's shape.
    """

    def pixels(self, t: Tensor) -> dist.Bernoulli:
        return dist.Bernoulli(logits=self.net(t))

    def table(self, x: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Returns log p(x_b | t_c, w) for all pairs of a point and a code, by matrix products.

        log p(x | t) = Σ_j x_j l_j − log(1 + e^{l_j}) is linear in x, so each code is decoded once for all points. x is
        not checked here; `DLGM.check` does that.

        Arguments:
            x: data (B, ...).
            t: codes (C, D).
            mask: boolean, True where observed, of x's shape or (B,).

        Returns:
            Nats (C, B), in float64: large terms of both signs cancel.
        """
        x, mask = filled(x, mask)
        logits, ones = (widened(v).reshape(len(v), -1) for v in (self.net(t), x))
        linear = logits @ ones.mT
        if mask is None:
            return linear - _softplus_sum(logits)
        return linear + nn.functional.logsigmoid(-logits) @ widened(mask).reshape(len(x), -1).mT


FACTORS = 16  # in [1, 2], multiplied for one logarithm


def _softplus_sum(l: Tensor) -> Tensor:
    r"""Returns Σ_j log(1 + e^{l_j}) = Σ_j max(l_j, 0) + Σ log ∏ (1 + e^{−|l_j|}), (C, 1)."""
    factors = (-l.abs()).exp() + 1
    if short := -l.shape[1] % FACTORS:
        factors = nn.functional.pad(factors, (0, short), value=1.0)
    logs = factors.unflatten(1, (FACTORS, -1)).prod(1).log()
    return l.relu().sum(1, keepdim=True) + logs.sum(1, keepdim=True)


class ContinuousBernoulli(_Logits):
    r"""Creates p(x | t, w) = ∏_j C(l_j) e^{l_j x_j}, l = l(t, w), a density on [0, 1]: for grey pixels.

    This is the Bernoulli formula with the constant C(l) = l / (e^l − 1) that makes it a density of grey pixels. Its
    log-density can be compared with other densities of the same x on [0, 1], but not with probabilities.

    Arguments:
        net: the network of the logits l, from t (..., D) to x's shape.

    References:
        Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders"
        (2019). https://arxiv.org/abs/1907.06845
    """

    def pixels(self, t: Tensor) -> "ContinuousBernoulliPixels":
        return ContinuousBernoulliPixels(self.net(t))


class ContinuousBernoulliPixels(dist.TorchDistribution):
    r"""Creates the density p(x) = e^{l (x − ½)} a / sinh a on [0, 1], with a = l/2, of batch shape l's.

    torch's ContinuousBernoulli computes probabilities first: in float32 its log-normalizer is off by 1e-4 near l = 0,
    and wrong beyond |l| = 16, where they are clamped. Here everything is a function of l, with series where |a| is
    small.

    Arguments:
        logits: l, of any shape.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None):
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> "ContinuousBernoulliPixels":
        r"""Returns the same density with batch axes added on the left."""
        return type(self)(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns l (x − ½) − log(sinh a / a)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.logits * (value - 0.5) - _log_sinhc(self.logits / 2)

    @property
    def mean(self) -> Tensor:
        r"""½ + ½ (coth a − 1/a)."""
        small, a = _split(self.logits / 2)
        series = _polynomial(self.logits / 2, LANGEVIN) * self.logits / 2
        return 0.5 + 0.5 * torch.where(small, series, 1 / a.tanh() - 1 / a)

    @property
    def variance(self) -> Tensor:
        r"""¼ (1/a² − 1/sinh² a)."""
        small, a = _split(self.logits / 2)
        # 1/sinh a = 2 e^{-|a|} / (1 − e^{-2|a|}), which does not overflow.
        inverse = -2 * (-a.abs()).exp() / (-2 * a.abs()).expm1()
        return 0.25 * torch.where(small, _polynomial(self.logits / 2, SPREAD), a**-2 - inverse**2)

    def fisher(self) -> Fisher:
        r"""Returns the Fisher information of l, which is the variance of x."""
        return apart((self.logits, self.variance))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws x = log(1 + u (e^l − 1)) / l with u ~ U(0, 1), the inverse of the distribution function."""
        l = self.logits.expand(self._extended_shape(sample_shape))
        u = torch.rand_like(l)
        flat = l.abs() < 1e-6  # the uniform density, to rounding
        down = torch.where(flat, -1.0, -l.abs())
        x = torch.where(flat, u, (u * down.expm1()).log1p() / down)
        return torch.where(l > 0, 1 - x, x).clamp(0, 1)


# Coefficients of a⁰, a², a⁴, ... below |a| = SMALL: log(sinh a / a) / a², (coth a − 1/a) / a, 1/a² − 1/sinh² a.
SMALL = 0.25
LOG_SINHC = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250)
LANGEVIN = tuple(2 * (n + 1) * c for n, c in enumerate(LOG_SINHC))
SPREAD = tuple((2 * n + 1) * c for n, c in enumerate(LANGEVIN))


def _log_sinhc(a: Tensor) -> Tensor:
    r"""Returns log(sinh a / a), which is even in a and tends to |a|."""
    small, b = _split(a)
    b = b.abs()
    return torch.where(small, a**2 * _polynomial(a, LOG_SINHC), b + (-(-2 * b).expm1()).log() - (2 * b).log())


def _split(a: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns where |a| is small, and a with 1 there, so that the branch not taken has a finite gradient as well."""
    small = a.abs() < SMALL
    return small, torch.where(small, 1.0, a)


def _polynomial(a: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    r"""Returns Σ_n c_n a²ⁿ where |a| is small, a constant elsewhere."""
    square, value = a.clamp(-SMALL, SMALL).square(), torch.zeros_like(a)
    for c in reversed(coefficients):
        value = c + square * value
    return value
