r"""`fit`: a training with seeds, devices, schedules, validation, a progress bar, and a run on disk around it."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.batches import Batches
from ..data.transforms import seeded
from ..objectives import ELBO
from ..optim.nan_guard import interval
from ..optim.schedules import Schedule, named
from ..optim.svi import SVI, adam
from ..progress import Bar
from ..runs.run import Run
from ..seeding import forked
from . import checks
from .autosave import Keeper
from .loop import Result, Training
from .validation import Validation

__all__ = ["Result", "fit"]
LOOKED_AT = 256  # points that TensorBoard looks at


def fit(
    model,
    guide,
    x: Tensor,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    row_lr: float = 1e-2,
    schedule: str | Schedule = "constant",
    e_steps: int = 1,
    clip_norm: float | None = None,
    warmup: int = 0,
    objective: ELBO | None = None,
    mask: Tensor | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    x_val: Tensor | None = None,
    mask_val: Tensor | None = None,
    labels: Tensor | None = None,
    patience: int | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    config: dict | None = None,
) -> Result:
    r"""Climbs F(q, w) over q and w by stochastic gradients, whatever the guide is.

    The loss is −F per point: learning rates, clipping and the history do not depend on N.

    Arguments:
        model: a `DLGM`, or any Pyro module with its signature.
        guide: a guide of this package, or any Pyro module with its signature.
        x: data (N, ...).
        epochs, steps: how long, in passes through the data or in joint steps; exactly one of them.
        batch_size: points in a batch, at most N; the last of an epoch may be shorter. Left out, 128, or N if N is less.
        lr: learning rate of networks and other dense parameters (Adam).
        row_lr: learning rate of the rows of per-point guides (`rows.RowAdam`).
        schedule: "constant", "linear" or "cosine" (both to 0), or a function of the fraction done that gives a factor.
        e_steps: steps on q for each step on w: the last of them is a joint step.
        clip_norm: bound on the global gradient norm of the dense parameters.
        warmup: epochs over which the weight β of the KL term rises from 0 to 1.
        objective: the loss, by default `objectives.ELBO`.
        mask: boolean, True where observed, of x's shape or (N,).
        transform: drawn afresh on each batch (`data.Dequantize`, `data.Binarize`).
        x_val, mask_val: validation points (M, ...), already transformed, and their mask.
        labels: whole numbers (N,), only shown: TensorBoard colours the latent space by them.
        patience: stop once the validation bound has not risen for so many epochs, and go back to the best epoch.
        seed: seeds all that is random here; the global generator is left as it was. Without it, that one is used.
        device: moves model, guide and data there first.
        progress: whether to show a bar with loss and points per second.
        out: folder of the run on disk: ``config.json``, ``metrics.jsonl``, ``checkpoint.pt``, TensorBoard's events.
            Ctrl-C saves before it stops.
        resume: continue the run in ``out`` as if it had never stopped (bit for bit on one machine with the same
            versions and number of threads), or begin where there is none.
        config: plain values kept in ``config.json`` beside the arguments; ``recipe`` in it lets `load` build the pair.

    Returns:
        A `Result` with ``history``, ``model`` and ``guide``.

    Raises:
        ValueError: on arguments that make no sense, each named.
        FloatingPointError: if the loss or a gradient is not finite; it names step, site, rows and parameter. Model and
            guide have the parameters from before that step, and the last checkpoint stays.
        checkpoint.RunError: if ``out`` holds a run already, or one with another configuration.
    """
    objective = objective or ELBO()
    tensors = {"x": x, "mask": mask, "x_val": x_val, "mask_val": mask_val}
    checks.check_kinds(model, guide, objective, tensors)
    checks.check_pairs(x_val=x_val, mask_val=mask_val, out=out, resume=resume)
    device = checks.device(device)
    checks.check(epochs, steps, e_steps, warmup, patience, x_val, {"lr": lr, "row_lr": row_lr})
    checks.check_objective(objective, warmup)
    x, mask, x_val, mask_val = _placed(device, (model, guide), (x, mask, x_val, mask_val))
    checks.check_data("x", model, x, mask, transform)
    if x_val is not None:
        checks.check_data("x_val", model, x_val, mask_val, None)
    checks.check_labels(labels, len(x))
    batch_size = checks.batch_size(batch_size, len(x))
    batches = Batches(x, batch_size, transform=transform, mask=mask)
    total = steps if steps is not None else epochs * len(batches)
    optimizers = adam(model, guide, lr=lr, row_lr=row_lr)
    svi = SVI(model, guide, optimizers, objective, clip_norm=clip_norm, check_every=interval(x.device))
    books = {"e_steps": e_steps, "factor": named(schedule), "warmup_steps": warmup * len(batches)}
    with contextlib.nullcontext() if seed is None else forked(seed):
        validation = None if x_val is None else Validation(model, guide, x_val, mask_val, patience)
        training = Training(svi, batches, total, validation=validation, **books)
        if out is None:
            return _climb(training, progress)
        numbers = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "lr": lr, "row_lr": row_lr}
        numbers |= {"schedule": checks.described(schedule), "e_steps": e_steps, "clip_norm": clip_norm}
        numbers |= {"warmup": warmup, "patience": patience, "seed": seed}
        tensors = {"x": x, "mask": mask, "x_val": x_val, "mask_val": mask_val}
        settings = numbers | checks.fingerprint(objective, transform, tensors)
        return _climb_on_disk(training, progress, Run(out), {"fit": settings} | (config or {}), resume, labels)


def _placed(device, modules: Sequence[torch.nn.Module], tensors: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    r"""Moves the modules to the device and returns the tensors there; without a device all stays where it is."""
    if device is None:
        return tensors
    for module in modules:
        module.to(device)
    return [None if v is None else v.to(device) for v in tensors]


def _climb(training: Training, shown: bool, listeners: Sequence = ()) -> Result:
    with Bar(training.total, done=training.step, shown=shown) as bar, contextlib.ExitStack() as stack:
        stack.callback(training.restore_beta)
        stack.enter_context(torch.enable_grad())
        for step, record in training:
            for listener in (*listeners, bar):
                listener.after(step, record)
        return training.finish()


def _climb_on_disk(training: Training, shown: bool, run: Run, config: dict, resume: bool, labels) -> Result:
    run.begin(config, training, resume=resume)
    with contextlib.ExitStack() as stack:
        stack.callback(run.unlock)
        stack.enter_context(run.writing())
        # The board before the checkpoint: what is behind a checkpoint has been logged.
        listeners = [stack.enter_context(_board(run, training, labels)), stack.enter_context(Keeper(run, training))]
        result = _climb(training, shown, listeners)
        run.save(training.state_dict())
        return result


def _board(run: Run, training: Training, labels: Tensor | None):
    from .tensorboard import Board  # imported here: only runs on disk need TensorBoard

    batches = training.batches
    index = torch.arange(min(LOOKED_AT, batches.num_points), device=batches.x.device)
    x = batches.x[index] if batches.transform is None else seeded(batches.transform, batches.x[index], 0)
    mask = None if batches.mask is None else batches.mask[index]
    labels = None if labels is None else labels[: len(index)]
    return Board(run.folder, training, x, index, mask, labels, run.config())
