r"""The steps of several `SVI`s, such as those of several seeds, as one step.

They are alike but for the values of their tensors. So the step of the first is captured as a function of tensors
(`tensor_step`), and vectorized: one operation for all in place of one for each. Their parameters and moments become
slices of stacked tensors, which the step changes in place.
"""

import warnings

from torch import Tensor

from ...seeding import forked, restore
from ..attempt import Attempt
from .compiler import MOST, Compiler
from .noise import NotCaptured
from .stacks import Stacks
from .vectorized import Queued, Vectorized


class Together:
    r"""Creates the steps of several `SVI`s as one: each of them queues its step, and `take` takes them.

    The losses and gradient norms that `SVI.step` returns meanwhile get their values in `take`. If a step cannot be
    captured or vectorized, or its losses are not those of eager steps, a warning says why, and each takes its own.

    Arguments:
        svis: pairs with objectives and optimizers, alike but for the values of their tensors.
        backend: whether to compile the vectorized step, or with which backend of `torch.compile`.
    """

    def __init__(self, svis: list, backend: bool | str = False):
        self.svis, self.backend, self.stacks = svis, backend, Stacks(svis)
        self.steps: dict[int, Vectorized] = {}  # by the number of the kind
        self.queue: list[Queued] = []
        self.losses = self.norms = None
        for place, svi in enumerate(svis):
            svi.compiler = Member(self, place)

    def close(self) -> None:
        r"""Gives each its own tensors and its own steps again."""
        self.stacks.close()
        for svi in self.svis:
            svi.compiler = None

    def take(self) -> None:
        r"""Takes the queued steps.

        Raises:
            FloatingPointError: as `SVI.check`.
        """
        if not self.queue:
            return
        step = self.steps[self.queue[0].kind]
        try:
            loss, bad, norm, *rest = step(self.queue)
            reason = None
        except NotCaptured as refused:
            reason = str(refused)
        if reason is not None:  # outside, where the tensors of the attempt are gone
            self.give_up(reason)
            return
        queue, self.queue = self.queue, []
        self.losses.copy_(loss)
        self.norms.copy_(norm)
        for place, queued in enumerate(queue):
            try:
                step.finish(place, queued, bad[place], [g[place] for g in rest])
            except FloatingPointError as error:
                raise FloatingPointError(f"training {place + 1} of {len(queue)}: {error}") from error

    def add(self, place: int, queued: Queued) -> Tensor:
        r"""Queues the step of one of them; returns its loss, which has no value yet."""
        if place == 0:
            like = next(p for p in self.svis[0].parameters() if p.is_floating_point())
            self.losses, self.norms = like.detach().new_zeros(2, len(self.svis))
        self.queue.append(queued)
        svi = self.svis[place]
        svi.backward_passes += 1
        needed = self.steps[queued.kind].has_norm and not (svi.clip_norm is None and svi.watch is None)
        svi.gradient_norm = self.norms[place] if needed else None
        return self.losses[place]

    def give_up(self, reason: str) -> None:
        r"""Lets each take its own steps from now on, those in the queue first."""
        warnings.warn(f"{len(self.svis)} trainings take their steps one after the other: {reason}", stacklevel=2)
        self.close()
        queue, self.queue = self.queue, []
        for place, queued in enumerate(queue):
            self._redo(place, queued.attempt)

    def _redo(self, place: int, attempt: Attempt) -> None:
        svi = self.svis[place]
        svi.backward_passes -= 1  # counted when it was queued
        with forked():
            restore(attempt.generators)
            self.losses[place] = svi.take(attempt)
        if svi.gradient_norm is not None:
            self.norms[place] = svi.gradient_norm


class Member(Compiler):
    r"""Creates the object that queues the steps of an `SVI` in place of taking them.

    Arguments:
        together: whose step is taken.
        place: the number of the `SVI` there.
    """

    def __init__(self, together: Together, place: int):
        super().__init__(together.svis[place], together.backend)
        self.together, self.place, self.numbers = together, place, {}

    @property
    def settings(self) -> list:
        r"""Values of the modules, but for names, which differ from training to training."""
        return [held.get(name) for held, name in self._attributes if not isinstance(held.get(name), str)]

    def step(self, attempt: Attempt, only: list[Tensor] | None, factor: float) -> Tensor | None:
        r"""Queues the step; returns its loss, which has no value yet, or `None` if it has to be taken eagerly."""
        together = self.together
        try:
            if only is not None:
                raise NotCaptured("a step on q alone is taken by each")
            batch = self._batch(attempt, only, factor)
            # Kinds have names of modules in them, and so are numbered: each meets them in the same order.
            met = len(self.numbers)
            kind = self.numbers.setdefault(self._kind(batch, only), met)
            if kind >= MOST:
                raise NotCaptured(f"there are more than {MOST} kinds of batches, arguments and settings of modules")
            if self.place == 0 and kind not in together.steps:
                together.steps[kind] = Vectorized(together.svis, together.stacks, batch, self.backend)
            first = together.queue[0] if self.place else None
            alike = kind < met or self.settings == together.svis[0].compiler.settings  # a kind has its settings
            if not alike or (first and (kind, batch.kind()) != (first.kind, first.batch.kind())):
                raise NotCaptured("they are not of one kind")
            noise = together.steps[kind].noise()
        except NotCaptured as reason:
            together.give_up(str(reason))
            return None
        return together.add(self.place, Queued(attempt, batch, kind, noise))
