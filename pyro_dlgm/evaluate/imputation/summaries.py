r"""One number for the draws of a missing value: their mean, median or mode.

References:
    Bickel and Frühwirth, "On a fast, robust estimator of the mode: comparisons to other robust estimators with
    applications" (2006). https://arxiv.org/abs/math/0505419
"""

import torch
from torch import Tensor

from ...storage.sums import widened

BY = ("mean", "median", "mode", "draws")
ATOM = 0.05  # the share of draws from which on a value counts as an atom


def summary(made: Tensor, by: str, classes: Tensor) -> Tensor:
    r"""Summarizes draws (M, B, ...) along their first axis, or returns them: ``by`` is one of `BY`.

    Arguments:
        made: the draws.
        by: the summary.
        classes: which numbers of a point have no order, of its shape: for those it is the most frequent one.
    """
    if by == "draws":
        return made
    rules = {"mean": lambda v: v.mean(0), "median": lambda v: v.median(0).values, "mode": mode}
    number = rules[by](made if made.is_floating_point() or by != "mean" else widened(made))
    return torch.where(classes.to(made.device), most_frequent(made).to(number.dtype), number)


def most_frequent(made: Tensor) -> Tensor:
    r"""Returns the most frequent of draws (M, ...), the smallest one if there are several."""
    return made.mode(0).values


def mode(made: Tensor) -> Tensor:
    r"""Returns the mode of draws (M, ...): an atom if there is one, else the half-sample mode.

    An atom is a value that a twentieth of the draws or more share, as counts do. Otherwise the half of the sorted draws
    with the smallest range is taken repeatedly, until two are left; the mode is the lower one, a draw.
    """
    often = most_frequent(made)
    return torch.where(widened(made == often).mean(0) >= ATOM, often, _half_sample(made.sort(0).values))


def _half_sample(ordered: Tensor) -> Tensor:
    while len(ordered) > 2:
        half = -(-len(ordered) // 2)
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        first = widths.argmin(0, keepdim=True)
        steps = torch.arange(half, device=ordered.device).view(-1, *[1] * (ordered.dim() - 1))
        ordered = ordered.gather(0, first + steps)
    return ordered[0]
