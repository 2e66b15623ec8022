r"""Batches of data in memory, in a memory map, or of images that stay in their files."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .. import masks, messages
from ..points import Points, evenly
from ..storage.orders import WHOLE, order
from .conversion import whole
from .streamed_images import Streamed


def transformed(points: Points, transform) -> Points:
    r"""Returns the points after the transform; missing values are set to 0 before it."""
    return points if transform is None else replace(points, x=transform(points.observed()))


def _check_tensors(points: Points) -> None:
    for name, value in vars(points).items():
        if not isinstance(value, Tensor | Streamed | None):
            how = messages.as_tensor(name, value)
            raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor: {how}")


class Batches:
    r"""Creates batches of data, as `Points` with their index, shuffled anew in each pass.

    A batch is one indexed tensor, rather than a collection of items; those of `Streamed` images are read by processes
    that run ahead. Generators are torch's global ones. A pass that was left early continues with its remaining batches,
    in its order. One batch of all points keeps their order. For more than a million points, and for blocks, the order
    is computed on the fly (`orders`), so that it takes no memory per point.

    Arguments:
        x: data (N, ...), or `Points`.
        batch_size: the number of points in a batch; the last one may be shorter.
        transform: applied to each batch, or `None`.
        block: the number of points in a block of neighbours; blocks are visited in shuffled order, and shuffled inside.
            `None`: all points are shuffled.
        mask: boolean, of x's shape or (N,), or `None`.
        given: what the points are conditioned on, (N, C), or `None`.
        weight: factors (N,) of the points' terms in the objective, or `None`.

    Attributes:
        own: the points that a pass visits: all N.
        epoch: the number of the pass, counted from 1.
        ended: whether the latest batch was the last one of its pass.

    Raises:
        TypeError: if x or another argument is not a tensor.
        ValueError: if there are no points, or the batch size or the mask does not fit.
    """

    def __init__(
        self,
        x: Tensor | Streamed | Points,
        batch_size: int,
        *,
        transform=None,
        block: int | None = None,
        **beside: Tensor | None,
    ):
        points, batch_size = Points.of(x, **beside), whole("batch_size", batch_size)
        _check_tensors(points)
        if len(points) == 0:
            raise ValueError(f"x has shape {tuple(points.x.shape)}: there are no points")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        if points.mask is not None:
            masks.check(points.mask, points.x)
        self.points, self.transform = replace(points, index=None), transform
        self.batch_size, self.num_points = min(batch_size, len(points)), len(points)
        self.block = None if block is None or block >= len(points) else block
        self.own = range(len(points))
        self._order, self._position, self.epoch = torch.empty(0, dtype=torch.long), len(self), 0

    def __len__(self) -> int:
        return math.ceil(self.num_points / self.batch_size)

    @property
    def device(self) -> torch.device:
        r"""The device of the batches."""
        return self.points.x.device

    @property
    def ended(self) -> bool:
        r"""Whether no batch of this pass is left."""
        return self._position >= len(self)

    def take(self, rows: Tensor) -> Points:
        r"""Returns these points with their index, before the transform."""
        rows = rows.to(self.device, non_blocking=True)
        return replace(self.points[rows], index=rows)

    def drawn(self) -> Points:
        r"""Returns a batch of random points, independent of the pass, after the transform."""
        return transformed(self.take(torch.randperm(self.num_points)[: self.batch_size]), self.transform)

    def first(self, num: int) -> Points:
        r"""Returns the first points, after one draw of the transform; reads images in files."""
        return transformed(self.take(torch.arange(min(num, len(self.own))) + self.own.start), self.transform)

    def spread(self, num: int) -> Points:
        r"""Returns up to ``num`` points from all over the data, before the transform."""
        return self.take(evenly(self.num_points, num))

    def state_dict(self) -> dict:
        r"""Returns the number of this pass, its order (N,) or the seed of it, and how many of its batches are done."""
        return {"order": self._order, "position": self._position, "epoch": self.epoch}

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` saved: the next pass is the rest of that one."""
        self._order, self._position, self.epoch = state["order"], state["position"], state["epoch"]
        if isinstance(self._order, Tensor) and len(self._order) == 0:  # saved before the first pass
            self._position = len(self)

    def __iter__(self) -> Iterator[Points]:
        if self.ended:
            self._order, self._position, self.epoch = self._drawn(), 0, self.epoch + 1
        elif self._order is None:  # the pass was begun by another number of processes
            self._order = self._drawn()
        for batch in self._read(self._left()):
            self._position += 1
            yield transformed(batch, self.transform)

    def _drawn(self) -> Tensor | int:
        r"""Returns the order of a new pass, or the seed of it."""
        num = len(self.own)
        if self.batch_size == self.num_points:
            return torch.arange(num)
        if self.block is None and num <= WHOLE:
            return torch.randperm(num)
        return int(torch.randint(2**62, ()))

    def _left(self) -> Iterator[Tensor]:
        r"""Returns the rows of each remaining batch of the pass."""
        held = self._order
        if isinstance(held, Tensor):  # moved once for a pass: a copy for each batch would wait for the device
            held = held.to(self.device)
        return order(self.num_points, held, self.block).batches(self.batch_size, self._position)

    def _read(self, left: Iterator[Tensor]) -> Iterator[Points]:
        x = self.points.x
        if not isinstance(x, Streamed):
            yield from map(self.take, left)
            return
        rest, left = replace(self.points, x=torch.empty(1).expand(len(x))), [rows.to(self.device) for rows in left]
        for rows, read in zip(left, x.batches(left), strict=True):
            yield replace(rest[rows], x=read, index=rows)
