r"""The base of likelihoods with independent pixels: masks, event dimensions, heads of networks."""

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..distributions import of_pyro, unwrapped
from ..masks import pixelwise
from ..points import joined

MEAN, PAIR = (1, "one, for μ"), (2, "two, for μ and σ")  # the number of heads, in words


class Conditional(nn.Module):
    r"""The base of likelihoods: what the network decodes, the axes of a point, and missing values given the others."""

    event_dim: int | None = None  # axes of a point; by default those of the network's ``out_shape``
    heads = 1  # the number of outputs if the network is built by name
    takes = ""  # expected values and what to do, for the error on x outside the support

    def code(self, t: Tensor, given: Tensor | None) -> Tensor:
        r"""Returns [t | c], the input of the network: t (..., D), then ``given`` (..., C); leading axes broadcast.

        Raises:
            ValueError: if the network expects another number of inputs.
        """
        code = t if given is None else joined(t, given)
        wanted = getattr(self._net(), "in_shape", code.shape[-1:])
        if code.shape[-1:] != wanted and (given is not None or t.shape[-1:] < wanted):
            C = 0 if given is None else given.shape[-1]
            raise ValueError(
                f"the network decodes {wanted[0]} numbers and gets {t.shape[-1]} latents and {C} given numbers; "
                f"expected given of shape (B, {max(0, wanted[0] - t.shape[-1])}), or a network of {code.shape[-1]} "
                "numbers (a likelihood that sees t alone overrides forward(t, mask, given))"
            )
        return code

    def axes(self, p_dim: int, code: Tensor) -> int:
        r"""Returns the number of axes of a point, for arrays of ``p_dim`` axes decoded from the code (..., D).

        It is ``event_dim``, or that of the network's ``out_shape``; other networks keep the leading axes of the code.
        """
        if self.event_dim is not None:
            return self.event_dim
        out_shape = getattr(self._net(), "out_shape", None)
        return p_dim - (code.dim() - 1) if out_shape is None else len(out_shape)

    def completed(self, p, x: Tensor, mask: Tensor):
        r"""Returns p(x | t, x_o, m) from this p(x | t): missing values given the observed ones and the mask.

        By default values are missing at random: it is `given_observed`.

        Arguments:
            p: p(x | t) of batch shape (..., B).
            x: data (B, ...), with any number where missing.
            mask: boolean, True where observed, of x's shape or (B,).
        """
        return given_observed(p, x, pixelwise(mask, x.dim()))

    def drawn_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        r"""Returns a mask for simulated x: the given mask if values are missing at random, else a draw of p(m | x)."""
        return mask

    def _net(self) -> nn.Module | None:
        return self._modules.get("net")


class Likelihood(Conditional):
    r"""Creates p(x | t, w) = ∏_j p(x_j | t, w), independent over the pixels j given t.

    A subclass defines `pixels`, the distribution of single pixels; masks, event dimensions and ``given`` are handled
    here.
    """

    def pixels(self, t: Tensor) -> dist.TorchDistribution:
        r"""Returns the distribution of each pixel given t: its batch shape ends with x's shape, its event shape is ().

        With side information c, the argument t is [t | c].
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no pixels(t); expected a method that returns the distribution of single "
            "pixels, such as pyro.distributions.Normal(self.net(t), 0.1)"
        )

    def forward(self, t: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> dist.TorchDistribution:
        r"""Returns p(x | t, w).

        Arguments:
            t: codes of shape (..., D).
            mask: boolean, True where observed, of x's shape or (B,). Missing pixels add nothing to the log-density;
                since pixels are independent given t, this marginalizes them exactly.
            given: side information (..., C): the network decodes [t | c].
        """
        code = self.code(t, given)
        p = of_pyro(self.pixels(code), f"{type(self).__name__}.pixels")
        event_dim = self.axes(len(p.batch_shape), code)
        self._check_single(p, event_dim)
        if mask is not None:
            p = p.mask(pixelwise(mask, event_dim + 1) if code.dim() > 1 else mask)
        return p.to_event(event_dim)

    def _check_single(self, p, event_dim: int) -> None:
        r"""Raises a `ValueError` unless p is a distribution of single pixels, with axes for a point."""
        if len(p.event_shape) or len(p.batch_shape) < event_dim:
            point = getattr(self._net(), "out_shape", None)
            shape = "the shape of a point" if point is None else ", ".join(map(str, point))
            raise ValueError(
                f"{type(self).__name__}.pixels returned batch shape {tuple(p.batch_shape)} and event shape "
                f"{tuple(p.event_shape)}; expected batch shape (..., {shape}) and event shape (), single pixels: leave "
                "out to_event, which forward calls, and keep the axes of a point"
            )


def given_observed(p, x: Tensor, mask: Tensor):
    r"""Returns p(x | t, x_o): p itself if pixels are independent given t, else what its ``completed(x, mask)`` returns.

    Arguments:
        p: p(x | t), a distribution or anything that can be called with a shape.
        x: data (B, ...), with any number where missing.
        mask: boolean, True where observed, with as many axes as x.

    Raises:
        ValueError: if pixels depend on each other given t, and the distribution has no ``completed``.
    """
    own = unwrapped(p)
    if hasattr(own, "completed"):
        return own.completed(x, mask)
    if len(own.event_shape):
        raise ValueError(
            f"{type(own).__name__} has values of x that depend on each other given t, so that the missing ones follow "
            "from the observed ones; expected a distribution with a method completed(x, mask), which returns that of x "
            "given the observed values"
        )
    return p


class LocationScale(Likelihood):
    r"""The base of likelihoods whose pixels have a location μ(t, w) and a scale floor + softplus(r(t, w)).

    Arguments:
        net: a network with two heads that returns the pair (μ, r), or the network of μ if ``scale_net`` is given.
        scale_net: the network of r, if it is a separate one.
        floor: lower bound of the scale, in the units of x.
    """

    heads = 2

    def __init__(self, net: nn.Module, scale_net: nn.Module | None, floor: float):
        super().__init__()
        check_heads(net, *(PAIR if scale_net is None else MEAN))
        self.net, self.scale_net, self.floor = net, scale_net, floor

    def location_scale(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns μ and the scale, each of shape (..., *event)."""
        mu, r = heads(self.net(t), *PAIR) if self.scale_net is None else (self.net(t), self.scale_net(t))
        return mu, self.floor + softplus(r)


def check_heads(net: nn.Module, count: int, what: str) -> None:
    r"""Raises a `ValueError` if the network declares another number of heads than ``count``."""
    _check(getattr(net, "heads", count), count, what)


def heads(y: Tensor | tuple[Tensor, ...], count: int, what: str) -> tuple[Tensor, ...]:
    r"""Returns a network's output as ``count`` tensors; raises a `ValueError` if there are more or fewer."""
    y = (y,) if isinstance(y, Tensor) else y
    _check(len(y), count, what)
    return y


def _check(found: int, count: int, what: str) -> None:
    if found != count:
        raise ValueError(f"the network has {found} heads; expected {what}: build it with heads={count}")
