r"""The points of an evaluation: taken in blocks, and checked, with the q that is asked about them."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .. import masks, program
from ..guides.base import adapted
from .quiet import quiet

FIT_ONE = "fit one to this w first: evaluate.infer(model, guides.FullRank(len(x), D), x)"


class Points(NamedTuple):
    r"""Points in the order in which a guide takes them: ``guide.posterior(*points)``.

    Attributes:
        x: data (B, ...).
        index: which points these are (B,), or `None`.
        mask: boolean, True where observed, of x's shape or (B,), or `None`.
    """

    x: Tensor
    index: Tensor | None = None
    mask: Tensor | None = None

    @classmethod
    def numbered(cls, x: Tensor, mask: Tensor | None = None) -> "Points":
        r"""Creates points with the index 0..B−1, for a guide whose rows are theirs."""
        return cls(x, torch.arange(len(x), device=x.device), mask)

    def at(self, which: Tensor | slice) -> "Points":
        r"""Some of the points."""
        return Points(*(None if part is None else part[which] for part in self))


def blocks(points: Points, num_samples: int, budget: int = 2**19) -> Iterator[tuple[Points, list[int]]]:
    r"""Points and sample counts block by block: at most about ``budget`` numbers of x · samples at a time."""
    rows = max(1, budget // max(1, points.x[0].numel()))
    for here, counts in chunks(len(points.x), num_samples, rows):
        yield points.at(here), counts


def chunks(num_points: int, num_samples: int, rows: int) -> Iterator[tuple[slice, list[int]]]:
    r"""Slices of points, each with the numbers of samples (or chains) that go together: at most ``rows`` at a time."""
    samples = max(1, min(num_samples, rows))
    size = max(1, rows // samples)
    counts = [min(samples, num_samples - k) for k in range(0, num_samples, samples)]
    for i in range(0, num_points, size):
        yield slice(i, min(i + size, num_points)), counts


def check_points(x: Tensor, index: Tensor | None = None, mask: Tensor | None = None) -> None:
    r"""Raises a `ValueError` unless x holds points, with one index for each and a mask that fits, where given.

    Blocks of points slice all three: an index or a mask of another length would go wrong without a word.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"x is a {type(x).__name__}; expected a tensor (B, ...): use torch.as_tensor(x)")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no points; expected (B, ...) with B >= 1")
    program.check_index(index)
    if index is not None and len(index) != len(x):
        raise ValueError(f"x has {len(x)} points and index {len(index)}; expected one index for each point of x")
    if mask is not None:
        masks.check(mask, x)


def check_pair(model, guide, points: Points) -> None:
    r"""Raises a `ValueError` unless the likelihood takes the points and, where the guide has rows, each has one."""
    check_points(*points)
    if hasattr(model, "check"):
        with quiet(model):
            model.check(masks.observed(points.x, points.mask))
    if adapted(guide).per_point:
        # Later, nothing is validated.
        with quiet(guide):
            guide.posterior(*points)


def check_density(guide, instead: str) -> None:
    r"""Raises a `TypeError` unless q can be drawn from and evaluated anywhere.

    Arguments:
        guide: a guide.
        instead: what to do if it cannot.
    """
    name = type(guide).__name__
    if adapted(guide).posterior is None:
        raise TypeError(
            f"{name} has no posterior(x, index, mask); expected a guide that returns q as a distribution: {instead}"
        )
    if not adapted(guide).has_density:
        raise TypeError(f"{name} has no density; expected a q that can be evaluated anywhere: {instead}")
