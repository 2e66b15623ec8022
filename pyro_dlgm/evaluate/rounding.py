r"""The rounding error of log q: at draws of q its mean is −H(q), which is known where q is Gaussian.

For q = N(m, L Lᵀ) and a draw t = m + L ε, log q(t) + H(q) = ½ (D − |ε|²). From t, ε comes back by solving with L, and
L's condition number magnifies the rounding of t. Where that leaves nothing of ε, log q(t) is too low by any amount,
and F(q) and log p(x) are too high by as much.
"""

import math
import warnings

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from .. import gaussian, messages

CHANCE = 25.0  # nats: −log of the probability of an alarm by chance, of each point and on each side


def strays(q, log_q: Tensor) -> Tensor:
    r"""Returns how far the mean of log q over its draws is from −H(q); 0 where chance or harmless rounding explains it.

    mean_k log q(t_k) + H(q) is (n − χ²_n) / 2K with n = K D, which for any K and D is within

        √(D c / K) + c / K

    of 0 with a probability of at least 1 − 2 e⁻ᶜ. Besides, half of the digits of each of D terms may go in rounding.

    Arguments:
        q: of batch shape (B,) and event shape (D,).
        log_q: at K draws of it, (K, B).

    Returns:
        Nats (B,); 0 where nothing is wrong, and where q is not Gaussian.

    References:
        Laurent and Massart, "Adaptive estimation of a quadratic functional by model selection" (2000), lemma 1.
    """
    if not (gaussian.diagonal(q) or isinstance(q, MultivariateNormal | LowRankMultivariateNormal)):
        return torch.zeros_like(log_q[0])
    K, (D,) = len(log_q), q.event_shape
    off = (log_q.double().mean(0) + q.entropy()).abs()
    harmless = math.sqrt(D * CHANCE / K) + CHANCE / K + D * torch.finfo(log_q.dtype).eps ** 0.5
    return torch.where(off > harmless, off, 0.0).to(log_q)


def report(off: Tensor, stacklevel: int) -> None:
    r"""Warns of the points whose log q strays, ``off`` (B,) from `strays`."""
    strayed = off.nonzero().flatten().tolist()
    if strayed:
        warnings.warn(
            f"log q is wrong by up to {float(off.max()):.3g} nats at draws of q at {len(strayed)} of {len(off)} points "
            f"({messages.rows(strayed)}), and so are F(q) and log p(x): q is too narrow or ill-conditioned there for "
            f"{off.dtype}; use model.double() and guide.double(), fit q again at a lower lr or row_lr, or take another "
            "family (guides.MeanField)",
            stacklevel=stacklevel + 1,
        )
