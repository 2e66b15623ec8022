r"""Priors p(t): modules whose call returns a distribution of event shape (D,)."""

import pyro.distributions as dist
import torch
from torch import nn


class StandardNormal(nn.Module):
    r"""Creates the prior p(t) = N(0, I) over t ∈ ℝᴰ.

    Arguments:
        latent_dim: the number of latents D.

    Example:
        >>> StandardNormal(2)().event_shape
        torch.Size([2])
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; expected at least 1 latent")
        self.latent_dim = latent_dim
        # Buffers, so that the distribution follows .to(device, dtype).
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        r"""Returns p(t), of batch shape () and event shape (D,)."""
        return dist.Normal(self.loc, self.scale).to_event(1)
