r"""`infer`: the E-step alone. w is frozen and F(q, w) is climbed over q for the points at hand.

It climbs in two parts. Far from the optimum KL(q ‖ p) in closed form is the quieter estimator. Near it the path
derivative is: log q enters with its parameters held fixed, so that the noise of the gradient goes to zero with the
distance of q from the posterior.

References:
    Roeder, Wu, Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators for variational
    inference" (2017). https://arxiv.org/abs/1703.09194
"""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import messages
from ..guides.base import adapted
from ..guides.rows import sparse_gradients
from ..objectives import ELBO
from ..optim.svi import SVI, adam
from .bounds import _table
from .checks import check_points
from .quiet import quiet

# Learning rates, in parts of the first: each is used until it brings nothing more.
FAR, NEAR = (1.0, 0.3, 0.1), (0.1, 0.03, 0.01)
NEAR_PARTICLES = 4  # samples a step near the optimum, in parts of those far from it
CHECK_SAMPLES = 16


@dataclass(frozen=True)
class Convergence:
    r"""How an E-step ended.

    Attributes:
        converged: boolean (N,): whether the last window of steps left a point's F where it was; of a chain, whether
            split R-hat and bulk ESS are good.
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
    of its family with the encoder's q as its rows, an exact one itself. A chain runs until split R-hat and bulk ESS of
    each point are good, or ``max_steps`` transitions (`guides.Chain.settle`). All else is climbed in blocks of points
    by Adam, in windows of steps. A window that brings less than ``tol`` nats per point lowers the learning rate, until
    at the last rate the block is done. A point has converged if its block got that far and its own F changed in the
    last window by no more than ``tol`` and four standard errors of that change (common random numbers). On PPCA with 16
    latents, where q* is known, the defaults end 0.01 nats below it.

    Arguments:
        model: a `DLGM`.
        guide: a guide of this package.
        x: data (N, ...).
        mask: boolean, True where observed, of x's shape or (N,).
        lr: the first learning rate.
        tol: nats per point and window.
        window: steps in a window.
        max_steps: bound on the steps of a block.
        num_particles: samples of t per point and step; near the optimum four times as many.
        batch_size: points in a block.
        seed: seed of all that is random here. The global generator stays as it was in any case.

    Returns:
        The fitted guide, with rows for x in their order (index 0..N−1) and an attribute ``convergence``. Points that
        did not converge are counted in a warning. A guide with nothing to fit (`Exact`) is returned as it is.
    """
    _check(
        guide,
        x,
        mask,
        lr=lr,
        tol=tol,
        window=window,
        max_steps=max_steps,
        num_particles=num_particles,
        batch_size=batch_size,
    )
    with quiet(model, guide, seed=seed), torch.enable_grad():
        fitted = guide.start(x, mask)
        if fitted is guide:
            return fitted
        pace = {"lr": lr, "tol": tol, "window": window, "max_steps": max_steps, "num_particles": num_particles}
        fitted.convergence = climb(model, fitted, x, mask, batch_size=batch_size, **pace)
    _report(fitted.convergence.converged, max_steps)
    return fitted


def climb(
    model,
    fitted,
    x: Tensor,
    mask: Tensor | None = None,
    *,
    lr: float = 0.1,
    tol: float = 1e-2,
    window: int = 50,
    max_steps: int = 3000,
    num_particles: int = 1,
    batch_size: int = 1000,
) -> Convergence:
    r"""Climbs F over a guide with rows for x, from where they are; arguments as those of `infer`."""
    ends, spent = [], 0
    for index in torch.arange(len(x), device=x.device).split(batch_size):
        data = x[index], index, None if mask is None else mask[index]
        ended = fitted.settle(*data, max_steps)
        if ended is None:
            block = _Climb(model, fitted, *data, lr, num_particles)
            ended = block.run(tol, window, max_steps), block.gradients * len(index)
        ends.append(ended[0])
        spent += ended[1]
    return Convergence(torch.cat(ends), spent / len(x))


def _check(guide, x: Tensor, mask: Tensor | None, **positive) -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("infer needs gradients and was called under torch.inference_mode(); leave it first")
    if adapted(guide).start is None:
        raise TypeError(
            f"{type(guide).__name__} does not say where q starts; use a guide of this package, guides.MeanField"
        )
    check_points(x, mask=mask)
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a finite number > 0")


class _Climb:
    r"""One block of points on its way up."""

    def __init__(self, model, guide, x, index, mask, lr, num_particles):
        self.model, self.guide, self.data, self.lr = model, guide, (x, index, mask), lr
        self.num_particles, self.gradients, self.steps = num_particles, 0, 0
        self.parameters = [p for p in guide.parameters() if p.requires_grad]

    def run(self, tol: float, window: int, max_steps: int) -> Tensor:
        r"""Climbs until nothing more comes or the steps are spent; returns who converged (B,)."""
        before, arrived = self._table(), False
        for part, stages in ((self._far, FAR), (self._near, NEAR)):
            for stage in stages:
                # A fresh Adam for each rate, with a short memory: gradients shrink by orders of magnitude on the way,
                # and Adam divides by what it remembers. Rows of other blocks, without momentum, stay in place.
                optimizers = adam(self.guide, lr=stage * self.lr, row_lr=stage * self.lr, betas=(0.9, 0.99))
                gain = float("inf")
                while gain > tol and self.steps < max_steps:
                    part(optimizers, window)
                    now = self._table()
                    change, before = now - before, now
                    gain = float(change.mean())
                arrived = gain <= tol
        return (change.mean(0).abs() <= tol + 4 * change.std(0) / CHECK_SAMPLES**0.5) & arrived

    def _far(self, optimizers, steps: int) -> None:
        x, index, mask = self.data
        svi = SVI(self.model, self.guide, optimizers, ELBO(self.num_particles))
        for _ in range(steps):
            svi.e_step(x, index, mask=mask, weight=1 / len(x))
        self._count(steps, self.num_particles)

    def _near(self, optimizers, steps: int) -> None:
        K = NEAR_PARTICLES * self.num_particles
        for _ in range(steps):
            with sparse_gradients():
                (-self._path_bound(K)).backward(inputs=self.parameters)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self._count(steps, K)

    def _path_bound(self, K: int) -> Tensor:
        r"""F per point from K samples, whose gradient is the path derivative."""
        q = self.guide.posterior(*self.data)
        t = q.rsample((K,))
        bound = self.model.log_joint(self.data[0], t, self.data[2])
        if self.guide.has_density:
            with torch.no_grad():
                held = self.guide.posterior(*self.data)
            bound = bound - held.log_prob(t)
        return bound.mean()

    def _count(self, steps: int, particles: int) -> None:
        self.steps, self.gradients = self.steps + steps, self.gradients + steps * particles

    def _table(self) -> Tensor:
        # The same seed each time: common random numbers.
        x, index, mask = self.data
        with_q = self.guide.has_density
        return _table(self.model, self.guide, x, index, CHECK_SAMPLES, mask, seed=0, with_q=with_q)


def _report(converged: Tensor, max_steps: int) -> None:
    late = (~converged).nonzero().flatten().tolist()
    if late:
        warnings.warn(
            f"{len(late)} of {len(converged)} points have not converged ({messages.rows(late)}): "
            f"raise max_steps={max_steps} or tol",
            stacklevel=3,
        )
