r"""How many temperatures it takes: as many as bring the gap of BDMC below a tolerance, on points made for that."""

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

REFITS = 30  # temperatures from which on the pilot has points refitted
LADDER = (10, 30, 100, 300, 1000, 3000, 10_000)  # temperatures that are tried
AIM = 0.8  # of the tolerance: the gap of the points that certify is another draw than that of the pilot's


@dataclass(frozen=True)
class Pilot:
    r"""What the pilot found.

    Attributes:
        num_temperatures: the least that reached the aim, or the most that the budget allowed.
        gaps: |gap| + 2 standard errors by the number of temperatures that were tried, in nats.
        gradients: gradient evaluations of log p(x, t), all of its points together.
    """

    num_temperatures: int
    gaps: dict[int, float]
    gradients: int


def pilot(model, like: Points, num_points: int, settings: Settings, *, tol: float, budget: int, seed: int) -> Pilot:
    r"""Adds temperatures until |gap| + 2 standard errors is at most 0.8 ``tol``, or a walk would spend the budget.

    Arguments:
        model: a `DLGM`.
        like: points whose masks and ``given`` the simulated ones take in turn.
        num_points: how many to simulate.
        settings: of the walks, but for their number of temperatures.
        tol: nats.
        budget: gradient evaluations that the walks of a point may spend on a sweep.
        seed: of all that is random, which nothing else may share.
    """
    spent, gaps = 0, {}
    for T, rung in zip(rungs(settings, budget), seeds(len(LADDER) + 1, seed), strict=False):
        # With few temperatures walks differ wherever they start, and an E-step costs more than the next rung.
        found, gradients = certified(model, like, num_points, _with(settings, T), seed=rung, refit=T >= REFITS)
        spent, gaps[T] = spent + gradients, abs(found.gap) + 2 * found.stderr
        if gaps[T] <= AIM * tol:
            break
    return Pilot(T, gaps, spent)


def rungs(settings: Settings, budget: int) -> Iterator[int]:
    r"""The numbers of temperatures that the budget allows, at least the first one, and the most that it does."""
    most = int(budget / settings.num_chains / settings.num_leapfrog / (1 + 1 / TUNING))
    below = [T for T in LADDER if most > T]
    yield from [*below, most] if below else LADDER[:1]


def certified(
    model, like: Points, num_points: int, settings: Settings, *, seed: int, refit: bool = True, progress: bool = False
) -> tuple[BDMC, int]:
    r"""BDMC on points that the model makes, whose walks start where those of other points would.

    Returns:
        The `BDMC`, and gradient evaluations of all its points together.
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
    r"""Raises a `ValueError` on numbers that make no sense."""
    for name, value in (("tol", tol), ("budget", budget)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number > 0")
    if num_points < 2:
        raise ValueError(
            f"num_simulated is {num_points}; expected at least 2 points, by whose gap temperatures are added; without "
            "them, say num_temperatures"
        )
