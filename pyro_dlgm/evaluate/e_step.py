r"""`infer`: the E-step alone, which maximizes F(q, w) over q at the given points, with w frozen.

It has two phases. Far from the optimum, KL(q ‖ p) in closed form gives the gradient with less noise. Near it, the path
derivative does: log q enters with its parameters held fixed, so that the noise of the gradient vanishes as q approaches
the posterior.

References:
    Roeder, Wu, Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators for variational
    inference" (2017). https://arxiv.org/abs/1703.09194
"""

import math
import warnings
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import messages
from ..guides.base import adapted
from ..guides.programs.auto_local import AutoLocal
from ..guides.programs.given import given_globals
from ..latents.asked import log_joint, posterior
from ..objectives.elbo import ELBO
from ..optim.optimizers import adam
from ..optim.svi import SVI
from ..points import Points
from .blocks import check_points
from .bounds import weigh
from .quiet import quiet

# Learning rates relative to the first: each is used until it gains nothing more.
FAR, NEAR = (1.0, 0.3, 0.1), (0.1, 0.03, 0.01)
NEAR_PARTICLES = 4  # samples per step near the optimum, relative to those far from it
CHECK_SAMPLES = 16


@dataclass(frozen=True)
class Convergence:
    r"""The outcome of an E-step.

    Attributes:
        converged: boolean (N,): whether a point's F did not change in the last window of steps; for chains, whether
            split R-hat and bulk ESS are good.
        gradients_per_point: gradient evaluations of log p(x, t) per point, on average.
    """

    converged: Tensor
    gradients_per_point: float


@dataclass(frozen=True)
class Pace:
    r"""The settings of the optimization: the arguments of `infer` of the same names.

    Raises:
        ValueError: unless all of them are finite and above 0.
    """

    lr: float = 0.1
    tol: float = 1e-2
    window: int = 50
    max_steps: int = 3000
    num_particles: int = 1
    batch_size: int = 1000

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; expected a finite number > 0")


def infer(
    model,
    guide,
    x: Tensor,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    lr: float = Pace.lr,
    tol: float = Pace.tol,
    window: int = Pace.window,
    max_steps: int = Pace.max_steps,
    num_particles: int = Pace.num_particles,
    batch_size: int = Pace.batch_size,
    seed: int | None = None,
):
    r"""Fits q to the points x with w frozen, and returns q*, the best of the guide's family.

    A per-point guide starts from fresh rows for x (never from those of training points), an amortized one from the
    encoder's q as rows of the per-point guide of its family; an exact one is returned unchanged. Chains run until split
    R-hat and bulk ESS of each point are good, or for ``max_steps`` transitions (`guides.Chain.settle`). Other guides
    are optimized by Adam in blocks of points, in windows of steps. A window that gains less than ``tol`` nats per point
    lowers the learning rate; at the last rate it ends the block. A point has converged if its block reached that end
    and its own F changed in the last window by at most ``tol`` plus four standard errors of the change (common random
    numbers). On PPCA with 16 latents, where q* is known, the defaults end 0.01 nats below it.

    Arguments:
        model: a `DLGM`.
        guide: a guide of this package.
        x: data (N, ...), or `Points`.
        mask: boolean, True where observed, of x's shape or (N,).
        given: what the points are conditioned on, (N, C).
        lr: the first learning rate.
        tol: nats per point and window.
        window: the number of steps in a window.
        max_steps: the largest number of steps of a block.
        num_particles: samples of t per point and step; near the optimum four times as many.
        batch_size: the number of points in a block.
        seed: seed of all random numbers here. The global generator is left unchanged in any case.

    Returns:
        The fitted guide, with rows for x in their order (index 0..N−1) and an attribute ``convergence``. A warning
        names the points that did not converge. A guide with nothing to fit (`Exact`) is returned as it is.
    """
    points = Points.of(x, mask=mask, given=given)
    _check(model, guide, points)
    points = points.numbered()
    pace = Pace(lr, tol, window, max_steps, num_particles, batch_size)
    if isinstance(guide, AutoLocal):
        pair = given_globals(model, guide)
        return _wrapped(guide, infer(*pair, points, **vars(pace), seed=seed))
    with quiet(model, guide, seed=seed), torch.enable_grad():
        fitted = guide.start(points)
        if fitted is guide:
            return fitted
        fitted.convergence = climb(model, fitted, points, pace)
    late = (~fitted.convergence.converged).nonzero().flatten().tolist()
    if late:
        warnings.warn(
            f"{len(late)} of {len(points)} points have not converged ({messages.rows(late)}): "
            f"raise max_steps={max_steps} or tol",
            stacklevel=2,
        )
    return fitted


def _wrapped(guide: AutoLocal, inner) -> AutoLocal:
    r"""Returns the guide of the program, with a q of u that was fitted to the points."""
    if inner is guide.inner:
        return guide
    made = guide.with_inner(inner)
    made.convergence = inner.convergence
    return made


def climb(model, fitted, points: Points, pace: Pace) -> Convergence:
    r"""Maximizes F over the rows of a guide, one for each of the numbered points, from their current values."""
    ends = []
    for here in points.index.split(pace.batch_size):
        block = points[here]
        ends.append(fitted.settle(block, pace.max_steps) or _climb_block(model, fitted, block, pace))
    converged, gradients = zip(*ends, strict=True)
    return Convergence(torch.cat(converged), sum(gradients) / len(points))


def _check(model, guide, points: Points) -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("infer needs gradients and was called under torch.inference_mode(); leave it first")
    if adapted(guide).start is None:
        raise TypeError(
            f"{type(guide).__name__} does not say where q starts; use a guide of this package, such as guides.MeanField"
        )
    if not isinstance(guide, AutoLocal):
        check_points(model, points)


class PathBound(ELBO):
    r"""Creates the loss −F per point, whose gradient is the path derivative; arguments are those of `ELBO`."""

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        r"""Returns the loss as a scalar tensor, in nats, with its graph."""
        points = Points(*args, **kwargs)
        t = posterior(guide, points).rsample((self.num_particles,))
        bound = log_joint(model, points, t)
        if guide.has_density:
            with torch.no_grad():
                held = posterior(guide, points)
            bound = bound - held.log_prob(t)
        return -bound.mean()


def _climb_block(model, guide, points: Points, pace: Pace) -> tuple[Tensor, int]:
    r"""Maximizes F over one block until it gains nothing more or the steps are used up.

    Returns:
        Which points converged, (B,), and the number of gradient evaluations of all points together.
    """
    args, kwargs = (points.x, points.index), {"mask": points.mask} | points.side
    far = [(ELBO(pace.num_particles), 1 / len(points), rate * pace.lr) for rate in FAR]
    near = [(PathBound(NEAR_PARTICLES * pace.num_particles), 1.0, rate * pace.lr) for rate in NEAR]
    # F of each point, (K, B), with one seed each time: common random numbers.
    bounds = partial(weigh, model, guide, points, CHECK_SAMPLES, seed=0, with_q=guide.has_density)
    steps, gradients, before = 0, 0, bounds()[0]
    for objective, factor, lr in far + near:
        # A fresh Adam for each rate, with a short memory: gradients shrink by orders of magnitude, and Adam divides by
        # their average. Rows of other blocks, which have no momentum, stay in place.
        svi = SVI(model, guide, adam(guide, lr=lr, row_lr=lr, betas=(0.9, 0.99)), objective)
        gain = math.inf
        while gain > pace.tol and steps < pace.max_steps:
            window = min(pace.window, math.ceil(pace.max_steps - steps))
            for _ in range(window):
                svi.e_step(*args, **kwargs, factor=factor)
            steps, gradients = steps + window, gradients + window * objective.num_particles * len(points)
            now = bounds()[0]
            change, before = now - before, now
            # A window that was cut short gains little anywhere.
            gain = float(change.mean()) if window == pace.window else math.inf
    same = change.mean(0).abs() <= pace.tol + 4 * change.std(0) / CHECK_SAMPLES**0.5
    return same & (gain <= pace.tol), gradients
