r"""All q(t | x_i) of a data set: samples, moments and KL, and their mixture, the aggregate posterior q(t)."""

import math

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import Independent

from ... import distributions
from ...distributions import draws, mean, variance
from ...guides.chains.empirical import States
from ...latents.asked import posterior, prior
from ...points import Points
from ..blocks import blocks
from .calibration import marginals

BUDGET = 2**22  # numbers of t at a time
ACTIVE = 0.01  # Burda's threshold for the variance of the posterior mean
ERRORS = 4  # standard errors by which sampling noise may exceed it


def marginal_kl(q, p) -> Tensor:
    r"""Returns KL(q_j ‖ p_j) of each latent, (B, D), between Gaussians with the marginals' means and variances.

        KL_j = ½ [(s_j² + (m_j − a_j)²) / b_j² − 1 − log (s_j² / b_j²)]

    Their sum is KL(q ‖ p) if q is Gaussian with independent latents, and less if they are correlated.

    Arguments:
        q: q(t | x), of batch shape (B,) and event shape (D,), with a density.
        p: p(t), of event shape (D,).
    """
    width = variance(p)
    ratio = variance(q) / width
    return 0.5 * (ratio + (mean(q) - mean(p)).square() / width - 1 - ratio.log())


def charged(means: Tensor, p) -> Tensor:
    r"""Returns the cost of the mean of q under the prior, (m_j − a_j)² / (2 b_j²), a mean over points: (D,), in nats.

    The square is the product of two estimates of m (`two_means`), so that noise of a chain's states adds no bias.
    Values below 0, which occur by chance, become 0.
    """
    return 0.5 * ((means - mean(p)).prod(0) / variance(p)).mean(0).clamp_min(0)


def two_means(q, num_samples: int) -> Tensor:
    r"""Returns two estimates of E_q[t | x], (2, B, D), with independent errors, so that their product has no bias.

    The product does not mistake sampling noise for variance over the points. They are the means of the two halves of a
    chain's states, or of ``num_samples`` samples; NaN for a single state.
    """
    if isinstance(q, States) and len(q.states) == 1:
        return torch.full_like(q.states, math.nan).expand(2, -1, -1)
    if isinstance(q, Delta) or marginals(q) is not None:
        return torch.stack([q.mean] * 2)
    t = q.states if isinstance(q, States) else draws(q, num_samples, 1)
    return torch.stack([half.mean(0) for half in t.tensor_split(2)])


def mean_variance(means: Tensor) -> Tensor:
    r"""Returns the variance over the points of E_q[t_d | x], (D,), from `two_means` (2, N, D)."""
    return (means - means.mean(1, keepdim=True)).prod(0).sum(0) / (means.shape[1] - 1)


def mean_variance_error(means: Tensor) -> Tensor:
    r"""Returns the sampling error of `mean_variance`, (D,), if all points have one mean; 0 for exact means.

    Half the squared difference of the two means estimates the variance v_i of either. A product of two independent
    errors has variance v_i², so that the mean of N has √(Σ_i v_i²) / N; the estimate's square has mean 3 v_i².
    """
    v, N = (means[0] - means[1]).square() / 2, means.shape[1]
    return torch.maximum((v.square().sum(0) / 3).sqrt(), v.mean(0) * N**0.5) / (N - 1)


def is_active(variance_of_means: Tensor, error: Tensor) -> Tensor:
    r"""Returns the active units by Burda et al., (D,): the variance of E_q[t_d | x] exceeds 0.01 by four errors."""
    return variance_of_means > ACTIVE + ERRORS * error


def tabulate(model, guide, points: Points, S: int) -> dict:
    r"""Returns samples and moments of q at N points, with the points as the second axis of every tensor.

    Arguments:
        model: a `DLGM`, for its prior.
        guide: a guide with a ``posterior``.
        points: the N points.
        S: the number of samples of q for each point.

    Returns:
        Samples ``t`` (S, N, D) with ``log_q`` and ``log_p`` (S, N), ``rate`` (1, N), ``kl`` (1, N, D) of the
        marginals or `None` without a closed form, ``means`` (2, N, D), ``second`` moments (1, N, D), and whether q is
        ``factorized``.
    """
    parts = [_summary(posterior(guide, block), prior(model, block), S) for block, _ in blocks(points, 1)]
    return {
        name: torch.cat([part[name] for part in parts], 1) if isinstance(value, Tensor) else value
        for name, value in parts[0].items()
    }


def _summary(q, p, S: int) -> dict:
    r"""Returns samples, densities and moments of q for a block of B points; ``kl`` is `None` without a closed form."""
    t = draws(q, S, 1)
    log_q, log_p, normal, rate = q.log_prob(t), p.log_prob(t), marginals(q), distributions.kl(q, p)
    second = t.square().mean(0) if normal is None else normal.variance + normal.mean.square()
    return {
        "t": t,
        "log_q": log_q,
        "log_p": log_p,
        "rate": ((log_q - log_p).mean(0) if rate is None else rate).unsqueeze(0),
        "kl": None if normal is None or marginals(p) is None else marginal_kl(q, p).unsqueeze(0),
        "means": two_means(q, S),
        "second": second.unsqueeze(0),
        "factorized": isinstance(q, Independent) and isinstance(p, Independent),
    }


def log_aggregate(guide, t: Tensor, own: Tensor, points: Points) -> tuple[Tensor, Tensor]:
    r"""Returns log q(t) with and without a sample's own component: N² S densities, in blocks that fit into memory.

    Arguments:
        guide: a guide with a ``posterior``.
        t: samples (S, N, D); t[:, i] come from q(t | x_i).
        own: log q(t[s, i] | x_i), (S, N).
        points: the N points.

    Returns:
        log (1/N) Σ_j q(t_si | x_j) and log 1/(N−1) Σ_{j≠i} q(t_si | x_j), each (S, N), in nats.
    """
    N = len(points)
    numbers, others, first = torch.arange(N, device=t.device), torch.full_like(own, -math.inf), 0
    for block, _ in blocks(points, 1):
        q, B = posterior(guide, block), len(block)
        for s, columns in _tiles(t, B):
            log_q = q.log_prob(t[s, columns].unsqueeze(1).expand(-1, B, -1))  # (n, B)
            itself = numbers[columns].unsqueeze(-1) == numbers[first : first + B]
            log_q = log_q.masked_fill(itself, -math.inf)
            others[s, columns] = torch.logaddexp(others[s, columns], log_q.logsumexp(-1))
        first += B
    return torch.logaddexp(others, own) - math.log(N), others - math.log(N - 1)


def _tiles(t: Tensor, components: int):
    r"""Yields (sample, slice of points), such that a tile times all components of a block is within the budget."""
    S, N, D = t.shape
    rows = max(1, BUDGET // (components * D))
    for s in range(S):
        for i in range(0, N, rows):
            yield s, slice(i, i + rows)
