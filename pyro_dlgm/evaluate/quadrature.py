r"""log p(x | w) of models with one to three latents by quadrature on a grid: no sampling, no q.

    p(x | w) = ∫ p(x, t | w) dt ≈ Σ_c h^D p(x, t_c | w)

over the midpoints t_c of cells of width h. On smooth densities the midpoint rule converges faster than any power of h
as soon as h is below the width of the posterior. Where the posterior is narrow, only cells near its mass are split.
"""

import math
import warnings

import torch
from torch import Tensor

from .annealers import check_points
from .cells import Cells, Points, product
from .nodes import log_joint, shares
from .quiet import quiet

MOST = 3  # latents; the number of cells is exponential in it
HALF_WIDTH = 6.0  # of the first grid, in units of the prior's scale
WIDEST = 4 * HALF_WIDTH
FINEST = 2.0**-9  # the smallest h
TAIL = 10.0  # nats below the mode, behind which no mass is looked for
NARROW = 0.05  # the smallest scale of a mode, in units of the prior's, for which none of its mass is cut off
NEAR = 0.5  # nats: a change that is small by chance comes behind one that is large
POINTS = 1024  # of a block, at most: the more there are, the more nodes they share
CELLS = 2**23  # of a block of several points, at most; a cell takes some 170 bytes on its way


def quadrature(model, x: Tensor, mask: Tensor | None = None, *, tol: float = 1e-3) -> Tensor:
    r"""log p(x | w) of each point, for a model with at most three latents.

    The grid covers ±6 prior scales, and more where the posterior reaches its edge. Cells are split in 2^D until a
    point's value changes by less than ``tol`` behind a change that was small as well.
    Cells that lie far below the highest one are not split; how far allows for modes that lie between the nodes, with
    a scale of 0.05 of the prior's or more.

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
        for here in _neighbours(model, x, mask).split(POINTS):
            values[here], settled[here] = _widened(model, x[here], None if mask is None else mask[here], tol)
    late = int((~settled).sum())
    if late:
        warnings.warn(
            f"quadrature has not settled to {tol:g} nats at {late} of {len(x)} points: raise tol, or use evaluate.ais",
            stacklevel=2,
        )
    return values


def _neighbours(model, x: Tensor, mask: Tensor | None) -> Tensor:
    r"""The points (B,) in the order of where their mass is: those of a block share cells.

    Where there is one block, or nothing to share, any order will do.
    """
    if len(x) <= POINTS or not shares(model):
        return torch.arange(len(x), device=x.device)
    places = []
    for here in torch.arange(len(x), device=x.device).split(POINTS):
        cells = _first(model, x[here], None if mask is None else mask[here], HALF_WIDTH)
        places.append(cells.value.view(len(here), -1).argmax(1))
    return torch.cat(places).argsort(stable=True)


def _widened(model, x: Tensor, mask: Tensor | None, tol: float) -> tuple[Tensor, Tensor]:
    r"""Values and whether they settled, on a grid that is widened for the points that reach its edge."""
    (D,) = model.prior().event_shape
    value, settled, edge = _integral(model, x, mask, tol, HALF_WIDTH)
    reach = 2 * HALF_WIDTH
    while edge.any() and reach <= WIDEST:
        size = max(1, CELLS // round(2 * reach) ** D)
        for again in edge.nonzero().flatten().split(size):
            part = _integral(model, x[again], None if mask is None else mask[again], tol, reach)
            value[again], settled[again], edge[again] = part
        reach *= 2
    return value, settled & ~edge


def _integral(model, x: Tensor, mask: Tensor | None, tol: float, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Values (B,), whether they settled, and whether mass lies at the edge of [−reach, reach]^D."""
    B, cells = len(x), _first(model, x, mask, reach)
    far, no = cells.value.new_full((B,), math.inf), torch.zeros(B, dtype=torch.bool, device=x.device)
    points = Points(x, mask, value=cells.mass(B), rest=-far, change=far, settled=no, edge=no)
    points = _refined(model, points, cells, tol, reach)
    return points.value, points.settled, points.edge


def _refined(model, p: Points, cells: Cells, tol: float, reach: float) -> Points:
    r"""The points when cells with mass have been split until the values settle, in halves where there are too many."""
    B, D = len(p.x), cells.u.shape[1]
    # Mass that is cut off at the edge settles slowly, and is integrated again on a wider grid where there is one.
    while not (done := p.settled | p.edge if reach < WIDEST else p.settled).all() and cells.width > FINEST:
        # A node of a cell that holds mass may be that far from the mode, in scales, and another node be on it.
        deep = (math.sqrt(2 * TAIL) + math.sqrt(D) * cells.width / 2 / NARROW) ** 2 / 2
        near = (cells.value > cells.top(B)[cells.owner] - deep) & ~done[cells.owner]
        if B > 1 and int(near.sum()) * 2**D > CELLS:
            halves = torch.arange(B, device=near.device).chunk(2)
            return Points.joined([_refined(model, p[half], cells.of(half), tol, reach) for half in halves])
        rest = torch.where(done, p.rest, torch.logaddexp(p.rest, cells[~near].mass(B)))
        owner, u, width = cells[near].split()
        cells = Cells(owner, u, log_joint(model, p.x, p.mask, owner, u, width), width)
        value = torch.where(done, p.value, torch.logaddexp(rest, cells.mass(B)))
        change = (value - p.value).abs()
        outside = cells[u.abs().amax(1) > reach - 1].mass(B)
        edge = torch.where(done, p.edge, outside > value + math.log(tol))
        settled = p.settled | (~done & (change < tol) & (p.change < NEAR))
        p = Points(p.x, p.mask, value, rest, change, settled, edge)
    return p


def _first(model, x: Tensor, mask: Tensor | None, reach: float) -> Cells:
    r"""All cells of width 1, for all points."""
    B, (D,) = len(x), model.prior().event_shape
    middle = torch.arange(0.5 - reach, reach, dtype=torch.float64, device=x.device)
    u = product(middle, D)
    owner = torch.arange(B, device=x.device).repeat_interleave(len(u))
    u = u.repeat(B, 1)
    return Cells(owner, u, log_joint(model, x, mask, owner, u, 1.0), 1.0)
