r"""Transforms of raw values, with new random numbers at each access."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..seeding import forked
from .conversion import whole

Transform = Callable[[Tensor], Tensor]


def real(v: Tensor) -> Tensor:
    r"""Returns whole numbers, such as bytes, in the default dtype; real ones stay as they are."""
    return v if v.is_floating_point() else v.to(torch.get_default_dtype())


def _check_known(v: Tensor, transform) -> None:
    if v.is_floating_point() and bool(v.isnan().any()):
        raise ValueError(
            f"values have NaN; {transform} expects numbers: read them with transform=None, and pass mask and transform "
            f"to fit: fit(x, mask=~x.isnan(), transform={transform})"
        )


@dataclass(frozen=True)
class _Levels:
    r"""Creates a map of whole numbers v in 0..levels−1.

    Raises:
        ValueError: if ``levels`` is not a whole number >= 2.
    """

    levels: int

    def __post_init__(self):
        object.__setattr__(self, "levels", whole("levels", self.levels))
        if self.levels < 2:
            raise ValueError(f"levels is {self.levels}; expected at least 2")

    def check(self, v: Tensor) -> None:
        r"""Raises a `ValueError` unless v holds whole numbers in 0..levels−1."""
        _check_known(v, self)
        whole = not v.is_floating_point() or bool((v == v.round()).all())
        lowest, highest = float(v.min()), float(v.max())  # as floats, since bytes compared with 256 overflow
        if not whole or not 0 <= lowest <= highest < self.levels:
            raise ValueError(
                f"values go from {lowest:g} to {highest:g} ({'' if whole else 'not '}whole numbers); "
                f"{self} expects whole numbers in 0..{self.levels - 1}: choose other levels, or transform=None"
            )


@dataclass(frozen=True)
class Dequantize(_Levels):
    r"""Creates the map v -> (v + u) / levels with u ~ U(0, 1), for whole numbers v in 0..levels−1.

    A density of x then bounds a probability of v; `bits_per_dim` converts it to bits per dimension.
    """

    def __call__(self, v: Tensor) -> Tensor:
        v = real(v)
        below = (v + 1) * (1 - torch.finfo(v.dtype).eps / 2)  # with 16 bits, v + u rounds up to v + 1 once in 512 draws
        return torch.minimum(v + torch.rand_like(v), below) / self.levels

    def bits_per_dim(self, log_p: float, num_pixels: int) -> float:
        r"""Returns (P ln levels − log p(x)) / (P ln 2), for log p(x) in nats per point."""
        return (num_pixels * math.log(self.levels) - log_p) / (num_pixels * math.log(2))


@dataclass(frozen=True)
class Grid(_Levels):
    r"""Creates the map v -> v / (levels − 1), for whole numbers v in 0..levels−1; it is not random.

    `likelihoods.DiscretizedLogistic` takes such values, and its log p(x) is that of a probability of v. A density of
    these values does not bound a probability: for densities use `Dequantize`.
    """

    levels: int = 256

    def __call__(self, v: Tensor) -> Tensor:
        return real(v) / (self.levels - 1)


@dataclass(frozen=True)
class Binarize:
    r"""Creates the map x -> 1 with probability x, else 0, for x in [0, 1]."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.bernoulli(x)

    def check(self, x: Tensor) -> None:
        r"""Raises a `ValueError` unless x lies in [0, 1]."""
        _check_known(x, self)
        if not x.is_floating_point() or x.min() < 0 or x.max() > 1:
            raise ValueError(f"values go from {x.min()} to {x.max()} ({x.dtype}); Binarize expects real ones in [0, 1]")


@dataclass(frozen=True)
class Threshold:
    r"""Creates the map x -> 1 where x > at, else 0."""

    at: float = 0.5

    def __post_init__(self):
        object.__setattr__(self, "at", float(self.at))

    def __call__(self, x: Tensor) -> Tensor:
        return (x > self.at).to(real(x).dtype)

    def check(self, x: Tensor) -> None:
        r"""Raises a `ValueError` on NaN, which is neither above nor below the threshold."""
        _check_known(x, self)


def seen(v: Tensor, transform: Transform | None, num: int) -> Tensor:
    r"""Returns the first ``num`` points of v, after one seeded draw of the transform."""
    v = v[torch.arange(min(num, len(v)), device=v.device)]  # images in files are read by index
    return v if transform is None else seeded(transform, v, 0)


def seeded(transform: Transform, x: Tensor, seed: int) -> Tensor:
    r"""Returns one draw of ``transform`` under a seed; the global generator is left unchanged."""
    with forked(seed):
        return transform(x)
