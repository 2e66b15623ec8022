r"""The M-step of PPCA, with or without missing entries."""

import torch
from torch import Tensor

from . import closed_form
from .posterior import Posterior


def maximized(q: Posterior) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns the w that maximizes Σ_i E_q log p(x_i, t_i | w), with the prior fitted as well (PX-EM).

    Each row (v_j, m_j) is a least-squares fit of the observed residuals r_ij on (t_i, 1) under q = N(t̂_i, S_i); σ² is
    the mean of E (r_ij − v_j t_i − m_j)² = (r_ij − v_j t̂_i − m_j)² + v_jᵀ S_i v_j, in units of the former σ². The
    prior N(a, A Aᵀ) is fitted to the moments of t, and transformed back to N(0, I) by V ← V A, m ← m + V a.

    Returns:
        V (P, D), m (P,) and σ² (), in units of the former σ; m is relative to the former μ.
    """
    r, t, S = q.residual, q.mean, q.scale_tril @ q.scale_tril.mT
    mask = torch.ones_like(r, dtype=torch.bool) if q.mask is None else q.mask
    S, m = S.expand(len(r), *S.shape[-2:]), mask.to(r)
    one = torch.cat([t, torch.ones_like(t[:, :1])], -1)  # (t, 1)
    spread = (m.mT @ S.flatten(1)).unflatten(-1, S.shape[-2:])  # Σ_i S_i of each column, (P, D, D)
    gram = (m.mT @ (one.unsqueeze(2) * one.unsqueeze(1)).flatten(1)).unflatten(-1, (one.shape[1],) * 2)
    gram[:, :-1, :-1] += spread
    c = torch.linalg.solve(gram, r.mT @ one)  # (P, D + 1)
    V, left = c[:, :-1], torch.where(mask, r - one @ c.mT, 0.0)
    sigma2 = (left.square().sum() + ((V.unsqueeze(1) @ spread).squeeze(1) * V).sum()) / m.sum()
    a = t.mean(0)
    A = torch.linalg.cholesky((t - a).mT @ (t - a) / len(t) + S.mean(0))
    return V @ A, c[:, -1] + V @ a, sigma2


def check(q: Posterior, mu: Tensor, eps: float) -> None:
    r"""Raises a `ValueError` unless there is noise beyond rounding: otherwise EM ends at σ = 0.

    Arguments:
        q: the posterior of all points.
        mu: μ (P,).
        eps: the relative rounding error of x.
    """
    r, scale = q.residual, q.log_scale.exp()
    check_columns(torch.ones_like(r, dtype=torch.bool) if q.mask is None else q.mask)
    count = len(r) if q.mask is None else q.mask.sum(0)
    mean = r.sum(0) / count
    about = r - mean if q.mask is None else torch.where(q.mask, r - mean, 0.0)
    left, spread = ((v.square().sum(0) / count).sqrt() * scale for v in (q.misfit, about))
    closed_form.check_noise(left, spread, mu + mean * scale, eps, q.mean.shape[1])


def check_columns(mask: Tensor) -> None:
    r"""Raises a `ValueError` unless each column of the mask (N, P) has an observed entry."""
    if not bool(mask.any(0).all()):
        raise ValueError(
            f"columns {(~mask.any(0)).nonzero().flatten().tolist()} of X have no observed entry: drop them"
        )
