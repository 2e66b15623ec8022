r"""`fit`: a training with seeds, devices, schedules, validation, a progress bar, and a run on disk around it."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Keeper, Run
from .data.batches import Batches
from .data.transforms import seeded
from .evaluate.quiet import quiet
from .masks import observed
from .objectives import ELBO
from .progress import Bar
from .schedules import Schedule, named
from .seeding import forked
from .svi import SVI, adam
from .training import Result, Training
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
    batch_size: int = 128,
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
        batch_size: points in a batch; the last of an epoch may be shorter.
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
        FloatingPointError: if the loss is not finite.
        checkpoint.RunError: if ``out`` holds a run already, or one with another configuration.
    """
    _check(epochs, steps, e_steps, warmup, patience, x_val, {"lr": lr, "row_lr": row_lr})
    if torch.is_inference_mode_enabled():
        raise RuntimeError("fit needs gradients and was called under torch.inference_mode(); leave it first")
    if warmup and not isinstance(objective or ELBO(), ELBO):
        raise ValueError(f"warmup is {warmup}, but {type(objective).__name__} has no beta; use objectives.ELBO")
    x, mask, x_val, mask_val = (v if v is None or device is None else v.to(device) for v in (x, mask, x_val, mask_val))
    if device is not None:
        model.to(device), guide.to(device)
    _check_data("x", model, x, mask, transform)
    if x_val is not None:
        _check_data("x_val", model, x_val, mask_val, None)
    batches = Batches(x, batch_size, transform=transform, mask=mask)
    total = steps if steps is not None else epochs * len(batches)
    svi = SVI(model, guide, adam(model, guide, lr=lr, row_lr=row_lr), objective or ELBO(), clip_norm=clip_norm)
    books = {"e_steps": e_steps, "factor": named(schedule), "warmup_steps": warmup * len(batches)}
    with contextlib.nullcontext() if seed is None else forked(seed), contextlib.ExitStack() as stack:
        validation = None if x_val is None else Validation(model, guide, x_val, mask_val, patience)
        training = Training(svi, batches, total, validation=validation, **books)
        listeners = []
        if out is not None:
            # Kept in the run, so that it is not resumed as another one; the fingerprint reads all data once.
            settings = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "lr": lr, "row_lr": row_lr}
            settings |= {"schedule": _described(schedule), "e_steps": e_steps, "clip_norm": clip_norm}
            settings |= {"warmup": warmup, "patience": patience, "seed": seed}
            settings |= {"objective": _described(svi.objective), "transform": _described(transform)}
            settings |= _fingerprint(x=x, mask=mask, x_val=x_val, mask_val=mask_val)
            run = Run(out)
            run.begin({"fit": settings} | (config or {}), training, resume=resume)
            stack.callback(run.unlock)
            # The board before the checkpoint: what is behind a checkpoint has been logged.
            listeners = [stack.enter_context(_board(run, training)), stack.enter_context(Keeper(run, training))]
        listeners.append(stack.enter_context(Bar(total, done=training.step, shown=progress)))
        stack.callback(training.restore_beta)
        stack.enter_context(torch.enable_grad())
        for step, record in training:
            for listener in listeners:
                listener.after(step, record)
        result = training.finish()
        if out is not None:
            run.save(training.state_dict())
        return result


def _board(run: Run, training: Training):
    from .board import Board  # imported here: only runs on disk need TensorBoard

    batches = training.batches
    index = torch.arange(min(LOOKED_AT, batches.num_points), device=batches.x.device)
    x = batches.x[index] if batches.transform is None else seeded(batches.transform, batches.x[index], 0)
    mask = None if batches.mask is None else batches.mask[index]
    return Board(run.folder, training, x, index, mask, run.config())


def _check_data(name: str, model, x: Tensor, mask: Tensor | None, transform) -> None:
    r"""Raises a `ValueError` that names the rows with values that are not finite, or that the likelihood refuses."""
    if x.dim() < 2:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected (N, ...): one axis of points, then those of a point"
        )
    seen = observed(x, mask)
    if seen.is_floating_point() and not bool(seen.isfinite().all()):
        bad = (~seen.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} has values that are not finite in rows {bad[:10]}; expected numbers: mask them, or drop the rows"
        )
    if transform is None and hasattr(model, "check"):
        with quiet(model):
            model.check(seen)


def _fingerprint(**tensors: Tensor | None) -> dict:
    r"""Shape, dtype and sum of each tensor: enough to notice that a run is resumed on other data."""
    return {
        name: None if v is None else f"{tuple(v.shape)} {v.dtype} {float(v.nansum(dtype=torch.float64))!r}"
        for name, v in tensors.items()
    }


def _described(thing) -> str:
    r"""What `config.json` says of an objective, a transform, a schedule: the same in each process."""
    if isinstance(thing, ELBO):
        return f"ELBO(num_particles={thing.num_particles}, analytic_kl={thing.analytic_kl}, beta={thing.beta})"
    return getattr(thing, "__qualname__", None) or (type(thing).__name__ if " at 0x" in repr(thing) else str(thing))


def _check(epochs, steps, e_steps, warmup, patience, x_val, positive: dict[str, float]) -> None:
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs is {epochs} and steps is {steps}; expected exactly one of them")
    for name, value in {"epochs": epochs, "steps": steps, "e_steps": e_steps, "patience": patience}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    for name, value in positive.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}; expected a finite number > 0")
    if x_val is not None and len(x_val) == 0:
        raise ValueError(f"x_val has shape {tuple(x_val.shape)}: there are no points")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}; expected a number of epochs >= 0")
    if patience is not None and x_val is None:
        raise ValueError(f"patience is {patience} and there are no validation points; give x_val")
