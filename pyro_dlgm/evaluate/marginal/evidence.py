r"""log p(x | w) with its certificate: the better of two estimates from one q, and BDMC with the same settings."""

import warnings
from dataclasses import dataclass, replace

from torch import Tensor

from ... import masks
from ...guides.programs.given import conditions, given_globals
from ...points import Points, dealt
from ...seeding import seeds
from ..blocks import check_points
from ..bounds import log_mean_exp, log_weights
from ..estimates import Estimate, log_mean_exp_error
from . import pilot
from .annealing.ais import ais
from .annealing.bdmc import bdmc
from .annealing.blocks import report
from .annealing.path import Settings
from .certificate import MATTERS
from .estimate import Evidence
from .starts import chosen, disagree, upwards
from .trial import Trial

STREAMS = 3  # independent streams of random numbers: IWAE, AIS, BDMC
LEAPFROG, ACCEPTANCE = 3, 0.8  # steps of a transition and the acceptance they aim at, without a judge
SAMPLES, CHAINS, TEMPERATURES = (200, 2000), (4, 16), (1, 500)  # without a judge, and with one
BUDGET = 8000  # gradient evaluations per point


def check(num_samples: int, num_chains: int, num_temperatures: int, num_simulated: int) -> None:
    r"""Raises a `ValueError` if a number is out of range, before any computation."""
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}; expected at least 2, for a standard error")
    if num_simulated == 1 or num_simulated < 0:
        raise ValueError(f"num_simulated is {num_simulated}; expected at least 2 points, or 0 for no BDMC")
    Settings(num_chains, num_temperatures, num_leapfrog=1, target_acceptance=0.5, memory=1)


@dataclass(frozen=True)
class Asked:
    r"""Creates the settings of `evidence` of the same names, with their defaults with or without a judge.

    Raises:
        ValueError: if a number is out of range.
    """

    judged: bool = False
    num_samples: int | None = None
    num_chains: int | None = None
    num_temperatures: int | None = None
    num_simulated: int = 64
    tol: float = MATTERS
    budget: int = BUDGET

    def __post_init__(self):
        check(self.K, self.walks.num_chains, self.walks.num_temperatures, self.num_simulated)
        if not self.judged:
            pilot.check(self.tol, self.budget, self.num_simulated if self.num_temperatures is None else 2)

    @property
    def K(self) -> int:
        r"""The number of samples of IWAE."""
        return SAMPLES[self.judged] if self.num_samples is None else self.num_samples

    @property
    def walks(self) -> Settings:
        r"""How to anneal; with an initial number of temperatures if a pilot is to find it."""
        C = CHAINS[self.judged] if self.num_chains is None else self.num_chains
        T = TEMPERATURES[self.judged] if self.num_temperatures is None else self.num_temperatures
        return Settings(C, T, LEAPFROG, ACCEPTANCE, 2**28)


def evidence(
    model,
    judge,
    points: Tensor | Points,
    *,
    num_samples: int | None = None,
    num_chains: int | None = None,
    num_temperatures: int | None = None,
    num_simulated: int = 64,
    tol: float = MATTERS,
    budget: int = BUDGET,
    seed: int | None = None,
    progress: bool = False,
) -> Evidence:
    r"""Estimates log p(x | w), from a q that was fitted to x, or from Gaussians that x and w determine.

    Without a judge, walks start at the Gaussians of `guides.Laplace` after some steps up F, or, for points at which
    these walks do not agree, at those of a full-rank E-step. A pilot on simulated points adds temperatures until the
    gap of BDMC plus two standard errors is within ``tol``. The pilot and the choice of starts use separate random
    numbers, so that each reported weight is unbiased for p(x | w). A warning says what is not certified, and
    ``uncertain`` which points. Walks from a q that is too narrow can agree with each other as well: only the gap
    reveals that, and of points unlike the simulated ones nothing does.

    Arguments:
        model: a `DLGM`, or the model that `given_globals` makes of a program with global latents.
        judge: a guide with rows for the points, numbered from 0; `None` starts from these Gaussians.
        points: data (B, ...), or `Points`.
        num_samples: the number K of IWAE-K; by default 2000, or 200 without a judge.
        num_chains: as in `ais`; by default 16, or 4 without a judge.
        num_temperatures: as in `ais`; by default 500, or without a judge the number that the pilot finds.
        num_simulated: the number of points of `bdmc`, and of the pilot; 0 omits both.
        tol: for the pilot: by how much log p(x) may be off on average, in nats.
        budget: for the pilot: the gradient evaluations that the walks of a point may spend on one sweep.
        seed: seed of all random numbers.
        progress: whether annealing shows a bar, that of the pilot too.

    Returns:
        An `Evidence`, per point and in nats.

    Raises:
        ValueError: if a number is out of range.
    """
    numbers = num_samples, num_chains, num_temperatures, num_simulated, tol, budget
    asked = Asked(judge is not None, *numbers)
    found = estimated(model, judge, Points.of(points), asked, seed=seed, progress=progress)
    for note in found.notes:
        warnings.warn(note, stacklevel=2)
    return found


def estimated(model, judge, points: Points, asked: Asked, *, seed: int | None, progress: bool = False) -> Evidence:
    r"""Computes `evidence` without warnings, for callers that report the notes themselves."""
    model, judge = given_globals(model, judge)
    if judge is None:
        return _by_gaussians(model, points.numbered(), asked, seed, progress)
    return _by_judge(model, judge, points.numbered(), asked, seed, progress)


def _by_judge(model, judge, points: Points, asked: Asked, seed: int | None, progress: bool) -> Evidence:
    weighed, walked, simulated = seeds(STREAMS, seed)
    settings = {"num_chains": asked.walks.num_chains, "num_temperatures": asked.walks.num_temperatures}
    settings["progress"] = progress
    walks = ais(model, judge, points, seed=walked, **settings)
    bounds = None
    if asked.num_simulated:
        pixels = None if points.mask is None else masks.pixelwise(points.mask, points.x.dim())
        like = {"mask": dealt(pixels, asked.num_simulated), "given": points.given}
        bounds = bdmc(model, judge, asked.num_simulated, **like, seed=simulated, **settings)
    return Evidence(
        annealed=Estimate(walks.log_px, walks.stderr),
        weighted=Estimate.log_mean_exp(log_weights(model, judge, points, None, asked.K, seed=weighed)),
        num_samples=asked.K,
        certificate=bounds,
        conditions=conditions(model),
    )


def _by_gaussians(model, points: Points, asked: Asked, seed: int | None, progress: bool) -> Evidence:
    check_points(model, points)
    weighed, walked, made = seeds(STREAMS, seed)
    tried, start, walked = seeds(3, walked)
    settings, spent = _temperatures(model, points, asked, tried, progress)
    starts = chosen(model, points, settings, seed=start, progress=progress)
    walks = upwards(model, starts.guide, points, settings, seed=walked, progress=progress)
    report(walks, settings, stacklevel=4)
    bounds = None
    if asked.num_simulated:
        simulated, bracketed = seeds(2, made)
        trial = Trial.simulated(model, points, asked.num_simulated, seed=simulated)
        bounds, more = trial.bracketed(settings, seed=bracketed, progress=progress)
        spent += trial.starts.gradients + more
    spent += starts.gradients + len(points) * (settings.gradients(sweeps=1) + asked.K)
    return Evidence(
        annealed=Estimate(log_mean_exp(walks.log_weights), log_mean_exp_error(walks.log_weights)),
        weighted=Estimate.log_mean_exp(log_weights(model, starts.guide, points, None, asked.K, seed=weighed)),
        num_samples=asked.K,
        certificate=bounds,
        conditions=conditions(model),
        tol=asked.tol,
        num_temperatures=settings.num_temperatures,
        uncertain=disagree(walks.log_weights),
        refitted=starts.refitted,
        gradients_per_point=spent / len(points),
    )


def _temperatures(model, points: Points, asked: Asked, seed: int, progress: bool) -> tuple[Settings, int]:
    r"""Returns how to anneal, and the gradient evaluations of the pilot."""
    if asked.num_temperatures is not None:
        return asked.walks, 0
    settings = {"tol": asked.tol, "budget": asked.budget, "seed": seed, "progress": progress}
    found = pilot.pilot(model, points, asked.num_simulated, asked.walks, **settings)
    return replace(asked.walks, num_temperatures=found.num_temperatures), found.gradients
