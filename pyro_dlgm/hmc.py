r"""Markov kernels on log-densities: Hamiltonian Monte Carlo with a separate acceptance for every point.

The module needs torch only. A state holds any number of points (and chains), each with its own target. One backward
pass computes all gradients; acceptance, divergence and step size are separate for each.

A target is a weighted sum of log-densities, Σ_i β_i log p_i(t). The state holds each part and its gradient, so that a
change of β, as in tempering, costs no evaluation.

References:
    Neal, "MCMC using Hamiltonian dynamics" (2011), sections 3 and 5. https://arxiv.org/abs/1206.1901
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
DIVERGED = 1000.0  # the energy error, in nats, beyond which a trajectory counts as divergent


class State(NamedTuple):
    r"""The state of the chains.

    Attributes:
        t: positions (..., D).
        parts: log p_i(t) of the n parts of the target, (n, ...), in nats.
        grads: their gradients (n, ..., D).
    """

    t: Tensor
    parts: Tensor
    grads: Tensor

    def log_density(self, weights: Tensor) -> Tensor:
        r"""Returns Σ_i β_i log p_i(t), of shape (...)."""
        return _weighted(weights, self.parts)

    def force(self, weights: Tensor) -> Tensor:
        r"""Returns the gradient of `log_density`, of shape (..., D)."""
        return _weighted(weights, self.grads)


class Info(NamedTuple):
    r"""Acceptance and divergence of one transition, for each point.

    Attributes:
        acceptance: the probability of accepting the proposal, (...).
        accepted: whether it was accepted.
        diverged: whether the energy error was not finite or beyond 1,000 nats; such a proposal is rejected.
    """

    acceptance: Tensor
    accepted: Tensor
    diverged: Tensor


def start(parts: Sequence[LogDensity], t: Tensor) -> State:
    r"""Returns the state at t, for one forward and one backward pass per part.

    Arguments:
        parts: functions (..., D) -> (...), in which each point's value depends on that point alone.
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
    r"""Makes one transition that leaves Σ_i β_i log p_i invariant: leapfrog from a fresh momentum, then Metropolis.

    Arguments:
        parts: the parts of the target, as in `start`.
        state: the state of the chains.
        step_size: ε, of a shape that broadcasts to (..., D), up to one for each point and dimension. It must not depend
            on the state.
        weights: β_i of the parts, (n,); by default all 1.
        num_leapfrog: the number of leapfrog steps, each one gradient evaluation.

    Returns:
        The next state and its `Info`. A proposal that diverged is rejected, and does not affect other points.
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
    r"""Makes one transition of the Metropolis-adjusted Langevin algorithm: `hmc` with one leapfrog step.

    References:
        Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete approximations"
        (1996). Bernoulli 2(4).
    """
    return hmc(parts, state, step_size, weights=weights, num_leapfrog=1)


def adapted_step(log_step: Tensor, acceptance: Tensor, *, target: float, rate: float) -> Tensor:
    r"""Returns log ε after one Robbins-Monro update toward the target acceptance.

    Each point is updated separately. Draws are valid samples only once the update is no longer applied.

    Arguments:
        log_step: log ε, (...).
        acceptance: probabilities of acceptance, (...) or with further axes on the left (chains), which are averaged.
        target: the target acceptance.
        rate: the gain of the recursion.

    References:
        Andrieu and Thoms, "A tutorial on adaptive MCMC" (2008), section 4.2.
    """
    chains = acceptance.dim() - log_step.dim()
    mean = acceptance.flatten(0, chains - 1).mean(0) if chains else acceptance
    return log_step + rate * (mean - target)


def jittered(log_step: Tensor, state: State, width: float = 0.2) -> Tensor:
    r"""Draws step sizes (...) for one transition, within a factor 1 ± ``width`` of ε, independently of the state.

    On a nearly Gaussian target, trajectories of a fixed length can return to their start in some dimension.

    References:
        Neal, "MCMC using Hamiltonian dynamics" (2011), section 3.2.
    """
    factor = 1 + width * (2 * torch.rand_like(state.parts[0]) - 1)
    return factor * log_step.exp()


def first_step(dim: int) -> float:
    r"""Returns an initial step size for a standard normal of that dimension: it scales as D^(−1/4)."""
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
    # A gain of NaN counts as −∞.
    gain = gain.nan_to_num(nan=-math.inf, posinf=-math.inf)
    diverged = gain < -DIVERGED
    # A uniform draw can be 0, with log −∞: below any finite gain, hence the test for divergence.
    accepted = (torch.rand_like(gain).log() < gain) & ~diverged
    chosen = (
        torch.where(accepted.unsqueeze(-1), proposal.t, state.t),
        torch.where(accepted, proposal.parts, state.parts),
        torch.where(accepted.unsqueeze(-1), proposal.grads, state.grads),
    )
    return State(*chosen), Info(gain.clamp(max=0).exp(), accepted, diverged)
