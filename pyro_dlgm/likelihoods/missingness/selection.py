r"""The joint density of observed values and mask: p(x_o, m | t)."""

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .mechanism import Mechanism


class Selection(dist.TorchDistribution):
    r"""Creates p(x_o, m | t) = p(x_o | t) ∫ p(x_m | t) p(m | x) dx_m, a selection model, for Gaussian pixels.

    Draws are complete: they are those of p(x | t).

    Arguments:
        pixels: the pixels given t, of batch shape (..., *event).
        mask: boolean, True where observed, (..., *event), broadcasting with the pixels.
        mechanism: p(m | x).
        event_dim: the number of axes of a point.

    References:
        Little and Rubin, "Statistical analysis with missing data" (2019), chapter 15, on selection models.
    """

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, pixels: dist.Normal, mask: Tensor, mechanism: Mechanism, event_dim: int):
        self.pixels, self.mask, self.mechanism = pixels, mask, mechanism
        shape = pixels.batch_shape
        split = len(shape) - event_dim
        super().__init__(shape[:split], shape[split:], validate_args=False)

    @property
    def support(self):
        r"""All real arrays."""
        return constraints.independent(constraints.real, self.event_dim)

    def expand(self, batch_shape, _instance=None) -> "Selection":
        r"""Returns the same density with batch axes added on the left."""
        pixels = self.pixels.expand(torch.Size(batch_shape) + self.event_shape)
        return Selection(pixels, self.mask, self.mechanism, self.event_dim)

    @property
    def mean(self) -> Tensor:
        r"""That of p(x | t)."""
        return self.pixels.mean

    @property
    def variance(self) -> Tensor:
        r"""That of p(x | t)."""
        return self.pixels.variance

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws complete x from p(x | t)."""
        return self.pixels.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log p(x_o, m | t), in nats, whatever the placeholders of missing values are."""
        x = torch.where(self.mask, value, 0.0)
        seen = torch.where(self.mask, self.pixels.log_prob(x), 0.0)
        return seen.flatten(seen.dim() - self.event_dim).sum(-1) + self.mechanism.log_mask(
            self.pixels, x, self.mask, self.event_dim
        )
