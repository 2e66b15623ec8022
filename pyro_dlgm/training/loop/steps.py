r"""Steps that ascend F(q, w): on q alone, and on q and w."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.batches import Batches
from ...data.source import Source
from ...guides.base import adapted
from ...optim.svi import SVI
from ...points import Points
from ...ranks.group import Alone
from ..options import CONVERGED

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
