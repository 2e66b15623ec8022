r"""Cells of a grid over t, each for one point x_i, with log p(x_i, t | w) at their midpoints."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributions import mean, stddev
from ...latents import asked
from ...likelihoods.bernoulli import Bernoulli
from ...model import DLGM
from ...points import Points
from ...seeding import forked
from ...storage.sums import sums_dtype, widened

NUMBERS = 2**21  # values of x to decode or evaluate at a time
NODES = 2**8  # midpoints to decode at a time, at most
SIDE = 16  # cells; neighbours are decoded together, since nearly the same points need them
CUBES = 2**12  # in a row, on the widest grid with the finest cells
LEVELS = 16  # widths of cells


@dataclass
class Cells:
    r"""Cells as columns: owner (the point), width, midpoint u (n, D) in prior units, and log density there (n,).

    Widths are powers of 2, so that float32 represents them and the midpoints exactly. Densities are float64, in nats.
    """

    owner: Tensor
    width: Tensor
    u: Tensor
    value: Tensor

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, which: Tensor) -> "Cells":
        rows = which.nonzero().flatten()
        return Cells(*(column.index_select(0, rows) for column in vars(self).values()))

    def __add__(self, more: "Cells") -> "Cells":
        return Cells(*(torch.cat(pair) for pair in zip(vars(self).values(), vars(more).values(), strict=True)))

    def top(self, num_points: int) -> Tensor:
        r"""Returns the highest value of each point, (B,); −∞ for points without cells."""
        low = self.value.new_full((num_points,), -math.inf)
        return low.scatter_reduce(0, self.owner, self.value, "amax")

    def mass(self, num_points: int) -> Tensor:
        r"""Returns log Σ_c width_c^D exp value_c of each point, (B,); −∞ for points without cells."""
        top = self.top(num_points)
        top = torch.where(top.isfinite(), top, 0.0)
        terms = (self.value - top[self.owner]).exp() * self.width ** self.u.shape[1]
        return top + torch.zeros_like(top).index_add(0, self.owner, terms).log()

    def children(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns owners, widths and midpoints of the 2^D halves of each cell."""
        corners = product(torch.tensor([-0.25, 0.25], device=self.u.device), self.u.shape[1])
        u = self.u.unsqueeze(1) + corners * self.width.view(-1, 1, 1)
        return *(v.repeat_interleave(len(corners)) for v in (self.owner, self.width / 2)), u.flatten(0, 1)


def laid(points: Tensor, width: Tensor, cube: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns owners, widths and midpoints of the cells of a cube in units of width, (n, D), for each point."""
    u = (width.view(-1, 1, 1) * cube).flatten(0, 1)
    return *(v.repeat_interleave(len(cube)) for v in (points, width)), u


def product(axis: Tensor, D: int) -> Tensor:
    r"""Returns the points of the grid axis^D, (len(axis)^D, D)."""
    return torch.cartesian_prod(*[axis] * D).reshape(-1, D)


def log_joint(model, points: Points, scales: tuple[Tensor, Tensor], owner: Tensor, width: Tensor, u: Tensor) -> Tensor:
    r"""Returns log p(x_i, t | w) dt/du of the point i = owner_c at t = mean + scale · u_c, for each cell c, in blocks.

    With a plain `Bernoulli`, in a model whose ``log_joint`` is `DLGM`'s, each midpoint is decoded once for all points
    that need it. Subclasses of either may have changed the density without the table, and are evaluated pair by pair.

    Arguments:
        model: a `DLGM`.
        points: the B points, which the model has checked.
        scales: mean and scale of p(t), from `prior_scales`.
        owner: the points of the cells (n,).
        u: the midpoints of the cells (n, D), in units of the prior's scale.
        width: the widths of the cells (n,), powers of 2.

    Returns:
        Nats (n,), in float64.
    """
    loc, scale = (v[owner] if v.dim() > 1 else v for v in scales)
    t = loc + scale * u.to(loc)
    own = all(
        getattr(getattr(model, name, None), "__func__", None) is vars(DLGM)[name] for name in ("log_joint", "datum")
    )
    plain = own and type(model.likelihood) is Bernoulli and points.given is None
    values = _shared(model, points, owner, t, _places(width, u)) if plain else _alone(model, points, owner, t)
    return values + widened(scale).log().sum(-1)


def prior_scales(model, points: Points) -> tuple[Tensor, Tensor]:
    r"""Returns mean and scale of p(t): (D,), or (B, D) if it depends on ``given``. They are the same at each call."""
    with forked(0):
        p = asked.prior(model, points)
        return mean(p), stddev(p)


def _alone(model, points: Points, owner: Tensor, t: Tensor) -> Tensor:
    r"""Returns log p(x_i, t | w) pair by pair, (n,)."""
    rows = max(1, NUMBERS // points.x[0].numel())
    pairs = zip(owner.split(rows), t.split(rows), strict=True)
    return torch.cat([widened(asked.log_joint(model, points[i], codes)) for i, codes in pairs])


def _shared(model, points: Points, owner: Tensor, t: Tensor, place: Tensor) -> Tensor:
    r"""Returns log p(x_i, t | w), (n,), from tables of neighbouring codes and the points that need any of them."""
    prior, values = model.prior(), t.new_empty(len(t), dtype=sums_dtype(t.device))
    place, order = place.sort()
    node = place.unique_consecutive(return_inverse=True)[1]
    size = max(1, min(NODES, NUMBERS // points.x[0].numel()))
    counts = (node // size).bincount().tolist()
    for here, row in zip(order.split(counts), (node % size).split(counts), strict=True):
        asking, column = owner[here].unique(return_inverse=True)
        some = points[asking]
        codes = t.new_empty(int(row[-1]) + 1, t.shape[1])
        codes[row] = t[here]
        table = model.likelihood.table(some.x, codes, some.mask)
        values[here] = table[row, column] + widened(prior.log_prob(codes))[row]
    return values


def _places(width: Tensor, u: Tensor) -> Tensor:
    r"""Returns a number for each cell, by which cells of one width in a cube of SIDE^D sort together."""
    cell, level = (u / width.unsqueeze(1)).floor().long(), width.log2().long()
    code = level + LEVELS
    for part, size in (((cell >> SIDE.bit_length() - 1) + CUBES // 2, CUBES), (cell & SIDE - 1, SIDE)):
        for coordinate in part.unbind(1):
            code = code.mul_(size).add_(coordinate)
    return code
