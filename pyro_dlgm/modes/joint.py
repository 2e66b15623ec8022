r"""log p(x, t | w) of points as functions of t, for Newton steps: values, gradients, curvatures.

The functions of `latents.asked` serve any model; for a `LocalModel`, t are its unconstrained latents u.
"""

import pyro
import torch
from torch import Tensor

from ..distributions import fisher, pixels_of, stddev
from ..latents.asked import emission, log_joint, prior
from ..latents.local import LocalModel
from ..masks import pixelwise
from ..points import Points
from ..program import evaluating, unregistered
from ..storage.sums import widened
from . import curvature as curvatures


def emitted(model, points: Points, t: Tensor):
    r"""Returns p(x | t, w) for codes t (..., B, D); `None` for programs without it."""
    if isinstance(model, LocalModel) or not hasattr(model, "emission"):
        return None
    return emission(model, points, t)


def spread(p) -> Tensor:
    r"""Returns the standard deviations of p(t), with 1 for those that are not finite, as with heavy tails."""
    scale = stddev(p)
    return torch.where(scale.isfinite(), scale, 1.0)


class Joint:
    r"""Creates the functions t -> log p(x_b, t | w) of B points, repeated R times: the function r B + b is of point b.

    The curvature is that of Gauss and Newton, −∂² log p(t) + Σ_j J_jᵀ I_j J_j, with the Jacobian J of the pixels'
    parameters and their Fisher information I, if p(x | t) has one and log p(x, t | w) is log p(t) + log p(x | t).
    Otherwise it is −∂² log p(x, t | w). In both cases, eigenvalues that are negative or close to 0 are repaired.

    Arguments:
        model: a `DLGM`.
        points: the B points.

    Attributes:
        scale: the `spread` of p(t), (B, D).
        gradients: gradient evaluations so far, of all points together. A tangent of a network counts as one, and so
            does each of the two passes of a second derivative.
    """

    def __init__(self, model, points: Points):
        self.model, self.points, self.gradients = model, points, 0
        with torch.no_grad():
            p = prior(model, points)
            (D,) = p.event_shape
            self.scale = spread(p).expand(len(points), D)

    def value_and_gradient(self, t: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns log p(x, t | w) (n,) of the functions ``rows`` (n,) at t (n, D), and its gradient (n, D)."""
        self.gradients += len(t)
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            value = log_joint(self.model, self._of(rows), t)
            (gradient,) = torch.autograd.grad(value.sum(), t)
        return value.detach(), gradient

    def curvature(self, t: Tensor, rows: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the curvature (n, D, D) of the functions ``rows`` at t (n, D), and whether it was repaired (n,)."""
        C = self._curvature(self._of(rows), t, value)
        return curvatures.repaired(C, self.scale[rows % len(self.points)])

    def _of(self, rows: Tensor) -> Points:
        return self.points[rows % len(self.points)]

    def _curvature(self, points: Points, t: Tensor, value: Tensor) -> Tensor:
        C = self._fisher(points, t, value)
        if C is not None:
            return C
        self.gradients += 2 * t.numel()
        return -curvatures.hessian(lambda t: log_joint(self.model, points, t), t)

    def _fisher(self, points: Points, t: Tensor, value: Tensor) -> Tensor | None:
        r"""Returns Gauss and Newton's curvature, (n, D, D), or `None` if it does not apply."""
        with torch.no_grad():
            p = emitted(self.model, points, t)
            known = None if p is None else fisher(p)
            if known is None or not self._is_all(points, t, p, value):
                return None
        self.gradients += t.numel()
        first = t.dim() - 1  # axes of the batch
        J = curvatures.jacobian(lambda t: fisher(emitted(self.model, points, t)).parameters, t)
        J, information = J.flatten(1 + first, -2), _seen(known.information, points).flatten(first, -3)
        of_prior = curvatures.hessian(lambda t: prior(self.model, points).log_prob(t), t)
        return curvatures.gauss_newton(J, information) - widened(of_prior)

    def _is_all(self, points: Points, t: Tensor, p, value: Tensor) -> bool:
        r"""Returns whether log p(x, t | w) is log p(t) + log p(x | t), without further sites."""
        log_p = pixels_of(p).log_prob(points.observed())
        if points.mask is not None:
            log_p = torch.where(pixelwise(points.mask, log_p.dim()), log_p, 0.0)
        told = log_p.flatten(1).sum(1) + prior(self.model, points).log_prob(t)
        tol = torch.finfo(t.dtype).eps ** 0.5
        return torch.allclose(told, value, rtol=tol, atol=10 * tol, equal_nan=True)


def _seen(information: Tensor, points: Points) -> Tensor:
    r"""Returns the information (n, *event, h, h) with 0 for missing pixels."""
    if points.mask is None:
        return information
    seen = pixelwise(points.mask, information.dim() - 2)
    return torch.where(seen.unsqueeze(-1).unsqueeze(-1), information, 0.0)


def tangents(model, points: Points) -> tuple[bool, int]:
    r"""Returns whether the curvature of log p(x, t | w) can be computed, and the gradient evaluations of the trial.

    Networks that read numbers of a tensor, or use an operation without a forward-mode derivative, have gradients but no
    vectorized tangents; what they raise is theirs.
    """
    with evaluating(model), quietly(), unregistered():
        joint = Joint(model, points)
        rows, t = torch.arange(len(points), device=points.x.device), joint.scale.clone()
        value, _ = joint.value_and_gradient(t, rows)
        try:
            joint.curvature(t, rows, value)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return False, joint.gradients
    return True, joint.gradients


def quietly():
    r"""Context manager: turns off Pyro's validation, which would need the values of tangents."""
    return pyro.validation_enabled(False)
