r"""The base of likelihoods with independent pixels: masks, event dimensions, heads of networks."""

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

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


class LocationScale(Likelihood):
    r"""Creates a likelihood whose pixels have a location μ(t, w) and a scale floor + softplus(r(t, w)).

    Arguments:
        net: a network with two heads that returns the pair (μ, r), or the network of μ if ``scale_net`` is given.
        scale_net: the network of r, if it is another one.
        floor: lower bound of the scale, in the units of x.
    """

    def __init__(self, net: nn.Module, scale_net: nn.Module | None, floor: float):
        super().__init__()
        check_heads(net, *(PAIR if scale_net is None else MEAN))
        self.net, self.scale_net, self.floor = net, scale_net, floor

    def location_scale(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""μ and the scale, each of shape (..., *event)."""
        mu, r = heads(self.net(t), *PAIR) if self.scale_net is None else (self.net(t), self.scale_net(t))
        return mu, self.floor + softplus(r)


def check_heads(net: nn.Module, count: int, what: str) -> None:
    r"""Raises a `ValueError` if the network says that it returns another number of tensors than ``count``."""
    _check(getattr(net, "heads", count), count, what)


def heads(y: Tensor | tuple[Tensor, ...], count: int, what: str) -> tuple[Tensor, ...]:
    r"""Returns a network's output as ``count`` tensors; a `ValueError` if there are more or fewer."""
    y = (y,) if isinstance(y, Tensor) else y
    _check(len(y), count, what)
    return y


def _check(found: int, count: int, what: str) -> None:
    if found != count:
        raise ValueError(f"the network has {found} heads; expected {what}: build it with heads={count}")
