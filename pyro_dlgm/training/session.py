r"""One call of `fit`: its arguments are checked, then the loop runs with its listeners, on disk or not."""

import contextlib
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from ..data.batches import Batches
from ..data.transforms import seeded
from ..messages import only_warned
from ..objectives import ELBO
from ..optim.nan_guard import interval
from ..optim.schedules import named
from ..optim.svi import SVI, adam
from ..progress import Bar
from ..runs.fingerprint import described, fingerprint
from ..runs.run import Run
from ..seeding import forked
from . import checks
from .autosave import Autosave
from .loop import Listener, Result, Training
from .options import CHECKS
from .validation import Validation

SHOWN = 256  # points in TensorBoard's embedding and pictures
TENSORS = ("x", "mask", "x_val", "mask_val")


def train(a: SimpleNamespace) -> Result:
    r"""Trains; ``a`` holds the arguments of `fit`."""
    a.objective = a.objective or ELBO()
    checks.check_arguments(a)
    _place(a)
    checks.check_points(a)
    a.batch_size = checks.batch_size(a.batch_size, len(a.x))
    with contextlib.nullcontext() if a.seed is None else forked(a.seed):
        training = _training(a)
        return _climb(training, a) if a.out is None else _climb_on_disk(training, a)


def _place(a: SimpleNamespace) -> None:
    r"""Moves modules and tensors to the device; without one they stay where they are."""
    device = checks.device(a.device)
    if device is None:
        return
    for module in (a.model, a.guide):
        module.to(device)
    for name in TENSORS:
        if getattr(a, name) is not None:
            setattr(a, name, getattr(a, name).to(device))


def _training(a: SimpleNamespace) -> Training:
    batches = Batches(a.x, a.batch_size, transform=a.transform, mask=a.mask)
    optimizers = adam(a.model, a.guide, lr=a.lr, row_lr=a.row_lr)
    guard = {"clip_norm": a.clip_norm, "check_every": interval(a.x.device)}
    return Training(
        SVI(a.model, a.guide, optimizers, a.objective, **guard),
        batches,
        a.epochs * len(batches) if a.steps is None else a.steps,
        e_steps=a.e_steps,
        factor=named(a.schedule),
        warmup_steps=a.warmup * len(batches),
        validation=None if a.x_val is None else Validation(a.model, a.guide, a.x_val, a.mask_val, a.patience),
    )


def _climb(training: Training, a: SimpleNamespace, before: Sequence[Listener] = (), after: Sequence[Listener] = ()):
    r"""Takes the steps; listeners ``before`` and ``after`` those of the caller."""
    with Bar(training.total, done=training.step, shown=a.progress) as bar, contextlib.ExitStack() as stack:
        stack.callback(training.restore_beta)
        stack.enter_context(torch.enable_grad())
        for step, record in training:
            for listener in (*before, *map(Guarded, a.listeners), *after, bar):
                listener.after(step, record)
        return training.finish()


def _climb_on_disk(training: Training, a: SimpleNamespace) -> Result:
    run, settings = Run(a.out), {name: getattr(a, name) for name in CHECKS} | {"schedule": described(a.schedule)}
    settings |= fingerprint(a.objective, a.transform, {name: getattr(a, name) for name in TENSORS})
    run.begin({"fit": settings} | (a.config or {}), training, resume=a.resume)
    with contextlib.ExitStack() as stack:
        stack.callback(run.unlock)
        stack.enter_context(run.writing())
        # What has been logged comes before the checkpoint: after a kill, a log is cut back, a checkpoint is not.
        board, autosave = _board(run, training, a.labels), Autosave(run, training)
        result = _climb(training, a, [stack.enter_context(board)], [stack.enter_context(autosave)])
        run.save(training.state_dict())
        return result


def _board(run: Run, training: Training, labels):
    from .tensorboard import TensorBoard  # imported here: only runs on disk need it

    batches = training.batches
    index = torch.arange(min(SHOWN, batches.num_points), device=batches.x.device)
    x = batches.x[index] if batches.transform is None else seeded(batches.transform, batches.x[index], 0)
    mask = None if batches.mask is None else batches.mask[index]
    labels = None if labels is None else labels[: len(index)]
    return TensorBoard(run.folder, training, x, index, mask, labels, run.config())


class Guarded:
    r"""Creates the listener that calls another one and turns its errors into warnings."""

    def __init__(self, listener: Listener):
        self.listener = listener

    def after(self, step, record: dict | None) -> None:
        r"""Calls the listener; the training goes on in any case."""
        with only_warned(f"{type(self.listener).__name__}.after"):
            self.listener.after(step, record)
