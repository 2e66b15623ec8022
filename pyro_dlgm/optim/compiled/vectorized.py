r"""One step for several `SVI`s: that of the first, as a function of tensors, over stacked tensors of all."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..attempt import Attempt
from .batch_loss import Arguments
from .compared import TIMES, compare, eager_gradient, put_back, refusing, undone
from .program import program
from .stacks import Stacks
from .tensor_step import TensorStep


class Queued(NamedTuple):
    r"""A step of one `SVI` that has drawn its noise."""

    attempt: Attempt
    batch: Arguments
    kind: int
    noise: list[Tensor]


class Vectorized:
    r"""Creates the step for batches of one kind.

    Its first losses and gradients are compared with those of eager steps, as in `Compared`; a step that differs is
    undone.

    Arguments:
        svis: pairs with objectives and optimizers, alike but for the values of their tensors.
        stacks: their stacked tensors.
        batch: a batch of the first.
        backend: the backend of `torch.compile`; `False`: the step is not compiled.

    Raises:
        NotCaptured: if the step of the first is not a function of tensors.
    """

    def __init__(self, svis: list, stacks: Stacks, batch: Arguments, backend: str | bool):
        self.svis, self.stacks, self.backend, self.left = svis, stacks, backend, TIMES
        with put_back(svis[0]), refusing():
            self.step = TensorStep(svis[0], batch)
            self.step.written()  # which makes the moments of the first
            stacks.find()
        self._call = None

    @property
    def has_norm(self) -> bool:
        r"""Whether there are dense gradients."""
        return bool(self.step.dense)

    def noise(self) -> list[Tensor]:
        r"""Returns new draws from the global generators, for one of them."""
        return self.step.captured.noise()

    def __call__(self, queue: list[Queued]) -> list[Tensor]:
        r"""Takes the steps; returns loss, flag and norm, (S,), and gradients (S, ...) that other optimizers apply.

        Raises:
            NotCaptured: if it cannot be vectorized, or a loss is not that of the eager step; it is not taken then.
        """
        if not self.left:
            return self._taken(queue)
        with refusing():
            expected = [eager_gradient(svi, q.attempt) for svi, q in zip(self.svis, queue, strict=True)]
            written = self.stacks.of([v for v in self.step.written() if v in self.stacks])
            with undone(written):
                done = self._taken(queue)
                for svi, loss, total, one in zip(self.svis, done[0], done[2], expected, strict=True):
                    compare(svi, loss, one[0])
                    compare(svi, total, one[1], "gradient")
        self.left -= 1
        return done

    def finish(self, number: int, queued: Queued, bad: Tensor, rest: list[Tensor]) -> None:
        r"""Passes flag and gradients of one of them to its other optimizers, which take their steps."""
        svi, first = self.svis[number], self.svis[0]
        self.step.put(rest, queued.batch.index, lambda p: self.stacks.like(p, number))
        svi.raise_flag(queued.attempt, bad)
        others = {id(optimizer) for optimizer in self.step.optimizers()}
        for optimizer, of_first in zip(svi.optimizers, first.optimizers, strict=True):
            if id(of_first) in others:
                optimizer.step()
        svi.clear()

    @torch.no_grad()
    def _taken(self, queue: list[Queued]) -> list[Tensor]:
        read, states, speeds = self.step.kept()
        inputs, noise = (_stacked(each) for each in ([q.batch.inputs() for q in queue], [q.noise for q in queue]))
        flags = torch.stack([self.step.flag(svi, inputs[0]) for svi in self.svis])
        sections = [inputs, noise, self.stacks.of(read), self.stacks.of(states), speeds, [flags]]
        if self._call is None:
            axes = (0, 0, [0 if v in self.stacks else None for v in read], 0, None, 0)  # lengths of steps are alike
            self._call = program(torch.vmap(self.step.whole, in_dims=axes), sections, self.backend)
        return self._call(*(v for section in sections for v in section))


def _stacked(each: list[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(alike) for alike in zip(*each, strict=True)]
