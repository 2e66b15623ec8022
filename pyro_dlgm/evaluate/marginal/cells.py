r"""Cells of a grid over t, each of one point, and points, each of one integral, as arrays."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Cells:
    r"""Cells of one width: whose they are (n,), their midpoints u (n, D) in prior units, log p(x, t) there (n,)."""

    owner: Tensor
    u: Tensor
    value: Tensor
    width: float

    def __getitem__(self, which: Tensor) -> "Cells":
        return Cells(self.owner[which], self.u[which], self.value[which], self.width)

    def of(self, points: Tensor) -> "Cells":
        r"""The cells of consecutive points, the first of which is called 0 from here on."""
        a, b = torch.searchsorted(self.owner, points[[0, -1]] + torch.tensor([0, 1], device=points.device)).tolist()
        return Cells(self.owner[a:b] - points[0], self.u[a:b], self.value[a:b], self.width)

    def mass(self, num_points: int) -> Tensor:
        r"""log Σ_c h^D exp value_c of each point, (B,); −∞ where there are none."""
        top = self.top(num_points)
        top = torch.where(top.isfinite(), top, 0.0)
        sums = torch.zeros_like(top).index_add(0, self.owner, (self.value - top[self.owner]).exp())
        return top + sums.log() + self.u.shape[1] * math.log(self.width)

    def top(self, num_points: int) -> Tensor:
        r"""The highest value of each point, (B,)."""
        low = self.value.new_full((num_points,), -math.inf)
        return low.scatter_reduce(0, self.owner, self.value, "amax")

    def split(self) -> tuple[Tensor, Tensor, float]:
        r"""Owners, midpoints and width of the 2^D children of each cell."""
        D, half = self.u.shape[1], self.width / 2
        corners = product(torch.tensor([-half / 2, half / 2], dtype=self.u.dtype, device=self.u.device), D)
        children = (self.u.unsqueeze(1) + corners).flatten(0, 1)
        return self.owner.repeat_interleave(len(corners)), children, half


@dataclass
class Points:
    r"""Points of a block and what is known of them, each (B,)."""

    x: Tensor
    mask: Tensor | None
    value: Tensor  # log p(x | w)
    rest: Tensor  # the part of it in cells that are split no more
    change: Tensor  # of the value, when cells were split last
    width: Tensor  # of those
    settled: Tensor
    edge: Tensor  # whether mass lies at the edge of the grid

    def __getitem__(self, which: Tensor) -> "Points":
        return Points(*(None if part is None else part[which] for part in self._parts()))

    def __setitem__(self, which: Tensor, points: "Points") -> None:
        for part, new in zip(self._parts(), points._parts(), strict=True):
            if part is not None:
                part[which] = new

    def _parts(self) -> list[Tensor | None]:
        return [getattr(self, f.name) for f in fields(self)]

    @classmethod
    def joined(cls, parts: "list[Points]") -> "Points":
        r"""The points of several blocks as one."""
        columns = zip(*(part._parts() for part in parts), strict=True)
        return cls(*(None if column[0] is None else torch.cat(column) for column in columns))


def product(axis: Tensor, D: int) -> Tensor:
    r"""The points of the grid axis^D, (len(axis)^D, D)."""
    return torch.cartesian_prod(*[axis] * D).reshape(-1, D)
