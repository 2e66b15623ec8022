r"""`fit`: the loop with seeds, devices, schedules, validation and a progress bar around it."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .data import Batches
from .em import em
from .objectives import ELBO
from .progress import Bar
from .schedules import Schedule, named
from .svi import SVI, adam
from .validation import Validation


@dataclass
class Result:
    r"""What `fit` returns.

    Attributes:
        model, guide: the trained pair, the very objects that went in.
        history: one record for each epoch: ``epoch``, ``step``, ``elbo`` (or ``log_joint`` where q has no density), the
            mean of the training objective over the epoch in nats per point, ``gradients_per_point``, ``seconds``,
            ``points_per_second``, and ``val_elbo`` (or ``val_log_joint``) where there are validation points.
        stopped_early: whether the validation bound stopped the run.
    """

    model: torch.nn.Module
    guide: torch.nn.Module
    history: list[dict] = field(default_factory=list)
    stopped_early: bool = False


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

    Returns:
        A `Result` with ``history``, ``model`` and ``guide``.

    Raises:
        ValueError: on arguments that make no sense, each named.
        FloatingPointError: if the loss is not finite.
    """
    _check(epochs, steps, e_steps, warmup, patience, x_val, {"lr": lr, "row_lr": row_lr})
    if warmup and not isinstance(objective or ELBO(), ELBO):
        raise ValueError(f"warmup is {warmup}, but {type(objective).__name__} has no beta; use objectives.ELBO")
    x, mask, x_val, mask_val = (v if v is None or device is None else v.to(device) for v in (x, mask, x_val, mask_val))
    if device is not None:
        model.to(device), guide.to(device)
    batches = Batches(x, batch_size, transform=transform, mask=mask)
    total = steps if steps is not None else epochs * len(batches)
    svi = SVI(model, guide, adam(model, guide, lr=lr, row_lr=row_lr), objective or ELBO(), clip_norm=clip_norm)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: named(schedule)(min(1.0, s / total))) for o in svi.optimizers
    ]
    with _seeded(seed, x.device), Bar(total, shown=progress) as bar:
        validation = None if x_val is None else Validation(model, guide, x_val, mask_val, patience)
        run = _Run(svi, schedulers, batches, e_steps, warmup * len(batches), validation, bar)
        return run.to(total)


class _Run:
    r"""One run of the loop, with its books."""

    def __init__(self, svi, schedulers, batches, e_steps, warmup_steps, validation, bar):
        self.svi, self.schedulers, self.batches, self.e_steps = svi, schedulers, batches, e_steps
        self.warmup_steps, self.validation, self.bar = warmup_steps, validation, bar
        self.name = "elbo" if getattr(svi.guide, "has_density", True) else "log_joint"
        self.result = Result(svi.model, svi.guide)

    def to(self, total: int) -> Result:
        r"""Runs to the step ``total``, or until validation says stop."""
        start, sums, points, seen = time.perf_counter(), 0.0, 0, 0
        self._warm_up(0)
        for step in em(self.svi, self.batches, e_steps=self.e_steps):
            sums, points, seen = sums + step.loss * step.points, points + step.points, seen + step.points
            for scheduler in self.schedulers:
                scheduler.step()
            self._warm_up(step.step)
            self.bar.advance(step)
            if step.ends_epoch or step.step == total:
                self._record(step, float(sums) / points, seen, time.perf_counter() - start)
                sums, points = 0.0, 0
                if step.step >= total or self._stop():
                    return self._finish()

    def _warm_up(self, done: int) -> None:
        if self.warmup_steps:
            self.svi.objective.beta = min(1.0, done / self.warmup_steps)

    def _record(self, step, loss: float, seen: int, seconds: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} in epoch {step.epoch} (step {step.step}); expected a finite number: "
                "lower lr, set clip_norm, or raise the floor of the scale"
            )
        particles = getattr(self.svi.objective, "num_particles", 1)
        record = {"epoch": step.epoch, "step": step.step, self.name: -loss}
        record["gradients_per_point"] = seen * self.e_steps * particles / self.batches.num_points
        record |= {"seconds": seconds, "points_per_second": seen * self.e_steps / seconds}
        if self.validation is not None:
            record[f"val_{self.name}"] = self.validation.bound()
        self.result.history.append(record)

    def _stop(self) -> bool:
        self.result.stopped_early = self.validation is not None and self.validation.exhausted
        return self.result.stopped_early

    def _finish(self) -> Result:
        if self.validation is not None:
            self.validation.restore_best()
        return self.result


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device):
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _check(epochs, steps, e_steps, warmup, patience, x_val, positive: dict[str, float]) -> None:
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs is {epochs} and steps is {steps}; expected exactly one of them")
    for name, value in {"epochs": epochs, "steps": steps, "e_steps": e_steps, "patience": patience}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    for name, value in positive.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}; expected a finite number > 0")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}; expected a number of epochs >= 0")
    if patience is not None and x_val is None:
        raise ValueError(f"patience is {patience} and there are no validation points; give x_val")
