r"""`infer`: the E-step alone. w is frozen and F(q, w) is climbed over q for the points at hand."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ..objectives import ELBO
from ..svi import SVI, adam
from .bounds import _table
from .quiet import quiet

# Learning rates, in parts of the first: each is used until it brings nothing more.
STAGES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
CHECK_SAMPLES = 16


@dataclass(frozen=True)
class Convergence:
    r"""How an E-step ended.

    Attributes:
        converged: boolean (N,): whether the last window of steps left a point's F where it was.
        gradients_per_point: gradient evaluations of log p(x, t) per point, on average.
    """

    converged: Tensor
    gradients_per_point: float


def infer(
    model,
    guide,
    x: Tensor,
    *,
    mask: Tensor | None = None,
    lr: float = 0.1,
    tol: float = 1e-2,
    window: int = 50,
    max_steps: int = 3000,
    num_particles: int = 1,
    batch_size: int = 1000,
    seed: int | None = None,
):
    r"""Fits q to the points x with w frozen, from the start that the guide gives: q* of its family.

    A per-point guide gives fresh rows for x (training points never lend theirs), an amortized one the per-point guide
    of its family with the encoder's q as its rows, an exact one itself. Blocks of points are climbed by Adam in
    windows of steps. A window that brings less than ``tol`` nats per point lowers the learning rate, until at the
    sixth rate the block is done. A point has converged if its own F rose in the last window by no more than ``tol``
    and four standard errors of that rise, estimated with common random numbers.

    Arguments:
        model: a `DLGM`.
        guide: a guide of this package.
        x: data (N, ...).
        mask: boolean, True where observed, of x's shape or (N,).
        lr: the first learning rate.
        tol: nats per point and window.
        window: steps in a window.
        max_steps: bound on the steps of a block.
        num_particles: samples of t per point and step.
        batch_size: points in a block.
        seed: seed of all that is random here. The global generator stays as it was in any case.

    Returns:
        The fitted guide, with rows for x in their order (index 0..N−1) and an attribute ``convergence``. Points that
        did not converge are counted in a warning.
    """
    if len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: there are no points")
    with quiet(model, guide, seed=seed), torch.enable_grad():
        fitted = guide.start(x, mask)
        if not any(p.requires_grad for p in fitted.parameters()) or fitted is guide:
            return fitted
        ends, spent = [], 0
        for index in torch.arange(len(x), device=x.device).split(batch_size):
            climb = _Climb(model, fitted, x[index], index, None if mask is None else mask[index], lr, num_particles)
            ends.append(climb.run(tol, window, max_steps))
            spent += climb.steps * len(index) * num_particles
    fitted.convergence = Convergence(torch.cat(ends), spent / len(x))
    _report(fitted.convergence.converged, max_steps)
    return fitted


class _Climb:
    r"""One block of points on its way up."""

    def __init__(self, model, guide, x, index, mask, lr, num_particles):
        self.model, self.guide, self.data, self.lr = model, guide, (x, index, mask), lr
        self.objective, self.steps = ELBO(num_particles), 0

    def run(self, tol: float, window: int, max_steps: int) -> Tensor:
        r"""Climbs until nothing more comes or the steps are spent; returns who converged (B,)."""
        before, rise = self._table(), None
        for stage in STAGES:
            svi = self._optimizer(stage * self.lr)
            gain = float("inf")
            while gain > tol and self.steps < max_steps:
                self._climb(svi, window)
                now = self._table()
                rise, before = now - before, now
                gain = float(rise.mean())
        error = rise.std(0) / CHECK_SAMPLES**0.5
        return rise.mean(0) <= tol + 4 * error

    def _climb(self, svi: SVI, steps: int) -> None:
        x, index, mask = self.data
        for _ in range(steps):
            svi.e_step(x, index, mask=mask, weight=1 / len(x))
        self.steps += steps

    def _optimizer(self, lr: float) -> SVI:
        # A fresh one for each rate, with a short memory: gradients shrink by orders of magnitude on the way, and Adam
        # divides by what it remembers. And for each block: rows of other blocks, without momentum, stay in place.
        return SVI(self.model, self.guide, adam(self.guide, lr=lr, row_lr=lr, betas=(0.9, 0.99)), self.objective)

    def _table(self) -> Tensor:
        # The same seed each time: common random numbers.
        x, index, mask = self.data
        return _table(self.model, self.guide, x, index, CHECK_SAMPLES, mask, seed=0, with_q=self.guide.has_density)


def _report(converged: Tensor, max_steps: int) -> None:
    late = (~converged).nonzero().flatten().tolist()
    if late:
        shown = ", ".join(map(str, late[:10])) + (", ..." if len(late) > 10 else "")
        warnings.warn(
            f"{len(late)} of {len(converged)} points have not converged (rows {shown}): "
            f"raise max_steps={max_steps} or tol",
            stacklevel=3,
        )
