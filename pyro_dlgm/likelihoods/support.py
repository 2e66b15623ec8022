r"""Checks that x has the shape, type and support of a likelihood."""

import torch
from pyro.distributions import constraints
from pyro.distributions.util import is_validation_enabled
from torch import Tensor, nn

from .. import messages

GREY = "binarize x (data.Binarize), put it on the grid of the likelihood (data.Grid)"
OF_GREY, OTHERS = "FixedNormal, ContinuousBernoulli, DiscretizedLogistic", "FixedNormal or StudentT for real ones"


def of_points(p, likelihood: nn.Module):
    r"""Returns p(x | t) of one code; a `ValueError` if its axes count as points."""
    if len(p.batch_shape) > 1:
        name, axes = type(likelihood).__name__, len(p.batch_shape) - 1
        raise ValueError(
            f"{name} returned batch shape {tuple(p.batch_shape)} and event shape {tuple(p.event_shape)} for one code; "
            f"expected batch shape (1,), an entry for each point: return p.to_event({axes}), or write pixels of a "
            "likelihoods.Likelihood, whose forward does so"
        )
    return p


def supported(p, x: Tensor, likelihood: nn.Module, first: int = 0) -> Tensor:
    r"""Returns x after checking its shape and, if Pyro's validation is on, its support.

    Arguments:
        p: p(x | t) of the points.
        x: data (..., *event).
        likelihood: the likelihood of p, for the error.
        first: the number of the first row, for the error.

    Raises:
        ValueError: if x has another shape or type than p, or lies outside its support; the error names the rows.
    """
    if x.dim() and len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no points; expected at least one")
    batch = x.dim() - len(p.event_shape)
    # x may lack leading axes of t (particles), but not its last one, and may not add axes that multiply the points.
    fits = batch >= min(1, len(p.batch_shape)) and x.shape[batch:] == p.event_shape
    if not (fits and x.shape[:batch] == p.batch_shape[len(p.batch_shape) - batch :]):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; this likelihood expects points of shape {tuple(p.event_shape)}, "
            f"that is (B, {', '.join(map(str, p.event_shape))}), here with B = {x.shape[0] if x.dim() else 1}: "
            f"{messages.reshaping('x', x.shape[batch:], p.event_shape, 1)}, or build the network for its shape"
        )
    if is_validation_enabled():
        for numbers, part, whose in _parts(p, likelihood):
            values, where = (x, "") if numbers is None else (x[..., numbers], f" (columns {numbers})")
            _check_type(part, values)
            _check_support(part, values, whose, first, where)
    return x


def densities(p, likelihood: nn.Module) -> list[tuple[list[int] | None, str, bool]]:
    r"""Returns the columns for which p(x | t) is a density of real numbers or of amounts >= 0.

    Returns:
        Triples: the columns, `None` for all; the name of the likelihood there; and whether numbers below 0 are taken.
    """
    found = [(n, type(whose).__name__, _of_entries(part.support)) for n, part, whose in _parts(p, likelihood)]
    real, amount = constraints.real, constraints.nonnegative
    return [(n, name, support is real) for n, name, support in found if support in (real, amount)]


def _parts(p, likelihood: nn.Module) -> list[tuple]:
    r"""Returns the groups of columns with their distributions and likelihoods; one group of all without columns."""
    return getattr(p, "parts", [(None, p, likelihood)])


def _of_entries(support):
    r"""Returns the support of a single entry of x."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _check_support(p, x: Tensor, likelihood: nn.Module, first: int, where: str) -> None:
    inside, finite = p.support.check(x), x.isfinite()
    outside = f"x has values outside the support of {type(likelihood).__name__}{where} in"
    if not bool(finite.all()):
        bad = ~finite.flatten(x.dim() - len(p.event_shape)).all(-1) if p.event_shape else ~finite
        raise ValueError(
            f"{outside} {_rows(bad, first)}, NaN or infinite ones; expected finite numbers: mask them, or drop the rows"
        )
    if not bool(inside.all()):
        takes = getattr(likelihood, "takes", "")
        expected = f"expected {takes}" if takes else GREY
        raise ValueError(
            f"{outside} {_rows(~inside, first)} (x goes from {x.min():g} to {x.max():g}): {expected}, choose a "
            f"likelihood for such values ({OTHERS if takes else OF_GREY}), or mask them"
        )


def _check_type(p, x: Tensor) -> None:
    r"""Raises a `ValueError` unless x has a real type, or an integer type if p is a distribution of counts."""
    support = _of_entries(p.support)
    counts = support.is_discrete and support is not constraints.boolean
    if x.dtype == torch.bool or x.is_complex() or not (x.is_floating_point() or counts):
        raise ValueError(f"x has dtype {x.dtype}; expected real numbers: use x.float(), or a transform (data.Grid)")


def _rows(bad: Tensor, first: int) -> str:
    r"""Names the bad points along the last axis, whose numbers start at ``first``."""
    return messages.rows((bad.nonzero()[:, -1].unique() + first).tolist() if bad.dim() else [])
