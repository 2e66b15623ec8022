r"""Self-masking: whether x_j is missing depends on x_j alone."""

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from . import integral
from .mechanism import Mechanism, log_prob


class SelfMasking(Mechanism):
    r"""Creates p(x_j is missing | x_j) = σ(a_j x_j + c_j), the logistic self-masking, with a and c in w.

    Missing values are integrated out: with x_j ~ N(μ_j, σ_j²) given t, each costs one integral,

        ∫ N(x_j; μ_j, σ_j²) σ(a_j x_j + c_j) dx_j = E σ(a_j μ_j + c_j + |a_j| σ_j z),    z ~ N(0, 1),

    by a quadrature accurate to 10⁻⁶ nats (`integral`). There are no draws, so that the bound is no noisier than for
    values missing at random, and log p(x_o, m, t) is a function of t, as chains and annealing need it.

    Arguments:
        shape: x's shape.
        sign: +1 if it is known that high values hide, −1 if low ones do, or a tensor of these in x's shape; then
            a = sign · softplus(u). `None`: a may have either sign.
        slope: the initial |a| if there is a sign, by default 1; else the initial a, by default 0.
        intercept: the initial c, a number or a tensor of x's shape.
        learn: whether a and c are part of w.

    Attributes:
        slope: a, of x's shape, in logits per unit of x.
        intercept: c.

    Raises:
        ValueError: if a sign is neither 1 nor −1, or a slope given with a sign is not above 0.

    References:
        Mohan, Thoemmes, Pearl, "Estimation with incomplete data: the linear case" (2018), on self-masking.
        Ipsen, Mattei, Frellsen, "not-MIWAE: deep generative modelling with missing not at random data" (2021).
        https://arxiv.org/abs/2006.12871
    """

    def __init__(self, shape, sign=None, *, slope=None, intercept: float | Tensor = 0.0, learn: bool = True):
        super().__init__()
        slope = torch.as_tensor((0.0 if sign is None else 1.0) if slope is None else slope)
        if sign is not None:
            sign = torch.as_tensor(sign)
            _check_sign(sign, slope)
            slope = slope + (-(-slope).expm1()).log()  # softplus⁻¹
        self.register_buffer("sign", sign if sign is None else sign.to(slope).expand(tuple(shape)).clone())
        self._keep("u", slope, shape, learn)
        self._keep("intercept", torch.as_tensor(intercept, dtype=slope.dtype), shape, learn)

    def _keep(self, name: str, value: Tensor, shape, learn: bool) -> None:
        value = value.expand(tuple(shape)).clone()
        if learn:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @property
    def slope(self) -> Tensor:
        r"""a, of x's shape."""
        return self.u if self.sign is None else self.sign * softplus(self.u)

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x + self.intercept

    def log_mask(self, p: dist.Normal, x: Tensor, mask: Tensor, event_dim: int) -> Tensor:
        shape, there = torch.broadcast_shapes(p.batch_shape, x.shape, mask.shape), log_prob(self(x), mask)
        m, s = (v.flatten() for v in self._standardized(p, shape))
        # Integrals are computed for missing values only.
        hidden = _hidden(mask, shape)
        gone = torch.zeros_like(m).scatter(0, hidden, integral.log_mean(m[hidden], s[hidden]))
        return torch.where(mask, there, gone.reshape(shape)).flatten(len(shape) - event_dim).sum(-1)

    def completion(self, p: dist.Normal, x: Tensor, mask: Tensor, event_dim: int) -> dist.Independent:
        shape = torch.broadcast_shapes(p.batch_shape, x.shape, mask.shape)
        # Not sign(a): where a is 0, x has the σ of p(x | t) all the same.
        direction = 1 - 2 * (self.slope < 0).to(p.scale)
        mu, scale = p.loc.expand(shape), direction * p.scale.expand(shape)
        m, s = self._standardized(p, shape)
        return Tilted(mu, scale, m, s, x.expand(shape), mask.expand(shape)).to_event(event_dim)

    def _standardized(self, p: dist.Normal, shape: torch.Size) -> tuple[Tensor, Tensor]:
        r"""Returns m and s >= 0 such that the logit is m + s z at x = μ + sign(a) σ z."""
        return self(p.loc).expand(shape), (self.slope.abs() * p.scale).expand(shape)


class Tilted(dist.TorchDistribution):
    r"""Creates p(x_j | t, m_j) ∝ N(x_j; μ_j, σ_j²) σ(l_j(x_j)) for missing values; observed ones stay as they are.

    Arguments:
        mu: μ, of any shape.
        scale: σ with the sign of the slope: x = μ + scale z.
        m, s: the logit is m + s z.
        x: data.
        mask: boolean, True where observed. All arguments have one shape.
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real

    def __init__(self, mu: Tensor, scale: Tensor, m: Tensor, s: Tensor, x: Tensor, mask: Tensor):
        self.mu, self.scale, self.m, self.s, self.x, self.mask = mu, scale, m, s, x, mask
        super().__init__(mu.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "Tilted":
        r"""Returns the same distribution with batch axes added on the left."""
        parts = self.mu, self.scale, self.m, self.s, self.x, self.mask
        return Tilted(*(v.expand(batch_shape) for v in parts))

    @property
    def mean(self) -> Tensor:
        r"""x where it is observed, else μ + sign(a) σ E[z]."""
        return torch.where(self.mask, self.x, self.mu + self.scale * self._moments()[0])

    @property
    def variance(self) -> Tensor:
        r"""0 where x is observed, else σ² Var z."""
        return torch.where(self.mask, 0.0, self.scale.square() * self._moments()[1])

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws exactly, (*sample_shape, ..., *event)."""
        with torch.no_grad():
            m, s = (v.expand(self._extended_shape(sample_shape)) for v in (self.m, self.s))
            return torch.where(self.mask, self.x, self.mu + self.scale * integral.draw(m, s))

    def _moments(self) -> tuple[Tensor, Tensor]:
        r"""Returns the mean and the variance of z, 0 and 1 where x is observed."""
        m, s = self.m.flatten(), self.s.flatten()
        hidden = _hidden(self.mask, self.m.shape)
        mean, variance = integral.moments(m[hidden], s[hidden])
        found = torch.zeros_like(m).scatter(0, hidden, mean), torch.ones_like(m).scatter(0, hidden, variance)
        return tuple(v.reshape(self.m.shape) for v in found)


def _hidden(mask: Tensor, shape: torch.Size) -> Tensor:
    r"""Returns the numbers of the missing values, in the order of a tensor of that shape."""
    return (~mask).expand(shape).flatten().nonzero().squeeze(-1)


def _check_sign(sign: Tensor, slope: Tensor) -> None:
    if not bool((sign.abs() == 1).all()):
        raise ValueError(f"sign is {sign.tolist()}; expected 1 where high values hide and -1 where low ones do")
    if not bool((slope > 0).all()):
        raise ValueError(f"slope is {slope.tolist()}; expected numbers > 0, since sign gives the direction")
