r"""The arguments of `fit` made ready: as plain values and tensors, on the device, and as a `Training`."""

import contextlib
import warnings
from types import SimpleNamespace

import numpy as np
import pyro
import torch

from ..data.batches import Batches, transformed
from ..data.source import Source, is_source
from ..evaluate.quiet import quiet
from ..guides.base import adapted
from ..guides.programs.auto_local import AutoLocal
from ..guides.rows import in_files
from ..latents.call import Function
from ..optim.nan_guard import interval
from ..optim.optimizers import adam
from ..optim.svi import SVI
from ..points import Points
from ..ranks import checks as of_ranks
from ..ranks.batches import RankBatches
from ..seeding import forked
from ..shared import claim
from . import checks
from .first_call import first_call, is_made
from .handover import take_over
from .loop.training import Training
from .options import CHECKS, SCHEDULES
from .validation import Validation

SOME = 1000  # points for preparing a guide
TENSORS = ("x", "mask", "given", "weight", "x_val", "mask_val", "given_val")


def as_plain(a: SimpleNamespace) -> None:
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


def unpack(a: SimpleNamespace) -> None:
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


def device_of(a: SimpleNamespace) -> torch.device:
    r"""Returns the device of the training."""
    return a.device or torch.device("cpu" if is_source(a.x) else a.x.device)


def place(a: SimpleNamespace) -> None:
    r"""Moves modules and tensors to the device, if one is given."""
    a.device = a.device if a.device is None or a.processes.device is None else a.processes.device
    if a.device is None:
        return
    tensors = [name for name in TENSORS if getattr(a, name) is not None]
    for name in ("model", "guide", *tensors):
        if name != "x" or not is_source(a.x):  # a source's batches are moved one by one
            setattr(a, name, getattr(a, name).to(a.device))


def training(a: SimpleNamespace) -> Training:
    r"""Creates the training; the pair gets parameters that are made at its first call, and its start at the data."""
    batches = _batches(a)
    _prepare(a, batches)
    svi, val = _svi(a, batches), None
    if a.x_val is not None and a.processes.first:
        val = Validation(a.model, a.guide, Points(a.x_val, None, a.mask_val, a.given_val), a.patience, a.objective)
    total = a.epochs * len(batches) if a.steps is None else a.steps
    if a.warmup and a.warmup * len(batches) > total:
        warnings.warn(
            f"warmup is {a.warmup:g} epochs and the training has {total / len(batches):g}: β ends at "
            f"{total / len(batches) / a.warmup:.2g}, so the ELBO itself is never maximized; expected a shorter warmup",
            stacklevel=6,
        )
    return Training(
        svi,
        batches,
        total,
        e_steps=a.e_steps,
        factor=a.schedule if callable(a.schedule) else SCHEDULES[a.schedule],
        warmup_steps=a.warmup * len(batches) if a.warmup else 0,
        validation=val,
        ranks=a.processes,
    )


def _batches(a: SimpleNamespace) -> Batches | Source:
    if is_source(a.x):
        source = Source(a.x, a.size, transform=a.transform, device=a.device)
        checks.check_data("x", a, source.peek(), a.transform)
        return source
    size = checks.batch_size(a.batch_size, len(a.x))
    checks.check_norms(a, size)
    beside = {"mask": a.mask, "given": a.given, "weight": a.weight}
    if a.processes.num > 1:
        return RankBatches(a.x, size, rank=a.processes.rank, num=a.processes.num, transform=a.transform, **beside)
    block = min((table.block for table in in_files(a.model, a.guide)), default=None)
    return Batches(a.x, size, transform=a.transform, block=block, **beside)


def _prepare(a: SimpleNamespace, batches: Batches | Source) -> None:
    N = batches.num_points
    if not is_made(a.model, a.guide):
        with forked():
            some = batches.first(batches.batch_size or N)
        # What a module makes at its first call is its own, and not what another one has left under its name.
        of_modules = contextlib.nullcontext() if isinstance(a.model, Function) else pyro.get_param_store().scope()
        with of_modules:
            if isinstance(a.guide, AutoLocal):
                with quiet(a.model, a.guide):
                    a.guide.setup(transformed(batches.spread(SOME), a.transform), size=N)
            first_call(a.model, a.guide, some, N, validated=a.x_val is not None)
    claim(a.model, a.guide, lasting=True)
    a.processes.same(a.model, a.guide)
    if a.transform is None:  # else the transform determines the scale of x
        with quiet(a.model, a.guide):
            adapted(a.guide).prepare(lambda: batches.spread(SOME))
    of_ranks.check_guide(a, a.processes)
    a.processes.share(a.model, a.guide, num_points=N)


def _svi(a: SimpleNamespace, batches: Batches | Source) -> SVI:
    optimizers = adam(a.model, a.guide, lr=a.lr, row_lr=a.row_lr)
    if a.start is not None:
        take_over(optimizers, a.start)
    return SVI(
        a.model,
        a.guide,
        optimizers,
        a.objective,
        clip_norm=a.clip_norm,
        check_every=interval(batches.device),
        compile=a.compile,
        compile_size=batches.batch_size,
        precision=a.precision,
        summed=a.processes.summed,
    )
