r"""Gaussian pixels: with a Σ0 that is the same for every t, and with diag σ²(t)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .base import MEAN, Likelihood, LocationScale, check_heads


class FixedNormal(Likelihood):
    r"""Creates p(x | t, w) = N(μ(t, w), Σ0), with Σ0 = diag σ² the same for every t.

    σ = floor + exp(u), where u is a parameter if ``learn``, a buffer otherwise. The floor bounds the likelihood: pixels
    that a network reproduces exactly, such as constant ones, would drive σ to 0 and log p to infinity, and there would
    be no maximum.

    Arguments:
        net: the network of μ, from t (..., D) to x's shape.
        scale: the initial σ, one number, or a tensor of x's shape for one σ per pixel.
        learn: whether σ is part of w.
        floor: lower bound of σ, in the units of x.

    Raises:
        ValueError: if a scale is not above the floor, or its shape does not broadcast to x's.
    """

    def __init__(self, net: nn.Module, scale: float | Tensor = 1.0, *, learn: bool = True, floor: float = 1e-3):
        super().__init__()
        scale = scale if isinstance(scale, Tensor) else torch.tensor(float(scale))
        if not (floor >= 0 and bool((scale > floor).all())):
            raise ValueError(
                f"smallest scale {scale.min():g} with floor {floor:g}; expected scale > floor >= 0: lower the floor"
            )
        check_heads(net, *MEAN)
        _check_shape(scale, getattr(net, "out_shape", None))
        self.net, self.floor = net, floor
        u = (scale - floor).log()
        if learn:
            self.u = nn.Parameter(u)
        else:
            self.register_buffer("u", u)

    @property
    def scale(self) -> Tensor:
        r"""σ, of shape () or x's shape, in the units of x."""
        return self.floor + self.u.exp()

    def pixels(self, t: Tensor) -> dist.Normal:
        return dist.Normal(self.net(t), self.scale)


def _check_shape(scale: Tensor, shape: tuple[int, ...] | None) -> None:
    # Compared from the right: further axes on the left would be taken for points.
    fits = shape is None or (
        scale.dim() <= len(shape) and all(a in (1, b) for a, b in zip(scale.shape[::-1], shape[::-1], strict=False))
    )
    if not fits:
        raise ValueError(
            f"scale has shape {tuple(scale.shape)}; expected one number, or x's shape {tuple(shape)}: "
            "give one σ for all pixels or one for each"
        )


class DiagonalNormal(LocationScale):
    r"""Creates p(x | t, w) = N(μ(t, w), diag σ²(t, w)).

    σ = floor + softplus(r(t, w)): bounded from below for the reason given in `FixedNormal`, and linear rather than
    exponential in large r, so that one bad step does not overflow.

    Arguments:
        net: a network with two heads that returns the pair (μ, r), or the network of μ if ``scale_net`` is given.
        scale_net: the network of r (CNN_2), if it is separate from that of μ (CNN_1).
        floor: lower bound of σ, in the units of x.

    References:
        Mattei and Frellsen, "Leveraging the exact likelihood of deep latent variable models" (2018), on the
        unboundedness of Gaussian likelihoods. https://arxiv.org/abs/1802.04826
    """

    def __init__(self, net: nn.Module, scale_net: nn.Module | None = None, *, floor: float = 1e-3):
        if not floor >= 0:
            raise ValueError(f"floor is {floor:g}; expected a number >= 0")
        super().__init__(net, scale_net, floor)

    def pixels(self, t: Tensor) -> dist.Normal:
        return dist.Normal(*self.location_scale(t))
