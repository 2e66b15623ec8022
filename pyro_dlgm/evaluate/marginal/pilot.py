r"""The number of temperatures that brings the gap of BDMC below a tolerance, found on points simulated for it alone."""

import math
from dataclasses import dataclass, replace

from ...points import Points
from ...seeding import seeds
from .annealing.bdmc import BDMC
from .annealing.path import TUNING, Settings
from .certificate import allowed
from .trial import Trial

REFITS = 30  # temperatures from which on the pilot refits points
FIRST = 10  # temperatures
LEAST, MOST = 1.5, 3.0  # factors from one number to the next
AIM = 0.8  # share of the tolerance: the gap at the points of the certificate is a different draw


@dataclass(frozen=True)
class Pilot:
    r"""The result of the pilot.

    Attributes:
        num_temperatures: the first number tried that reached the aim, or the largest within the budget.
        gaps: |gap| + 2 standard errors for each number of temperatures tried, in nats.
        gradients: gradient evaluations of log p(x, t), of all its points together.
    """

    num_temperatures: int
    gaps: dict[int, float]
    gradients: int


def pilot(
    model,
    like: Points,
    num_points: int,
    settings: Settings,
    *,
    tol: float,
    budget: int,
    seed: int,
    progress: bool = False,
) -> Pilot:
    r"""Adds temperatures until |gap| + 2 standard errors is at most 0.8 ``tol``, or a walk would spend the budget.

    All numbers of temperatures are tried on the same points.

    Arguments:
        model: a `DLGM`.
        like: points whose masks and ``given`` the simulated ones take in turn.
        num_points: the number of points to simulate.
        settings: the settings of the walks, except for the number of temperatures.
        tol: nats.
        budget: gradient evaluations that the walks of a point may spend on a sweep upwards.
        seed: seed of all random numbers, which nothing else may use.
        progress: whether annealing shows a bar.
    """
    T, gaps, longest = FIRST, {}, _longest(settings, budget)
    made, *rungs = seeds(3 + math.ceil(math.log(longest / FIRST, LEAST)), seed)
    trial = Trial.simulated(model, like, num_points, seed=made)
    spent = trial.starts.gradients
    for rung in rungs:
        # With few temperatures walks disagree from any start, and an E-step costs more than dearer walks.
        found, gradients = trial.bracketed(
            replace(settings, num_temperatures=T), refit=T >= REFITS, seed=rung, progress=progress
        )
        gaps[T], spent = _off(found), spent + gradients
        if gaps[T] <= AIM * tol or longest == T:
            break
        T = _next(T, gaps[T], AIM * tol)
        T = longest if longest <= LEAST * T else T  # no two numbers that are nearly the same
    return Pilot(T, gaps, spent)


def _next(T: int, off: float, aim: float) -> int:
    r"""Returns the next number of temperatures to try, some more than the gap asks for: gaps fall about as 1/T."""
    return round(T * min(MOST, max(LEAST, off / aim / AIM)))


def _off(found: BDMC) -> float:
    return allowed({"gap": found.gap, "standard_error": found.stderr})


def _longest(settings: Settings, budget: int) -> int:
    r"""Returns the largest number of temperatures within the budget, but no less than the first one."""
    return max(FIRST, int(budget / settings.num_chains / settings.num_leapfrog / (1 + 1 / TUNING)))


def check(tol: float, budget: int, num_points: int) -> None:
    r"""Raises a `ValueError` if a number is out of range."""
    for name, value in (("tol", tol), ("budget", budget)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number > 0")
    if num_points < 2:
        raise ValueError(
            f"num_simulated is {num_points}; expected at least 2 points, whose gap determines num_temperatures; "
            "without them, give num_temperatures"
        )
