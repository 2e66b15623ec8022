r"""Damped Newton steps up many functions at once, each with its own damping and end.

With the gradient g and the curvature C, a positive definite stand-in for −∂²f, a step solves

    (C + λ diag C) s = g,

and is taken if f increases. λ shrinks if f rose as much as its quadratic model predicts; if f fell, λ grows and the
step is tried again (Levenberg-Marquardt). A function has converged when the undamped step predicts a gain, ½ gᵀ C⁻¹ g,
of at most a tolerance or the rounding of f. That last step is taken without evaluating f.

References:
    Marquardt, "An algorithm for least-squares estimation of nonlinear parameters" (1963). SIAM Journal 11(2).
    Nocedal and Wright, "Numerical optimization" (2006), section 10.3.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..storage.sums import sums_dtype, widened

DAMPING = 1e-2  # initially
LEAST, MOST = 1e-9, 1e9  # bounds of the damping; at the upper one no step can increase f
EASED, RAISED = 0.1, 8.0  # factors of the damping after a good step, and after a poor one
GOOD, POOR = 0.5, 0.1  # shares of the predicted gain
ROUNDING = 8.0  # of a value of f, in units of its last digit


class Look(NamedTuple):
    r"""The values and derivatives of n functions at their positions.

    Attributes:
        value: f (n,).
        gradient: g (n, D).
        curvature: C (n, D, D), positive definite.
        repaired: whether C is −∂²f with eigenvalues that were changed, (n,).
    """

    value: Tensor
    gradient: Tensor
    curvature: Tensor
    repaired: Tensor


class Function(Protocol):
    r"""The protocol of n functions of D numbers, evaluated for some of them at a time."""

    def value(self, t: Tensor, rows: Tensor) -> Tensor:
        r"""Returns f (m,) of the functions ``rows`` (m,) at t (m, D)."""
        ...

    def look(self, t: Tensor, rows: Tensor) -> Look:
        r"""Returns values and derivatives of the functions ``rows`` at t."""
        ...


class Top(NamedTuple):
    r"""The end of the ascent.

    Attributes:
        t: positions (n, D).
        value: f there, by its quadratic model, (n,), in float64.
        last: values and derivatives one step before.
        converged: whether the predicted gain was within the tolerance, (n,).
    """

    t: Tensor
    value: Tensor
    last: Look
    converged: Tensor


def climb(function: Function, t: Tensor, *, max_steps: int, tol: float) -> Top:
    r"""Ascends from t (n, D) until the predicted gain is at most ``tol``, or ``max_steps`` steps have been tried.

    Arguments:
        function: the n functions.
        t: the starts.
        max_steps: the largest number of steps of each.
        tol: in the units of the functions, nats.
    """
    t, rows = t.clone(), torch.arange(len(t), device=t.device)
    here, damping = function.look(t, rows), torch.full_like(t[:, 0], DAMPING, dtype=sums_dtype(t.device))
    for _ in range(max_steps):
        rows = (~_arrived(here, tol) & (damping < MOST)).nonzero().flatten()
        if not len(rows):
            break
        _try(function, t, here, damping, rows)
    converged = _arrived(here, tol)
    step, promised = _step(here, torch.zeros_like(damping))
    value = here.value + torch.where(converged, promised, 0.0)
    return Top(torch.where(converged.unsqueeze(-1), t + step, t), value, here, converged)


def _try(function: Function, t: Tensor, here: Look, damping: Tensor, rows: Tensor) -> None:
    r"""Tries a step of the functions ``rows``; updates t, the values and derivatives, and the damping in place."""
    look = _of(here, rows)
    step, promised = _step(look, damping[rows])
    there = t[rows] + step
    gained = widened(function.value(there, rows)) - widened(look.value)
    climbs = gained > -_rounding(look.value)  # false for NaN
    good, poor = gained > GOOD * promised, ~(gained > POOR * promised)
    factor = torch.where(good, EASED, torch.where(poor, RAISED, 1.0))
    damping[rows] = (damping[rows] * factor).clamp(LEAST, MOST)
    taken = rows[climbs]
    if len(taken):
        t[taken] = there[climbs]
        for known, new in zip(here, function.look(t[taken], taken), strict=True):
            known[taken] = new


def _of(look: Look, rows: Tensor) -> Look:
    return Look(*(known[rows] for known in look))


def _arrived(here: Look, tol: float) -> Tensor:
    r"""Returns whether the undamped step predicts a gain of at most ``tol`` or the rounding of f; false for NaN."""
    _, promised = _step(here, torch.zeros_like(here.value, dtype=sums_dtype(here.value.device)))
    return promised <= _rounding(here.value).clamp_min(tol)


def _rounding(value: Tensor) -> Tensor:
    return ROUNDING * torch.finfo(value.dtype).eps * (1 + widened(value).abs())


def _step(look: Look, damping: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the step (n, D), in the dtype of the gradient, and its predicted gain, (n,), in float64."""
    C, g = widened(look.curvature), widened(look.gradient)
    damped = C + (damping.unsqueeze(-1) * C.diagonal(dim1=-2, dim2=-1)).diag_embed()
    L, failed = torch.linalg.cholesky_ex(damped)
    step = torch.cholesky_solve(g.unsqueeze(-1), L)
    gain = (g.unsqueeze(-1) * step - 0.5 * step * (C @ step)).sum((-2, -1))
    gain = torch.where(failed == 0, gain, math.nan)
    return step.squeeze(-1).to(look.gradient), gain
