r"""The ascent of `infer` over rows: Adam in windows of steps, at falling rates, until F gains nothing more.

It has two phases. Far from the optimum, KL(q ‖ p) in closed form gives the gradient with less noise. Near it, the path
derivative does: log q enters with its parameters held fixed, so that the noise of the gradient vanishes as q approaches
the posterior.

References:
    Roeder, Wu, Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators for variational
    inference" (2017). https://arxiv.org/abs/1703.09194
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...latents.asked import log_joint, posterior
from ...objectives.elbo import ELBO
from ...optim.optimizers import adam
from ...optim.svi import SVI
from ...points import Points
from ..bounds import weigh
from ..quiet import quiet

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


def climb(model, fitted, points: Points, pace: Pace, *, far: tuple[float, ...] = FAR, spent: int = 0) -> Convergence:
    r"""Maximizes F over the rows of a guide, one for each of the numbered points, from their current values.

    Arguments:
        model: a `DLGM`.
        fitted: the guide.
        points: the N points.
        pace: the settings.
        far: the rates of the first phase, relative to the first one.
        spent: gradient evaluations of all points together that led to the current values.
    """
    ends = []
    for here in points.index.split(pace.batch_size):
        block = points[here]
        ends.append(fitted.settle(block, pace.max_steps) or _climb_block(model, fitted, block, pace, far))
    converged, gradients = zip(*ends, strict=True)
    return Convergence(torch.cat(converged), (spent + sum(gradients)) / len(points))


def from_fresh_rows(model, guide, points: Points, *, seed: int | None):
    r"""Returns the guide with rows for the numbered points that climbed from where `start` puts them."""
    with quiet(model, guide, seed=seed), torch.enable_grad():
        fitted = guide.start(points)
        fitted.convergence = climb(model, fitted, points, Pace())
    return fitted


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


def _climb_block(model, guide, points: Points, pace: Pace, far: tuple[float, ...]) -> tuple[Tensor, int]:
    r"""Maximizes F over one block until it gains nothing more or the steps are used up.

    Returns:
        Which points converged, (B,), and the number of gradient evaluations of all points together.
    """
    args, kwargs = (points.x, points.index), {"mask": points.mask} | points.side
    num, more = (pace.num_particles, NEAR_PARTICLES) if guide.has_density else (1, 1)  # a point mass has one sample
    phases = [(ELBO(num), 1 / len(points), rate * pace.lr) for rate in far]
    phases += [(PathBound(more * num), 1.0, rate * pace.lr) for rate in NEAR]
    # F of each point, (K, B), with one seed each time: common random numbers.
    bounds = partial(weigh, model, guide, points, CHECK_SAMPLES, seed=0, with_q=guide.has_density)
    steps, gradients, before = 0, 0, bounds()[0]
    for objective, factor, lr in phases:
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
