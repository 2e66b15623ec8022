r"""Gaussians near the posteriors: those of Laplace, refined by a few steps up F.

Laplace's have the width of the posterior at its mode alone; F is often lower by nats than that of the best Gaussian of
the family. A few natural-gradient steps with fixed noise bring most of it, for about as many gradients as the search
for the mode took.
"""

import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from ...distributions import mean
from ...guides import ascent
from ...guides.families import full_rank
from ...guides.laplace import Laplace
from ...guides.per_point import FullRank
from ...latents.asked import prior
from ...modes.joint import spread
from ...points import Points
from ...seeding import seeds
from ..quiet import quiet

TOL = 1.0  # nats that another step of the search for the mode promises at most: steps up F move on from it
STEPS, GAIN = 20, 2e-2  # the largest number of steps up F, and the smallest gain of one, in nats per point


def gaussians(model, points: Points, *, seed: int | None) -> tuple[FullRank, int]:
    r"""Returns a guide with Gaussians near the posteriors as rows, and the gradient evaluations in total.

    A point without a Gaussian at its mode starts from the prior's mean and scales. The steps of a block of points end
    together, so that a Gaussian depends slightly on the points beside it.

    Arguments:
        model: a `DLGM`.
        points: the N points.
        seed: seed of the fixed noise of the steps.
    """
    sought, drawn = seeds(2, seed)
    found = Laplace(model, tol=TOL)
    with quiet(model, seed=sought):
        modes = found.find(points)
        N, D = modes.mean.shape
        at_modes = full_rank.of(MultivariateNormal(modes.mean, scale_tril=modes.scale_tril, validate_args=False))
        plain = full_rank.of(_wide(model, points)).to(at_modes)
        raw = torch.where(at_modes.isfinite().all(-1, keepdim=True), at_modes, plain)
        noise = ascent.noise(2 * D, D, drawn)
        refined = ascent.refined(model, points, full_rank, raw, STEPS, noise, tol=GAIN)
        guide = FullRank(N, D, latent=model.latent, plate=model.plate).to(raw).set_rows(refined.raw.detach())
    return guide, found.gradients + round(len(noise) * float(refined.looks.sum()))


def _wide(model, points: Points) -> Independent:
    r"""Returns Gaussians (N,) with the prior's means, 0 if it has none, and its scales."""
    p = prior(model, points)
    shape = torch.Size((len(points), *p.event_shape))
    return Independent(Normal(mean(p).nan_to_num(0.0).expand(shape), spread(p).expand(shape)), 1)
