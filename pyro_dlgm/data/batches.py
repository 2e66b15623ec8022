r"""Batches of data in memory, of a memory map, or of images that stay in their files."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .. import masks, messages
from ..points import Points
from .conversion import whole
from .streamed_images import Streamed


def transformed(points: Points, transform) -> Points:
    r"""The points with their values as a model sees them; what is missing is 0 before the transform looks at it."""
    return points if transform is None else replace(points, x=transform(points.observed()))


def _check_tensors(points: Points) -> None:
    for name, value in vars(points).items():
        if not isinstance(value, Tensor | Streamed | None):
            how = messages.as_tensor(name, value)
            raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor: {how}")


class Batches:
    r"""Creates the batches of data, `Points` with their index, shuffled anew at each pass.

    A batch is one indexed tensor, no collection of items; those of `Streamed` images are read by processes that run
    ahead. Generators are torch's global ones. A pass that was left half-way goes on with its remaining batches, in its
    order. One batch of all points has them in their order.

    Arguments:
        x: data (N, ...), or `Points`.
        batch_size: points in a batch; the last one may be shorter.
        transform: drawn afresh on each batch, or `None`.
        mask: boolean, of x's shape or (N,), or `None`.
        given: what the points are conditioned on, (N, C), or `None`.
        weight: factors (N,) of the points' parts of the objective, or `None`.

    Attributes:
        epoch: the number of the pass, counted from 1.
        ended: whether the last batch was the last one of its pass.

    Raises:
        TypeError: if x or what comes with it is no tensor.
        ValueError: if there are no points, or the size of a batch or the mask does not fit.
    """

    def __init__(self, x: Tensor | Streamed | Points, batch_size: int, *, transform=None, **beside: Tensor | None):
        points, batch_size = Points.of(x, **beside), whole("batch_size", batch_size)
        _check_tensors(points)
        if len(points) == 0:
            raise ValueError(f"x has shape {tuple(points.x.shape)}: there are no points")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        if points.mask is not None:
            masks.check(points.mask, points.x)
        self.points, self.transform = points.numbered(), transform
        self.batch_size, self.num_points = min(batch_size, len(points)), len(points)
        self._order, self._position, self.epoch = torch.empty(0, dtype=torch.long), 0, 0

    def __len__(self) -> int:
        return math.ceil(self.num_points / self.batch_size)

    @property
    def device(self) -> torch.device:
        r"""Where the batches are."""
        return self.points.x.device

    @property
    def ended(self) -> bool:
        r"""Whether no batch of this pass is left."""
        return self._position * self.batch_size >= len(self._order)

    def first(self, num: int) -> Points:
        r"""The first points, as a model sees them after one draw of the transform; images in files are read."""
        return transformed(self.points[self.points.index[:num]], self.transform)

    def state_dict(self) -> dict:
        r"""The number of this pass, its order (N,), and how many of its batches are done."""
        return {"order": self._order, "position": self._position, "epoch": self.epoch}

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` saved: the next pass is the rest of that one."""
        self._order, self._position, self.epoch = state["order"], state["position"], state["epoch"]

    def __iter__(self) -> Iterator[Points]:
        if self.ended:
            order = torch.randperm(self.num_points)
            self._order = order if self.batch_size < self.num_points else torch.arange(self.num_points)
            self._position, self.epoch = 0, self.epoch + 1
        left = self._order.to(self.device).split(self.batch_size)[self._position :]
        for batch in self._read(left):
            self._position += 1
            yield transformed(batch, self.transform)

    def _read(self, left: tuple[Tensor, ...]) -> Iterator[Points]:
        x, rest = self.points.x, replace(self.points, x=self.points.index)
        values = x.batches(left) if isinstance(x, Streamed) else (x[rows] for rows in left)
        for rows, read in zip(left, values, strict=True):
            yield replace(rest[rows], x=read)
