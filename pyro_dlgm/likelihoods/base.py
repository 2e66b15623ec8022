r"""What the likelihoods of independent pixels share: masks, event dimensions, heads of networks."""

import pyro.distributions as dist
from torch import Tensor, nn

from ..masks import pixelwise

MEAN, PAIR = (1, "one, for μ"), (2, "two, for μ and σ")  # heads, and what they are


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


def check_heads(net: nn.Module, count: int, what: str) -> None:
    r"""Raises a `ValueError` if the network says that it returns another number of tensors than ``count``."""
    _check(getattr(net, "heads", count), count, what)


def heads(y: Tensor | tuple[Tensor, ...], count: int, what: str) -> tuple[Tensor, ...]:
    r"""What a network returned, as ``count`` tensors; a `ValueError` if there are more or fewer."""
    y = (y,) if isinstance(y, Tensor) else y
    _check(len(y), count, what)
    return y


def _check(found: int, count: int, what: str) -> None:
    if found != count:
        raise ValueError(f"the network has {found} heads; expected {what}: build it with heads={count}")
