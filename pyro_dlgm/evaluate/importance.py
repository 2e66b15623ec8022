r"""Diagnostics of log-weights: effective sample size, Pareto k̂, and the rounding error of log q.

The mean of log q over its draws is −H(q), which is known if q is Gaussian. For q = N(m, L Lᵀ) and a draw t = m + L ε,
log q(t) + H(q) = ½ (D − |ε|²). ε is recovered from t by solving with L, whose condition number magnifies the rounding
of t. If no digit of ε is left, log q(t) is too low by any amount, and F(q) and log p(x) are too high by as much.

References:
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling" (2024). https://arxiv.org/abs/1507.02646
    Zhang and Stephens, "A new and efficient estimation method for the generalized Pareto distribution" (2009).
"""

import math
import warnings

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from .. import distributions, messages
from ..storage.sums import widened

FEWEST = 25  # weights for a tail of 5
UNRELIABLE = 0.7  # the k̂ above which an average is unreliable
CHANCE = 25.0  # nats: −log of the probability of a false alarm, per point and side
# Log-weights within this of each other are equal up to rounding.
SPREAD = {torch.float16: 1e-1, torch.bfloat16: 1e-1, torch.float32: 1e-4, torch.float64: 1e-9}


def ess(log_weights: Tensor) -> Tensor:
    r"""Returns the effective sample size (Σ_k w_k)² / Σ_k w_k² of each point: (K, B) -> (B,), between 1 and K.

    It is 0 if all weights are 0 (log-weights −∞), and NaN if a log-weight is NaN or +∞.
    """
    largest = log_weights.amax(0)
    w = (log_weights - largest).exp()  # the largest is 1, so that both sums are finite and at least 1
    found = (w.sum(0).square() / w.square().sum(0)).clamp(1, len(w))
    return torch.where(largest == -math.inf, 0.0, found)


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""Returns the shape k̂ of a generalized Pareto fitted to the largest weights of each point: (K, B) -> (B,).

    Weights have moments up to order 1/k: above 0.5 the variance is infinite, above 0.7 the average is unreliable at any
    practical K, above 1 the mean does not exist. Weights that are all equal have k̂ = −∞; if four or fewer weights
    dominate, there is no tail to fit, and k̂ = ∞. The tail is the min(K/5, 3 √K) largest weights; the estimate is Zhang
    and Stephens's, with the weak prior of Vehtari et al. (ten observations at 0.5).

    Raises:
        ValueError: if K is less than 25, which leaves fewer than 5 weights in the tail.
    """
    K = len(log_weights)
    tail = math.ceil(min(0.2 * K, 3 * math.sqrt(K)))
    if tail < 5:
        raise ValueError(f"{K} weights for each point; expected at least {FEWEST}, for a tail of 5")
    log_w = widened(log_weights - log_weights.amax(0)).sort(0).values
    cutoff = log_w[-tail - 1].clamp_min(math.log(torch.finfo(log_w.dtype).tiny))
    above = log_w[-tail:] > cutoff
    k = torch.full_like(cutoff, math.inf)  # four weights or fewer dominate: no tail to fit, the worst case
    for length in range(5, tail + 1):
        # Points with the same length of tail are fitted together; nearly all have the full one.
        here = above.sum(0) == length
        if here.any():
            k[here] = _generalized_pareto_shape(log_w[-length:, here].exp() - cutoff[here].exp())
    k[log_w[0] > -SPREAD[log_weights.dtype]] = -math.inf
    k[log_weights.isnan().any(0)] = math.nan
    return k.to(log_weights.dtype)


def _generalized_pareto_shape(y: Tensor) -> Tensor:
    r"""Returns Zhang and Stephens's posterior mean of the shape k for sorted exceedances y (n, B) -> (B,)."""
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


def strays(q, log_q: Tensor) -> Tensor:
    r"""Returns how far the mean of log q over its draws is from −H(q); 0 if chance or harmless rounding explains it.

    mean_k log q(t_k) + H(q) is (n − χ²_n) / 2K with n = K D, which for any K and D is within

        √(D c / K) + c / K

    of 0 with a probability of at least 1 − 2 e⁻ᶜ. In addition, each of D terms may lose half of its digits to rounding.

    Arguments:
        q: of batch shape (B,) and event shape (D,).
        log_q: at K draws of it, (K, B).

    Returns:
        Nats (B,); 0 if nothing is wrong or q is not Gaussian.

    References:
        Laurent and Massart, "Adaptive estimation of a quadratic functional by model selection" (2000), lemma 1.
    """
    if not (distributions.diagonal(q) or isinstance(q, MultivariateNormal | LowRankMultivariateNormal)):
        return torch.zeros_like(log_q[0])
    K, (D,) = len(log_q), q.event_shape
    off = (widened(log_q).mean(0) + q.entropy()).abs()
    harmless = math.sqrt(D * CHANCE / K) + CHANCE / K + D * torch.finfo(log_q.dtype).eps ** 0.5
    return torch.where(off > harmless, off, 0.0).to(log_q)


def report(off: Tensor, stacklevel: int) -> None:
    r"""Warns about the points whose log q is wrong, with ``off`` (B,) from `strays`."""
    strayed = off.nonzero().flatten().tolist()
    if strayed:
        warnings.warn(
            f"log q is wrong by up to {float(off.max()):.3g} nats at draws of q at {len(strayed)} of {len(off)} points "
            f"({messages.rows(strayed)}), and so are F(q) and log p(x): q is too narrow or ill-conditioned there for "
            f"{off.dtype}; use model.double() and guide.double(), fit q again at a lower lr or row_lr, or take another "
            "family (guides.MeanField)",
            stacklevel=stacklevel + 1,
        )
