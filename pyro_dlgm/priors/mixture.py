r"""Mixtures as priors, p(t) = Σ_k π_k p_k(t), whose components are clusters of codes."""

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from .normal import check_latents

SEPARATED = 0.5  # the initial share of each latent's variance that lies between the components


class OverComponents(dist.MixtureSameFamily):
    r"""Creates a mixture of distributions over ℝᴰ, with a support that Pyro's autoguides know."""

    support = constraints.real_vector


class Mixture(nn.Module, ABC):
    r"""The base of mixtures p(t) = Σ_k π_k p_k(t) of K components, with k summed out.

    Since k is not a site of the program, any guide fits: it needs only the log-density of p(t). KL(q ‖ p) has no closed
    form, so `objectives.ELBO` samples it.
    """

    @abstractmethod
    def weighted(self) -> tuple[Tensor, dist.TorchDistribution]:
        r"""Returns unnormalized log π_k (K,), and the components p_k, of batch shape (K,) and event shape (D,)."""

    def forward(self, given: Tensor | None = None) -> OverComponents:
        r"""Returns p(t), of batch shape () and event shape (D,); ignores ``given``."""
        logits, components = self.weighted()
        return OverComponents(dist.Categorical(logits=logits), components)

    def responsibilities(self, t: Tensor) -> Tensor:
        r"""Returns p(k | t) = π_k p_k(t) / p(t) for codes t (..., D), as (..., K); they sum to 1."""
        logits, components = self.weighted()
        return (logits + components.log_prob(t.unsqueeze(-2))).softmax(-1)


class MixtureOfNormals(Mixture):
    r"""Creates the prior p(t) = Σ_k π_k N(t; m_k, diag s_k²) over t ∈ ℝᴰ; π, m and s are learned.

    Initially p(t) has mean 0 and covariance I in expectation: half of the variance of each latent is between the means,
    m_k ~ N(0, ½), and half within the components, s_k² = ½; π_k = 1/K.

    Arguments:
        latent_dim: the number of latents D.
        num_components: the number of components K.
        seed: the seed of the initial means, which are drawn by a private generator.

    Attributes:
        loc: m, (K, D), a parameter.
        log_scale: log s, (K, D), a parameter.
        logits: log π up to a constant, (K,), a parameter.

    Raises:
        ValueError: unless there are at least one latent and one component.

    References:
        Dilokthanakul et al., "Deep unsupervised clustering with Gaussian mixture variational autoencoders" (2016).
        https://arxiv.org/abs/1611.02648
        Jiang et al., "Variational deep embedding: an unsupervised and generative approach to clustering" (2017), whose
        p(t) is this one. https://arxiv.org/abs/1611.05148

    Example:
        >>> prior = MixtureOfNormals(2, 5)
        >>> prior().event_shape, prior.responsibilities(torch.zeros(3, 2)).shape
        (torch.Size([2]), torch.Size([3, 5]))
    """

    def __init__(self, latent_dim: int, num_components: int, *, seed: int = 0):
        super().__init__()
        check_latents(latent_dim)
        if num_components < 1:
            raise ValueError(f"num_components is {num_components}; expected at least 1 component")
        self.latent_dim, self.num_components, shape = latent_dim, num_components, (num_components, latent_dim)
        means = torch.randn(shape, generator=torch.Generator().manual_seed(seed), device="cpu")
        self.loc = nn.Parameter((math.sqrt(SEPARATED) * means).to(torch.empty(0).device))
        self.log_scale = nn.Parameter(torch.full(shape, 0.5 * math.log(1 - SEPARATED)))
        self.logits = nn.Parameter(torch.zeros(num_components))

    def weighted(self) -> tuple[Tensor, dist.TorchDistribution]:
        r"""Returns unnormalized log π_k (K,), and N(m_k, diag s_k²), of batch shape (K,) and event shape (D,)."""
        return self.logits, dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
