r"""A compiled step whose first losses are compared with those of the eager step, on other batches and parameters."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import messages
from ..program import unregistered
from ..seeding import forked, restore
from .batch_loss import Batch
from .nan_guard import Attempt
from .noise import NotCaptured
from .tensor_step import TensorStep

TIMES = 2  # with parameters that differ, so that none has become a constant
AGREE = 1e-4  # the relative difference of two losses that is rounding


class Compared:
    r"""Creates the compiled step of an `SVI` on batches like one of them.

    A step whose loss is not the eager one's is taken back: its graph does not say what the program does, in which there
    are random numbers of Python, say, or constants that were none.

    Arguments:
        svi, batch, only, backend: as `TensorStep` takes them.

    Raises:
        NotCaptured: if it cannot be captured; it says why.
    """

    def __init__(self, svi, batch: Batch, only: list[Tensor] | None, backend: str):
        self.svi, self.left = svi, TIMES
        with _put_back(svi), _refusing():
            self.step = TensorStep(svi, batch, only, backend)

    def __call__(self, batch: Batch, attempt: Attempt) -> tuple[Tensor, Tensor, Tensor | None]:
        r"""Takes the step on the batch of the attempt; returns what `TensorStep` does."""
        noise = self.step.captured.noise()
        if not self.left:
            return self.step(batch, noise)
        with _refusing():
            expected, written = self._eager(batch, attempt), self.step.written()
        before = [v.detach().clone() for v in written]
        try:
            with _refusing(), forked():  # compiling may draw
                done = self.step(batch, noise)
                self._compare(done[0], expected)
        except NotCaptured:
            with torch.no_grad():
                [v.copy_(old) for v, old in zip(written, before, strict=True)]
            self.svi.clear()
            restore(attempt.generators)
            raise
        self.left -= 1
        return done

    def _eager(self, batch: Batch, attempt: Attempt) -> Tensor:
        r"""The loss of the eager step; at the very first one with Pyro's validation as it is set."""
        with _put_back(self.svi), torch.no_grad(), unregistered(), self.svi.validation():
            restore(attempt.generators)
            loss = self.svi.objective.differentiable_loss(self.svi.program, self.svi.guide, *batch.args, **batch.kwargs)
        self.svi.validated = True
        return batch.factor * loss

    @staticmethod
    def _compare(loss: Tensor, expected: Tensor) -> None:
        if not torch.isclose(loss, expected.to(loss), rtol=AGREE, atol=AGREE, equal_nan=True):
            raise NotCaptured(f"its loss is {float(loss):.7g}, and {float(expected):.7g} without compiling")


@contextlib.contextmanager
def _put_back(svi) -> Iterator[None]:
    r"""Context manager: generators and buffers are as before, afterwards."""
    buffers = [b for m in svi.modules() for b in m.buffers(recurse=False)]
    before = [b.clone() for b in buffers]
    with forked():
        try:
            yield
        finally:
            with torch.no_grad():
                [b.copy_(old) for b, old in zip(buffers, before, strict=True)]


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    r"""Context manager: whatever torch and Pyro say of a program that cannot be captured is a `NotCaptured`."""
    try:
        yield
    except NotCaptured:
        raise
    except Exception as error:
        raise NotCaptured(f"{type(error).__name__}: {messages.line(error)}") from error
