r"""A training: the steps that are left of it, its history, and its state."""

import time
from collections.abc import Callable, Iterator

from ...data.batches import Batches
from ...data.source import Source
from ...guides.base import adapted
from ...objectives.importance import IWAE
from ...optim.optimizers import load_states
from ...optim.svi import SVI
from ...ranks.group import Alone
from ...seeding import restore, states
from ..validation import Validation
from .epoch import EpochSums
from .older import of_now
from .result import Result
from .steps import Step, em

STATE = ("step", "seen", "gradients", "seconds", "busy")  # attributes that a checkpoint holds by name


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
        self.beta, self.sums = getattr(svi.objective, "beta", 1.0), EpochSums()

    def __iter__(self) -> Iterator[tuple[Step, dict | None]]:
        r"""Yields each step, with a record of the history at the end of an epoch (or the training), else `None`."""
        for step in self.begun():
            yield step, self.ended(step)

    def begun(self) -> Iterator[Step]:
        r"""Yields each step; `ended` is called with it before the next one."""
        self._set_schedules()
        self._start = time.perf_counter() - self.seconds
        steps = em(self.svi, self.batches, e_steps=self.e_steps, done=self.step, ranks=self.ranks)
        while not self.done:
            self._began = time.perf_counter()
            yield next(steps)

    def ended(self, step: Step) -> dict | None:
        r"""Counts the step; returns a record of the history at the end of an epoch (or the training), else `None`."""
        self.step = step.step
        self._count(step)
        self._set_schedules()
        self._stop_clock()
        self.seconds = self._began - self._start
        return self._record(step) if step.ends_epoch or step.step == self.total else None

    def pause(self, seconds: float) -> None:
        r"""Takes seconds that others have used off the clock."""
        self._start += seconds

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
        state = {name: getattr(self, name) for name in STATE} | self.sums.state_dict()
        state |= {name: None if part is None else part.state_dict() for name, part in self._parts().items()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.svi.optimizers]
        state |= {"history": self.result.history, "stopped_early": self.result.stopped_early}
        return state | {"generators": states()}

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` saved, including the random generators."""
        state = of_now(self.ranks.own(state, self.svi, self.batches.num_points), self.batches)
        for name in STATE:
            setattr(self, name, state[name])
        self.sums.load_state_dict(state)
        for name, part in self._parts().items():
            if part is not None:
                part.load_state_dict(state[name])
        load_states(self.svi.optimizers, state["optimizers"])
        self.result.history, self.result.stopped_early = state["history"], state["stopped_early"]
        restore(state["generators"])

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
        self.sums.add(step)
        self.seen += step.points
        self.gradients += step.passes * step.points * getattr(self.svi.objective, "num_particles", 1) + step.moves

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.busy, self._began = self.busy + now - self._began, now

    def _record(self, step: Step) -> dict:
        self.svi.check()
        found = (self._scored(step), self.result.stopped_early) if self.ranks.first else None
        record, self.result.stopped_early = self.ranks.agreed(found)
        self.sums = EpochSums()
        self.result.history.append(record)
        return record

    def _scored(self, step: Step) -> dict:
        # With β ≠ 1 at any step of the epoch the objective is not a bound, hence the name.
        name = self.bound if self.beta == 1 and self.step > self.warmup_steps else f"tempered_{self.bound}"
        record = {"epoch": step.epoch, "step": step.step} | self.sums.means(name)
        self._stop_clock()  # reading the loss has waited for the device
        record["gradients_per_point"] = self.gradients / self.batches.num_points
        record |= {"seconds": self.seconds, "points_per_second": self.seen / self.busy}
        if self.validation is not None:
            scores = self.validation.scores(counts=self.step >= self.warmup_steps)
            record |= {f"val_{name}": value for name, value in scores.items()}
            self.result.stopped_early = self.validation.exhausted
        return record
