r"""Annealed importance sampling: an estimate of log p(x | w) that stays accurate where the IWAE bound is loose.

Walks go from q to the posterior in T small steps, with HMC between them. Their weights are unbiased for p(x | w), so
the log of their mean is a lower bound on log p(x | w) in expectation, and exact in the limit of large T.

References:
    Neal, "Annealed importance sampling" (2001), equation 11. https://arxiv.org/abs/physics/9803008
    Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of decoder-based generative models" (2017).
    https://arxiv.org/abs/1611.04273
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ....guides.programs.given import conditions, given_globals
from ....points import Points
from ...blocks import check_pair
from ...bounds import log_mean_exp
from ...estimates import log_mean_exp_error
from .blocks import annealers, annealing, check_start, report
from .path import Annealer, Settings, Walk


@dataclass(frozen=True)
class AIS:
    r"""The estimate of log p(x | w) by annealed importance sampling, with its error and diagnostics.

    Attributes:
        log_weights: the log-weights of the walks, (K, B), in nats and float64; their log-mean-exp is the estimate.
        acceptance: the mean probability of acceptance of a point's transitions, (B,); NaN if T = 1, without
            transitions.
        divergences: the number of divergent transitions of each point, (B,).
        gradients_per_point: gradient evaluations of log p(x, t) per point, including those for the step sizes.
        conditions: the values at which global latents are held; empty without any.
    """

    log_weights: Tensor
    acceptance: Tensor
    divergences: Tensor
    gradients_per_point: int
    conditions: str = ""

    @property
    def log_px(self) -> Tensor:
        r"""The estimate of log p(x | w) of each point, (B,), in nats: a lower bound in expectation."""
        return log_mean_exp(self.log_weights)

    @property
    def stderr(self) -> Tensor:
        r"""The standard error of ``log_px``, (B,), in nats, by the delta method, sd(w) / (√K mean(w)); NaN if K = 1."""
        return log_mean_exp_error(self.log_weights)


def ais(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_chains: int = 16,
    num_temperatures: int = 500,
    *,
    num_leapfrog: int = 10,
    target_acceptance: float = 0.65,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    memory: int = 2**28,
    seed: int | None = None,
    progress: bool = False,
) -> AIS:
    r"""Estimates log p(x | w) of each point by annealing from q to the posterior.

    Each point has its own step sizes, proportional to q's scale in each dimension; for a Gaussian with correlations, in
    the coordinates in which it is N(0, I). A short first sweep tunes them, and they are fixed for the walks that count.
    From a q near the posterior, a few hundred temperatures reach what takes thousands from the prior. `bdmc` certifies
    this estimate for this model and guide.

    Arguments:
        model: a `DLGM`.
        guide: a guide with a `posterior` that has a density, where the walks start; `None` starts from the prior.
        x: data (B, ...), or `Points`.
        index: which points these are (B,), for guides with a row for each.
        num_chains: the number K of walks of each point.
        num_temperatures: the number T of steps from q to the posterior.
        num_leapfrog: leapfrog steps of the HMC transition at each temperature.
        target_acceptance: the acceptance to which step sizes are tuned.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what the points are conditioned on, (B, C).
        memory: the approximate number of bytes to use; points and chains are processed in blocks.
        seed: seed of all random numbers. The global generator is left unchanged in any case.
        progress: whether to show a bar.

    Returns:
        An `AIS` with ``log_px`` (B,), ``stderr`` (B,) and ``log_weights`` (K, B), in nats. Warnings name the points
        where a Gaussian q is too ill-conditioned for its dtype, and those where transitions diverged and one walk
        dominates the estimate.

    Raises:
        TypeError: if the guide has no `posterior`, or one without a density.
        ValueError: if a number is out of range, or x, index, mask or given does not fit the model or the guide.
    """
    settings = Settings(num_chains, num_temperatures, num_leapfrog, target_acceptance, memory)
    points = Points.of(x, index, mask=mask, given=given)
    model, guide = given_globals(model, guide)
    check_start(guide)
    check_pair(model, guide, points)
    with annealing(model, guide, seed=seed):
        walks = list(map(Annealer.upwards, annealers(model, guide, points, settings, progress=progress)))
    walks = Walk.joined(walks, 1)
    report(walks, settings, stacklevel=2)
    acceptance = walks.accepted.mean(0) / (num_temperatures - 1 or math.nan)
    return AIS(walks.log_weights, acceptance, walks.diverged.sum(0), settings.gradients(sweeps=1), conditions(model))
