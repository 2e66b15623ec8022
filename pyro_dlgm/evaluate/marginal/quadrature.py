r"""log p(x | w) of models with one to three latents by quadrature on a grid: no sampling, no q.

    p(x | w) = ∫ p(x, t | w) dt ≈ Σ_c h^D p(x, t_c | w)

over the midpoints t_c of cells of width h. On smooth densities the midpoint rule converges faster than any power of h
as soon as h is below the width of the posterior. Where the posterior is narrow, only cells near its mass are split.
"""

import math
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from ..quiet import quiet
from .blocks import check_points
from .cells import Points
from .grid import CELLS, FINEST, HALF_WIDTH, Grid
from .nodes import shares

MOST = 3  # latents; the number of cells is exponential in it
WIDEST = 4 * HALF_WIDTH
POINTS = 1024  # of a block, at most: the more there are, the more nodes they share
NUMBERS = 2**24  # values of x of a block, at most
RESOLVED = 0.65  # what settles on cells that are narrower than that, in scales, is looked at again


def quadrature(model, x: Tensor, mask: Tensor | None = None, *, tol: float = 1e-3) -> Tensor:
    r"""log p(x | w) of each point, for a model with at most three latents.

    The grid covers ±6 prior scales, and more where the posterior reaches its edge. Cells are split in 2^D until a
    point's value changes by less than ``tol`` behind a change that was small as well.
    Cells that lie far below the highest one are not split; how far allows for modes that lie between the nodes, with
    a scale of 0.1 of the prior's or more. Where the posterior proves to be narrow the integral is done again, allowing
    for scales half as large, until that changes less than ``tol``. Below a ``tol`` of about 1e-5, tails and rounding
    count.

    Arguments:
        model: a `DLGM` with a prior that is concentrated about its mean.
        x: data (B, ...).
        mask: boolean, True where observed, of x's shape or (B,).
        tol: nats.

    Returns:
        Nats (B,), in float64, without gradients. Points that did not settle are counted in a warning.

    Raises:
        ValueError: if the model has more latents, or x, mask or ``tol`` makes no sense.
    """
    check_points(model, x, mask)
    if not 0 < tol < math.inf:
        raise ValueError(f"tol is {tol}; expected a finite number > 0, in nats")
    with quiet(model), torch.no_grad():
        (D,) = model.prior().event_shape
        if D > MOST:
            raise ValueError(
                f"the model has {D} latents; expected at most {MOST} for a grid: use evaluate.ais, which has no such "
                "bound, and evaluate.bdmc, which says what it is worth"
            )
        values = x.new_empty(len(x), dtype=torch.float64)
        settled = torch.empty_like(values, dtype=torch.bool)
        size = max(1, min(POINTS, NUMBERS // x[0].numel()))
        grid = Grid(model, tol)
        for here in _neighbours(grid, x, mask, size).split(size):
            found = _resolved(grid, x[here], None if mask is None else mask[here])
            values[here], settled[here] = found.value, found.settled & ~found.edge
    late = int((~settled).sum())
    if late:
        warnings.warn(
            f"quadrature has not settled to {tol:g} nats at {late} of {len(x)} points: raise tol, or use evaluate.ais",
            stacklevel=2,
        )
    return values


def _neighbours(grid: Grid, x: Tensor, mask: Tensor | None, size: int) -> Tensor:
    r"""The points (B,) in the order of where their mass is: those of a block share cells.

    Where there is one block, or nothing to share, any order will do.
    """
    if len(x) <= size or not shares(grid.model):
        return torch.arange(len(x), device=x.device)
    places = []
    for here in torch.arange(len(x), device=x.device).split(size):
        cells = grid.first(x[here], None if mask is None else mask[here])
        places.append(cells.value.view(len(here), -1).argmax(1))
    return torch.cat(places).argsort(stable=True)


def _resolved(grid: Grid, x: Tensor, mask: Tensor | None) -> Points:
    r"""The integrals; for points that are narrower than the grid allows for, until more split cells change nothing."""
    found = _widened(grid, x, mask)
    again = (found.settled & (found.width < RESOLVED * grid.narrow)).nonzero().flatten()
    while len(again) and grid.narrow > FINEST:
        grid = replace(grid, narrow=grid.narrow / 2)
        before = found[again]
        finer = _widened(grid, before.x, before.mask)
        changed = (finer.value - before.value).abs() >= grid.tol
        found[again], again = finer, again[finer.settled & changed]
    found.settled[again] = False
    return found


def _widened(grid: Grid, x: Tensor, mask: Tensor | None) -> Points:
    r"""The integrals, on a wider grid for the points that reach its edge."""
    found, (D,) = grid.integral(x, mask), grid.model.prior().event_shape
    while found.edge.any() and grid.reach < WIDEST:
        grid = replace(grid, reach=2 * grid.reach)
        size = max(1, CELLS // round(2 * grid.reach) ** D)
        for again in found.edge.nonzero().flatten().split(size):
            part = found[again]
            found[again] = grid.integral(part.x, part.mask)
    return found
