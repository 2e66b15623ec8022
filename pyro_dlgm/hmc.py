r"""Markov kernels on log-densities: Hamiltonian Monte Carlo, in which every point has its own acceptance.

It knows torch only. A state holds any number of points (and chains) side by side, each with its own target; the
gradient of all of them is one backward pass, and they accept, reject, diverge and choose their step sizes apart.

A target is a weighted sum of log-densities, Σ_i β_i log p_i(t). The state keeps each part and its gradient, so that a
target whose β change, a tempered one, costs no evaluation.

References:
    Neal, "MCMC using Hamiltonian dynamics" (2011), sections 3 and 5. https://arxiv.org/abs/1206.1901
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
DIVERGED = 1000.0  # an energy error, in nats, after which nothing comes back


class State(NamedTuple):
    r"""Where the chains are.

    Attributes:
        t: positions (..., D).
        parts: log p_i(t) of the n parts of the target, (n, ...), in nats.
        grads: their gradients (n, ..., D).
    """

    t: Tensor
    parts: Tensor
    grads: Tensor

    def log_density(self, weights: Tensor) -> Tensor:
        r"""Σ_i β_i log p_i(t), of shape (...)."""
        return _weighted(weights, self.parts)

    def force(self, weights: Tensor) -> Tensor:
        r"""The gradient of `log_density`, of shape (..., D)."""
        return _weighted(weights, self.grads)


class Info(NamedTuple):
    r"""Acceptance and divergence of one transition, for each point.

    Attributes:
        acceptance: the probability with which the proposal was to be accepted, (...).
        accepted: whether it was.
        diverged: whether the energy error was not finite or beyond 1,000 nats; such a proposal is rejected.
    """

    acceptance: Tensor
    accepted: Tensor
    diverged: Tensor


def start(parts: Sequence[LogDensity], t: Tensor) -> State:
    r"""The state at t, with one forward and one backward pass for each part.

    Arguments:
        parts: functions (..., D) -> (...), each the sum of nothing but its own points' terms.
        t: positions (..., D).
    """
    values, grads = zip(*(_with_gradient(part, t) for part in parts), strict=True)
    return State(t, torch.stack(values), torch.stack(grads))


def hmc(
    parts: Sequence[LogDensity],
    state: State,
    step_size: Tensor,
    *,
    weights: Tensor | None = None,
    num_leapfrog: int = 10,
) -> tuple[State, Info]:
    r"""One transition, which leaves Σ_i β_i log p_i invariant: leapfrog from a fresh momentum, then Metropolis.

    Arguments:
        parts: the parts of the target, as in `start`.
        state: where the chains are.
        step_size: ε, of a shape that broadcasts to (..., D): one for each point and dimension, if wanted. It must not
            depend on the state.
        weights: β_i of the parts, (n,); by default all 1.
        num_leapfrog: leapfrog steps, each one gradient evaluation.

    Returns:
        The next state and its `Info`. A proposal that diverged is rejected and changes no other point.
    """
    weights = state.parts.new_ones(len(state.parts)) if weights is None else weights
    momentum = torch.randn_like(state.t)
    before = state.log_density(weights) - 0.5 * momentum.square().sum(-1)
    proposal, momentum = state, momentum + 0.5 * step_size * state.force(weights)
    for step in range(1, num_leapfrog + 1):
        proposal = start(parts, proposal.t + step_size * momentum)
        kick = 1.0 if step < num_leapfrog else 0.5
        momentum = momentum + kick * step_size * proposal.force(weights)
    gain = proposal.log_density(weights) - 0.5 * momentum.square().sum(-1) - before
    return _metropolis(state, proposal, gain)


def mala(
    parts: Sequence[LogDensity], state: State, step_size: Tensor, *, weights: Tensor | None = None
) -> tuple[State, Info]:
    r"""The Metropolis-adjusted Langevin algorithm: `hmc` with one leapfrog step.

    References:
        Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations"
        (1996). Bernoulli 2(4).
    """
    return hmc(parts, state, step_size, weights=weights, num_leapfrog=1)


def adapted_step(log_step: Tensor, acceptance: Tensor, *, target: float, rate: float) -> Tensor:
    r"""Returns log ε after one Robbins-Monro update toward the target acceptance.

    The recursion of Robbins and Monro, for each point apart. Samples count from where it is no longer applied.

    Arguments:
        log_step: log ε, (...).
        acceptance: probabilities of acceptance, (...) or with more axes on the left (chains), which are averaged.
        target: the acceptance to reach.
        rate: the gain of the recursion.

    References:
        Andrieu and Thoms, "A tutorial on adaptive MCMC" (2008), section 4.2.
    """
    chains = acceptance.dim() - log_step.dim()
    mean = acceptance.flatten(0, chains - 1).mean(0) if chains else acceptance
    return log_step + rate * (mean - target)


def jittered(log_step: Tensor, state: State, width: float = 0.2) -> Tensor:
    r"""Step sizes for one transition, within ± ``width`` of ε, drawn apart from the state: (...) for its chains.

    On a nearly Gaussian target trajectories of one length come back to where they began, in some dimension.

    References:
        Neal, "MCMC using Hamiltonian dynamics" (2011), section 3.2.
    """
    factor = 1 + width * (2 * torch.rand_like(state.parts[0]) - 1)
    return factor * log_step.exp()


def first_step(dim: int) -> float:
    r"""A step size to start from on a standard normal of that dimension: it scales as D^(−1/4)."""
    return dim**-0.25


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    # No matrix product: under autocast, or where float32 products may be rounded, it would lose whole nats.
    return (weights.view(-1, *[1] * (values.dim() - 1)) * values).sum(0)


def _with_gradient(log_density: LogDensity, t: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        value = log_density(t)
        (grad,) = torch.autograd.grad(value.sum(), t)
    return value.detach(), grad


def _metropolis(state: State, proposal: State, gain: Tensor) -> tuple[State, Info]:
    # A gain that is not a number is an infinite loss.
    gain = gain.nan_to_num(nan=-math.inf, posinf=-math.inf)
    diverged = gain < -DIVERGED
    # A uniform number is 0 now and then, and the logarithm of that is below any gain that is finite.
    accepted = (torch.rand_like(gain).log() < gain) & ~diverged
    chosen = (
        torch.where(accepted.unsqueeze(-1), proposal.t, state.t),
        torch.where(accepted, proposal.parts, state.parts),
        torch.where(accepted.unsqueeze(-1), proposal.grads, state.grads),
    )
    return State(*chosen), Info(gain.clamp(max=0).exp(), accepted, diverged)
