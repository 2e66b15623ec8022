r"""Scores of a pair (model, guide) at points: ELBO, IWAE and rate, from one table of log-weights."""

import torch
from torch import Tensor

from .. import distributions
from ..distributions import draws
from ..guides.base import adapted
from ..guides.programs.given import given_globals
from ..latents.asked import posterior, prior
from ..latents.local import LocalModel
from ..points import Points
from .blocks import blocks
from .bounds import log_joint, log_mean_exp, log_weights
from .importance import FEWEST, ess, pareto_k

SAMPLES = 10  # of t, during a training


def point_scores(model, guide, points: Points, num_samples: int, seed: int | None = None) -> dict[str, Tensor]:
    r"""Returns the scores of each point, in nats; arguments are those of `log_weights`.

    Returns:
        ``elbo`` and ``iwae``, and from K = 25 samples on ``ess`` and ``pareto_k``, each (B,). If q has no density, only
        ``log_joint``, from at most 10 samples.
    """
    if not adapted(guide).has_density:
        return {"log_joint": log_joint(model, guide, points, None, min(num_samples, SAMPLES), seed=seed)}
    table = log_weights(model, guide, points, None, num_samples, seed=seed)
    found = {"elbo": table.mean(0), "iwae": log_mean_exp(table)}
    return found | ({"ess": ess(table), "pareto_k": pareto_k(table)} if num_samples >= FEWEST else {})


def mean_scores(model, guide, points: Points, seed: int | None = None, num_samples: int = SAMPLES) -> dict[str, float]:
    r"""Returns means over points from 10 samples of t, in nats per point.

    Arguments:
        model, guide, points, seed: those of `log_weights`.
        num_samples: the number K of samples of a further IWAE-K.

    Returns:
        ``elbo`` and ``iwae_10``, and ``iwae_K`` for another K; if the pair has a posterior and a prior, also ``rate``,
        KL(q ‖ p), and ``distortion``, −E_q log p(x given t): elbo = −(distortion + rate). If q has no density, only
        ``log_joint``.
    """
    found = {name: float(v.mean()) for name, v in point_scores(model, guide, points, SAMPLES, seed).items()}
    if "iwae" not in found:
        return found
    means, of_points = {"elbo": found["elbo"], f"iwae_{SAMPLES}": found["iwae"]}, rate(model, guide, points)
    if num_samples != SAMPLES:
        means[f"iwae_{num_samples}"] = float(point_scores(model, guide, points, num_samples, seed)["iwae"].mean())
    if of_points is not None:
        means["rate"] = float(of_points.mean())
        means["distortion"] = -(means["elbo"] + means["rate"])
    return means


@torch.no_grad()
def rate(model, guide, points: Points) -> Tensor | None:
    r"""Returns KL(q ‖ p) of each point, (B,), in nats: in closed form if there is one, else from 10 samples.

    It is `None` if the guide has no posterior, or the model no prior.
    """
    model, guide = given_globals(model, guide)
    if adapted(guide).posterior is None or not (hasattr(model, "prior") or isinstance(model, LocalModel)):
        return None
    return torch.cat([_kl(posterior(guide, block), prior(model, block)) for block, _ in blocks(points, SAMPLES)])


def _kl(q, p) -> Tensor:
    closed = distributions.kl(q, p)
    if closed is not None:
        return closed
    t = draws(q, SAMPLES, 1)
    return (q.log_prob(t) - p.log_prob(t)).mean(0)
