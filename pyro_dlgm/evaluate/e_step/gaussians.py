r"""Gaussians near the posteriors: those of Laplace, refined by a few steps up F.

Laplace's have the width of the posterior at its mode alone; F is often lower by nats than that of the best Gaussian of
the family. A few natural-gradient steps with fixed noise bring most of it, for about as many gradients as the search
for the mode took.

The search has more starts with few latents. A point unlike those of the model has narrow modes there, and from a wrong
one log p(x) is too low by any amount, which neither the walks of the point nor BDMC can tell.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ...distributions import mean
from ...guides import ascent, families
from ...guides.laplace import Laplace
from ...latents.asked import prior
from ...modes.joint import spread, tangents
from ...points import Points
from ...seeding import seeds
from ..quiet import quiet

MANY = 16  # latents with which one start from a draw is enough; with few, modes are many and tangents cheap
TOL = 1.0  # nats that another step of the search promises at most, with many latents: steps up F move on from there
STEPS, GAIN = 20, 2e-2  # the largest number of steps up F, and the smallest gain of one, in nats per point
SAMPLES = 16  # of a step at least; with correlations, q needs all 2D directions as well, or widths diverge


class Near(NamedTuple):
    r"""Gaussians near the posteriors of N points.

    Attributes:
        raw: their raw numbers, (N, width).
        found: whether the search for a mode and the steps up F ended with finite numbers, (N,).
        gradients: gradient evaluations of log p(x, t), of all points together.
    """

    raw: Tensor
    found: Tensor
    gradients: int


def gaussians(model, points: Points, family: families.Gaussian, *, seed: int | None) -> Near:
    r"""Returns Gaussians near the posteriors.

    A point without a Gaussian at its mode starts from the prior's mean and scales. Points of a block share random
    numbers and the number of steps, so that a Gaussian depends slightly on the other points of its block, and where a
    posterior has several modes its choice may.

    Arguments:
        model: a `DLGM`.
        points: the N points.
        family: the family of the Gaussians.
        seed: seed of the fixed noise of the steps.
    """
    sought, drawn = seeds(2, seed)
    with quiet(model, seed=sought):
        raw, (smooth, spent) = family.of(_wide(model, points)), tangents(model, points[:1])
        found, D = torch.zeros_like(raw[:, 0], dtype=torch.bool), family.latent_dim(raw.shape[-1])
        if smooth:
            at_modes, more = _at_modes(model, points, family, D)
            found, spent = at_modes.isfinite().all(-1), spent + more
            raw = torch.where(found.unsqueeze(-1), at_modes.to(raw), raw)
        noise = _noise(family, D, drawn)
        refined = ascent.refined(model, points, family, raw, STEPS, noise, tol=GAIN)
    spent += round(len(noise) * float(refined.looks.sum()))
    return Near(refined.raw.detach(), found & refined.after.isfinite(), spent)


def _noise(family: families.Gaussian, D: int, seed: int) -> Tensor:
    r"""Returns the fixed noise (S, D) of steps."""
    every = 2 * D * math.ceil(SAMPLES / (2 * D))
    return ascent.noise(every if family.correlated or 2 * D <= SAMPLES else SAMPLES, D, seed)


def _at_modes(model, points: Points, family: families.Gaussian, D: int) -> tuple[Tensor, int]:
    r"""Returns the raw numbers of the q closest to Laplace's Gaussians, and the gradient evaluations."""
    # Of several starts the one of largest mass is taken, which is right only near the modes.
    laplace = Laplace(model, tol=TOL * min(1, D / MANY), num_draws=max(1, MANY // D))
    found = laplace.find(points)
    q = MultivariateNormal(found.mean, scale_tril=found.scale_tril, validate_args=False)
    if not family.correlated:  # KL(q ‖ p) is smallest with the diagonal of p's precision
        q = Independent(Normal(q.mean, _precisions(found.scale_tril).rsqrt(), validate_args=False), 1)
    return family.of(q), laplace.gradients


def _precisions(L: Tensor) -> Tensor:
    r"""Returns the diagonal of (L Lᵀ)⁻¹, (N, D); NaN where L is."""
    return torch.cholesky_inverse(L).diagonal(dim1=-2, dim2=-1)


def _wide(model, points: Points) -> Independent:
    r"""Returns Gaussians (N,) with the prior's means, 0 if it has none, and its scales."""
    p = prior(model, points)
    shape = torch.Size((len(points), *p.event_shape))
    m = mean(p)
    return Independent(Normal(torch.where(m.isfinite(), m, 0.0).expand(shape), spread(p).expand(shape)), 1)
