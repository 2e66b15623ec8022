r"""The numbers of temperatures and of simulated points that bring the gap of BDMC below a tolerance."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...points import Points
from ...seeding import seeds
from ..estimates import Mean
from ..predict import simulated
from ..quiet import quiet
from .annealing.bdmc import BDMC, bounds, bracket
from .annealing.path import TUNING, Settings
from .starts import chosen

REFITS = 30  # temperatures from which on the pilot refits points
FIRST = 10  # temperatures
LEAST, MOST = 1.5, 3.0  # factors from one number to the next
AIM = 0.8  # share of the tolerance: the gap at the points of the certificate is a different draw


@dataclass(frozen=True)
class Pilot:
    r"""The result of the pilot.

    Attributes:
        num_temperatures: the first number tried that reached the aim, or the largest within the budget.
        num_points: the number of simulated points there.
        gaps: |gap| + 2 standard errors for each number of temperatures tried, in nats.
        gradients: gradient evaluations of log p(x, t), of all its points together.
    """

    num_temperatures: int
    num_points: int
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

    Where the standard error alone is too large, more points are simulated instead, if that takes fewer gradients than
    the next number of temperatures would.

    Arguments:
        model: a `DLGM`.
        like: points whose masks and ``given`` the simulated ones take in turn.
        num_points: the number of points to simulate first.
        settings: the settings of the walks, except for the number of temperatures.
        tol: nats.
        budget: gradient evaluations that the walks of a point may spend on a sweep.
        seed: seed of all random numbers, which nothing else may use.
        progress: whether annealing shows a bar.
    """
    T, spent, gaps, longest = FIRST, 0, {}, _longest(settings, budget)
    for rung in seeds(2 + math.ceil(math.log(longest / FIRST, LEAST)), seed):
        walks = _with(settings, T)
        gap, gradients = _gaps(model, like, num_points, walks, AIM * tol, seed=rung, progress=progress)
        gaps[T], spent = _off(gap), spent + gradients
        if gaps[T] <= AIM * tol or longest == T:
            break
        T = _next(T, gaps[T], AIM * tol)
        T = longest if longest <= LEAST * T else T  # no two numbers that are nearly the same
    return Pilot(walks.num_temperatures, len(gap), gaps, spent)


def _next(T: int, off: float, aim: float) -> int:
    r"""Returns the next number of temperatures to try, some more than the gap asks for: gaps fall about as 1/T."""
    wanted = off / aim / AIM if math.isfinite(off) else MOST
    return round(T * min(MOST, max(LEAST, wanted)))


def _gaps(
    model, like: Points, num_points: int, walks: Settings, aim: float, *, seed: int, progress: bool
) -> tuple[Tensor, int]:
    r"""Returns the gaps of simulated points, of further ones where that beats dearer walks, and the gradients spent."""
    first, further = seeds(2, seed)
    # With few temperatures walks disagree from any start, and an E-step costs more than dearer walks.
    how = {"refit": walks.num_temperatures >= REFITS, "progress": progress}
    found, spent = certified(model, like, num_points, walks, **how, seed=first)
    gap, price = found.upper - found.lower, spent / num_points
    more, dearer = _wanted(gap, aim) - num_points, _with(walks, _next(walks.num_temperatures, _off(gap), aim))
    if not 0 < more <= _affordable(num_points, len(like), price, price + dearer.gradients(2) - walks.gradients(2)):
        return gap, spent
    rows = torch.arange(num_points, num_points + max(more, 2), device=like.x.device) % len(like)
    found, gradients = certified(model, like[rows], len(rows), walks, **how, seed=further)
    return torch.cat([gap, found.upper - found.lower]), spent + gradients


def _off(gap: Tensor) -> float:
    r"""Returns |mean| + 2 standard errors of the gaps of points, (M,)."""
    found = Mean.of(gap)
    return abs(found.mean) + 2 * found.standard_error


def _wanted(gap: Tensor, aim: float) -> float:
    r"""Returns the number of points with which |mean| + 2 standard errors would reach the aim; infinite if none."""
    found = Mean.of(gap)
    room = aim - abs(found.mean)
    return math.ceil((2 * found.standard_error / room) ** 2 * len(gap)) if room > 0 else math.inf


def _affordable(num_points: int, num_data: int, here: float, after: float) -> float:
    r"""Returns how many further points cost no more than the next number of temperatures.

    Pilot and certificate take the simulated points, once each, and the estimate takes the data, all at the price of a
    point ``here`` or ``after``, in gradient evaluations.
    """
    return ((2 * num_points + num_data) * after / here - num_data) / 2 - num_points


def _longest(settings: Settings, budget: int) -> int:
    r"""Returns the largest number of temperatures within the budget, but no less than the first one."""
    return max(FIRST, int(budget / settings.num_chains / settings.num_leapfrog / (1 + 1 / TUNING)))


def certified(
    model, like: Points, num_points: int, settings: Settings, *, seed: int, refit: bool = True, progress: bool = False
) -> tuple[BDMC, int]:
    r"""Returns BDMC on simulated points, with starts chosen as for other points, and its gradient evaluations.

    Returns:
        The `BDMC`, and the gradient evaluations of all its points together.
    """
    made, start, walked = seeds(3, seed)
    with quiet(model, seed=made):
        points, t = simulated(model, num_points, None, given=like.given)
    points = dataclasses.replace(points, mask=like.dealt(points.x).mask)
    starts = chosen(model, points, settings, seed=start, refit=refit, progress=progress)
    up, down = bracket(model, starts.guide, points, t, settings, seed=walked, progress=progress)
    return bounds(model, up, down, points.x, t), starts.gradients + num_points * settings.gradients(sweeps=2)


def _with(settings: Settings, num_temperatures: int) -> Settings:
    return dataclasses.replace(settings, num_temperatures=num_temperatures)


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
