r"""Checks of what evaluation is given: points, their index and mask, and a q that can be evaluated."""

import torch
from torch import Tensor

from .. import masks, program
from ..guides.base import adapted
from .quiet import quiet

FIT_ONE = "fit one to this w first: evaluate.infer(model, guides.FullRank(len(x), D), x)"


def check_points(x: Tensor, index: Tensor | None = None, mask: Tensor | None = None) -> None:
    r"""Raises a `ValueError` unless x holds points, with one index for each and a mask that fits, where given.

    Blocks of points slice all three: an index or a mask of another length would go wrong without a word.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"x is a {type(x).__name__}; expected a tensor (B, ...): use torch.as_tensor(x)")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no points; expected (B, ...) with B >= 1")
    check_index(x, index)
    if mask is not None:
        masks.check(mask, x)


def check_index(x: Tensor, index: Tensor | None) -> None:
    r"""Raises a `ValueError` unless there is one index for each point of x."""
    program.check_index(index)
    if index is not None and len(index) != len(x):
        raise ValueError(f"x has {len(x)} points and index {len(index)}; expected one index for each point of x")


def check_data(model, x: Tensor, mask: Tensor | None) -> None:
    r"""Raises a `ValueError` unless there are points, and the likelihood takes them."""
    check_points(x, mask=mask)
    if hasattr(model, "check"):
        with quiet(model):
            model.check(masks.observed(x, mask))


def check_rows(guide, x: Tensor, index: Tensor | None, mask: Tensor | None) -> None:
    r"""Raises a `ValueError` unless there is one index for each point and, for a guide with rows, a row for it."""
    check_index(x, index)
    if adapted(guide).per_point:
        # Later, nothing is validated.
        with quiet(guide), torch.no_grad():
            guide.posterior(x, index, mask)


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
