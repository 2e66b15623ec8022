r"""Validation: the bound on held-out points during training, and restoring the best w."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from ..evaluate.blocks import blocks
from ..evaluate.quiet import quiet
from ..evaluate.scores import SAMPLES, mean_scores
from ..guides.base import adapted
from ..objectives.elbo import ELBO
from ..objectives.importance import IWAE
from ..optim.svi import SVI, adam, load_states
from ..points import Points

E_STEPS = 25
RATE = 0.05  # learning rate of the rows for validation points


class Validation:
    r"""Creates the validation of a training: scores on held-out points, and when to stop.

    A guide whose q is a function of x is evaluated directly. A per-point guide gets rows for the validation points,
    which follow w by a few E-steps at each call, so that its ELBO is a lower bound on the one that `evaluate.infer`
    would reach.

    Arguments:
        model, guide: the pair in training.
        points: validation data (M, ...), or `Points`.
        patience: the number of calls without a better bound after which it is `exhausted`; `None` means never.
        objective: that of the training, whose bound is among the scores.
    """

    def __init__(
        self, model, guide, points: Tensor | Points, patience: int | None = None, objective: ELBO | None = None
    ):
        self.trained, self.model, self.patience = guide, model, patience
        self.points = Points.of(points).numbered()
        self.num_samples = objective.num_particles if isinstance(objective, IWAE) else SAMPLES
        self.per_point = adapted(guide).per_point
        with quiet(seed=0), torch.enable_grad():
            self.guide = guide.start(self.points) if self.per_point else guide
        self.svi = SVI(model, self.guide, adam(self.guide, row_lr=RATE, lr=RATE), ELBO())
        self.best, self.calls_since_best, self._states = -float("inf"), 0, None

    @property
    def exhausted(self) -> bool:
        r"""Whether the bound has not risen for ``patience`` calls."""
        return self.patience is not None and self.calls_since_best >= self.patience

    def scores(self, *, counts: bool = True) -> dict[str, float]:
        r"""Returns the current `mean_scores`, in nats per point; the first, ``elbo`` or ``log_joint``, decides.

        Arguments:
            counts: whether this call can be the best one and counts against patience; false during a warm-up.
        """
        with quiet(self.model, self.guide, seed=0), torch.enable_grad():
            self.guide.train(self.per_point)  # a chain moves in training mode only
            for _ in range(E_STEPS if self.per_point else 0):
                self.svi.e_step_of(self._blocks(), 1 / len(self.points))
            scores = mean_scores(self.model, self.guide, self.points, None, self.num_samples)
        if counts:
            self._keep(next(iter(scores.values())))
        return scores

    def _blocks(self) -> Iterator[tuple[tuple, dict]]:
        r"""Yields the arguments of guide and model, block by block."""
        for block, _ in blocks(self.points, 1):
            yield (block.x, block.index), {"mask": block.mask} | block.side

    def _keep(self, value: float) -> None:
        self.calls_since_best += 1
        if value > self.best:
            self.best, self.calls_since_best = value, 0
            if self.patience is not None:
                self._states = [copy.deepcopy(m.state_dict()) for m in (self.model, self.trained)]

    def restore_best(self) -> None:
        r"""Restores model and guide to their state at the best validation, if there is a ``patience``."""
        if self._states is not None:
            load_states((self.model, self.trained), self._states)

    def state_dict(self) -> dict:
        r"""Returns the state of the validation, as tensors and plain values."""
        state = {"best": self.best, "calls_since_best": self.calls_since_best, "states": self._states}
        if self.per_point:
            state |= {"guide": self.guide.state_dict(), "optimizers": [o.state_dict() for o in self.svi.optimizers]}
        return state

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` saved."""
        self.best, self.calls_since_best, self._states = state["best"], state["calls_since_best"], state["states"]
        if self.per_point:
            self.guide.load_state_dict(state["guide"])
            load_states(self.svi.optimizers, state["optimizers"])
