r"""Damped Newton steps up many functions at once, each with its own damping and end.

With the gradient g and the curvature C, a positive definite stand-in for −∂²f, a step solves

    (C + λ diag C) s = g,

and is taken if f increases. λ shrinks if f rose as much as its quadratic model predicts; if f fell, λ grows and the
step is tried again (Levenberg-Marquardt). C costs as much as D gradients, so it is kept from step to step while the
model still predicts how f changes, and computed anew where it does not. A function has converged when the undamped step
with a new C predicts a gain, ½ gᵀ C⁻¹ g, of at most a tolerance or the rounding of f. That last step is taken without
evaluating f.

References:
    Marquardt, "An algorithm for least-squares estimation of nonlinear parameters" (1963). SIAM Journal 11(2).
    Nocedal and Wright, "Numerical optimization" (2006), section 10.3.
    Kelley, "Iterative methods for linear and nonlinear equations" (1995), section 5.4: the chord method.
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
TRUSTED = 0.5  # relative error of the predicted gain up to which C is kept
SURE = 1e-2  # nats: a last step that predicts no more is taken without evaluating f
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

    def value_and_gradient(self, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns f (m,) and g (m, D) of the functions ``rows`` (m,) at t (m, D)."""
        ...

    def curvature(self, t: Tensor, rows: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns C (m, D, D) and whether it was repaired (m,), of the functions ``rows`` at t, where f is known."""
        ...


class Top(NamedTuple):
    r"""The end of the ascent.

    Attributes:
        t: positions (n, D).
        value: f there, (n,), in float64; after a last step that was not evaluated, by its quadratic model.
        last: values and derivatives one step before.
        converged: whether the predicted gain was within the tolerance, (n,).
    """

    t: Tensor
    value: Tensor
    last: Look
    converged: Tensor


class State(NamedTuple):
    r"""The state of n functions, changed in place: t (n, D), its `Look`, damping (n,), and whether C is stale (n,)."""

    t: Tensor
    here: Look
    damping: Tensor
    stale: Tensor


def climb(function: Function, t: Tensor, *, max_steps: int, tol: float) -> Top:
    r"""Ascends from t (n, D) until the predicted gain is at most ``tol``, or ``max_steps`` steps have been tried.

    Arguments:
        function: the n functions.
        t: the starts.
        max_steps: the largest number of steps of each; a new C instead of a step counts as one.
        tol: in the units of the functions, nats.
    """
    t, every = t.clone(), torch.arange(len(t), device=t.device)
    value, gradient = function.value_and_gradient(t, every)
    damping = torch.full_like(value, DAMPING, dtype=sums_dtype(t.device))
    here = Look(value, gradient, *function.curvature(t, every, value))
    state = State(t, here, damping, torch.zeros_like(here.repaired))
    for _ in range(max_steps):
        arrived, going = _arrived(here, tol), state.damping < MOST
        if not ((~arrived | state.stale) & going).any():
            break
        _renew(function, state, (arrived & state.stale & going).nonzero().flatten())
        _try(function, state, (~arrived & going).nonzero().flatten())
    _renew(function, state, state.stale.nonzero().flatten())
    return _top(function, t, here, _arrived(here, tol))


def _top(function: Function, t: Tensor, here: Look, converged: Tensor) -> Top:
    r"""Takes the last step of the functions that have converged, unless f would fall."""
    step, promised = _step(here, torch.zeros_like(here.value, dtype=sums_dtype(t.device)))
    value, taken = widened(here.value), converged & (promised <= SURE)
    after = value + promised
    rows = (converged & ~taken).nonzero().flatten()
    if len(rows):
        found, _ = function.value_and_gradient(t[rows] + step[rows], rows)
        after[rows], taken[rows] = widened(found), found > here.value[rows]
    return Top(torch.where(taken.unsqueeze(-1), t + step, t), torch.where(taken, after, value), here, converged)


def _try(function: Function, state: State, rows: Tensor) -> None:
    r"""Tries a step of the functions ``rows``; a C that predicts its gain badly is replaced, or the step damped."""
    if not len(rows):
        return
    t, here, damping, stale = state
    look, was_stale = Look(*(known[rows] for known in here)), stale[rows]
    step, promised = _step(look, damping[rows])
    there = t[rows] + step
    value, gradient = function.value_and_gradient(there, rows)
    gained = widened(value) - widened(look.value)
    climbs = gained > -_rounding(look.value)  # false for NaN
    good, poor = gained > GOOD * promised, ~(gained > POOR * promised)
    factor = torch.where(good, EASED, torch.where(poor, RAISED, 1.0))
    damping[rows] = (damping[rows] * factor).clamp(LEAST, MOST)
    taken = rows[climbs]
    t[taken], here.value[taken], here.gradient[taken] = there[climbs], value[climbs], gradient[climbs]
    stale[taken] = True
    trusted = climbs & ((gained - promised).abs() <= TRUSTED * promised)
    _renew(function, state, rows[~trusted & (climbs | was_stale)])


def _renew(function: Function, state: State, rows: Tensor) -> None:
    r"""Computes C of the functions ``rows`` where they are."""
    if not len(rows):
        return
    t, here, _, stale = state
    here.curvature[rows], here.repaired[rows] = function.curvature(t[rows], rows, here.value[rows])
    stale[rows] = False


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
