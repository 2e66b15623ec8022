r"""All q(t | x_i) of a data set: samples, moments, KL; and their mixture, the aggregate posterior q(t)."""

import math

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from ... import gaussian
from ..quiet import blocks
from .calibration import marginals

BUDGET = 2**22  # numbers of t at a time


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
    parts = [_look(guide.posterior(*block[:3]), p, S) for block in blocks(x, index, mask, 1)]
    return {
        name: torch.cat([part[name] for part in parts], 1) if isinstance(value, Tensor) else value
        for name, value in parts[0].items()
    }


def _look(q, p, S: int) -> dict:
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
        "kl": kl_divergence(normal, prior).unsqueeze(0) if closed and prior is not None else None,
        # Two means with independent errors: the product of both does not take sampling noise for variance.
        "means": torch.stack([normal.mean] * 2 if closed else [half.mean(0) for half in t.tensor_split(2)]),
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
