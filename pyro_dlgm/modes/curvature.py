r"""Curvatures of log-densities by forward-mode derivatives, with one tangent per latent.

The tangents are vectorized (`torch.func.vmap`). Rows of a batch are independent points, so one tangent serves all of
them.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from ..storage.sums import widened

FLAT = 0.1  # the smallest curvature that is not repaired, in units of the prior's


def jacobian(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    r"""Returns ∂ function(t)_b / ∂ t_b for the rows b of a batch: (D, B, ...) for a function (B, D) -> (B, ...)."""

    def along(tangent: Tensor) -> Tensor:
        return jvp(function, (t,), (tangent.expand_as(t),))[1]

    _load()
    with torch.no_grad():
        return vmap(along)(torch.eye(t.shape[-1], dtype=t.dtype, device=t.device))


@functools.cache
def _load() -> None:
    r"""Makes torch load its rules for tangents, once, without its own warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        vmap(lambda v: jvp(torch.sin, (v,), (v,)))(torch.zeros(1))


def hessian(log_density: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    r"""Returns ∂² log_density(t)_b / ∂ t_b², (B, D, D), for a function (B, D) -> (B,) of independent rows."""
    # `grad` records parameters even under `no_grad`.
    H = jacobian(grad(lambda t: log_density(t).sum()), t).movedim(0, -1).detach()
    return 0.5 * (H + H.mT)


def gauss_newton(J: Tensor, information: Tensor) -> Tensor:
    r"""Returns Jᵀ I J for each row, summed over pixels, in float64.

    Arguments:
        J: the derivatives of h parameters of each of P pixels by D latents, (D, B, P, h).
        information: the Fisher information I of these parameters, (B, P, h, h).

    Returns:
        A tensor (B, D, D), positive semi-definite.

    References:
        Martens, "New insights and perspectives on the natural gradient method" (2020), section 9.
        https://arxiv.org/abs/1412.1193
    """
    weighted = (J.unsqueeze(-2) @ information).squeeze(-2)
    left, right = (v.movedim(0, 1).flatten(2) for v in (weighted, J))  # (B, D, P * h)
    C = widened(left @ right.mT)
    return 0.5 * (C + C.mT)


def repaired(C: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns C (n, D, D) with eigenvalues of at least `FLAT`, and which matrices had to be changed, (n,).

    Eigenvalues are those of S C S, S = diag(scale), with the prior's standard deviations ``scale`` (n, D). Each becomes
    its absolute value, or `FLAT` if that is larger, so that steps lead away from convex regions.

    References:
        Dauphin et al., "Identifying and attacking the saddle point problem" (2014), section 4.
        https://arxiv.org/abs/1406.2572
    """
    S = widened(scale)
    outer = S.unsqueeze(-1) * S.unsqueeze(-2)
    A = widened(C) * outer
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    numbers = A.isfinite().all(-1).all(-1)
    wrong = (torch.linalg.cholesky_ex(A - FLAT * eye).info != 0) & numbers
    if wrong.any():
        value, vector = torch.linalg.eigh(A[wrong])
        A[wrong] = vector @ (value.abs().clamp_min(FLAT).unsqueeze(-1) * vector.mT)
    return A / outer, wrong


def inverse_factor(C: Tensor) -> Tensor:
    r"""Returns the lower triangular T with T Tᵀ = C⁻¹, (..., D, D); NaN where C is not positive definite."""
    # From the last row up: an upper triangular U with U Uᵀ = C, and T = U⁻ᵀ is lower triangular.
    U, failed = torch.linalg.cholesky_ex(C.flip(-2, -1))
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
    T = torch.linalg.solve_triangular(U.flip(-2, -1).mT, eye.expand_as(C), upper=False)
    return torch.where((failed == 0).unsqueeze(-1).unsqueeze(-1), T, torch.nan)
