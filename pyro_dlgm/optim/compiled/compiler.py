r"""Compiled steps: for each kind of batch, the step is captured once, compared with the eager step, and run.

A step is a function of parameters, moments, data and noise (`tensor_step`), which `torch.compile` turns into one
program. Noise is drawn outside, in the order and from the generators of the eager step: losses agree up to rounding,
and a run can be continued either way. If a step cannot be captured, a warning says why, and the eager step is taken.
"""

import warnings

import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from ...guides.base import adapted
from ...guides.rows import Rows
from ...objectives.elbo import ELBO
from ..attempt import Attempt
from .batch_loss import Arguments
from .compared import Compared
from .noise import NotCaptured

MOST = 8  # kinds of batches to compile, at most
PLAIN = (bool, int, float, str, type(None))


class Compiler:
    r"""Creates the object that takes the steps of an `SVI` compiled.

    Arguments:
        svi: the pair with objective and optimizers.
        backend: the name of a backend of `torch.compile`, or `True` for "inductor".
        size: the number of points of the batches to compile, since compiling another size, such as that of the last
            batch of an epoch, takes as long as thousands of steps. `None`: each size, up to eight.
    """

    def __init__(self, svi, backend: bool | str, size: int | None = None):
        self.svi, self.backend, self.size = svi, "inductor" if backend is True else backend, size
        self.steps: dict[tuple, Compared | None] = {}
        modules = svi.modules()
        self._tables = [m for m in modules if isinstance(m, Rows)] if svi.sparse else []
        self._attributes = [(vars(m), name) for m in modules for name, v in vars(m).items() if isinstance(v, PLAIN)]
        self._said: set[str] = set()

    def step(self, attempt: Attempt, only: list[Tensor] | None, factor: float) -> Tensor | None:
        r"""Takes the step and returns its loss; returns `None` if it has to be taken eagerly.

        Raises:
            FloatingPointError: as `SVI.check`.
        """
        kind = None
        try:
            batch = self._batch(attempt, only, factor)
            kind = self._kind(batch, only)
            if kind not in self.steps:
                self.steps[kind] = None  # for good, if it cannot be captured
                self.steps[kind] = Compared(self.svi, batch, only, self.backend)
            step = self.steps[kind]
            done = None if step is None else step(batch, attempt)
        except NotCaptured as reason:
            if kind in self.steps:
                self.steps[kind] = None
            return self._warn(str(reason))
        return None if done is None else self._finish(attempt, step.step.optimizers(), *done)

    def _batch(self, attempt: Attempt, only: list[Tensor] | None, factor: float) -> Arguments:
        objective, guide = self.svi.objective, adapted(self.svi.guide)
        beta = objective.beta if isinstance(objective, ELBO) and objective.beta != 1 else None
        batch = Arguments(attempt.args, attempt.kwargs, factor, self._tables, beta)
        if am_i_wrapped():
            raise NotCaptured("handlers of Pyro are around it")
        if guide.moves:
            raise NotCaptured(f"{type(self.svi.guide).__name__} moves by itself, as often as the points need it")
        if not batch.data or only == []:
            raise NotCaptured("it has nothing to differentiate")
        points = len(batch.data[0])
        if self.size not in (None, points):
            raise NotCaptured(f"the batch has {points} points, and only those of {self.size} are compiled")
        return batch

    def _kind(self, batch: Arguments, only: list[Tensor] | None) -> tuple:
        device = batch.data[0].device.type
        ignored = {"max_plate_nesting"} | ({"beta"} if isinstance(self.svi.objective, ELBO) else set())
        settings = [v for n, v in vars(self.svi.objective).items() if isinstance(v, PLAIN) and n not in ignored]
        attributes = [held.get(name) for held, name in self._attributes]
        trained = [p.requires_grad for p in self.svi.parameters()]
        kind = batch.kind(), only is None, torch.is_autocast_enabled(device), *settings, *attributes, *trained
        try:
            known = kind in self.steps
        except TypeError as error:
            raise NotCaptured(f"an argument is neither a tensor nor a plain value ({error})") from None
        if not known and len(self.steps) >= MOST:
            raise NotCaptured(f"there are more than {MOST} kinds of batches, arguments and settings of modules")
        return kind

    def _finish(self, attempt: Attempt, others: list, loss: Tensor, bad: Tensor, norm: Tensor | None) -> Tensor:
        svi = self.svi
        svi.backward_passes += 1
        svi.gradient_norm = None if svi.clip_norm is None and svi.watch is None else norm
        svi.raise_flag(attempt, bad)
        for optimizer in others:
            optimizer.step()
        svi.clear()
        return loss

    def _warn(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"a step is taken without compiling it: {reason}", stacklevel=2)
