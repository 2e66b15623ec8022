r"""Mechanisms with any network of x: missing values are drawn, and weighted by p(m | x)."""

import math

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from .mechanism import Mechanism, log_prob


class Drawn(Mechanism):
    r"""Creates p(m | x) with logits l(x) = net(x), any network of x; missing values are drawn from p(x_m | t).

    With S draws x_s = μ + σ ε_s of the missing values, and the observed values of x,

        log p̂(m | t, x_o) = log (1/S) Σ_s p(m | x_s)

    has a mean of at most log p(m | t, x_o), so that F remains a lower bound for any S, tighter for larger S. The draws
    come in pairs ±ε. In training mode ε is drawn anew for each point at each call. In eval mode one set of draws serves
    all points and codes, so log p(x, t) is a smooth function of t, for annealing, chains and quadrature; averaged over
    such sets it is below the exact one. Chains that move in training mode see its noise.

    Arguments:
        net: a network from x (..., *event) to logits of being missing, of the same shape, for any leading axes.
        num_samples: the number S of draws, even.

    Raises:
        ValueError: if S is not an even number >= 2; in a call, if the network returns another shape.
    """

    def __init__(self, net: nn.Module, num_samples: int = 32):
        super().__init__()
        if num_samples < 2 or num_samples % 2:
            raise ValueError(f"num_samples is {num_samples}; expected an even number >= 2: draws come in pairs ±ε")
        self.net, self.num_samples = net, num_samples

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        if logits.shape != x.shape:
            raise ValueError(
                f"the mechanism returns logits of shape {tuple(logits.shape)} for x of shape {tuple(x.shape)}; "
                "expected one for each value of x"
            )
        return logits

    def log_mask(self, p: dist.Normal, x: Tensor, mask: Tensor, event_dim: int) -> Tensor:
        return self._drawn(p, x, mask, event_dim)[1].logsumexp(0) - math.log(self.num_samples)

    def completion(self, p: dist.Normal, x: Tensor, mask: Tensor, event_dim: int) -> "Atoms":
        return Atoms(*self._drawn(p, x, mask, event_dim), event_dim)

    def _drawn(self, p: dist.Normal, x: Tensor, mask: Tensor, event_dim: int) -> tuple[Tensor, Tensor]:
        r"""Returns draws x_s (S, ..., *event), and log p(m | x_s) (S, ...)."""
        drawn = torch.where(mask, x, p.loc + p.scale * self._noise(p.loc, event_dim))
        terms = log_prob(self(drawn), mask)
        return drawn, terms.flatten(terms.dim() - event_dim).sum(-1)

    def _noise(self, mu: Tensor, event_dim: int) -> Tensor:
        r"""Returns ε and −ε, S/2 draws each: (S, ..., *event), or (S, 1, ..., *event) if all points share them."""
        half, split = self.num_samples // 2, mu.dim() - event_dim
        if self.training:
            noise = torch.randn(half, *mu.shape, dtype=mu.dtype, device=mu.device)
        else:
            generator = torch.Generator().manual_seed(0)  # private: evaluation leaves the global ones as they were
            noise = torch.randn(half, *[1] * split, *mu.shape[split:], generator=generator).to(mu)
        return torch.cat([noise, -noise])


class Atoms(dist.TorchDistribution):
    r"""Creates the mixture of point masses at x_s, s = 1..S, with self-normalized weights.

    Arguments:
        x: atoms (S, ..., *event).
        log_weights: (S, ...).
        event_dim: the number of axes of a point.
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real

    def __init__(self, x: Tensor, log_weights: Tensor, event_dim: int):
        self.x, self.weights = x, log_weights.softmax(0)
        super().__init__(x.shape[1 : x.dim() - event_dim], x.shape[x.dim() - event_dim :], validate_args=False)

    @property
    def mean(self) -> Tensor:
        r"""Σ_s w_s x_s."""
        return (self._broad() * self.x).sum(0)

    @property
    def variance(self) -> Tensor:
        r"""Σ_s w_s (x_s − mean)²."""
        return (self._broad() * (self.x - self.mean).square()).sum(0)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws atoms by their weights: (*sample_shape, ..., *event)."""
        which = dist.Categorical(self.weights.movedim(0, -1)).sample(sample_shape)
        which = which.reshape(*which.shape, *[1] * len(self.event_shape)).expand(self._extended_shape(sample_shape))
        atoms = self.x.expand(*sample_shape, *self.x.shape) if sample_shape else self.x
        return atoms.gather(len(sample_shape), which.unsqueeze(len(sample_shape))).squeeze(len(sample_shape))

    def completed(self, x: Tensor, mask: Tensor) -> "Atoms":
        r"""Returns these atoms, which contain the observed values."""
        return self

    def _broad(self) -> Tensor:
        return self.weights.reshape(*self.weights.shape, *[1] * len(self.event_shape))
