r"""Real numbers with heavy tails: Student's t, which is robust to outliers."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .base import LocationScale

LARGE = 16.0  # from here on five terms of the series give the logarithm of a ratio of Γ to 1e-12
SERIES = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432)
MOST = 14.0  # largest u: a Gaussian, to all digits of float32


class StudentT(LocationScale):
    r"""Creates p(x | t, w) = ∏_j St(x_j; ν, μ_j(t, w), s_j(t, w)), for real numbers with outliers.

    The density of an entry is

        St(x) = Γ((ν + 1)/2) / (Γ(ν/2) √(πν) s) · (1 + ((x − μ)/s)²/ν)^{−(ν + 1)/2} .

    s = floor + softplus(r(t, w)) as in `DiagonalNormal`. ν = 1 + e^u > 1, so that there is a mean; the variance is
    finite from ν > 2 on. ν is the same for every t, with one value for all features or one for each.

    Arguments:
        net: a network with two heads that returns the pair (μ, r), or the network of μ if ``scale_net`` is given.
        scale_net: the network of r, if it is a separate one.
        df: the initial ν, one number, or a tensor of x's shape for one per feature.
        learn: whether ν is part of w.
        floor: lower bound of s, in the units of x.

    Raises:
        ValueError: if ν is not above 1, or the floor is negative.

    References:
        Lange, Little, Taylor, "Robust statistical modeling using the t distribution" (1989).
        https://doi.org/10.1080/01621459.1989.10478852
    """

    def __init__(
        self,
        net: nn.Module,
        scale_net: nn.Module | None = None,
        *,
        df: float | Tensor = 4.0,
        learn: bool = True,
        floor: float = 1e-3,
    ):
        df = torch.as_tensor(df, dtype=torch.get_default_dtype())
        if not bool(((df > 1) & df.isfinite()).all()):
            raise ValueError(f"smallest df is {df.min():g}; expected degrees of freedom > 1, so that x has a mean")
        if not floor >= 0:
            raise ValueError(f"floor is {floor:g}; expected a number >= 0")
        super().__init__(net, scale_net, floor)
        u = (df - 1).log()
        if learn:
            self.u = nn.Parameter(u)
        else:
            self.register_buffer("u", u)

    @property
    def df(self) -> Tensor:
        r"""ν, of shape () or x's shape."""
        return 1 + self.u.clamp(max=MOST).exp()

    def pixels(self, t: Tensor) -> "StudentTPixels":
        return StudentTPixels(self.df, *self.location_scale(t))


class StudentTPixels(dist.StudentT):
    r"""Creates Student's t distribution, with a density that stays accurate for large ν, unlike torch's.

    Arguments:
        df, loc, scale: ν, μ and s, which broadcast.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the logarithm of the density."""
        if self._validate_args:
            self._validate_sample(value)
        y, half = (value - self.loc) / self.scale, self.df / 2
        normalizer = _log_ratio(half) - 0.5 * (math.pi * self.df).log() - self.scale.log()
        return normalizer - (half + 0.5) * (y.square() / self.df).log1p()


def _log_ratio(z: Tensor) -> Tensor:
    r"""Returns log Γ(z + ½) / Γ(z), which is about ½ log z."""
    small, large = z.clamp(max=LARGE), z.clamp(min=LARGE)
    direct = torch.lgamma(small + 0.5) - torch.lgamma(small)
    series = 0.5 * large.log() + sum(c * large ** -(2 * n + 1) for n, c in enumerate(SERIES))
    return torch.where(z < LARGE, direct, series)
