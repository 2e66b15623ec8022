r"""Differences between methods over seeds: a dot for each seed, and the mean with its interval."""

from collections.abc import Mapping
from typing import NamedTuple

from .palette import REFERENCE


class Shown(NamedTuple):
    r"""What is drawn of a method.

    Attributes:
        values: its difference at each seed.
        mean, low, high: the mean of the differences, and the ends of its interval.
        colour: the colour of the method.
    """

    values: list[float]
    mean: float
    low: float
    high: float
    colour: str


def differences(axis, shown: Mapping[str, Shown], title: str) -> None:
    r"""Draws the differences of methods to one of them: dots for seeds, a bar for the interval of the mean.

    Arguments:
        axis: to draw on.
        shown: by the name of a method.
        title: the label of the horizontal axis.
    """
    for place, found in enumerate(shown.values()):
        seeds = [place] * len(found.values)
        axis.plot(found.values, seeds, "o", color=found.colour, alpha=0.35, markersize=4, linewidth=0)
        ends = [[found.mean - found.low], [found.high - found.mean]]
        axis.errorbar(found.mean, place, xerr=ends, fmt="|", color=found.colour, capsize=4, markersize=14)
        axis.annotate(f"{found.mean:.2f}", (found.mean, place), (0, 9), textcoords="offset points", ha="center", size=8)
    axis.axvline(0, color=REFERENCE, linestyle=":")
    axis.set_yticks(range(len(shown)), list(shown))
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xlabel(title)
    axis.grid(alpha=0.15)
