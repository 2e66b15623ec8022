r"""The geometric path from q to the posterior, its temperatures, and the walks along it.

    π_β(t) ∝ q(t | x)^(1 − β) p(x, t | w)^β,    β from 0 to 1.

References:
    Neal, "Annealed importance sampling" (2001). https://arxiv.org/abs/physics/9803008
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .... import hmc
from ....distributions import draws
from ....latents.asked import log_joint
from ....points import Points
from ....storage.sums import sums_dtype, widened
from ... import importance
from .chart import Chart

RATE = 1.0  # gain of the step sizes' adaptation: it must keep up with a path of few temperatures
TUNING = 5  # temperatures of a sweep per temperature of the tuning sweep
SLOPE = 4.0  # of the sigmoid schedule
FRESH = 10  # transitions at the posterior before a walk downwards, so that walks of a point start at different draws


def schedule(num_temperatures: int) -> Tensor:
    r"""Returns 0 = β_0 < ... < β_T = 1, (T + 1,), dense at both ends: σ(4 (2k/T − 1)), rescaled to [0, 1].

    References:
        Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of decoder-based generative models" (2017),
        section 5. https://arxiv.org/abs/1611.04273
    """
    k = torch.linspace(-SLOPE, SLOPE, num_temperatures + 1, dtype=torch.float64).sigmoid()
    return (k - k[0]) / (k[-1] - k[0])


@dataclass(frozen=True)
class Settings:
    r"""How to anneal: the arguments of `ais` of the same names.

    Raises:
        ValueError: if a number is out of range.
    """

    num_chains: int
    num_temperatures: int
    num_leapfrog: int
    target_acceptance: float
    memory: int

    def __post_init__(self):
        for name in ("num_chains", "num_temperatures", "num_leapfrog", "memory"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 < self.target_acceptance < 1:
            raise ValueError(f"target_acceptance is {self.target_acceptance}; expected a probability between 0 and 1")

    @property
    def tuning(self) -> int:
        r"""The number of temperatures of the sweep that tunes the step sizes."""
        return max(1, self.num_temperatures // TUNING)

    @property
    def fresh(self) -> int:
        r"""The number of transitions before a walk downwards."""
        return min(FRESH, self.num_temperatures - 1)

    def transitions(self, sweeps: int, groups: int = 1) -> int:
        r"""Returns the HMC transitions of a block of ``groups`` of chains: 1 sweep is upwards, 2 downwards too."""
        return self.tuning + groups * (sweeps * (self.num_temperatures - 1) + (sweeps - 1) * self.fresh)

    def gradients(self, sweeps: int) -> int:
        r"""Returns the gradient evaluations of log p(x, t) per point: 1 sweep is upwards, 2 downwards too."""
        return self.num_chains * (self.transitions(sweeps) * self.num_leapfrog + sweeps + 1)


class Walk(NamedTuple):
    r"""Log-weights, acceptance and divergences of one annealing sweep of C chains for each of B points.

    Attributes:
        log_weights: Σ_k |β_k − β_(k−1)| (log p(x, t_(k−1)) − log q(t_(k−1) | x)), (C, B), in nats and float64.
        accepted: the sum of the probabilities of acceptance, (C, B).
        diverged: the number of divergent transitions, (C, B).
    """

    log_weights: Tensor
    accepted: Tensor
    diverged: Tensor

    @classmethod
    def joined(cls, walks: "Iterable[Walk]", dim: int) -> "Walk":
        r"""Returns the walks joined into one: groups of chains (``dim`` 0), or blocks of points (1)."""
        return cls(*(torch.cat(parts, dim) for parts in zip(*walks, strict=True)))


class Annealer:
    r"""Creates annealed HMC between q and the posterior for a block of B points, and tunes its step sizes.

    Walks are in the coordinates z of t that follow from q; see `chart.Chart`.

    Arguments:
        model: a `DLGM`.
        q: the distribution of the starts, of batch shape (B,).
        points: the block.
        counts: the numbers of chains that run together, group by group.
        settings: how to anneal.
        tick: called after each transition.

    Attributes:
        strays: the error of log q at each point (`importance.strays`), (B,), in nats.
    """

    def __init__(self, model, q, points: Points, counts: list[int], settings: Settings, tick: Callable[[], None]):
        self.q, self.points, self.counts, self.settings, self.tick = q, points, counts, settings, tick
        self.chart = Chart(q)
        self.parts = (self.chart.log_q, lambda z: log_joint(model, points, self.chart.out(z)))
        self.betas, self.tuned = schedule(settings.num_temperatures), schedule(settings.tuning)
        t = self._draws(counts[0])
        self.strays = importance.strays(q, q.log_prob(t))
        self.log_steps = self._tune(t)

    def upwards(self) -> Walk:
        r"""Returns walks from draws of q."""
        return Walk.joined([self.sweep(self._start(self._draws(n)), self.betas) for n in self.counts], 0)

    def downwards(self, t: Tensor) -> Walk:
        r"""Returns walks from t (B, D), a draw of the posterior, after some transitions that leave it one."""
        return Walk.joined([self.sweep(self._fresh(t.expand(n, *t.shape)), self.betas.flip(0)) for n in self.counts], 0)

    def sweep(self, state: hmc.State, betas: Tensor) -> Walk:
        r"""Returns walks from C states of each point, ~ π at the first of ``betas``, to the last, up- or downwards."""
        log_weights = state.t.new_zeros(state.t.shape[:-1], dtype=sums_dtype(state.t.device))
        accepted, diverged = torch.zeros_like(log_weights), torch.zeros_like(log_weights, dtype=torch.long)
        for before, beta in pairwise(betas):
            log_q, log_p = widened(state.parts)
            log_weights += (beta - before).abs().to(log_p) * (log_p - log_q)
            # The last temperature adds to the weight only: the result of its transition is not needed.
            if 0 < beta < 1:
                state, info = self.transition(state, beta, self._log_step(beta))
                accepted += info.acceptance
                diverged += info.diverged
        return Walk(log_weights, accepted, diverged)

    def transition(self, state: hmc.State, beta: Tensor, log_step: Tensor) -> tuple[hmc.State, hmc.Info]:
        r"""Makes one transition that leaves π_β invariant."""
        weights = torch.stack([1 - beta, beta]).to(state.parts)
        step = hmc.jittered(log_step, state).unsqueeze(-1) * self.chart.scale
        state, info = hmc.hmc(self.parts, state, step, weights=weights, num_leapfrog=self.settings.num_leapfrog)
        self.tick()
        return state, info

    def _start(self, t: Tensor) -> hmc.State:
        return hmc.start(self.parts, self.chart.into(t))

    def _fresh(self, t: Tensor) -> hmc.State:
        r"""Returns other draws of the posterior: from one far out, all walks of a point would be late together."""
        state = self._start(t)
        for _ in range(self.settings.fresh):
            state, _ = self.transition(state, self.betas[-1], self._log_step(self.betas[-1]))
        return state

    def _draws(self, num: int) -> Tensor:
        return draws(self.q, num, len(self.points))

    def _tune(self, t: Tensor) -> Tensor:
        r"""Returns log ε of each point at the temperatures ``tuned``, (T + 1, B), from a separate sweep from t."""
        log_step = torch.full_like(self.chart.scale[:, 0], hmc.first_step(t.shape[-1])).log()
        state, found = self._start(t), [log_step]
        for beta in self.tuned[1:]:
            state, info = self.transition(state, beta, log_step)
            log_step = hmc.adapted_step(log_step, info.acceptance, target=self.settings.target_acceptance, rate=RATE)
            found.append(log_step)
        return torch.stack(found)

    def _log_step(self, beta: Tensor) -> Tensor:
        r"""Returns log ε (B,) at a temperature, interpolated between the two nearest tuned ones."""
        right = int(torch.searchsorted(self.tuned, beta).clamp(1, len(self.tuned) - 1))
        low, high = self.tuned[right - 1], self.tuned[right]
        return torch.lerp(self.log_steps[right - 1], self.log_steps[right], float((beta - low) / (high - low)))
