r"""Free bits: an objective in which the first λ nats of each latent are free, against posterior collapse."""

import math

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ..distributions import diagonal
from .elbo import ELBO
from .sites import is_drawn, point_frame


class FreeBits(ELBO):
    r"""Creates the loss −F with at least λ nats charged for each latent, so that using less gains nothing.

    The loss is

        −E_x E_q log p(x | t, w) + Σ_j max(λ, E_x KL(q(t_j | x) ‖ p(t_j))),

    where E_x is the mean over the points of a batch (by their weights). Minus the loss is at most F, so it is still a
    bound on log p(x). A latent below λ gets no gradient from its KL, only from the reconstruction; above λ the
    objective is the ELBO. The mean over a batch is inside the maximum: with few points it is noisy, and the loss is
    larger than with all of them. Latents outside the plate over data are charged their own KL.

    Arguments:
        free: λ >= 0, in nats for each latent.
        num_particles, beta, max_plate_nesting: as in `ELBO`; β multiplies the maximum.

    Raises:
        ValueError: if λ is negative or not finite.
        TypeError: in a step, if q or p(t) is not a Gaussian with independent latents, so that KL(q ‖ p) is not a sum
            over latents.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, "Improved variational inference with inverse
        autoregressive flow" (2016), appendix C.8. https://arxiv.org/abs/1606.04934
    """

    def __init__(self, free: float, num_particles: int = 1, *, beta: float = 1.0, max_plate_nesting: int = 1):
        super().__init__(num_particles, beta=beta, max_plate_nesting=max_plate_nesting)
        if not 0 <= free < math.inf:
            raise ValueError(f"free is {free}; expected a finite number >= 0, in nats for each latent")
        self.free = free

    def __repr__(self) -> str:
        return f"FreeBits(free={self.free}, num_particles={self.num_particles}, beta={self.beta})"

    def _closed_form(self, model_trace, guide_trace, plate: str | None) -> dict[str, Tensor]:
        drawn = {name: site for name, site in guide_trace.nodes.items() if is_drawn(site)}
        sites = {name: site for name, site in drawn.items() if point_frame(site, plate) is not None}
        parts = {name: self._charged(name, model_trace.nodes[name]["fn"], site) for name, site in sites.items()}
        return super()._closed_form(model_trace, guide_trace, plate) | parts

    def _charged(self, name: str, p, site: dict) -> Tensor:
        r"""Returns Σ_j max(λ, mean of KL_j) times the total weight of the points, their number if unscaled."""
        q = site["fn"]
        if not (diagonal(q) and diagonal(p)):
            raise TypeError(
                f"free bits are charged per latent, but at {name!r} q is a {_kind(q)}, p(t) a {_kind(p)}; expected "
                "Gaussians with independent latents on both sides (guides.MeanField, Amortized, "
                "priors.StandardNormal, ScaledNormal): use objectives.ELBO"
            )
        kl = kl_divergence(q.base_dist, p.base_dist)
        each, scale = (scale_and_mask(v.movedim(-1, 0), site["scale"], site["mask"]) for v in (kl, torch.ones_like(kl)))
        return torch.maximum(each.flatten(1).sum(1), self.free * scale.flatten(1).sum(1)).sum()


def _kind(d) -> str:
    return type(d if diagonal(d) or not hasattr(d, "base_dist") else d.base_dist).__name__
