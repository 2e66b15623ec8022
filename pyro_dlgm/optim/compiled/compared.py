r"""A compiled step whose first losses are compared with those of the eager step."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ... import messages
from ...program import unregistered
from ...seeding import forked, restore
from ..attempt import Attempt
from ..clipping import norm
from .batch_loss import Arguments
from .noise import NotCaptured
from .tensor_step import TensorStep

TIMES = 2  # with different parameters, to detect one that has become a constant
AGREE = 1e-4  # the relative difference of two losses that counts as rounding
AGREE_BF16 = 1e-2  # a number of bfloat16 is off by up to 0.4%, and a compiled program rounds in other places


class Compared:
    r"""Creates the compiled step of an `SVI` for batches of one kind.

    A step whose loss differs from the eager one is undone: its graph is not what the program does, which may use random
    numbers of Python, or values that were wrongly taken for constants.

    Arguments:
        svi, batch, only, backend: as in `TensorStep`.

    Raises:
        NotCaptured: with the reason, if it cannot be captured.
    """

    def __init__(self, svi, batch: Arguments, only: list[Tensor] | None, backend: str):
        self.svi, self.left = svi, TIMES
        with put_back(svi), refusing():
            self.step = TensorStep(svi, batch, only, backend)

    def __call__(self, batch: Arguments, attempt: Attempt) -> tuple[Tensor, Tensor, Tensor | None]:
        r"""Takes the step on the batch of the attempt; returns what `TensorStep` does."""
        noise = self.step.captured.noise()
        if not self.left:
            return self.step(batch, noise)
        with refusing():
            expected, written = eager_loss(self.svi, batch, attempt), self.step.written()
        try:
            with undone(written), refusing(), forked():  # compiling may draw
                done = self.step(batch, noise)
                compare(self.svi, done[0], expected)
        except NotCaptured:
            self.svi.clear()
            restore(attempt.generators)
            raise
        self.left -= 1
        return done


def eager_loss(svi, batch: Arguments, attempt: Attempt) -> Tensor:
    r"""Returns the loss of the eager step; the very first one runs with Pyro's validation as it is set."""
    with put_back(svi), torch.no_grad(), unregistered(), svi.validation(), svi.rounding:
        restore(attempt.generators)
        loss = svi.objective.differentiable_loss(svi.program, svi.guide, *batch.args, **batch.kwargs)
    svi.validated = True
    return batch.factor * loss


def eager_gradient(svi, attempt: Attempt) -> tuple[Tensor, Tensor]:
    r"""Returns the loss of the eager step, and the norm of its dense gradients, 0 if there are none."""
    with put_back(svi):
        restore(attempt.generators)
        loss = attempt.backward().detach()
    svi.backward_passes -= 1  # it is no step
    dense = [p.grad for p in svi.parameters() if p.grad is not None and not p.grad.is_sparse]
    total = norm(dense) if dense else torch.zeros_like(loss)
    svi.clear()
    return loss, total


def compare(svi, loss: Tensor, expected: Tensor, what: str = "loss") -> None:
    r"""Raises `NotCaptured` unless a number is that of the eager step, up to rounding."""
    agree = AGREE if svi.precision is None else AGREE_BF16
    if not torch.isclose(loss, expected.to(loss), rtol=agree, atol=agree, equal_nan=True):
        raise NotCaptured(f"its {what} is {float(loss):.7g}, and {float(expected):.7g} without compiling")


@contextlib.contextmanager
def put_back(svi) -> Iterator[None]:
    r"""Context manager: restores generators and buffers afterwards."""
    buffers = [b for m in svi.modules() for b in m.buffers(recurse=False)]
    before = [b.clone() for b in buffers]
    with forked():
        try:
            yield
        finally:
            with torch.no_grad():
                [b.copy_(old) for b, old in zip(buffers, before, strict=True)]


@contextlib.contextmanager
def undone(written: list[Tensor]) -> Iterator[None]:
    r"""Context manager: after an error, restores the tensors that a step has overwritten."""
    before = [v.detach().clone() for v in written]
    try:
        yield
    except Exception:
        with torch.no_grad():
            [v.copy_(old) for v, old in zip(written, before, strict=True)]
        raise


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    r"""Context manager: turns all errors of torch and Pyro into `NotCaptured`."""
    try:
        yield
    except NotCaptured:
        raise
    except Exception as error:
        raise NotCaptured(f"{type(error).__name__}: {messages.line(error)}") from error
