r"""Schedules: factors of the learning rate as functions of the fraction of the run that is done."""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}


def named(schedule: str | Schedule) -> Schedule:
    r"""The schedule of that name; a function is its own.

    Raises:
        ValueError: for an unknown name.
    """
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(
            f"schedule is {schedule!r}; expected one of {', '.join(map(repr, SCHEDULES))}, "
            "or a function of the fraction done"
        )
    return SCHEDULES[schedule]
