r"""Damped Newton steps up many functions at once, each with its own damping and its own end.

With the gradient g and the curvature C, a positive definite stand-in for −∂²f, a step solves

    (C + λ diag C) s = g,

and is taken where it climbs. Then λ shrinks if f rose as its quadratic model said; where f fell, λ grows and the step
is tried anew (Levenberg-Marquardt). The function has arrived where the undamped step promises no more than a tolerance,
½ gᵀ C⁻¹ g, or than the rounding of f. That last step is taken without a look.

References:
    Marquardt, "An algorithm for least-squares estimation of nonlinear parameters" (1963). SIAM Journal 11(2).
    Nocedal and Wright, "Numerical optimization" (2006), section 10.3.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

DAMPING = 1e-2  # at the start
LEAST, MOST = 1e-9, 1e9  # damping; beyond the second no step is left that could climb
EASED, RAISED = 0.1, 8.0  # factors of the damping after a good step, and after one that falls
GOOD, POOR = 0.5, 0.1  # shares of the promised gain
ROUNDING = 8.0  # of a value of f, in units of its last digit


class Look(NamedTuple):
    r"""What is known of n functions at their places.

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
    r"""n functions of D numbers, some of which are asked at a time."""

    def value(self, t: Tensor, rows: Tensor) -> Tensor:
        r"""f (m,) of the functions ``rows`` (m,) at t (m, D)."""
        ...

    def look(self, t: Tensor, rows: Tensor) -> Look:
        r"""What is known of them there."""
        ...


class Top(NamedTuple):
    r"""Where the climb ended.

    Attributes:
        t: places (n, D).
        value: f there, as its quadratic model says, (n,), in float64.
        last: what was known one step before them.
        converged: whether no more than the tolerance was to be gained there, (n,).
    """

    t: Tensor
    value: Tensor
    last: Look
    converged: Tensor


def climb(function: Function, t: Tensor, *, max_steps: int, tol: float) -> Top:
    r"""Climbs from t (n, D) until no more than ``tol`` is to be gained, or ``max_steps`` steps have been tried.

    Arguments:
        function: the n functions.
        t: where each starts.
        max_steps: bound on the steps of each.
        tol: in the units of the functions, nats.
    """
    t, rows = t.clone(), torch.arange(len(t), device=t.device)
    here, damping = function.look(t, rows), torch.full_like(t[:, 0], DAMPING, dtype=torch.float64)
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
    r"""One step of the functions ``rows``: t, what is known, and the damping change in place."""
    look = _of(here, rows)
    step, promised = _step(look, damping[rows])
    there = t[rows] + step
    gained = function.value(there, rows).double() - look.value.double()
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
    r"""Whether the undamped step promises no more than ``tol``, or than the rounding of f; not where that is NaN."""
    _, promised = _step(here, torch.zeros_like(here.value, dtype=torch.float64))
    return promised <= _rounding(here.value).clamp_min(tol)


def _rounding(value: Tensor) -> Tensor:
    return ROUNDING * torch.finfo(value.dtype).eps * (1 + value.double().abs())


def _step(look: Look, damping: Tensor) -> tuple[Tensor, Tensor]:
    r"""The step (n, D), in the dtype of the gradient, and what f gains by its quadratic model, (n,), in float64."""
    C, g = look.curvature.double(), look.gradient.double()
    damped = C + (damping.unsqueeze(-1) * C.diagonal(dim1=-2, dim2=-1)).diag_embed()
    L, failed = torch.linalg.cholesky_ex(damped)
    step = torch.cholesky_solve(g.unsqueeze(-1), L)
    gain = (g.unsqueeze(-1) * step - 0.5 * step * (C @ step)).sum((-2, -1))
    gain = torch.where(failed == 0, gain, math.nan)
    return step.squeeze(-1).to(look.gradient), gain
