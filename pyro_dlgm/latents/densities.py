r"""Densities of u from a program: its prior, and the joint density with the observed sites."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Size, Tensor

from ..distributions import unwrapped
from ..likelihoods.base import given_observed
from ..points import Points
from . import independence
from .look import FEW

NUMBERS = 2**22  # numbers of x times draws to compute at a time


class Prior(dist.TorchDistribution):
    r"""Creates p(u | globals, w) of points, of batch shape (B,) and event shape (D,).

    Arguments:
        local: a `LocalModel`.
        points: the B points, of which p may depend on anything but x.
        batch_shape: (..., B).
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector

    def __init__(self, local, points, batch_shape: Size):
        self.local, self.points = local, points
        super().__init__(batch_shape, Size((local.latent_dim,)), validate_args=False)

    def expand(self, batch_shape, _instance=None):
        r"""Returns the same distribution with more batch axes on the left."""
        return type(self)(self.local, self.points, Size(batch_shape))

    def sample(self, sample_shape=()) -> Tensor:
        r"""Returns draws of the shape ``sample_shape`` + batch shape + (D,)."""
        shape = self._extended_shape(Size(sample_shape))
        rows = max(1, NUMBERS // max(1, self.points.x.numel()))
        num = Size(shape[:-2]).numel()
        parts = [self.local.draw_prior(self.points, min(rows, num - k)) for k in range(0, num, rows)]
        return torch.cat(parts).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log p(u | globals, w), of the value's shape without its last axis."""
        return self.local.log_prior(self.points, value)


class Joint(Prior):
    r"""Creates the density p(x, u | globals, w) of u, the posterior up to a constant."""

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log p(x, u | globals, w), of the value's shape without its last axis."""
        return self.local.log_joint(self.points, value)


class Emission(dist.TorchDistribution):
    r"""Creates p(x | u) of batch shape (..., B) from the distribution of a site whose plates have further axes.

    Arguments:
        fn: the distribution of the site.
        batch_shape: (..., B).
        event_shape: the shape of x in one point.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, fn, batch_shape: Size, event_shape: Size):
        self.fn = fn
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def support(self):
        r"""The support of the site."""
        return self.fn.support

    def sample(self, sample_shape=()) -> Tensor:
        r"""Returns draws of the shape ``sample_shape`` + batch shape + event shape."""
        return self.fn.sample(Size(sample_shape)).reshape(self._extended_shape(Size(sample_shape)))

    def completed(self, x: Tensor, mask: Tensor):
        r"""Returns p(x | u, x_o): itself if the numbers of x are independent given u.

        Arguments:
            x: data (B, ...), with any number where missing.
            mask: boolean, True where observed, with as many axes as x.

        Raises:
            ValueError: as `likelihoods.base.given_observed`, or if dependent values are in a further plate.
        """
        if len(unwrapped(self.fn).event_shape) == 0:
            return self
        if self.fn.event_shape != self.event_shape:
            raise ValueError(
                f"a point has the shape {tuple(self.event_shape)}, of which values of shape "
                f"{tuple(self.fn.event_shape)} depend on each other given the latents; expected independent values, or "
                "one plate alone around the site of x"
            )
        return Emission(given_observed(self.fn, x, mask), self.batch_shape, self.event_shape)

    @property
    def mean(self) -> Tensor:
        r"""The mean of x."""
        return self.fn.mean.reshape(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        r"""The variance of x, elementwise."""
        return self.fn.variance.reshape(self._extended_shape())


def log_joint_each(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    r"""Returns log p(x, u_k | globals_k, w) for samples, each with its own draw of the global latents: (K, B).

    The samples are computed at once if for a few points this agrees with one by one, else one by one. Globals with an
    axis to the left of the plates do not fit every program: z @ W would have one axis too many.

    Arguments:
        local: a `LocalModel`.
        points: the B points.
        u: samples (K, B, D).
        drawn: draws of the globals by name, (K, *shape).
    """
    two = {name: value[:2] for name, value in drawn.items()}
    if _broadcasts(local, points[:FEW], u[:2, :FEW], two):
        return _stacked(local, points, u, drawn)
    return _one_by_one(local, points, u, drawn)


def _broadcasts(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> bool:
    try:
        return independence.close(_stacked(local, points, u, drawn), _one_by_one(local, points, u, drawn))
    except (ValueError, RuntimeError, IndexError):  # shapes that do not match
        return False


def _one_by_one(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    values = ({name: value[k] for name, value in drawn.items()} for k in range(len(u)))
    return torch.stack([local.at(each).log_joint(points, one) for each, one in zip(values, u, strict=True)])


def _stacked(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    values = {}
    for name, stack in drawn.items():
        missing = local.layout.depth + 1 + local.seen.global_events[name] - stack.dim()
        values[name] = stack.reshape(len(u), *(1,) * missing, *stack.shape[1:])
    return local.at(values).log_joint(points, u)
