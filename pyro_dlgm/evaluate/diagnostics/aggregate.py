r"""All q(t | x_i) of a data set: samples, moments, KL; and their mixture, the aggregate posterior q(t)."""

import math

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import Independent

from ... import gaussian
from ...guides.empirical import States
from ..quiet import blocks
from .calibration import marginals

BUDGET = 2**22  # numbers of t at a time
ACTIVE = 0.01  # Burda's threshold for the variance of the posterior mean


def marginal_kl(q, p) -> Tensor:
    r"""KL(q_j ‖ p_j) of each latent, (B, D), between Gaussians with the means and variances of the marginals.

        KL_j = ½ [(s_j² + (m_j − a_j)²) / b_j² − 1 − log (s_j² / b_j²)]

    Their sum is KL(q ‖ p) where q is Gaussian with independent latents, and less where they are correlated.

    Arguments:
        q: q(t | x), of batch shape (B,) and event shape (D,), with a density.
        p: p(t), of event shape (D,).
    """
    ratio = q.variance / p.variance
    return 0.5 * (ratio + (q.mean - p.mean).square() / p.variance - 1 - ratio.log())


def latent_nats(q, p, has_density: bool) -> Tensor:
    r"""How much q uses each latent, (D,), a mean over its points, in nats.

    It is the KL of the marginals; where q has no density, (m_j − a_j)² / (2 b_j²), what the prior charges for the mean
    of q.
    """
    if has_density:
        return marginal_kl(q, p).mean(0)
    return 0.5 * ((q.mean - p.mean).square() / p.variance).mean(0)


def two_means(q, num_samples: int) -> Tensor:
    r"""E_q[t | x] twice, (2, B, D), with independent errors where it is not known.

    The product of both then does not take sampling noise for variance over the points. They come from the halves of a
    chain's states, or of ``num_samples`` samples; a single state counts twice.
    """
    if isinstance(q, States) and len(q.states) > 1:
        return torch.stack([half.mean(0) for half in q.states.tensor_split(2)])
    if isinstance(q, States | Delta) or marginals(q) is not None:
        return torch.stack([q.mean] * 2)
    return torch.stack([half.mean(0) for half in q.sample((num_samples,)).tensor_split(2)])


def mean_variance(means: Tensor) -> Tensor:
    r"""The variance over the points of E_q[t_d | x], (D,), from `two_means` (2, N, D)."""
    return (means - means.mean(1, keepdim=True)).prod(0).sum(0) / (means.shape[1] - 1)


def tabulate(guide, p, x: Tensor, index, mask, S: int) -> dict:
    r"""What q says at N points, with the points as the second axis of every tensor.

    Arguments:
        guide: a guide with a ``posterior``.
        p: the prior p(t).
        x, index, mask: the points, as a guide takes them.
        S: samples of q for each point.

    Returns:
        Samples ``t`` (S, N, D) with ``log_q`` and ``log_p`` (S, N), ``rate`` (1, N), ``kl`` (1, N, D) of the
        marginals or `None` without a closed form, ``means`` (2, N, D), ``second`` moments (1, N, D), and whether q is
        ``factorized``.
    """
    parts = [_summary(guide.posterior(*block[:3]), p, S) for block in blocks(x, index, mask, 1)]
    return {
        name: torch.cat([part[name] for part in parts], 1) if isinstance(value, Tensor) else value
        for name, value in parts[0].items()
    }


def _summary(q, p, S: int) -> dict:
    r"""Samples, densities and moments of q for a block of B points; entries without a closed form are `None`."""
    t = q.sample((S,))
    log_q, log_p, normal, prior = q.log_prob(t), p.log_prob(t), marginals(q), marginals(p)
    closed = normal is not None
    rate = gaussian.kl(q, p)
    return {
        "t": t,
        "log_q": log_q,
        "log_p": log_p,
        "rate": (log_q - log_p).mean(0, keepdim=True) if rate is None else rate.unsqueeze(0),
        "kl": marginal_kl(q, p).unsqueeze(0) if closed and prior is not None else None,
        "means": two_means(q, S),
        "second": (normal.variance + normal.mean.square() if closed else t.square().mean(0)).unsqueeze(0),
        "factorized": isinstance(q, Independent) and isinstance(p, Independent),
    }


def log_aggregate(guide, t: Tensor, own: Tensor, x: Tensor, index, mask) -> tuple[Tensor, Tensor]:
    r"""log q(t) with and without a sample's own component: N² S densities, in blocks that fit into memory.

    Arguments:
        guide: a guide with a ``posterior``.
        t: samples (S, N, D); t[:, i] are of q(t | x_i).
        own: log q(t[s, i] | x_i), (S, N).
        x, index, mask: the points, as a guide takes them.

    Returns:
        log (1/N) Σ_j q(t_si | x_j) and log 1/(N−1) Σ_{j≠i} q(t_si | x_j), each (S, N), in nats.
    """
    N = len(x)
    others = torch.full_like(own, -math.inf)
    first = 0
    for x_b, i_b, m_b, _ in blocks(x, index, mask, 1):
        q, last = guide.posterior(x_b, i_b, m_b), first + len(x_b)
        for s, columns in _tiles(t, len(x_b)):
            log_q = q.log_prob(t[s, columns].unsqueeze(1).expand(-1, len(x_b), -1))  # (n, B)
            i = torch.arange(N, device=t.device)[columns].unsqueeze(-1)
            log_q = log_q.masked_fill(i == torch.arange(first, last, device=t.device), -math.inf)
            others[s, columns] = torch.logaddexp(others[s, columns], log_q.logsumexp(-1))
        first = last
    return torch.logaddexp(others, own) - math.log(N), others - math.log(N - 1)


def _tiles(t: Tensor, components: int):
    r"""(sample, slice of points) such that a tile against all components of a block stays within the budget."""
    S, N, D = t.shape
    rows = max(1, BUDGET // (components * D))
    for s in range(S):
        for i in range(0, N, rows):
            yield s, slice(i, i + rows)
