r"""Starts of walks: the Gaussians of Laplace, or of a full-rank E-step if walks from those do not agree.

The choice is made for each point by walks that are used for nothing else, so that walks with other random numbers are
as unbiased as from any q.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ...distributions import mean
from ...guides.families import full_rank
from ...guides.laplace import Laplace
from ...guides.per_point import FullRank
from ...latents.asked import prior
from ...modes.joint import spread
from ...points import Points
from ...seeding import seeds
from ..e_step import infer
from ..quiet import quiet
from .blocks import annealers, annealing
from .path import Annealer, Settings, Walk

AGREE = 1.0  # nats²: the variance of the log-weights of walks that agree


@dataclass(frozen=True)
class Starts:
    r"""Gaussians from which walks start.

    Attributes:
        guide: a full-rank guide with rows for the points, numbered from 0.
        refitted: which rows come from an E-step, (B,).
        gradients: gradient evaluations of log p(x, t) spent on them, of all points together.
    """

    guide: FullRank
    refitted: Tensor
    gradients: int


def disagree(log_weights: Tensor) -> Tensor:
    r"""Returns whether walks do not agree, (K, B) -> (B,): the variance of their log-weights is above 1, or NaN."""
    return ~(log_weights.var(0) <= AGREE)


def upwards(model, guide, points: Points, settings: Settings, *, seed: int, progress: bool = False) -> Walk:
    r"""Returns walks from q of the numbered points to their posteriors."""
    with annealing(model, guide, seed=seed):
        walks = map(Annealer.upwards, annealers(model, guide, points, settings, progress=progress))
        return Walk.joined(list(walks), 1)


def chosen(
    model, points: Points, settings: Settings, *, seed: int, refit: bool = True, progress: bool = False
) -> Starts:
    r"""Chooses the starts for the walks of the numbered points, by walks with these settings.

    Arguments:
        model: a `DLGM`.
        points: the B points.
        settings: the settings of the walks.
        seed: seed of all random numbers.
        refit: whether to make an E-step at points whose walks do not agree.
        progress: whether to show a bar.
    """
    sought, walked, fitted = seeds(3, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # walks show whether a start is good
        guide, gradients = laplace(model, points, sought)
        nowhere = torch.zeros_like(points.index, dtype=torch.bool)
        if not refit:
            return Starts(guide, nowhere, gradients)
        walks = upwards(model, guide, points, settings, seed=walked, progress=progress)
        first = Starts(guide, nowhere, gradients + len(points) * settings.gradients(sweeps=1))
        rows = disagree(walks.log_weights).nonzero().flatten()
        if not len(rows):
            return first
        return _refitted(model, points, settings, first, rows, walks.log_weights[:, rows], fitted)


def _refitted(model, points: Points, settings: Settings, first: Starts, rows: Tensor, before: Tensor, seed) -> Starts:
    r"""Returns the starts, with those of an E-step at points of ``rows`` where walks from these agree better."""
    fitted, walked = seeds(2, seed)
    points = points[rows].numbered()
    q = infer(model, first.guide, points, seed=fitted)
    after = upwards(model, q, points, settings, seed=walked).log_weights
    closer = _variance(after) < _variance(before)
    better = rows[closer]
    table, refitted = first.guide.rows.weight.detach().clone(), first.refitted.clone()
    table[better] = q.rows.weight.detach()[closer]
    refitted[better] = True
    spent = len(rows) * (q.convergence.gradients_per_point + settings.gradients(sweeps=1))
    return Starts(first.guide.set_rows(table), refitted, first.gradients + round(spent))


def _variance(log_weights: Tensor) -> Tensor:
    return log_weights.var(0).nan_to_num(nan=torch.inf)


def laplace(model, points: Points, seed: int) -> tuple[FullRank, int]:
    r"""Returns the Gaussians at the modes as rows of a full-rank guide, and the gradient evaluations in total.

    A point without such a Gaussian gets the prior's mean and scales.
    """
    found = Laplace(model)
    with quiet(model, seed=seed):
        modes = found.find(points)
        guide = FullRank(*modes.mean.shape, latent=model.latent, plate=model.plate).to(modes.mean)
        q = MultivariateNormal(modes.mean, scale_tril=modes.scale_tril, validate_args=False)
        rows, plain = full_rank.of(q), full_rank.of(_wide(model, points))
        guide.set_rows(torch.where(rows.isfinite().all(-1, keepdim=True), rows, plain))
    return guide, found.gradients


def _wide(model, points: Points) -> Independent:
    r"""Returns Gaussians (B,) with the prior's means, 0 if it has none, and its scales."""
    p = prior(model, points)
    shape = torch.Size((len(points), *p.event_shape))
    return Independent(Normal(mean(p).nan_to_num(0.0).expand(shape), spread(p).expand(shape)), 1)
