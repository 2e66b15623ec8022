r"""The empirical distribution over the states of a Markov chain."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor


class States(dist.TorchDistribution):
    r"""Creates (1/M) Σ_s δ(t − T_s) for each point of a batch: a draw is one of its M states.

    K draws, of whatever shape, cycle through the states in random order: each occurs equally often if K is a multiple
    of M. It has no density. Like a point mass, it returns log q = 0 at a state and −∞ elsewhere, so that a loss ascends
    the mean of log p(x, T_s | w). Draws are constants, without gradients.

    Arguments:
        states: T_s (M, B, D).
    """

    arg_constraints: ClassVar = {"states": constraints.independent(constraints.real, 3)}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, states: Tensor, *, batch_shape: torch.Size | None = None, validate_args: bool | None = None):
        self.states = states.detach()
        shape = self.states.shape[1:2] if batch_shape is None else batch_shape
        super().__init__(shape, self.states.shape[2:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> "States":
        r"""Expands the batch shape on the left; the states of a single point serve all points."""
        batch_shape = torch.Size(batch_shape)
        states = self.states.expand(-1, batch_shape[-1], -1)
        return States(states, batch_shape=batch_shape, validate_args=False)

    def rsample(self, sample_shape=()) -> Tensor:
        r"""Returns draws of the shape ``sample_shape`` + batch shape + (D,)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        M, B, D = self.states.shape
        K = shape[:-2].numel()
        order = torch.rand(-(-K // M), M, B, device=self.states.device).argsort(1).flatten(0, 1)[:K]
        return self.states.gather(0, order.unsqueeze(-1).expand(K, B, D)).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns 0 at a state and −∞ elsewhere, in the value's shape without its last axis."""
        at_one = (value.unsqueeze(-3) == self.states.movedim(0, -3)).all(-1).any(-2)
        return value.new_zeros(at_one.shape).masked_fill(~at_one, -torch.inf)

    @property
    def mean(self) -> Tensor:
        r"""The mean of the states."""
        return self.states.mean(0).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        r"""The variance of the states, that of M equally likely values."""
        return self.states.var(0, correction=0).expand(self.batch_shape + self.event_shape)
