r"""One call of `fit`: checks the arguments, then runs the loop with its listeners, with or without a run on disk."""

import contextlib
from collections.abc import Sequence
from types import SimpleNamespace

import torch

from ..guides.rows import in_files, kept
from ..latents.call import as_module
from ..objectives.elbo import ELBO
from ..progress import Bar
from ..ranks import checks as of_ranks
from ..ranks.joining import joined
from ..runs.fingerprint import as_before, fingerprint
from ..runs.run import Run
from ..seeding import alone, forked
from . import checks, preparation
from .autosave import Autosave, save
from .loop.listeners import Guarded, Listener
from .loop.longer import Longer
from .loop.result import Result
from .loop.training import Training
from .options import CHECKS


def train(a: SimpleNamespace) -> Result:
    r"""Trains a pair and returns the result; ``a`` holds the arguments of `fit`."""
    check(a)
    with alone(training=True), joined(a.ranks, preparation.device_of(a)) as a.processes:
        of_ranks.check(a, a.processes, CHECKS)
        a.progress = a.progress and a.processes.first
        seed = a.processes.seed(a.seed)
        with contextlib.nullcontext() if seed is None else forked(seed):
            return _trained(a)


def check(a: SimpleNamespace) -> None:
    r"""Checks the arguments of `fit`, and makes them uniform."""
    a.objective, a.listeners = a.objective or ELBO(), tuple(a.listeners)
    preparation.as_plain(a)
    preparation.unpack(a)
    checks.check_arguments(a)
    a.model = as_module(a.model)
    a.device = checks.device(a.device)


def begun(a: SimpleNamespace) -> Training:
    r"""Returns the training of checked arguments, ``a.processes`` among them, on its device."""
    preparation.place(a)
    checks.check_points(a)
    return preparation.training(a)


def _trained(a: SimpleNamespace) -> Result:
    training = begun(a)
    listeners = [Guarded(listener) for listener in a.listeners]
    if a.out is None:
        return _climb(training, listeners, a.progress)
    on_disk = _climb_on_disk if a.processes.first else _climb_as_other
    return on_disk(training, listeners, a)


def _climb(training: Training, listeners: Sequence[Listener], shown: bool) -> Result:
    r"""Takes the steps, and calls the listeners in their order."""
    with (
        Bar(training.total, done=training.step, shown=shown) as bar,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(training.restore_beta)
        stack.enter_context(torch.enable_grad())
        for step, record in training:
            for listener in (*listeners, bar):
                listener.after(step, record)
        return training.finish()


def _climb_on_disk(training: Training, listeners: Sequence[Listener], a: SimpleNamespace) -> Result:
    from .tensorboard import TensorBoard  # imported here: only runs on disk need it

    run = Run(a.out)
    former = run.config().get("fit", {}) if a.resume and run.checkpoint_file.exists() else {}
    longer = Longer(a, former)
    config, may_differ = {"fit": _settings(a, training, former)} | (a.config or {}), (*longer.may_differ, "fit.compile")
    with (
        run.begun(config, training, resume=a.resume, may_differ=may_differ, advice=longer.advice),
        kept(in_files(a.model, a.guide), new=not former),
        contextlib.closing(TensorBoard(run, training, a.labels, a.names)) as board,
        Autosave(run, training) as autosave,
    ):
        longer.warn(training)
        a.processes.agreed(bool(former))
        save(run, training)
        # Logs are written before the checkpoint: after a kill, a log can be truncated to the checkpoint.
        result = _climb(training, [board, *listeners, autosave], a.progress)
        save(run, training)
        return result


def _settings(a: SimpleNamespace, training: Training, former: dict) -> dict:
    r"""Returns what ``config.json`` says of the arguments, in the form of the run that is resumed, if one is."""
    settings = {name: getattr(a, name) for name in CHECKS} | {"batch_size": training.batches.batch_size}
    if former and a.precision is None and "precision" not in former:
        del settings["precision"]  # a run from before it was kept
    settings["schedule"] = as_before(former.get("schedule"), a.schedule)
    tensors = {name: getattr(a, name) for name in preparation.TENSORS}
    return settings | fingerprint(a.objective, a.transform, tensors, a.size, former)


def _climb_as_other(training: Training, listeners: Sequence[Listener], a: SimpleNamespace) -> Result:
    r"""Takes the steps in a further process: the first one writes the run, this one only its own rows."""
    run = Run(a.out)
    if a.processes.agreed(None):  # the first process resumes the run
        run.restore(training)
    with Autosave(run, training) as autosave:
        save(run, training)
        result = _climb(training, [*listeners, autosave], a.progress)
        save(run, training)
        return result
