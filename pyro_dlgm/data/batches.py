r"""Batches of data in memory, or of images that stay in their files."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import masks
from .streamed_images import Streamed


class Batches:
    r"""Creates the batches (x, index, mask) of data, shuffled anew at each pass.

    A batch is one indexed tensor, no collection of items; those of `Streamed` images are read by processes that run
    ahead. Generators are torch's global ones. A pass that was left half-way goes on with its remaining batches, in its
    order.

    Arguments:
        x: data (N, ...).
        batch_size: points in a batch; the last one may be shorter.
        transform: drawn afresh on each batch, or `None`.
        mask: boolean, of x's shape or (N,), or `None`.
    """

    def __init__(self, x: Tensor | Streamed, batch_size: int, *, transform=None, mask: Tensor | None = None):
        if len(x) == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: there are no points")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        if mask is not None:
            masks.check(mask, x)
        self.x, self.mask, self.transform = x, mask, transform
        self.batch_size, self.num_points = min(batch_size, len(x)), len(x)
        self._order, self._position = torch.empty(0, dtype=torch.long), 0

    def __len__(self) -> int:
        return math.ceil(self.num_points / self.batch_size)

    def state_dict(self) -> dict:
        r"""The order of this pass (N,) and the number of its batches that are done."""
        return {"order": self._order, "position": self._position}

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` saved: the next pass is the rest of that one."""
        self._order, self._position = state["order"], state["position"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        if self._position * self.batch_size >= len(self._order):
            self._order, self._position = torch.randperm(self.num_points), 0
        left = self._order.to(self.x.device).split(self.batch_size)[self._position :]
        values = self.x.batches(left) if isinstance(self.x, Streamed) else (self.x[index] for index in left)
        for index, x in zip(left, values, strict=True):
            self._position += 1
            mask = None if self.mask is None else self.mask[index]
            yield x if self.transform is None else self.transform(x), index, mask
