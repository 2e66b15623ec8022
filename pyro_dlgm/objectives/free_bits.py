r"""Free bits: an objective under which each latent may use λ nats for nothing, against posterior collapse."""

import math

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ..distributions import diagonal
from .elbo import ELBO
from .sites import is_drawn


class FreeBits(ELBO):
    r"""Creates the loss of F with at least λ nats charged for each latent, so that using less brings nothing:

        −E_x E_q log p(x | t, w) + Σ_j max(λ, E_x KL(q(t_j | x) ‖ p(t_j))),

    where E_x is the mean over the points of a batch (by their weights). It is at most F, so that the history's bound
    holds. A latent below λ gets no gradient of its KL, and is used for what the reconstruction gains by it; above λ the
    objective is the ELBO. The mean over a batch stands inside of the maximum: of few points it is noisy, and the loss
    is larger than with all of them. Latents outside of the plate over data have their KL as it is.

    Arguments:
        free: λ >= 0, in nats for each latent.
        num_particles, beta, max_plate_nesting: as those of `ELBO`; β is a factor of the maximum.

    Raises:
        ValueError: if λ is negative or not finite.
        TypeError: in a step, if q or p(t) is no Gaussian with independent latents: then KL(q ‖ p) has no parts.

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

    def _closed_form(self, model_trace, guide_trace) -> dict[str, Tensor]:
        sites = {name: site for name, site in guide_trace.nodes.items() if is_drawn(site) and _is_local(site)}
        parts = {name: self._charged(name, model_trace.nodes[name]["fn"], site) for name, site in sites.items()}
        return super()._closed_form(model_trace, guide_trace) | parts

    def _charged(self, name: str, p, site: dict) -> Tensor:
        r"""Σ_j max(λ, mean of KL_j) times the mass of the points, their number if nothing is scaled."""
        q = site["fn"]
        if not (diagonal(q) and diagonal(p)):
            raise TypeError(
                f"free bits are those of each latent, and at {name!r} q is a {_kind(q)}, p(t) a {_kind(p)}; expected "
                "Gaussians with independent latents on both sides (guides.MeanField, Amortized, "
                "priors.StandardNormal, ScaledNormal): use objectives.ELBO"
            )
        kl = kl_divergence(q.base_dist, p.base_dist)
        each, scale = (scale_and_mask(v.movedim(-1, 0), site["scale"], site["mask"]) for v in (kl, torch.ones_like(kl)))
        return torch.maximum(each.flatten(1).sum(1), self.free * scale.flatten(1).sum(1)).sum()


def _is_local(site: dict) -> bool:
    return any(frame.dim == -1 for frame in site["cond_indep_stack"])


def _kind(d) -> str:
    return type(d if diagonal(d) or not hasattr(d, "base_dist") else d.base_dist).__name__
