r"""Integrals of p(x, t | w) over a cube of t, on cells that are split where the mass is."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .cells import Cells, Points, product
from .nodes import log_joint

HALF_WIDTH = 6.0  # of the first grid, in units of the prior's scale
NARROW = 0.05  # the smallest scale of a mode, in units of the prior's, of which at first no mass is cut off
FINEST = 2.0**-9  # the smallest h
TAIL = 10.0  # nats below the mode, behind which no mass is looked for
NEAR = 0.5  # nats: a change that is small by chance comes behind one that is large
EDGE = 1e-2  # of the mass outside is too much, whatever the tolerance
CELLS = 2**23  # of a block, at most; a cell takes some 170 bytes on its way


@dataclass(frozen=True)
class Grid:
    r"""How to integrate over [−reach, reach]^D, in units of the prior's scale.

    Arguments:
        model: a `DLGM`.
        tol: nats by which a value may change where it has settled.
        reach: half the side of the cube.
        narrow: the smallest scale of a mode of which no mass is cut off.
    """

    model: torch.nn.Module
    tol: float
    reach: float = HALF_WIDTH
    narrow: float = NARROW

    def first(self, x: Tensor, mask: Tensor | None) -> Cells:
        r"""All cells of width 1, for all points."""
        (D,) = self.model.prior().event_shape
        middle = torch.arange(0.5 - self.reach, self.reach, dtype=torch.float64, device=x.device)
        u = product(middle, D)
        owner = torch.arange(len(x), device=x.device).repeat_interleave(len(u))
        u = u.repeat(len(x), 1)
        return Cells(owner, u, log_joint(self.model, x, mask, owner, u, 1.0), 1.0)

    def integral(self, x: Tensor, mask: Tensor | None) -> Points:
        r"""The points x (B, ...) with their integrals, settled or not."""
        B, cells = len(x), self.first(x, mask)
        one, no = torch.ones_like(cells.value[:B]), torch.zeros(B, dtype=torch.bool, device=x.device)
        points = Points(x, mask, cells.mass(B), rest=-one / 0, change=one / 0, width=one, settled=no, edge=no.clone())
        return self._refined(points, cells)

    def _refined(self, p: Points, cells: Cells) -> Points:
        r"""The points when cells with mass have been split until values settle; in halves where cells are too many."""
        B, D = len(p.x), cells.u.shape[1]
        # Mass that is cut off at the edge settles slowly: it is for a wider grid.
        while not (done := p.settled | p.edge).all() and cells.width > FINEST:
            near = (cells.value > cells.top(B)[cells.owner] - self._deep(D, cells.width)) & ~done[cells.owner]
            too_many = int(near.sum()) * 2**D > CELLS
            if too_many and B > 1:
                halves = torch.arange(B, device=near.device).chunk(2)
                return Points.joined([self._refined(p[half], cells.of(half)) for half in halves])
            if too_many or not near.any():  # none are near where the density is 0, or not a number, at all nodes
                break
            p, cells = self._split(p, cells, near, done)
        return p

    def _split(self, p: Points, cells: Cells, near: Tensor, done: Tensor) -> tuple[Points, Cells]:
        r"""The points when the near cells have been split, and the children of those."""
        B = len(p.x)
        rest = torch.where(done, p.rest, torch.logaddexp(p.rest, cells[~near].mass(B)))
        owner, u, width = cells[near].split()
        cells = Cells(owner, u, log_joint(self.model, p.x, p.mask, owner, u, width), width)
        value = torch.where(done, p.value, torch.logaddexp(rest, cells.mass(B)))
        change = (value - p.value).abs()
        outside = cells[u.abs().amax(1) > self.reach - 1].mass(B)
        edge = torch.where(done, p.edge, outside > value + math.log(min(self.tol, EDGE)))
        settled = p.settled | ((change < self.tol) & (p.change < NEAR))
        widths = torch.where(done, p.width, width)
        return replace(p, value=value, rest=rest, change=change, width=widths, settled=settled, edge=edge), cells

    def _deep(self, D: int, width: float) -> float:
        r"""Nats below the highest node of a point, behind which a node's cell of that width holds no mass.

        A node of a cell that holds mass may be half a diagonal away from the mode, and another node be on it.
        """
        return (math.sqrt(2 * TAIL) + math.sqrt(D) * width / 2 / self.narrow) ** 2 / 2
