r"""Clusters of points: the components of a mixture prior, averaged over q."""

import torch
from torch import Tensor

from ...distributions import draws
from ...latents.asked import posterior
from ...points import Points
from ..blocks import blocks, check_pair, check_posterior
from ..quiet import quiet


def cluster_probabilities(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 100,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""Returns p(k | x) of each point and each component k of a mixture prior, averaged over samples of q.

        p(k | x) = E_{p(t | x)} [p(k | t)] ≈ 1/S Σ_s p(k | t_s),    t_s ~ q(t | x),

    since x depends on k through t alone. It is as accurate as q.

    Arguments:
        model: a `DLGM` whose prior has ``responsibilities(t)``: `priors.MixtureOfNormals`, `priors.VampPrior`.
        guide: a guide with a `posterior`, with or without a density.
        x: data (B, ...), or `Points`.
        index: which points these are (B,), for guides with a row for each.
        num_samples: the number S of samples of q.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what the points are conditioned on, (B, C).
        seed: seed of the samples. The global generator is left unchanged in any case.

    Returns:
        Probabilities (B, K), without gradients; each row sums to 1.

    Raises:
        TypeError: if the prior is not a mixture, or the guide has no `posterior`.
        ValueError: if x, index, mask, given or the number of samples is invalid.
    """
    prior = getattr(model, "prior", None)
    if not hasattr(prior, "responsibilities"):
        raise TypeError(
            f"the prior is a {type(prior).__name__}, which has no components; expected a mixture with "
            "responsibilities(t): priors.MixtureOfNormals or priors.VampPrior"
        )
    check_posterior(guide)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1 sample")
    points = Points.of(x, index, mask=mask, given=given)
    check_pair(model, guide, points)
    with quiet(model, guide, seed=seed):
        return torch.cat([_probabilities(prior, guide, *part) for part in blocks(points, num_samples)])


def _probabilities(prior, guide, points: Points, counts: list[int]) -> Tensor:
    r"""Returns the probabilities for a block of B points, (B, K), from samples drawn ``counts`` at a time."""
    q = posterior(guide, points)
    return sum(prior.responsibilities(draws(q, n, len(points))).sum(0) for n in counts) / sum(counts)
