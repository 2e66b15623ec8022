r"""The loop of a training: its steps, its history, and a state from which it resumes exactly."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..data.batches import Batches
from ..data.source import Source
from ..guides.base import adapted
from ..objectives.importance import IWAE
from ..optim.optimizers import load_states
from ..optim.svi import SVI
from ..points import Points
from ..ranks.group import Alone
from ..seeding import restore, states
from .options import CONVERGED
from .validation import Validation

WINDOW, WINDOWS = 10, 10  # steps on q per estimate of the bound, and the largest number of estimates


@dataclass(frozen=True)
class Step:
    r"""The outcome of one joint step.

    Attributes:
        step, epoch: counted from 1.
        loss: −F per point on this batch, in nats, a scalar tensor (reading its value waits for the device).
        points: the number of points of the batch, in all processes together.
        passes: the number of backward passes for the batch, E-steps included.
        moves: gradient evaluations of log p(x, t | w) spent by q itself meanwhile, such as those of a chain.
        ends_epoch: whether each point has now been seen ``epoch`` times.
        gradient_norm: the global norm of the dense gradients of the joint step, before clipping, a scalar tensor;
            `None` if there are none, or it is not needed.
        mass: the sum of the points' weights, a scalar tensor; `None` without weights.
    """

    step: int
    epoch: int
    loss: Tensor
    points: int
    passes: int
    moves: int
    ends_epoch: bool
    gradient_norm: Tensor | None = None
    mass: Tensor | None = None


def em(
    svi: SVI, batches: Batches | Source, *, e_steps: int | str = 1, done: int = 0, ranks: Alone | None = None
) -> Iterator[Step]:
    r"""Yields steps that ascend F(q, w), without end.

    Each batch gets ``e_steps`` − 1 steps on q alone, then one on q and w. This is the same for every guide: an
    amortized one updates a network shared by all points, a per-point one the rows of the batch, an exact one nothing.

    Arguments:
        svi: the pair (model, guide) with optimizers and objective.
        batches: the data.
        e_steps: steps on q for each step on w; "converged": `until_it_stops`.
        done: the number of joint steps taken before.
        ranks: the processes, by default this one alone.
    """
    N, svi.steps, guide, ranks = batches.num_points, done, adapted(svi.guide), ranks or Alone()
    while True:
        for points in batches:
            passes, moves = svi.backward_passes, guide.gradients
            together = ranks.together(batches, points)
            weight = len(points) / together / N
            if e_steps == CONVERGED:
                until_it_stops(svi, batches)
            else:
                for _ in range(e_steps - 1):
                    _taken(svi.e_step, points, N, weight)
            loss = _taken(svi.step, points, N, weight)
            # Counted here: validation, TensorBoard and listeners also use q, which is not training.
            passes, moves = svi.backward_passes - passes, (guide.gradients - moves) * together // len(points)
            mass = None if points.weight is None else ranks.total(points.weight.sum())
            norm = svi.gradient_norm
            yield Step(svi.steps, batches.epoch, loss, together, passes, moves, batches.ended, norm, mass)


def until_it_stops(svi: SVI, batches: Batches) -> None:
    r"""Takes steps on q alone, each on a new random batch, until the bound stops rising: aggressive E-steps.

    The bound is the mean over a window of ten steps; it has stopped if it is no higher than in the window before, or
    after ten windows. An amortized q then keeps up with w, so that w does not learn to ignore t while q is still
    uninformative.

    References:
        He, Spokoyny, Neubig, Berg-Kirkpatrick, "Lagging inference networks and posterior collapse in variational
        autoencoders" (2019), algorithm 1. https://arxiv.org/abs/1901.05534
    """
    before = math.inf
    for _ in range(WINDOWS):
        N = batches.num_points
        losses = [_taken(svi.e_step, batches.drawn(), N, 1 / N) for _ in range(WINDOW)]
        loss = float(torch.stack(losses).mean())
        if not loss < before:
            return
        before = loss


def _taken(step: Callable, points: Points, N: int, factor: float) -> Tensor:
    r"""Takes a step of an `SVI` on a batch, and returns the loss per point."""
    return step(points.x, points.index, **points.keywords, size=N, factor=factor)


@dataclass
class Result:
    r"""The result of `fit`.

    Attributes:
        model, guide: the trained pair, the same objects that were passed in.
        history: one record per epoch: ``epoch``, ``step``, ``elbo`` (``iwae_K`` with `objectives.IWAE` and `DReG`;
            ``log_joint`` if q has no density; with the prefix ``tempered_`` while β is not 1), the mean of the training
            objective over the epoch in nats per point (weighted, if there are weights), ``gradient_norm``, the mean
            over the epoch's joint steps of the global norm of the dense gradients before clipping (if there are any),
            ``gradients_per_point`` (of the training alone), ``seconds`` (in total, with validation and files),
            ``points_per_second`` (of joint steps, while stepping), and, if there are validation points, the
            `Validation.scores` with the prefix ``val_``.
        stopped_early: whether the validation bound stopped the run.
        optimizers: the optimizers of the training, with their states.
    """

    model: torch.nn.Module
    guide: torch.nn.Module
    history: list[dict] = field(default_factory=list)
    stopped_early: bool = False
    optimizers: list = field(default_factory=list, repr=False)


class Listener(Protocol):
    r"""The protocol of listeners, which `fit` calls after each step."""

    def after(self, step: Step, record: dict | None) -> None:
        r"""Called after each joint step; ``record`` is that of the history at the end of an epoch (or the training)."""


STATE = ("step", "seen", "gradients", "seconds", "busy", "_loss", "_points", "_norm", "_steps")


class Training:
    r"""Creates a training of ``total`` joint steps; iterating takes the remaining steps.

    Arguments:
        svi: model and guide with optimizers and objective.
        batches: the data.
        total: the number of joint steps.
        e_steps: steps on q for each step on w, or "converged".
        factor: the factor of the learning rates as a function of the fraction done.
        warmup_steps: steps over which β rises from 0 to 1.
        validation: the bound on validation points, or `None`.
        ranks: the processes, by default this one alone.
    """

    def __init__(
        self,
        svi: SVI,
        batches: Batches | Source,
        total: int,
        *,
        e_steps: int | str = 1,
        factor: Callable[[float], float] = lambda done: 1.0,
        warmup_steps: int = 0,
        validation: Validation | None = None,
        ranks: Alone | None = None,
    ):
        self.ranks = ranks or Alone()
        self.svi, self.batches, self.total, self.e_steps = svi, batches, total, e_steps
        self.factor, self.warmup_steps, self.validation = factor, warmup_steps, validation
        self.rates = [[group["lr"] for group in o.param_groups] for o in svi.optimizers]
        self.guide = adapted(svi.guide)
        bound = svi.objective.bound if isinstance(svi.objective, IWAE) else "elbo"
        self.bound = bound if self.guide.has_density else "log_joint"
        self.result = Result(svi.model, svi.guide, optimizers=svi.optimizers)
        self.step, self.seen, self.gradients, self.seconds, self.busy = 0, 0, 0, 0.0, 0.0
        self.beta = getattr(svi.objective, "beta", 1.0)
        self._forget()

    def __iter__(self) -> Iterator[tuple[Step, dict | None]]:
        r"""Yields each step, with a record of the history at the end of an epoch (or the training), else `None`."""
        self._set_schedules()
        start = time.perf_counter() - self.seconds
        steps = em(self.svi, self.batches, e_steps=self.e_steps, done=self.step, ranks=self.ranks)
        while not self.done:
            self._began = time.perf_counter()
            step = next(steps)
            self.step = step.step
            self._count(step)
            self._set_schedules()
            self._stop_clock()
            self.seconds = self._began - start
            yield step, self._record(step) if step.ends_epoch or step.step == self.total else None

    @property
    def done(self) -> bool:
        r"""Whether all steps are taken, or validation has stopped the training."""
        return self.step >= self.total or self.result.stopped_early

    def finish(self) -> Result:
        r"""Returns the result, at the best epoch if there is early stopping."""
        self.restore_beta()
        if self.validation is not None:
            self.validation.restore_best()
        self.ranks.same(self.svi.model, self.svi.guide)
        return self.result

    @property
    def own_rows(self) -> range | None:
        r"""The points whose rows this process has; `None` if it has all."""
        return None if self.ranks.num == 1 else self.ranks.part(self.batches.num_points)

    def restore_beta(self) -> None:
        r"""Restores the β that the objective had before the training."""
        if self.warmup_steps:
            self.svi.objective.beta = self.beta

    def state_dict(self) -> dict:
        r"""Returns everything that the rest of the training depends on, as tensors and plain values.

        Raises:
            FloatingPointError: if the loss or a gradient was not finite in a step, since such a state must not be
                saved.
        """
        self.svi.check()
        state = {name: getattr(self, name) for name in STATE}
        state |= {name: None if part is None else part.state_dict() for name, part in self._parts().items()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.svi.optimizers]
        state |= {"history": self.result.history, "stopped_early": self.result.stopped_early}
        return state | {"generators": states()}

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` saved, including the random generators."""
        state = self.ranks.own(state, self.svi, self.batches.num_points)
        state = {"busy": state["seconds"]} | state  # runs from before it was kept
        for name in STATE:
            setattr(self, name, state[name])
        if "epoch" not in state["batches"]:  # runs from before it was kept
            state["batches"]["epoch"] = -(-self.step // len(self.batches))
        for name, part in self._parts().items():
            if part is not None:
                part.load_state_dict(state[name])
        load_states(self.svi.optimizers, state["optimizers"])
        self.result.history, self.result.stopped_early = state["history"], state["stopped_early"]
        restore(self._of_devices(state["generators"]))

    def _of_devices(self, generators: dict) -> dict[str, Tensor]:
        r"""Returns states by device; older runs have only that of the data's device, as "cuda"."""
        old = generators.get("cuda")
        here = {} if old is None else {f"cuda:{self.batches.device.index or 0}": old}
        return {name: state for name, state in generators.items() if name != "cuda"} | here

    def _parts(self) -> dict:
        pair = {"model": self.svi.model, "guide": self.svi.guide}
        return pair | {"batches": self.batches, "validation": self.validation}

    def _set_schedules(self) -> None:
        # Functions of the step, so that they need no state.
        factor = self.factor(min(1.0, self.step / self.total))
        for optimizer, rates in zip(self.svi.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = factor * rate
        if self.warmup_steps:
            self.svi.objective.beta = self.beta * min(1.0, self.step / self.warmup_steps)

    def _count(self, step: Step) -> None:
        self._loss = self._loss.to(step.loss) + step.loss * step.points
        self._points = self._points + (step.points if step.mass is None else step.mass)
        self.seen += step.points
        self.gradients += step.passes * step.points * getattr(self.svi.objective, "num_particles", 1) + step.moves
        if step.gradient_norm is not None:
            self._norm, self._steps = self._norm.to(step.gradient_norm) + step.gradient_norm, self._steps + 1

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.busy, self._began = self.busy + now - self._began, now

    def _forget(self) -> None:
        # Sums over an epoch, as tensors, since reading a value waits for the device.
        self._loss, self._points = torch.zeros(()), 0
        self._norm, self._steps = torch.zeros(()), 0

    def _record(self, step: Step) -> dict:
        self.svi.check()
        found = (self._scored(step), self.result.stopped_early) if self.ranks.first else None
        record, self.result.stopped_early = self.ranks.agreed(found)
        self._forget()
        self.result.history.append(record)
        return record

    def _scored(self, step: Step) -> dict:
        # With β ≠ 1 at any step of the epoch the objective is not a bound, hence the name.
        name = self.bound if self.beta == 1 and self.step > self.warmup_steps else f"tempered_{self.bound}"
        record = {"epoch": step.epoch, "step": step.step, name: -float(self._loss) / float(self._points)}
        if self._steps:
            record["gradient_norm"] = float(self._norm) / self._steps
        self._stop_clock()  # reading the loss has waited for the device
        record["gradients_per_point"] = self.gradients / self.batches.num_points
        record |= {"seconds": self.seconds, "points_per_second": self.seen / self.busy}
        if self.validation is not None:
            scores = self.validation.scores(counts=self.step >= self.warmup_steps)
            record |= {f"val_{name}": value for name, value in scores.items()}
            self.result.stopped_early = self.validation.exhausted
        return record
