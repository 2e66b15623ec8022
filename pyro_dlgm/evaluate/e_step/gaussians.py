r"""Gaussians near the posteriors: those of Laplace, refined by a few steps up F.

Laplace's have the width of the posterior at its mode alone; F is often lower by nats than that of the best Gaussian of
the family. A few natural-gradient steps with fixed noise bring most of it, for about as many gradients as the search
for the mode took.
"""

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ...distributions import mean
from ...guides import ascent, families
from ...guides.laplace import Laplace
from ...latents.asked import prior
from ...modes.joint import spread
from ...points import Points
from ...seeding import seeds
from ..quiet import quiet

TOL = 1.0  # nats that another step of the search for the mode promises at most: steps up F move on from it
STEPS, GAIN = 20, 2e-2  # the largest number of steps up F, and the smallest gain of one, in nats per point
FACTORIZED = 16  # samples of a step where q has no correlations; others need all 2D directions, or widths diverge


def gaussians(model, points: Points, family: families.Gaussian, *, seed: int | None) -> tuple[Tensor, int]:
    r"""Returns the raw numbers (N, width) of Gaussians near the posteriors, and the gradient evaluations in total.

    A point without a Gaussian at its mode starts from the prior's mean and scales. The steps of a block of points end
    together, so that a Gaussian depends slightly on the points beside it.

    Arguments:
        model: a `DLGM`.
        points: the N points.
        family: the family of the Gaussians.
        seed: seed of the fixed noise of the steps.
    """
    sought, drawn = seeds(2, seed)
    with quiet(model, seed=sought):
        wide, (at_modes, spent) = _wide(model, points), _at_modes(model, points, TOL)
        raw = family.of(wide)
        if at_modes is not None:
            found = family.of(at_modes).to(raw)
            raw = torch.where(found.isfinite().all(-1, keepdim=True), found, raw)
        noise = _noise(family, raw.shape[-1], drawn)
        refined = ascent.refined(model, points, family, raw, STEPS, noise, tol=GAIN)
    return refined.raw.detach(), spent + round(len(noise) * float(refined.looks.sum()))


def _noise(family: families.Gaussian, width: int, seed: int) -> Tensor:
    r"""Returns the fixed noise (S, D) of steps on ``width`` raw numbers."""
    D = family.latent_dim(width)
    return ascent.noise(2 * D if width > 2 * D else min(2 * D, FACTORIZED), D, seed)


def _at_modes(model, points: Points, tol: float) -> tuple[MultivariateNormal | None, int]:
    r"""Returns Laplace's Gaussians (N,), or `None` if there are none, and the gradient evaluations."""
    laplace = Laplace(model, tol=tol)
    try:
        found = laplace.find(points)
    except RuntimeError:
        # Networks that read numbers of a tensor, or use an operation without a forward-mode derivative, have gradients
        # but no vectorized tangents.
        return None, 0
    return MultivariateNormal(found.mean, scale_tril=found.scale_tril, validate_args=False), laplace.gradients


def _wide(model, points: Points) -> Independent:
    r"""Returns Gaussians (N,) with the prior's means, 0 if it has none, and its scales."""
    p = prior(model, points)
    shape = torch.Size((len(points), *p.event_shape))
    return Independent(Normal(mean(p).nan_to_num(0.0).expand(shape), spread(p).expand(shape)), 1)
