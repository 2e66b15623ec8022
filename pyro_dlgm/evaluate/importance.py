r"""Importance weights: of any pair of Pyro programs, from their traces; effective sample size and Pareto k̂.

References:
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling" (2024). https://arxiv.org/abs/1507.02646
    Zhang and Stephens, "A new and efficient estimation method for the generalized Pareto distribution" (2009).
"""

import math

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ..objectives import is_drawn
from .points import Points

FEWEST = 25  # weights that make a tail of 5
UNRELIABLE = 0.7  # the k̂ above which an average is
# Log-weights within this of each other are equal up to rounding.
SPREAD = {torch.float16: 1e-1, torch.bfloat16: 1e-1, torch.float32: 1e-4, torch.float64: 1e-9}


def ess(log_weights: Tensor) -> Tensor:
    r"""The effective sample size (Σ_k w_k)² / Σ_k w_k² of each point: (K, B) -> (B,), between 1 and K."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""The shape k̂ of a generalized Pareto fitted to the largest weights of each point: (K, B) -> (B,).

    Weights have moments up to order 1/k: above 0.5 the variance is infinite, above 0.7 the average is unreliable at
    any practical K, above 1 the mean does not exist. Weights that are all equal have k̂ = −∞; if four or fewer carry
    everything there is no tail to fit, and k̂ = ∞. The tail is the min(K/5, 3 √K) largest weights; the estimate is
    Zhang and Stephens's, with the weak prior of Vehtari et al. (ten observations at 0.5).

    Raises:
        ValueError: if K is less than 25, which leaves fewer than 5 weights in the tail.
    """
    K = len(log_weights)
    tail = math.ceil(min(0.2 * K, 3 * math.sqrt(K)))
    if tail < 5:
        raise ValueError(f"{K} weights for each point; expected at least {FEWEST}, for a tail of 5")
    log_w = (log_weights - log_weights.amax(0)).double().sort(0).values
    cutoff = log_w[-tail - 1].clamp_min(math.log(torch.finfo(torch.float64).tiny))
    above = log_w[-tail:] > cutoff
    k = torch.full_like(cutoff, math.inf)  # four weights or fewer stand out: no tail to fit, the worst case
    for length in range(5, tail + 1):
        # Points with the same length of tail are fitted together; nearly all have the full one.
        here = above.sum(0) == length
        if here.any():
            k[here] = _generalized_pareto_shape(log_w[-length:, here].exp() - cutoff[here].exp())
    k[log_w[0] > -SPREAD[log_weights.dtype]] = -math.inf
    k[log_weights.isnan().any(0)] = math.nan
    return k.to(log_weights.dtype)


def _generalized_pareto_shape(y: Tensor) -> Tensor:
    r"""Zhang and Stephens's posterior mean of the shape k for sorted exceedances y (n, B) -> (B,)."""
    n, prior_theta = len(y), 3
    m = 30 + int(math.sqrt(n))
    quartile = y[int(n / 4 + 0.5) - 1]
    grid = 1 - (m / (torch.arange(1, m + 1, dtype=y.dtype, device=y.device) - 0.5)).sqrt()
    theta = grid.unsqueeze(-1) / (prior_theta * quartile) + 1 / y[-1]  # (m, B)
    shape = torch.log1p(-theta.unsqueeze(1) * y).mean(1)  # (m, n, B) -> (m, B)
    profile = n * ((-theta / shape).log() - shape - 1)
    theta = (profile.softmax(0) * theta).sum(0)
    k = torch.log1p(-theta * y).mean(0)
    return (n * k + 10 * 0.5) / (n + 10)


def traced_log_weights(model, guide, points: Points, num_samples: int, with_q: bool) -> Tensor:
    r"""Computes unscaled log-weights (K, B) of any two Pyro programs; auxiliary sites of the guide are summed.

    For guides that do not say their posterior. Without q, log p(x, t_k | w).

    Raises:
        ValueError: if a site has no log-weight for each point: a latent outside the plate over data.
    """
    x, index, mask = points
    with pyro.plate("samples", num_samples, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(x, index, mask=mask)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x, index, mask=mask)
    total = x.new_zeros(num_samples, len(x))
    for trace, sign in ((model_trace, 1), (guide_trace, -1 if with_q else 0)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if is_drawn(site) and not site["infer"].get("_deterministic"):
                total = total + sign * _per_point(name, site, len(x))
    return total


def _per_point(name: str, site: dict, batch: int) -> Tensor:
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    frames = [f for f in site["cond_indep_stack"] if f.dim == -1]
    if not frames or log_prob.dim() > 2 or log_prob.shape[-1:] != torch.Size([batch]):
        raise ValueError(
            f"site {name!r} has no log-density for each point (shape {tuple(log_prob.shape)}, {batch} points): it is "
            "outside the plate over data at dim=-1, so its weight belongs to no point. Condition on it, or block it"
        )
    return log_prob
