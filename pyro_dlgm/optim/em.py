r"""The loop: E-steps on q, then a joint step on q and w, batch after batch. It yields and never prints."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ..data.batches import Batches
from .svi import SVI


@dataclass(frozen=True)
class Step:
    r"""What one joint step did.

    Attributes:
        step, epoch: counted from 1.
        loss: −F per point on this batch, in nats, a scalar tensor (its value waits for the device).
        points: the number of points of the batch.
        passes: backward passes that the batch took, E-steps included.
        ends_epoch: whether each point has now been seen ``epoch`` times.
        gradient_norm: the global norm of the dense gradients of the joint step, before clipping, a scalar tensor;
            `None` where there are none, or it was not asked for.
    """

    step: int
    epoch: int
    loss: Tensor
    points: int
    passes: int
    ends_epoch: bool
    gradient_norm: Tensor | None = None


def em(svi: SVI, batches: Batches, *, e_steps: int = 1, done: int = 0) -> Iterator[Step]:
    r"""Climbs F(q, w) for as long as it is asked for steps.

    Each batch gets ``e_steps`` − 1 steps on q alone, then one on q and w. It is the same for every guide: an
    amortized one shares its network over points, a per-point one moves the rows of the batch, an exact one has
    nothing to move.

    Arguments:
        svi: the pair (model, guide) with optimizers and objective.
        batches: the data.
        e_steps: steps on q for each step on w.
        done: joint steps that were taken before.
    """
    N, svi.steps = batches.num_points, done
    while True:
        for x, index, mask in batches:
            passes = svi.backward_passes
            for _ in range(e_steps - 1):
                svi.e_step(x, index, mask=mask, size=N, weight=1 / N)
            loss = svi.step(x, index, mask=mask, size=N, weight=1 / N)
            passes = svi.backward_passes - passes
            epoch, left = divmod(svi.steps, len(batches))
            yield Step(svi.steps, epoch + (left > 0), loss, len(index), passes, left == 0, svi.gradient_norm)
