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
from functools import partial

import torch
from torch import Tensor

from .. import messages
from ..guides.base import adapted
from ..guides.programs.auto_local import AutoLocal
from ..guides.programs.given import given_globals
from ..latents.asked import log_joint, posterior
from ..objectives.elbo import ELBO
from ..optim.svi import SVI, adam
from ..points import Points
from .blocks import check_points
from .bounds import weigh
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


@dataclass(frozen=True)
class Pace:
    r"""How an E-step climbs; the arguments of `infer` of the same names.

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
    r"""Fits q to the points x with w frozen: q*, the best of the guide's family.

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
        x: data (N, ...), or `Points`.
        mask: boolean, True where observed, of x's shape or (N,).
        given: what the points are conditioned on, (N, C).
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
    r"""The guide of the program with a q of u that was fitted to the points."""
    if inner is guide.inner:
        return guide
    made = guide.with_inner(inner)
    made.convergence = inner.convergence
    return made


def climb(model, fitted, points: Points, pace: Pace) -> Convergence:
    r"""Climbs F over a guide with a row for each of the numbered points, from where the rows are."""
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
            f"{type(guide).__name__} does not say where q starts; use a guide of this package, guides.MeanField"
        )
    if not isinstance(guide, AutoLocal):
        check_points(model, points)


class PathBound(ELBO):
    r"""Creates the loss −F, per point, whose gradient is the path derivative; arguments as those of `ELBO`."""

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        r"""The loss as a scalar tensor, in nats, with its graph."""
        points = Points(*args, **kwargs)
        t = posterior(guide, points).rsample((self.num_particles,))
        bound = log_joint(model, points, t)
        if guide.has_density:
            with torch.no_grad():
                held = posterior(guide, points)
            bound = bound - held.log_prob(t)
        return -bound.mean()


def _climb_block(model, guide, points: Points, pace: Pace) -> tuple[Tensor, int]:
    r"""Climbs over one block until nothing more comes or the steps are spent.

    Returns:
        Which points converged, (B,), and gradient evaluations, all points together.
    """
    args, kwargs = (points.x, points.index), {"mask": points.mask} | points.side
    far = [(ELBO(pace.num_particles), 1 / len(points), rate * pace.lr) for rate in FAR]
    near = [(PathBound(NEAR_PARTICLES * pace.num_particles), 1.0, rate * pace.lr) for rate in NEAR]
    # F of each point under the same seed each time, (K, B): common random numbers.
    bounds = partial(weigh, model, guide, points, CHECK_SAMPLES, seed=0, with_q=guide.has_density)
    steps, gradients, before = 0, 0, bounds()[0]
    for objective, factor, lr in far + near:
        # A fresh Adam for each rate, with a short memory: gradients shrink by orders of magnitude on the way, and Adam
        # divides by what it remembers. Rows of other blocks, without momentum, stay in place.
        svi = SVI(model, guide, adam(guide, lr=lr, row_lr=lr, betas=(0.9, 0.99)), objective)
        gain = math.inf
        while gain > pace.tol and steps < pace.max_steps:
            window = min(pace.window, math.ceil(pace.max_steps - steps))
            for _ in range(window):
                svi.e_step(*args, **kwargs, factor=factor)
            steps, gradients = steps + window, gradients + window * objective.num_particles * len(points)
            now = bounds()[0]
            change, before = now - before, now
            # A window that was cut short brings little wherever q is.
            gain = float(change.mean()) if window == pace.window else math.inf
    same = change.mean(0).abs() <= pace.tol + 4 * change.std(0) / CHECK_SAMPLES**0.5
    return same & (gain <= pace.tol), gradients
