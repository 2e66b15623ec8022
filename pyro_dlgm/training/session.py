r"""One call of `fit`: checks the arguments, then runs the loop with its listeners, with or without a run on disk."""

import contextlib
import warnings
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch

from ..data.batches import Batches, transformed
from ..data.source import Source
from ..evaluate.quiet import quiet
from ..guides.base import adapted
from ..guides.programs.auto_local import AutoLocal
from ..guides.rows import in_files, kept
from ..latents.call import as_module
from ..messages import only_warned
from ..objectives.elbo import ELBO
from ..optim.nan_guard import interval
from ..optim.svi import SVI, adam
from ..points import Points
from ..progress import Bar
from ..ranks import checks as of_ranks
from ..ranks.group import joined
from ..ranks.part import Part
from ..runs.files import RunError
from ..runs.fingerprint import as_before, fingerprint
from ..runs.run import Run
from ..seeding import alone, forked
from . import checks
from .autosave import Autosave, save
from .first_call import first_call, is_made
from .handover import take_over
from .longer import Longer
from .loop import Listener, Result, Training
from .options import CHECKS, SCHEDULES
from .validation import Validation

SOME = 1000  # points for preparing a guide
TENSORS = ("x", "mask", "given", "weight", "x_val", "mask_val", "given_val")


def train(a: SimpleNamespace) -> Result:
    r"""Trains a pair and returns the result; ``a`` holds the arguments of `fit`."""
    a.objective, a.listeners = a.objective or ELBO(), tuple(a.listeners)
    _as_plain(a)
    _unpack(a)
    checks.check_arguments(a)
    a.model = as_module(a.model)
    a.device = checks.device(a.device)
    with alone(training=True), joined(a.ranks, _device(a)) as a.ranks:
        of_ranks.check(a, a.ranks, CHECKS)
        a.progress = a.progress and a.ranks.first
        seed = a.ranks.seed(a.seed)
        with contextlib.nullcontext() if seed is None else forked(seed):
            return _trained(a)


def _trained(a: SimpleNamespace) -> Result:
    _place(a)
    checks.check_points(a)
    training = _training(a)
    listeners = [Guarded(listener) for listener in a.listeners]
    if a.out is None:
        return _climb(training, listeners, a.progress)
    on_disk = _climb_on_disk if a.ranks.first else _climb_beside
    return on_disk(training, listeners, a)


def _device(a: SimpleNamespace) -> torch.device:
    r"""Returns the device of the training."""
    return a.device or torch.device("cpu" if checks.is_source(a.x) else a.x.device)


def _as_plain(a: SimpleNamespace) -> None:
    r"""Converts numbers of NumPy and torch to plain ones, and labels to whole numbers; names by alphabetical order."""
    for name in (*CHECKS, "size"):
        value = getattr(a, name)
        if isinstance(value, np.generic | np.ndarray | torch.Tensor) and value.ndim == 0:
            setattr(a, name, value.item())
    a.names = None
    if a.labels is not None and not isinstance(a.labels, torch.Tensor):
        labels = np.asarray(a.labels)
        if labels.dtype.kind in "UO":
            a.names, labels = np.unique(labels.astype(str), return_inverse=True)
        a.labels = torch.as_tensor(labels)


def _unpack(a: SimpleNamespace) -> None:
    r"""Unpacks `Points`, so that each tensor is checked and named separately; views NumPy arrays as tensors."""
    for name in ("x", "x_val"):
        points, val = getattr(a, name), name.removeprefix("x")
        if isinstance(points, Points):
            beside = {"mask": getattr(a, f"mask{val}"), "given": getattr(a, f"given{val}")}
            points = Points.of(points, **beside, weight=None if val else a.weight)
            if points.index is not None:
                raise ValueError(f"{name} has an index; expected none: the rows of {name} are numbered from 0")
            setattr(a, name, points.x)
            setattr(a, f"mask{val}", points.mask)
            setattr(a, f"given{val}", points.given)
            a.weight = a.weight if val else points.weight
    if isinstance(a.x, np.ndarray) and not np.ma.isMaskedArray(a.x):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not writable.*")  # it is only read
            a.x = torch.from_numpy(a.x)


def _place(a: SimpleNamespace) -> None:
    r"""Moves modules and tensors to the device, if one is given."""
    device = a.device if a.device is None or a.ranks.device is None else a.ranks.device
    for name in () if device is None else ("model", "guide", *TENSORS):
        if hasattr(getattr(a, name), "to"):  # a source's batches are moved one by one
            setattr(a, name, getattr(a, name).to(device))
    a.device = device


def _training(a: SimpleNamespace) -> Training:
    batches = _batches(a)
    if not is_made(a.model, a.guide):
        with forked():
            some = batches.first(getattr(batches, "batch_size", batches.num_points))
        if isinstance(a.guide, AutoLocal):  # it is set up with points from all over the data
            with quiet(a.model, a.guide):
                a.guide.setup(transformed(_some(batches), a.transform), size=batches.num_points)
        first_call(a.model, a.guide, some, batches.num_points, validated=a.x_val is not None)
    a.ranks.same(a.model, a.guide)
    if a.transform is None:  # else the transform determines the scale of x
        with quiet(a.model, a.guide):
            adapted(a.guide).prepare(lambda: _some(batches))
    of_ranks.check_guide(a, a.ranks)
    a.ranks.share(a.model, a.guide, num_points=batches.num_points)
    optimizers, look = adam(a.model, a.guide, lr=a.lr, row_lr=a.row_lr), interval(batches.device)
    if a.start is not None:
        take_over(optimizers, a.start)
    val = None if a.x_val is None or not a.ranks.first else Points(a.x_val, None, a.mask_val, a.given_val)
    return Training(
        SVI(
            a.model,
            a.guide,
            optimizers,
            a.objective,
            clip_norm=a.clip_norm,
            check_every=look,
            summed=a.ranks.summed,
            **_compiling(a, batches),
        ),
        batches,
        a.epochs * len(batches) if a.steps is None else a.steps,
        e_steps=a.e_steps,
        factor=a.schedule if callable(a.schedule) else SCHEDULES[a.schedule],
        warmup_steps=a.warmup * len(batches) if a.warmup else 0,
        validation=None if val is None else Validation(a.model, a.guide, val, a.patience, a.objective),
        ranks=a.ranks,
    )


def _compiling(a: SimpleNamespace, batches: Batches | Source) -> dict:
    size = getattr(batches, "batch_size", None)
    return {"compile": a.compile, "compile_size": size, "precision": a.precision}


def _some(batches: Batches | Source) -> Points:
    r"""Returns up to `SOME` points from all over the data, as model and guide see them."""
    if isinstance(batches, Source):
        return batches.first(SOME)
    rows = torch.linspace(0, batches.num_points - 1, min(SOME, batches.num_points)).long()
    return batches.take(rows)


def _batches(a: SimpleNamespace) -> Batches | Source:
    if checks.is_source(a.x):
        source = Source(a.x, a.size, transform=a.transform, device=a.device)
        checks.check_data("x", a, source.peek(), a.transform)
        return source
    size = checks.batch_size(a.batch_size, len(a.x))
    checks.check_norms(a, size)
    beside = {"mask": a.mask, "given": a.given, "weight": a.weight}
    if a.ranks.num > 1:
        return Part(a.x, size, rank=a.ranks.rank, num=a.ranks.num, transform=a.transform, **beside)
    block = min((table.block for table in in_files(a.model, a.guide)), default=None)
    return Batches(a.x, size, transform=a.transform, block=block, **beside)


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

    a.batch_size = getattr(training.batches, "batch_size", None)
    run, settings = Run(a.out), {name: getattr(a, name) for name in CHECKS}
    former = run.config().get("fit", {}) if a.resume and run.checkpoint_file.exists() else {}
    longer = Longer(a, former)
    if former and a.precision is None and "precision" not in former:
        del settings["precision"]  # a run from before it was kept
    settings["schedule"] = as_before(former.get("schedule"), a.schedule)
    settings |= fingerprint(a.objective, a.transform, {name: getattr(a, name) for name in TENSORS}, a.size, former)
    with (
        run.begun(
            {"fit": settings} | (a.config or {}),
            training,
            resume=a.resume,
            may_differ=(*longer.may_differ, "fit.compile"),
            advice=longer.advice,
        ),
        kept(in_files(a.model, a.guide), new=not former),
        contextlib.closing(TensorBoard(run, training, a.labels, a.names)) as board,
        Autosave(run, training) as autosave,
    ):
        longer.say(training)
        a.ranks.agreed(bool(former))
        save(run, training)
        # Logs are written before the checkpoint: after a kill, a log can be truncated to the checkpoint.
        result = _climb(training, [board, *listeners, autosave], a.progress)
        save(run, training)
        return result


def _climb_beside(training: Training, listeners: Sequence[Listener], a: SimpleNamespace) -> Result:
    r"""Takes the steps in another process than the first, which writes the run, except for the rows of this one."""
    run = Run(a.out)
    if a.ranks.agreed(None):  # the first process resumes the run
        training.load_state_dict(run.load(training.own_rows))
    with Autosave(run, training) as autosave:
        save(run, training)
        result = _climb(training, [*listeners, autosave], a.progress)
        save(run, training)
        return result


class Guarded:
    r"""Creates the listener that calls another one so that it cannot change the training.

    Errors become warnings, except for a `RunError`, which ends the training; random draws leave no trace.
    """

    def __init__(self, listener: Listener):
        self.listener = listener

    def after(self, step, record: dict | None) -> None:
        r"""Calls the listener."""
        with only_warned(f"{type(self.listener).__name__}.after", but=(RunError,)), forked(), torch.enable_grad():
            self.listener.after(step, record)
