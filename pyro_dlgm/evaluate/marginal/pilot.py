r"""The number of temperatures that brings the gap of BDMC below a tolerance, on simulated points."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...points import Points
from ...seeding import seeds
from ..predict import simulated
from ..quiet import quiet
from .bdmc import BDMC, bounds, bracket
from .path import TUNING, Settings
from .starts import chosen

REFITS = 30  # temperatures from which on the pilot refits points
LADDER = (10, 30, 100, 300, 1000, 3000, 10_000)  # numbers of temperatures to try
AIM = 0.8  # share of the tolerance: the gap at the points of the certificate is a different draw


@dataclass(frozen=True)
class Pilot:
    r"""The result of the pilot.

    Attributes:
        num_temperatures: the smallest number that reached the aim, or the largest within the budget.
        gaps: |gap| + 2 standard errors for each number of temperatures tried, in nats.
        gradients: gradient evaluations of log p(x, t), of all its points together.
    """

    num_temperatures: int
    gaps: dict[int, float]
    gradients: int


def pilot(model, like: Points, num_points: int, settings: Settings, *, tol: float, budget: int, seed: int) -> Pilot:
    r"""Adds temperatures until |gap| + 2 standard errors is at most 0.8 ``tol``, or a walk would spend the budget.

    Arguments:
        model: a `DLGM`.
        like: points whose masks and ``given`` the simulated ones take in turn.
        num_points: the number of points to simulate.
        settings: the settings of the walks, except for the number of temperatures.
        tol: nats.
        budget: gradient evaluations that the walks of a point may spend on a sweep.
        seed: seed of all random numbers, which nothing else may use.
    """
    spent, gaps = 0, {}
    for T, rung in zip(rungs(settings, budget), seeds(len(LADDER) + 1, seed), strict=False):
        # With few temperatures walks disagree from any start, and an E-step costs more than the next rung.
        found, gradients = certified(model, like, num_points, _with(settings, T), seed=rung, refit=T >= REFITS)
        spent, gaps[T] = spent + gradients, abs(found.gap) + 2 * found.stderr
        if gaps[T] <= AIM * tol:
            break
    return Pilot(T, gaps, spent)


def rungs(settings: Settings, budget: int) -> Iterator[int]:
    r"""Yields the numbers of temperatures within the budget, at least the first one, ending with the largest."""
    most = int(budget / settings.num_chains / settings.num_leapfrog / (1 + 1 / TUNING))
    below = [T for T in LADDER if most > T]
    yield from [*below, most] if below else LADDER[:1]


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
