r"""What the likelihoods of independent pixels share: masks and event dimensions."""

import pyro.distributions as dist
from torch import Tensor, nn

from ..masks import pixelwise


class Likelihood(nn.Module):
    r"""Creates p(x | t, w) = ∏_j p(x_j | t, w), independent over the pixels j given t.

    A subclass says `pixels`, the distribution of single pixels; masks and event dimensions are written here.
    """

    def pixels(self, t: Tensor) -> dist.TorchDistribution:
        r"""The distribution of each pixel given t: its batch shape ends with x's shape, its event shape is ()."""
        raise NotImplementedError

    def forward(self, t: Tensor, mask: Tensor | None = None) -> dist.TorchDistribution:
        r"""Returns p(x | t, w).

        Arguments:
            t: codes of shape (..., D).
            mask: boolean, True where observed, of x's shape or (B,). Missing pixels add nothing to the log-density,
                which is exact marginalization since pixels are independent given t.
        """
        p = self.pixels(t)
        ndim = len(p.batch_shape)
        event_dim = ndim - (t.dim() - 1)
        if mask is not None:
            p = p.mask(pixelwise(mask, event_dim + 1) if t.dim() > 1 else mask)
        return p.to_event(event_dim)
