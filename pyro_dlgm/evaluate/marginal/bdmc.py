r"""Bidirectional Monte Carlo: log p(x | w) between a lower and an upper bound, on data that the model made itself.

For x simulated with its t, that t is an exact draw of the posterior. Annealing upwards from q bounds log p(x | w) from
below, annealing downwards from that t bounds it from above (both in expectation), and the difference bounds the error
of either. It certifies the estimator for points like those of the model, with this guide and these settings.

References:
    Grosse, Ghahramani, Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo" (2015).
    https://arxiv.org/abs/1511.02543
    Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of decoder-based generative models" (2017),
    section 4.2. https://arxiv.org/abs/1611.04273
"""

from dataclasses import dataclass, replace

from torch import Tensor

from ...guides.base import adapted
from ...guides.programs.given import conditions, given_globals
from ...points import Points
from ...seeding import seeds
from ..blocks import check_axes
from ..bounds import log_mean_exp
from ..e_step import infer
from ..estimates import Mean
from ..predict import simulated
from ..quiet import quiet
from .blocks import annealers, annealing, check_start, report
from .path import Settings, Walk


@dataclass(frozen=True)
class BDMC:
    r"""Lower and upper bounds on log p(x | w) of each simulated point, in nats.

    Attributes:
        lower: the log-mean-exp of the weights upwards, (M,), a lower bound in expectation: what `ais` estimates.
        upper: minus that of the inverse weights downwards, (M,), an upper bound in expectation.
        x: the simulated points (M, ...).
        t: the codes they were made from (M, D).
        diverged: transitions that diverged, in both directions, (M,).
        conditions: the global latents that are held, and where; empty without any.
    """

    lower: Tensor
    upper: Tensor
    x: Tensor
    t: Tensor
    diverged: Tensor
    conditions: str = ""

    @property
    def gap(self) -> float:
        r"""The mean of upper − lower, in nats per point."""
        return Mean.of(self.upper - self.lower).mean

    @property
    def stderr(self) -> float:
        r"""The standard error of the gap over points."""
        return Mean.of(self.upper - self.lower).standard_error


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
    r"""Brackets log p(x | w) of points that the model simulates.

    A guide with rows for each point gets rows for the simulated ones first, with w frozen (`infer`).

    Arguments:
        model: a `DLGM`.
        guide: as in `ais`; `None` anneals from the prior.
        num_points: the number M of points to simulate.
        mask: boolean, which pixels of a simulated point are observed, of the shape of one point or of all M.
        given: what points are conditioned on, (B, C); simulated ones take its rows in turn.
        num_chains, num_temperatures, num_leapfrog, target_acceptance, memory, seed, progress: as in `ais`.

    Returns:
        A `BDMC` with ``lower`` and ``upper`` (M,), ``gap`` and its ``stderr``, in nats.

    Raises:
        TypeError: if the guide has no `posterior`, or one without a density.
        ValueError: on numbers that make no sense.
    """
    settings = Settings(num_chains, num_temperatures, num_leapfrog, target_acceptance, memory)
    if num_points < 2:
        raise ValueError(f"num_points is {num_points}; expected at least 2, for a standard error")
    model, guide = given_globals(model, guide)
    check_start(guide)
    check_axes(model, given)
    # A seed for each: a walk that met again the random numbers that made its point would not be independent of it.
    made, fitted, walked = seeds(3, seed)
    with quiet(model, seed=made):
        points, t = simulated(model, num_points, None, given)
    points = replace(points, mask=None if mask is None else mask.expand(points.x.shape))
    q = infer(model, guide, replace(points, index=None), seed=fitted) if adapted(guide).per_point else guide
    up, down = bracket(model, q, points, t, settings, seed=walked, progress=progress)
    report(up, settings, stacklevel=2)
    return bounds(model, up, down, points.x, t)


def bracket(
    model, q, points: Points, t: Tensor, settings: Settings, *, seed: int | None, progress: bool = False
) -> tuple[Walk, Walk]:
    r"""Walks upwards from q to the numbered points, and downwards from t (B, D), of which they were made."""
    up, down = [], []
    with annealing(model, q, seed=seed):
        for annealer in annealers(model, q, points, settings, sweeps=2, progress=progress):
            up.append(annealer.upwards())
            down.append(annealer.downwards(t[annealer.points.index]))
    return Walk.joined(up, 1), Walk.joined(down, 1)


def bounds(model, up: Walk, down: Walk, x: Tensor, t: Tensor) -> BDMC:
    r"""What the walks of `bracket` say of the points x, which the model made of t."""
    diverged = (up.diverged + down.diverged).sum(0)
    lower, upper = log_mean_exp(up.log_weights), -log_mean_exp(-down.log_weights)
    return BDMC(lower, upper, x, t, diverged, conditions(model))
