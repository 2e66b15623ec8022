r"""log p(x | w) of models with one to three latents by quadrature on a grid, without sampling or q.

    p(x | w) = ∫ p(x, t | w) dt ≈ Σ_c h_c^D p(x, t_c | w)

over the midpoints t_c of cells of width h_c. On smooth densities the midpoint rule converges faster than any power of h
once h is below the width of the posterior. Only cells that have mass, or may have, are split.
"""

import math
import warnings

import torch
from torch import Tensor

from ...latents.asked import prior
from ...points import Points
from ...storage.sums import sums_dtype, widened
from ..blocks import check_pair
from ..quiet import quiet
from .cells import Cells, laid, log_joint, prior_scales, product

MOST = 3  # latents; the number of cells is exponential in it
POINTS = 1024  # of a block, at most: more points share more midpoints
NUMBERS = 2**24  # values of x of a block, at most
HALF_WIDTH = 6  # of the first grid, in units of the prior's scale
WIDEST = 4 * HALF_WIDTH
FINEST = 2.0**-9  # the smallest width of a cell
TAIL = 10.0  # nats below the mode, beyond which mass is neglected
NARROW = 0.05  # the smallest scale of a mode, in units of the prior's, for which wide cells allow ...
RESOLVED = 0.5  # ... until cells are narrower than that: then it is this share of their width
NEAR = 0.5  # nats: a change that is small by chance follows a large one
EDGE = 1e-2  # share of the mass at the edge that is too much at any tolerance
CELLS = 2**23  # at a time, at most; a cell takes about 100 bytes


def quadrature(
    model, x: Tensor, *, mask: Tensor | None = None, given: Tensor | None = None, tol: float = 1e-3
) -> Tensor:
    r"""Returns log p(x | w) of each point, for a model with at most three latents.

    The grid covers ±6 prior scales, and up to ±24 if the posterior reaches its edge. Cells are split in 2^D until a
    point's value changes by less than ``tol``, after a change that was small as well. Cells far below the highest one
    are not split; the limit allows for modes between the midpoints, of a scale of 0.05 of the prior's or more. Once
    cells are narrower than that, it allows for modes of half their width, and all cells are examined again. Below a
    ``tol`` of about 1e-5, tails and rounding matter.

    Arguments:
        model: a `DLGM` with a prior that is concentrated around its mean.
        x: data (B, ...), or `Points`.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what the points are conditioned on, (B, C).
        tol: nats.

    Returns:
        Nats (B,), in float64, without gradients. A warning counts the points whose values did not settle.

    Raises:
        ValueError: if the model has more latents, or x, mask or ``tol`` is invalid.
    """
    points = Points.of(x, mask=mask, given=given)
    check_pair(model, None, points)
    if not 0 < tol < math.inf:
        raise ValueError(f"tol is {tol}; expected a finite number > 0, in nats")
    values = points.x.new_empty(len(points), dtype=sums_dtype(points.x.device))
    settled = torch.empty_like(values, dtype=torch.bool)
    with quiet(model):
        (D,) = prior(model, points[:1]).event_shape
        if D > MOST:
            raise ValueError(
                f"the model has {D} latents; expected at most {MOST} for a grid: use evaluate.ais, which has no such "
                "bound, and evaluate.bdmc, which certifies it"
            )
        for here in _neighbours(model, points):
            values[here], settled[here] = Block(model, points[here]).integrals(tol)
    if late := int((~settled).sum()):
        warnings.warn(
            f"quadrature has not settled to {tol:g} nats at {late} of {len(points)} points: raise tol, or use "
            "evaluate.ais",
            stacklevel=2,
        )
    return values


def _neighbours(model, points: Points) -> tuple[Tensor, ...]:
    r"""Returns blocks of points whose posterior mass is in nearly the same place, so that they share midpoints."""
    size, rows = max(1, min(POINTS, NUMBERS // points.x[0].numel())), points.numbered().index
    if len(points) > size:
        firsts = (Block(model, points[i]).first().value.view(len(i), -1) for i in rows.split(size))
        rows = torch.cat([values.argmax(1) for values in firsts]).argsort(stable=True)
    return rows.split(size)


class Block:
    r"""B points, as for `quadrature`, with the state of their integrals, each (B,)."""

    def __init__(self, model, points: Points):
        self.model, self.points, x = model, points, points.x
        self.reach = x.new_full((len(x),), HALF_WIDTH, dtype=torch.float32)  # half the side of the grid
        (self.D,) = prior(model, points[:1]).event_shape
        self.scales = prior_scales(model, points)
        self.cube = product(torch.arange(0.5 - HALF_WIDTH, HALF_WIDTH, device=x.device, dtype=torch.float32), self.D)

    def integrals(self, tol: float) -> tuple[Tensor, Tensor]:
        r"""Returns the values, and whether they have settled; cells are split until they have, or up to a limit."""
        cells = self.first()
        self.value = cells.mass(len(self.points))  # log p(x | w)
        self.change = torch.full_like(self.value, math.inf)  # of the value at the last split
        self.settled = torch.zeros_like(self.value, dtype=torch.bool)
        work = [(cells, 0.5)]
        while work:
            cells, h = work.pop()
            near = self._near(cells, h)
            parents = cells[near]
            if len(cells) + len(parents) * 2**self.D > CELLS:
                half = cells.owner <= widened(cells.owner).mean()
                work += [] if half.all() else [(cells[half], h), (cells[~half], h)]
                continue
            if len(parents):
                cells = cells[~near] + self._cells(*parents.children())
            if (parents.width > 2 * h).any():  # their children may have to be split as well
                work.append((cells, h))
            elif len(cells := self._judged(cells, tol)) and h > FINEST:
                work.append((cells, h / 2))
        return self.value, self.settled

    def first(self) -> Cells:
        r"""Returns all cells of width 1, for all points."""
        return self._laid(torch.arange(len(self.points), device=self.points.x.device), self.cube)

    def _near(self, cells: Cells, h: float) -> Tensor:
        r"""Returns which cells are wider than h and have mass, or may have, (n,).

        The midpoint of a cell with mass may be half a diagonal away from the mode, while another midpoint is on it.
        """
        deep = (math.sqrt(2 * TAIL) + math.sqrt(self.D) / 2 / _narrow(h) * cells.width) ** 2 / 2
        return (cells.width > h) & (cells.value > cells.top(len(self.points))[cells.owner] - deep)

    def _judged(self, cells: Cells, tol: float) -> Cells:
        r"""Updates values and their changes, and returns the cells of the points that have not settled."""
        B, at = len(self.points), cells.owner.bincount().nonzero().flatten()
        value = cells.mass(B)[at]
        change = (value - self.value[at]).abs()
        outside = cells[cells.u.abs().amax(1) > self.reach[cells.owner] - 1].mass(B)[at]
        edge = outside > value + math.log(min(tol, EDGE))
        self.settled[at] = (change < tol) & (self.change[at] < NEAR) & ~edge
        self.value[at], self.change[at] = value, change.masked_fill(edge, math.inf)
        self.reach[at[edge]] *= 2
        goes_on = ~self.settled & (self.reach <= WIDEST)
        cells, wider = cells[goes_on[cells.owner]], at[edge & goes_on[at]]
        return cells + self._laid(wider, self.cube[self.cube.abs().amax(1) > HALF_WIDTH / 2]) if len(wider) else cells

    def _laid(self, points: Tensor, cube: Tensor) -> Cells:
        r"""Returns the cells of a part of the first cube, scaled to the reach of the points' grids."""
        return self._cells(*laid(points, self.reach[points] / HALF_WIDTH, cube))

    def _cells(self, owner: Tensor, width: Tensor, u: Tensor) -> Cells:
        return Cells(owner, width, u, log_joint(self.model, self.points, self.scales, owner, width, u))


def _narrow(h: float) -> float:
    r"""Returns the smallest scale of a mode for which a split to cells of width h allows."""
    return NARROW if h > NARROW else RESOLVED * h
