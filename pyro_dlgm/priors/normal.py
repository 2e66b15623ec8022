r"""Gaussian priors: N(0, I), and N(m, diag s²) with learned s, or m and s."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn


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
        check_latents(latent_dim)
        self.latent_dim = latent_dim
        # Buffers, so that the distribution follows .to(device, dtype).
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, given: Tensor | None = None) -> dist.TorchDistribution:
        r"""Returns p(t), of batch shape () and event shape (D,); ignores ``given``."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class ScaledNormal(nn.Module):
    r"""Creates the prior p(t) = N(m, diag s²) over t ∈ ℝᴰ with learned scales s, initially N(0, I).

    With a decoder that can scale its inputs, the family of models is that of N(0, I). The difference is in the
    optimization: units that the data do not need may shrink, and a decoder with frozen or penalized weights gets codes
    in its own units. KL(q ‖ p) of a Gaussian q stays in closed form.

    Arguments:
        latent_dim: the number of latents D.
        learn_mean: whether m is learned as well; otherwise it is 0.

    Attributes:
        log_scale: log s, (D,), a parameter.
        loc: m, (D,), a parameter if ``learn_mean``.

    Example:
        >>> prior = ScaledNormal(2)
        >>> [name for name, _ in prior.named_parameters()], prior().base_dist.scale.tolist()
        (['log_scale'], [1.0, 1.0])
    """

    def __init__(self, latent_dim: int, *, learn_mean: bool = False):
        super().__init__()
        check_latents(latent_dim)
        self.latent_dim, self.log_scale = latent_dim, nn.Parameter(torch.zeros(latent_dim))
        if learn_mean:
            self.loc = nn.Parameter(torch.zeros(latent_dim))
        else:
            self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self, given: Tensor | None = None) -> dist.TorchDistribution:
        r"""Returns p(t), of batch shape () and event shape (D,); ignores ``given``."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


def check_latents(latent_dim: int) -> None:
    r"""Raises a `ValueError` unless there is at least one latent."""
    if latent_dim < 1:
        raise ValueError(f"latent_dim is {latent_dim}; expected at least 1 latent")
