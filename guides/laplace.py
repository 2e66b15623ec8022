r"""The Gaussian at the mode of the posterior, as a guide."""

import warnings

import pyro.distributions as dist
import torch
from torch import Tensor

from .. import messages
from ..distributions import mean
from ..latents.asked import latent_dim, prior
from ..modes.joint import spread
from ..modes.search import Modes, search
from ..modes.starts import AMONG, likeliest
from ..points import Points
from ..shared import Shared
from .base import Guide, check_start

ASIDE = 0.1  # in units of the prior's scales, how far the first start is from the centre at most, in each latent
GOLDEN = (5**0.5 - 1) / 2


class Laplace(Guide):
    r"""Creates q(t | x) = N(t̂, C⁻¹), with t̂ the mode of log p(x, t | w) in t and C its curvature there: Laplace-EM.

    Each call finds t̂ anew by damped Newton steps for the current x and w, for all points of a batch at once; see
    `modes.joint.Joint` for C. No gradient goes through q: for the M-step it is a constant, and the gradient is that of
    E_q log p(x, t | w). The guide has no parameters and no rows.

    This is not the Gaussian that maximizes F, which is `FullRank`'s: F is often lower by nats, since the width of q is
    that of the posterior at its mode alone. Annealing can still start from it, at a fraction of the cost of an E-step.

    The model is held outside the module tree, as in `Exact`.

    Arguments:
        model: a `DLGM`.
        start: a guide without rows, at whose posterior mean the steps start; `None`: the mean of p(t). Either way the
            start is displaced by up to a tenth of the prior's scales, since steps never leave the centre, an axis or a
            diagonal that a model is symmetric about.
        num_draws: the number of further starts, each with the largest p(x | t) of 32 draws from p(t); the mode with the
            largest mass is kept.
        max_steps: the largest number of steps from each start; a new curvature without a step counts as one.
        tol: the search has converged when another step promises to gain no more than this, in nats.

    Attributes:
        modes: the result of the last call, a `modes.search.Modes`, with ``converged`` and ``repaired``, booleans (B,).
            In eval mode, a warning names the points that did not converge or had to be repaired.
        gradients: gradient evaluations of log p(x, t | w) so far, including tangents, and the draws of starts.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if ``start`` has no q for new points.

    References:
        Tierney and Kadane, "Accurate approximations for posterior moments and marginal densities" (1986). JASA 81(393).
        MacKay, "Information theory, inference, and learning algorithms" (2003), chapter 27.
    """

    moves = True

    def __init__(
        self, model, *, start: Guide | None = None, num_draws: int = 0, max_steps: int = 50, tol: float = 1e-4
    ):
        super().__init__(latent=model.latent, plate=model.plate)
        _check(start, num_draws, max_steps, tol)
        self.num_draws, self.max_steps, self.tol = num_draws, max_steps, tol
        self._model, self._start = Shared((model,)), Shared((start,))
        self.modes, self.gradients = None, 0

    def posterior(
        self, x: Tensor | None = None, index=None, mask: Tensor | None = None, given: Tensor | None = None
    ) -> dist.MultivariateNormal:
        r"""Returns N(t̂, C⁻¹), of batch shape (B,) and event shape (D,), without gradients; index is for the model.

        Raises:
            ValueError: if x is left out.
            RuntimeError: in inference mode, which has no gradients.
        """
        if x is None:
            raise ValueError("Laplace computes q from x and got none: call it with the data, guide(x)")
        self.modes = self.find(Points(x, index, mask, given))
        if not self.training:
            report(self.modes, self.max_steps, stacklevel=3)
        return dist.MultivariateNormal(self.modes.mean, scale_tril=self.modes.scale_tril)

    def find(self, points: Points) -> Modes:
        r"""Finds the modes of the points; gives no warning."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("Laplace needs gradients and was called under inference_mode(); leave it first")
        with torch.no_grad():
            starts = self._starts(points)
        modes, gradients = search(self._model[0], points, starts, max_steps=self.max_steps, tol=self.tol)
        self.gradients += gradients + self.num_draws * AMONG * len(points)
        return modes

    def cost(self, visits: int) -> int:
        r"""Returns the gradient evaluations over ``visits`` visits if no search stops early, plus one per M-step."""
        each = (1 + self.max_steps) * (1 + latent_dim(self._model[0]))
        return visits * (each + self.num_draws * (each + AMONG) + 1)

    def _starts(self, points: Points) -> Tensor:
        r"""Returns the starts of the search, (S, B, D)."""
        p = prior(self._model[0], points)
        guide = self._start[0]
        centre = mean(p if guide is None else guide.posterior(points.x, None, points.mask, **points.side)).detach()
        first = (centre + _aside(spread(p))).expand(1, len(points), *p.event_shape)
        return first if self.num_draws == 0 else torch.cat([first, likeliest(self._model[0], points, self.num_draws)])


def _aside(scale: Tensor) -> Tensor:
    r"""Returns up to a tenth of the prior's scales, unequal, so that no symmetry keeps the steps that start there."""
    k = torch.arange(1, 1 + scale.shape[-1], device=scale.device)
    return ASIDE * (k * GOLDEN % 1).to(scale) * scale.detach()


def report(modes: Modes, max_steps: int, stacklevel: int) -> None:
    r"""Warns about the points that did not converge, and those whose curvature was repaired."""
    late, bent = (v.nonzero().flatten().tolist() for v in (~modes.converged, modes.repaired))
    if late:
        warnings.warn(
            f"Laplace has not converged at {len(late)} of {len(modes.mean)} points ({messages.rows(late)}), where q is "
            f"not at a mode: raise max_steps={max_steps} or tol, or start elsewhere (start=, num_draws=)",
            stacklevel=stacklevel + 1,
        )
    if bent:
        warnings.warn(
            f"the curvature at {len(bent)} of {len(modes.mean)} points ({messages.rows(bent)}) is negative or almost "
            "0 in some direction, and was repaired: q is only a guess there; start elsewhere (start=, num_draws=)",
            stacklevel=stacklevel + 1,
        )


def _check(start, num_draws: int, max_steps: int, tol: float) -> None:
    for name, count, least in (("num_draws", num_draws, 0), ("max_steps", max_steps, 1)):
        if not (count >= least and count == int(count)):
            raise ValueError(f"{name} is {count}; expected a whole number, at least {least}")
    if not 0 < tol < float("inf"):
        raise ValueError(f"tol is {tol}; expected a finite number > 0, in nats")
    check_start("start", start, "the prior's mean")
