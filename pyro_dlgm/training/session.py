r"""One call of `fit`: its arguments are checked, then the loop runs with its listeners, on disk or not."""

import contextlib
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from ..data.batches import Batches
from ..messages import only_warned
from ..objectives import ELBO
from ..optim.nan_guard import interval
from ..optim.svi import SVI, adam
from ..progress import Bar
from ..runs.files import RunError
from ..runs.fingerprint import described, fingerprint
from ..runs.run import Run
from ..seeding import forked
from . import checks
from .autosave import Autosave
from .loop import Listener, Result, Training
from .options import CHECKS, SCHEDULES
from .validation import Validation

TENSORS = ("x", "mask", "x_val", "mask_val")


def train(a: SimpleNamespace) -> Result:
    r"""Trains; ``a`` holds the arguments of `fit`."""
    a.objective, a.listeners = a.objective or ELBO(), tuple(a.listeners)
    checks.check_arguments(a)
    _place(a)
    checks.check_points(a)
    a.batch_size = checks.batch_size(a.batch_size, len(a.x))
    with contextlib.nullcontext() if a.seed is None else forked(a.seed):
        training = _training(a)
        listeners = [Guarded(listener) for listener in a.listeners]
        if a.out is None:
            return _climb(training, listeners, a.progress)
        return _climb_on_disk(training, listeners, a)


def _place(a: SimpleNamespace) -> None:
    r"""Moves modules and tensors to the device; without one they stay where they are."""
    device = checks.device(a.device)
    for name in () if device is None else ("model", "guide", *TENSORS):
        if getattr(a, name) is not None:
            setattr(a, name, getattr(a, name).to(device))


def _training(a: SimpleNamespace) -> Training:
    batches = Batches(a.x, a.batch_size, transform=a.transform, mask=a.mask)
    optimizers, look = adam(a.model, a.guide, lr=a.lr, row_lr=a.row_lr), interval(a.x.device)
    return Training(
        SVI(a.model, a.guide, optimizers, a.objective, clip_norm=a.clip_norm, check_every=look),
        batches,
        a.epochs * len(batches) if a.steps is None else a.steps,
        e_steps=a.e_steps,
        factor=a.schedule if callable(a.schedule) else SCHEDULES[a.schedule],
        warmup_steps=a.warmup * len(batches),
        validation=None if a.x_val is None else Validation(a.model, a.guide, a.x_val, a.mask_val, a.patience),
    )


def _climb(training: Training, listeners: Sequence[Listener], shown: bool) -> Result:
    r"""Takes the steps, and tells the listeners, in their order."""
    with Bar(training.total, done=training.step, shown=shown) as bar, contextlib.ExitStack() as stack:
        stack.callback(training.restore_beta)
        stack.enter_context(torch.enable_grad())
        for step, record in training:
            for listener in (*listeners, bar):
                listener.after(step, record)
        return training.finish()


def _climb_on_disk(training: Training, listeners: Sequence[Listener], a: SimpleNamespace) -> Result:
    from .tensorboard import TensorBoard  # imported here: only runs on disk need it

    run, settings = Run(a.out), {name: getattr(a, name) for name in CHECKS} | {"schedule": described(a.schedule)}
    settings |= fingerprint(a.objective, a.transform, {name: getattr(a, name) for name in TENSORS})
    with (
        run.begun({"fit": settings} | (a.config or {}), training, resume=a.resume),
        contextlib.closing(TensorBoard(run, training, a.labels)) as board,
        Autosave(run, training) as autosave,
    ):
        run.save(training.state_dict())
        # What has been logged comes before the checkpoint: after a kill, a log is cut back, a checkpoint is not.
        result = _climb(training, [board, *listeners, autosave], a.progress)
        run.save(training.state_dict())
        return result


class Guarded:
    r"""Creates the listener that calls another one, which cannot change the training.

    Its errors become warnings, but for a `RunError`, which ends the training; what it draws leaves no trace.
    """

    def __init__(self, listener: Listener):
        self.listener = listener

    def after(self, step, record: dict | None) -> None:
        r"""Calls the listener."""
        with only_warned(f"{type(self.listener).__name__}.after", but=(RunError,)), forked(), torch.enable_grad():
            self.listener.after(step, record)
