r"""The posterior and the evidence of PPCA at given points, in units of σ and in float64.

With V = W/σ, r = (x − μ)/σ and T Tᵀ = (I + VᵀV)⁻¹ = σ² M⁻¹, and sums over the observed pixels P_i of a point,

    t̂ = T Tᵀ Vᵀ r,        p(t | x, w) = N(t̂, T Tᵀ),
    log p(x | w) = −½ (P_i log 2πσ² − 2 Σ_d log T_dd + |r − V t̂|² + |t̂|²).

The last two terms are the minimum over t of |r − V t|² + |t|², so an error of t̂ enters only by its square. The
textbook formula |r|² − |L⁻¹ Vᵀ r|² is the same number as a difference of two large ones: at a signal of 10⁴ σ no digit
of it is left in float32. Units of σ keep squares in range, whatever the units of x are.
"""

import contextvars
import math

import torch
from torch import Tensor

from ..modes.curvature import inverse_factor
from ..program import held
from ..storage.sums import widened

LOST = 0.01  # nats, and the relative error of I + VᵀV
_reads = contextvars.ContextVar("reads", default=True)


def unread():
    r"""Context manager: a posterior without factors is NaN; the error would wait for the device."""
    return held(_reads, False)


class Posterior:
    r"""Creates p(t | x, w) of points x, in float64; gradients flow back to the arguments, in their dtypes.

    Arguments:
        W, mu, log_scale: W (P, D), μ (P,) and log σ ().
        x: data (B, P), finite everywhere.
        mask: boolean, True where observed, (B, P), or `None`.

    Attributes:
        mean: t̂ (B, D).
        scale_tril: T, lower triangular, (D, D), or (B, D, D) with a mask.
        residual: r (B, P), 0 for missing pixels.
        misfit: r − V t̂ (B, P), 0 for missing pixels.
        count: the number of observed pixels, P, or (B,) with a mask.

    Raises:
        torch.linalg.LinAlgError: if I + VᵀV cannot be factorized, since W and σ are not finite or too far apart for
            float64.
    """

    def __init__(self, W: Tensor, mu: Tensor, log_scale: Tensor, x: Tensor, mask: Tensor | None = None):
        self.log_scale = widened(log_scale)
        scale = self.log_scale.exp()
        V, self.mask = widened(W) / scale, mask
        self.residual = self._observed((widened(x) - widened(mu)) / scale)
        self.count = x.shape[-1] if mask is None else mask.sum(-1)
        self.scale_tril = _inverse_factor(self._gram(V), W, scale)
        Vr = (self.residual @ V).unsqueeze(-1)
        self.mean = (self.scale_tril @ (self.scale_tril.mT @ Vr)).squeeze(-1)
        self.misfit = self._observed(self.residual - self.mean @ V.mT)

    def _observed(self, r: Tensor) -> Tensor:
        return r if self.mask is None else torch.where(self.mask, r, 0.0)

    def _gram(self, V: Tensor) -> Tensor:
        r"""Returns VᵀV over the observed pixels, (D, D) or (B, D, D)."""
        if self.mask is None:
            return V.mT @ V
        return (self.mask.to(V) @ (V.unsqueeze(2) * V.unsqueeze(1)).flatten(1)).unflatten(-1, (V.shape[1],) * 2)

    def log_prob(self) -> Tensor:
        r"""Returns log p(x | w) of each point, (B,), in nats."""
        square = self.misfit.square().sum(-1) + self.mean.square().sum(-1)
        log_det = -2 * self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (self.count * (math.log(2 * math.pi) + 2 * self.log_scale) + log_det + square)


def _inverse_factor(gram: Tensor, W: Tensor, scale: Tensor) -> Tensor:
    r"""Returns the lower triangular T with T Tᵀ = (I + gram)⁻¹, of the shape of gram, (..., D, D)."""
    M = gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    T = inverse_factor(M)
    fine = _rounding(M.detach(), T.detach()) < LOST  # false for NaN
    if not _reads.get():
        return torch.where(fine.unsqueeze(-1).unsqueeze(-1), T, torch.nan)
    if not bool(fine.all()):
        raise torch.linalg.LinAlgError(
            f"WᵀW + σ² I has no factors in {M.dtype}: entries of W up to {float(W.detach().abs().max()):.3g}, "
            f"σ = {float(scale.detach()):.3g}; expected finite ones with W below 1e6 σ: choose fewer latents, "
            "bring the columns of x to similar units, or lower lr"
        )
    return T


def _rounding(M: Tensor, T: Tensor) -> Tensor:
    r"""Estimates the rounding error (...): the relative one of M = (T Tᵀ)⁻¹, or that of |r − V t̂|² + |t̂|² if larger.

    M_dd (M⁻¹)_dd is the factor by which rounding is magnified, in any units of the latents. The error of the sum of
    squares is (δ t̂)ᵀ M δ t̂, of second order, with M_dd t̂_d² as large as the signal.
    """
    eps, size = torch.finfo(M.dtype).eps, M.diagonal(dim1=-2, dim2=-1)
    return (size * T.square().sum(-1)).amax(-1) * (eps * size.amax(-1)).clamp_min(1) * eps
