r"""Hamiltonian Monte Carlo that adapts the step sizes of each point, and tests each point for convergence.

References:
    Andrieu and Thoms, "A tutorial on adaptive MCMC" (2008), section 4.2, on the step size.
    Carpenter et al., "Stan: a probabilistic programming language", Journal of Statistical Software 76(1) (2017), on
    scales from windows of doubling length.
    Vehtari, Gelman, Simpson, Carpenter, Bürkner, "Rank-normalization, folding, and localization: an improved R-hat for
    assessing convergence of MCMC" (2021), with both thresholds. https://arxiv.org/abs/1903.08008
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ... import hmc

DECAY = 0.6  # of the gain n^(-DECAY) of the n-th transition, between ½ and 1
WINDOW = 20  # transitions of the first window
JITTER = 0.5  # relative, of ε: with less, trajectories of some lengths return to their start in easy posteriors
NARROWEST = 1e-4  # lower bound of a scale; ε makes up for the rest
R_HAT, ESS = 1.01, 400  # bounds for chains that have converged: at most, at least
KEPT = 100  # draws of each chain; the first round takes as many


@dataclass
class Tuning:
    r"""Step sizes and running moments of B points, adapted from the history of their chains.

    A step has the length ε · scale in each dimension. ε adapts to the acceptance at each transition, with a gain that
    goes to 0. The scales must adapt more slowly: a chain whose steps depend on where it just was is narrower than its
    target, by tens of percent. They are computed from the states of windows of 20, 40, 80, ... transitions, and
    constant within a window.

    Attributes:
        log_step: log ε, (B,).
        scale: (B, D).
        mean, variance: of the states in the current window, (B, D).
        seen, window: the number of transitions in the window so far, and its length, (B,).
        transitions: the number of transitions that each chain has made, (B,).
        diverged: the number of proposals that diverged, over all chains of a point, (B,).
    """

    log_step: Tensor
    scale: Tensor
    mean: Tensor
    variance: Tensor
    seen: Tensor
    window: Tensor
    transitions: Tensor
    diverged: Tensor

    @staticmethod
    def start(scale: Tensor) -> "Tuning":
        r"""Creates the initial tuning for states drawn with these scales (B, D)."""
        B, D = scale.shape
        log_step = torch.full_like(scale[:, 0], hmc.first_step(D)).log()
        zero = torch.zeros(B, dtype=torch.long, device=scale.device)
        moments = torch.zeros_like(scale), torch.zeros_like(scale)
        return Tuning(log_step, scale.clone(), *moments, zero, zero + WINDOW, zero.clone(), zero.clone())

    def learn(self, t: Tensor, info: hmc.Info, target: float) -> None:
        r"""Adapts step sizes and moments to the states t (M, B, D) and acceptances of a transition."""
        rate = self.transitions.to(t) ** -DECAY
        self.log_step = hmc.adapted_step(self.log_step, info.acceptance, target=target, rate=rate)
        self.seen = self.seen + 1
        part = (1 / self.seen.to(t)).unsqueeze(-1)
        # Welford's recursion, with the M states of a transition at once.
        variance, now = torch.var_mean(t, 0, correction=0)
        before, self.mean = self.mean, self.mean.lerp(now, part)
        self.variance = self.variance.lerp(variance + (now - before) * (now - self.mean), part)
        # A full window sets the scales.
        full = self.seen == self.window
        self.scale = torch.where(full.unsqueeze(-1), self.variance.sqrt().clamp_min(NARROWEST), self.scale)
        self.seen = self.seen.masked_fill(full, 0)
        self.window = torch.where(full, 2 * self.window, self.window)


@dataclass
class Kernel:
    r"""Moves the M chains of B points on log p(x, · | w).

    Attributes:
        log_joint: (M, B, D) -> (M, B).
        tuning: the tuning of these points.
        num_leapfrog: leapfrog steps per transition.
        target: the acceptance to which ε adapts.
        gradients: gradient evaluations so far, over all chains and points.
    """

    log_joint: hmc.LogDensity
    tuning: Tuning
    num_leapfrog: int
    target: float
    gradients: int = 0

    def start(self, t: Tensor) -> hmc.State:
        r"""Returns the state at t (M, B, D)."""
        self.gradients += t[..., 0].numel()
        return hmc.start([self.log_joint], t)

    def step(self, state: hmc.State) -> tuple[hmc.State, hmc.Info]:
        r"""Makes one transition of each chain, without adaptation."""
        tuning = self.tuning
        step_size = hmc.jittered(tuning.log_step, state, JITTER).unsqueeze(-1) * tuning.scale
        state, info = hmc.hmc([self.log_joint], state, step_size, num_leapfrog=self.num_leapfrog)
        tuning.transitions = tuning.transitions + 1
        tuning.diverged = tuning.diverged + info.diverged.sum(0)
        self.gradients += self.num_leapfrog * info.diverged.numel()
        return state, info

    def run(self, state: hmc.State, learn: int, keep: int = 0) -> tuple[hmc.State, list[Tensor]]:
        r"""Runs ``learn`` + ``keep`` transitions; returns the last state, and the draws (M, B, D) of the last ``keep``.

        The first ones adapt the step sizes. While draws are kept the kernel is constant: only then are they draws of a
        Markov chain.
        """
        for _ in range(learn):
            state, info = self.step(state)
            self.tuning.learn(state.t, info, self.target)
        draws = []
        for _ in range(keep):
            state, _ = self.step(state)
            draws.append(state.t)
        return state, draws


def rounds(max_transitions: int) -> Iterator[int]:
    r"""Yields numbers of draws n = 100, 200, 400, ..., each preceded by n / 2 transitions of adaptation, up to a total.

    The first round is made in any case.
    """
    num, left = KEPT, max_transitions
    while num == KEPT or num + num // 2 <= left:
        yield num
        left -= num + num // 2
        num *= 2


def converged(draws: Tensor) -> Tensor:
    r"""Returns whether the worst dimension of each point has a split R-hat < 1.01 and a bulk ESS > 400.

    Arguments:
        draws: (S, M, B, D).

    Returns:
        Booleans (B,).
    """
    r_hat, ess = diagnostics(draws)
    return (r_hat.amax(-1) < R_HAT) & (ess.amin(-1) > ESS)


def diagnostics(draws: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns rank-normalized split R-hat and bulk ESS of each point and dimension, (B, D), for draws (S, M, B, D)."""
    import arviz  # imported here: it is slow to import, and only chains need it

    table = arviz.convert_to_dataset({"t": draws.transpose(0, 1).cpu().double().numpy()})
    found = (arviz.rhat(table, method="rank"), arviz.ess(table, method="bulk"))
    return tuple(torch.as_tensor(v["t"].values, device=draws.device) for v in found)
