r"""Starts of walks: Gaussians near the posteriors, or of a full-rank E-step if walks from those do not agree.

The choice is made for each point by walks that are used for nothing else, so that walks with other random numbers are
as unbiased as from any q.
"""

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...guides.families import full_rank
from ...guides.per_point import FullRank
from ...points import Points
from ...seeding import forked, seeds
from ..e_step.climb import from_fresh_rows
from ..e_step.gaussians import gaussians
from .annealing.blocks import annealers, annealing
from .annealing.path import Annealer, Settings, Walk

FEW = 10  # temperatures of the walks that all points take
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


def chosen(model, points: Points, settings: Settings, *, seed: int, progress: bool = False) -> Starts:
    r"""Chooses the starts for the walks of the numbered points: `near` ones, `refitted` where walks do not agree."""
    sought, walked = seeds(2, seed)
    return refitted(model, points, near(model, points, seed=sought), settings, seed=walked, progress=progress)


def near(model, points: Points, *, seed: int) -> Starts:
    r"""Returns Gaussians near the posteriors of the numbered points, whatever walks from them do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # walks show whether a start is good
        found = gaussians(model, points, full_rank, seed=seed)
        guide = _guide(model, found.raw)
    return Starts(guide, torch.zeros_like(points.index, dtype=torch.bool), found.gradients)


def refitted(model, points: Points, first: Starts, settings: Settings, *, seed: int, progress: bool = False) -> Starts:
    r"""Makes an E-step at points where walks do not agree, and takes its Gaussians where they agree better from there.

    Arguments:
        model: a `DLGM`.
        points: the B points.
        first: the starts so far.
        settings: the settings of the walks.
        seed: seed of all random numbers.
        progress: whether to show a bar.

    Returns:
        The starts, whose gradient evaluations include those of the first ones.
    """
    walked, fitted = seeds(2, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, before, spent = _apart(model, first, points, settings, walked, progress)
        first = replace(first, gradients=first.gradients + spent)
        return _after_e_step(model, points, settings, first, rows, before, fitted) if len(rows) else first


def _apart(model, first: Starts, points: Points, settings: Settings, seed: int, progress: bool):
    r"""Returns the rows whose walks do not agree, their log-weights, and the gradient evaluations spent.

    Walks with few temperatures come first: where they agree already, longer ones do.
    """
    rows, spent, T = points.index, 0, settings.num_temperatures
    for num, walked in zip(sorted({min(FEW, T), T}), seeds(2, seed), strict=False):
        here = replace(settings, num_temperatures=num)
        log_weights = upwards(model, first.guide, points[rows], here, seed=walked, progress=progress).log_weights
        spent += len(rows) * here.gradients(sweeps=1)
        apart = disagree(log_weights)
        rows, log_weights = rows[apart], log_weights[:, apart]
        if not len(rows):
            break
    return rows, log_weights, spent


def _after_e_step(
    model, points: Points, settings: Settings, first: Starts, rows: Tensor, before: Tensor, seed
) -> Starts:
    r"""Returns the starts, with those of an E-step at points of ``rows`` where walks from these agree better."""
    fitted, walked = seeds(2, seed)
    points = points[rows].numbered()
    q = from_fresh_rows(model, first.guide, points, seed=fitted)  # Gaussians near the modes are what failed here
    after = upwards(model, q, points, settings, seed=walked).log_weights
    closer = _variance(after) < _variance(before)
    better = rows[closer]
    table, refitted = first.guide.rows.weight.detach().clone(), first.refitted.clone()
    table[better] = q.rows.weight.detach()[closer]
    refitted[better] = True
    spent = len(rows) * (q.convergence.gradients_per_point + settings.gradients(sweeps=1))
    return Starts(first.guide.set_rows(table), refitted, first.gradients + round(spent))


def _guide(model, raw: Tensor) -> FullRank:
    r"""Returns the guide whose rows are these raw numbers (N, width)."""
    with forked():  # its constructor draws rows
        guide = FullRank(len(raw), full_rank.latent_dim(raw.shape[-1]), latent=model.latent, plate=model.plate)
    return guide.to(raw).set_rows(raw)


def _variance(log_weights: Tensor) -> Tensor:
    return log_weights.var(0).nan_to_num(nan=torch.inf)
