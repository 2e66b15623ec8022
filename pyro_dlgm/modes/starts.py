r"""Starts of the search for modes, drawn from p(t): those that explain x best, of several draws each."""

import math

import torch
from torch import Tensor

from ..distributions import draws
from ..latents.asked import log_joint, prior
from ..points import Points, index_blocks
from ..program import evaluating, unregistered
from .joint import quietly

AMONG = 32  # draws for each start; a draw takes one evaluation of log p(x, t | w)


@torch.no_grad()
def likeliest(model, points: Points, num: int) -> Tensor:
    r"""Returns starts (num, B, D), each with the largest p(x | t, w) of 32 draws from p(t).

    With few latents, draws reach all the modes that have mass; with many, they seldom come near one, and cost little.

    Arguments:
        model: a `DLGM`.
        points: the B points.
        num: the number of starts for each.
    """
    with evaluating(model), quietly(), unregistered():
        t = draws(prior(model, points), num * AMONG, len(points))
        parts = [_log_likelihood(model, points[here], t[:, here]) for here in index_blocks(points, len(t))]
    best = torch.cat(parts, 1).nan_to_num(nan=-math.inf).unflatten(0, (num, AMONG)).argmax(1)
    each = torch.arange(num, device=t.device).unsqueeze(-1)
    return t.unflatten(0, (num, AMONG))[each, best, torch.arange(len(points), device=t.device)]


def _log_likelihood(model, points: Points, t: Tensor) -> Tensor:
    return log_joint(model, points, t) - prior(model, points).log_prob(t)
