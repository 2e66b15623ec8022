r"""Gaussians near the posteriors: those of Laplace, refined by a few steps up F.

Laplace's have the width of the posterior at its mode alone; F is often lower by nats than that of the best Gaussian of
the family. A few natural-gradient steps with fixed noise bring most of it, for fewer gradients than the search for the
mode took.
"""

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ...distributions import mean
from ...guides import ascent
from ...guides.families import Gaussian
from ...guides.laplace import Laplace
from ...latents.asked import prior
from ...modes.joint import spread
from ...points import Points
from ...seeding import seeds
from ..quiet import quiet

TOL = 1e-2  # nats that another step of the search for the mode promises at most
STEPS, GAIN = 20, 2e-2  # the largest number of steps up F, and the smallest gain of one, in nats per point


def gaussians(model, points: Points, family: Gaussian, *, seed: int | None) -> tuple[Tensor, int]:
    r"""Returns raw numbers (N, width) of Gaussians near the posteriors, and the gradient evaluations in total.

    A point without a Gaussian at its mode starts from the prior's mean and scales.

    Arguments:
        model: a `DLGM`.
        points: the N points.
        family: a family of Gaussians with D latents.
        seed: seed of the fixed noise of the steps.
    """
    sought, drawn = seeds(2, seed)
    found = Laplace(model, tol=TOL)
    with quiet(model, seed=sought):
        modes = found.find(points)
        at_modes = family.of(MultivariateNormal(modes.mean, scale_tril=modes.scale_tril, validate_args=False))
        plain = family.of(_wide(model, points)).to(at_modes)
        raw = torch.where(at_modes.isfinite().all(-1, keepdim=True), at_modes, plain)
        noise = ascent.noise(2 * modes.mean.shape[-1], modes.mean.shape[-1], drawn)
        refined = ascent.refined(model, points, family, raw, STEPS, noise, tol=GAIN)
    return refined.raw.detach(), found.gradients + round(len(noise) * float(refined.looks.sum()))


def _wide(model, points: Points) -> Independent:
    r"""Returns Gaussians (N,) with the prior's means, 0 if it has none, and its scales."""
    p = prior(model, points)
    shape = torch.Size((len(points), *p.event_shape))
    return Independent(Normal(mean(p).nan_to_num(0.0).expand(shape), spread(p).expand(shape)), 1)
