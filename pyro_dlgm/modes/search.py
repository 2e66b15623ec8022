r"""The search for modes: Newton steps from several starts for blocks of points, keeping the best mode."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..points import Points, index_blocks
from ..program import evaluating, unregistered
from .curvature import inverse_factor
from .joint import Joint, quietly
from .newton import climb


class Modes(NamedTuple):
    r"""The Gaussians at the modes of B points.

    Attributes:
        mean: the modes t̂, (B, D).
        scale_tril: L, lower triangular, with L Lᵀ = C⁻¹, the inverse of the curvature there, (B, D, D).
        log_px: Laplace's estimate of log p(x | w), log p(x, t̂ | w) + ½ log det 2πC⁻¹, (B,), in nats: no bound.
        converged: whether the steps converged, (B,).
        repaired: whether eigenvalues of the curvature there were changed, (B,).
    """

    mean: Tensor
    scale_tril: Tensor
    log_px: Tensor
    converged: Tensor
    repaired: Tensor


def search(model, points: Points, starts: Tensor, *, max_steps: int, tol: float) -> tuple[Modes, int]:
    r"""Returns the mode of largest mass for each point, by Newton steps from the starts (S, B, D).

    Model and generators are left unchanged; modules are in eval mode meanwhile, so that points are independent.

    Arguments:
        model: a `DLGM`.
        points: the B points.
        starts: S codes for each.
        max_steps, tol: as in `newton.climb`.

    Returns:
        The `Modes`, and the gradient evaluations of log p(x, t | w) of all points together.
    """
    S, _, D = starts.shape
    found, gradients = [], 0
    with evaluating(model), quietly(), unregistered():
        for here in index_blocks(points, S * D):
            joint = Joint(model, points[here])
            top = climb(joint, starts[:, here].flatten(0, 1), max_steps=max_steps, tol=tol)
            found.append(_best(top, S))
            gradients += joint.gradients
    return Modes(*map(torch.cat, zip(*found, strict=True))), gradients


def _best(top, S: int) -> Modes:
    r"""Returns the mode of largest mass of the S starts of each point, (S * B); NaN counts as the smallest."""
    T = inverse_factor(top.last.curvature)
    mass = top.value + T.diagonal(dim1=-2, dim2=-1).log().sum(-1) + _half_log_2pi(T.shape[-1])
    all_of = Modes(top.t, T.to(top.t), mass.to(top.t), top.converged, top.last.repaired)
    best = mass.nan_to_num(nan=-math.inf).unflatten(0, (S, -1)).argmax(0)
    at = best * (len(T) // S) + torch.arange(len(best), device=best.device)
    return Modes(*(part[at] for part in all_of))


def _half_log_2pi(D: int) -> float:
    return D / 2 * math.log(2 * math.pi)
