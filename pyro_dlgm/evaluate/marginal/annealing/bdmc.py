r"""Bidirectional Monte Carlo: log p(x | w) between a lower and an upper bound, on simulated data.

If x is simulated together with t, this t is an exact draw of the posterior. Annealing upwards from q bounds log p(x |
w) from below, annealing downwards from t bounds it from above (both in expectation), and the difference bounds the
error of either. This certifies the estimator for points like those of the model, with this guide and these settings.

References:
    Grosse, Ghahramani, Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo" (2015).
    https://arxiv.org/abs/1511.02543
    Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of decoder-based generative models" (2017),
    section 4.2. https://arxiv.org/abs/1611.04273
"""

from dataclasses import dataclass, replace

from torch import Tensor

from ....guides.base import adapted
from ....guides.programs.given import conditions, given_globals
from ....points import Points
from ....seeding import seeds
from ...blocks import check_axes
from ...bounds import log_mean_exp
from ...e_step.infer import infer
from ...estimates import Mean
from ...predict import masked, simulated
from ...quiet import quiet
from .blocks import annealers, annealing, check_start, report
from .gap import control
from .path import Settings, Walk


@dataclass(frozen=True)
class BDMC:
    r"""Lower and upper bounds on log p(x | w) of each simulated point, in nats.

    Attributes:
        lower: the log-mean-exp of the upward weights, (M,), a lower bound in expectation: the estimate of `ais`.
        upper: minus the log-mean-exp of the inverse downward weights, (M,), an upper bound in expectation.
        gaps: upper − lower with less noise, (M,): minus a control variate of mean 0 (`annealing.gap`).
        x: the simulated points (M, ...).
        t: their codes (M, D).
        diverged: the number of divergent transitions of the walks in both directions, (M,).
        conditions: the values at which global latents are held; empty without any.
    """

    lower: Tensor
    upper: Tensor
    gaps: Tensor
    x: Tensor
    t: Tensor
    diverged: Tensor
    conditions: str = ""

    @property
    def gap(self) -> float:
        r"""The mean of ``gaps``, an unbiased estimate of that of upper − lower, in nats per point."""
        return Mean.of(self.gaps).mean

    @property
    def stderr(self) -> float:
        r"""The standard error of the gap over points."""
        return Mean.of(self.gaps).standard_error


def bdmc(
    model,
    guide=None,
    num_points: int = 64,
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
) -> BDMC:
    r"""Brackets log p(x | w) of points simulated from the model.

    For a guide with rows, `infer` first fits rows to the simulated points, with w frozen.

    Arguments:
        model: a `DLGM`.
        guide: as in `ais`; `None` anneals from the prior.
        num_points: the number M of points to simulate.
        mask: boolean, True for pixels of simulated points that are observed, of the shape of one point or of all M; a
            likelihood that says which values hide draws one in its place.
        given: what points are conditioned on, (B, C); simulated points take its rows in turn.
        num_chains, num_temperatures, num_leapfrog, target_acceptance, memory, seed, progress: as in `ais`.

    Returns:
        A `BDMC` with ``lower``, ``upper`` and ``gaps`` (M,), ``gap`` and its ``stderr``, in nats.

    Raises:
        TypeError: if the guide has no `posterior`, or one without a density.
        ValueError: if a number is out of range.
    """
    settings = Settings(num_chains, num_temperatures, num_leapfrog, target_acceptance, memory)
    if num_points < 2:
        raise ValueError(f"num_points is {num_points}; expected at least 2, for a standard error")
    model, guide = given_globals(model, guide)
    check_start(guide)
    check_axes(model, given)
    # Separate seeds: a walk with the random numbers that made its point would not be independent of it.
    made, fitted, walked = seeds(3, seed)
    with quiet(model, seed=made):
        points, t = simulated(model, num_points, None, given)
        points = masked(model, points, None if mask is None else mask.expand(points.x.shape))
    q = infer(model, guide, replace(points, index=None), seed=fitted) if adapted(guide).per_point else guide
    up, down = bracket(model, q, points, t, settings, seed=walked, progress=progress)
    report(up, settings, stacklevel=2)
    return bounds(model, up, down, points.x, t)


def bracket(
    model, q, points: Points, t: Tensor, settings: Settings, *, seed: int | None, progress: bool = False
) -> tuple[Walk, Walk]:
    r"""Returns walks upwards from q of the numbered points, and downwards from their codes t (B, D)."""
    up, down = [], []
    with annealing(model, q, seed=seed):
        for annealer in annealers(model, q, points, settings, sweeps=2, progress=progress):
            up.append(annealer.upwards())
            down.append(annealer.downwards(t[annealer.points.index]))
    return Walk.joined(up, 1), Walk.joined(down, 1)


def bounds(model, up: Walk, down: Walk, x: Tensor, t: Tensor) -> BDMC:
    r"""Returns the `BDMC` from the walks of `bracket`, for points x that the model simulated with codes t."""
    diverged = (up.diverged + down.diverged).sum(0)
    lower, upper = log_mean_exp(up.log_weights), -log_mean_exp(-down.log_weights)
    gaps = upper - lower - control(up.log_weights, down.log_weights)
    return BDMC(lower, upper, gaps, x, t, diverged, conditions(model))
