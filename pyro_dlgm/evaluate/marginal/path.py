r"""From q to the posterior by small steps: the geometric path, its temperatures, and the sweep along it.

    π_β(t) ∝ q(t | x)^(1 − β) p(x, t | w)^β,    β from 0 to 1.

References:
    Neal, "Annealed importance sampling" (2001). https://arxiv.org/abs/physics/9803008
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ... import hmc

RATE = 1.0  # of the step sizes' adaptation while they are tuned: they must keep up with a path of few temperatures
TUNING = 5  # temperatures of a sweep for each one of the sweep that tunes it
SLOPE = 4.0  # of the sigmoid schedule


def schedule(num_temperatures: int) -> Tensor:
    r"""0 = β_0 < ... < β_T = 1, (T + 1,), dense at both ends: σ(4 (2k/T − 1)), moved to [0, 1].

    References:
        Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of decoder-based generative models" (2017),
        section 5. https://arxiv.org/abs/1611.04273
    """
    k = torch.linspace(-SLOPE, SLOPE, num_temperatures + 1, dtype=torch.float64).sigmoid()
    return (k - k[0]) / (k[-1] - k[0])


@dataclass
class Path:
    r"""The path for a block of B points, and how HMC walks along it.

    Attributes:
        parts: log q and log p(x, ·), functions (C, B, D) -> (C, B).
        scale: of q, (B, D): the steps of a point are in proportion to it.
        num_leapfrog: leapfrog steps of a transition.
        target: the acceptance to which steps are tuned.
        tick: called behind each transition.
    """

    parts: tuple[hmc.LogDensity, hmc.LogDensity]
    scale: Tensor
    num_leapfrog: int
    target: float
    tick: Callable[[], None]

    def tune(self, t: Tensor, num_temperatures: int) -> "Steps":
        r"""The step sizes along the path, found by a sweep of their own from t (C, B, D) ~ q, and frozen then."""
        betas = schedule(num_temperatures)
        log_step = torch.full_like(self.scale[:, 0], hmc.first_step(t.shape[-1])).log()
        state, found = hmc.start(self.parts, t), [log_step]
        for beta in betas[1:]:
            state, info = self.transition(state, beta, log_step)
            log_step = hmc.adapted(log_step, info.acceptance, target=self.target, rate=RATE)
            found.append(log_step)
        return Steps(betas, torch.stack(found))

    def transition(self, state: hmc.State, beta: Tensor, log_step: Tensor) -> tuple[hmc.State, hmc.Info]:
        r"""One transition that leaves π_β invariant."""
        weights = torch.stack([1 - beta, beta]).to(state.parts)
        step = hmc.jittered(log_step, state).unsqueeze(-1) * self.scale
        state, info = hmc.hmc(self.parts, state, step, weights=weights, num_leapfrog=self.num_leapfrog)
        self.tick()
        return state, info

    def sweep(self, t: Tensor, betas: Tensor, steps: "Steps") -> "Walk":
        r"""Walks from t (C, B, D) ~ π at the first of ``betas`` to the last of them, upwards or downwards."""
        state, walk = hmc.start(self.parts, t), Walk(t)
        for before, beta in pairwise(betas):
            walk.weigh((beta - before).abs(), *state.parts.double())
            # The last temperature weighs; nobody asks where its transition would have led.
            if 0 < beta < 1:
                state, info = self.transition(state, beta, steps.at(beta))
                walk.count(info)
        return walk


class Walk:
    r"""Creates the books of a sweep of C chains for each of B points.

    Attributes:
        log_weights: Σ_k |β_k − β_(k−1)| (log p(x, t_(k−1)) − log q(t_(k−1) | x)), (C, B), in float64.
        accepted: the sum of the probabilities of acceptance, (C, B).
        diverged: how many transitions diverged, (C, B).
        transitions: of one chain.
    """

    def __init__(self, t: Tensor):
        self.log_weights = t.new_zeros(t.shape[:-1], dtype=torch.float64)
        self.accepted = torch.zeros_like(self.log_weights)
        self.diverged = torch.zeros_like(self.log_weights, dtype=torch.long)
        self.transitions = 0

    def weigh(self, length: Tensor, log_q: Tensor, log_p: Tensor) -> None:
        r"""Adds a step of that length between two temperatures."""
        self.log_weights += length.to(log_p) * (log_p - log_q)

    def count(self, info: hmc.Info) -> None:
        r"""Counts a transition."""
        self.accepted += info.acceptance
        self.diverged += info.diverged
        self.transitions += 1


@dataclass
class Steps:
    r"""Frozen step sizes: log ε at the temperatures at which they were tuned.

    Attributes:
        betas: temperatures (T,).
        log_step: log ε of each point there, (T, B).
    """

    betas: Tensor
    log_step: Tensor

    def at(self, beta: Tensor) -> Tensor:
        r"""log ε (B,) at a temperature, between the two next to it."""
        right = int(torch.searchsorted(self.betas, beta).clamp(1, len(self.betas) - 1))
        low, high = self.betas[right - 1], self.betas[right]
        return torch.lerp(self.log_step[right - 1], self.log_step[right], float((beta - low) / (high - low)))
