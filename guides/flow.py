r"""Flows: q(t) is a Gaussian transformed by a normalizing flow of Zuko, for an encoder or for rows.

The flow is a family whose raw numbers are (m, log s, c): t = m + s z, and z comes from a flow whose networks see the
context c. All points share the parameters of the flow.
"""

import copy
from collections.abc import Callable
from functools import cached_property, partial
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..points import Points
from .amortized import Amortized
from .families import Family
from .per_point import PerPoint

CONTEXT = 16
DRAWS = 200  # draws from which mean and variance are estimated


class Flowing(dist.TorchDistribution):
    r"""Creates the distribution of t = m + s z, where z comes from a flow.

    The log-density of the last draw is cached, since a flow computes both at once. Mean and variance have no closed
    form: they are estimated from 200 draws of z, made once.

    Arguments:
        flow: the distribution of z that a flow of Zuko returns, of batch shape (...) and event shape (D,).
        mean, log_scale: m and log s (..., D).
    """

    arg_constraints: ClassVar[dict] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow, mean: Tensor, log_scale: Tensor):
        self.flow, self.shift, self.log_scale = flow, mean, log_scale
        self._last = None, None, None
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None) -> "Flowing":
        r"""Returns the distribution with further batch axes."""
        shape = (*batch_shape, *self.event_shape)
        return Flowing(
            self.flow.expand(torch.Size(batch_shape)), self.shift.expand(shape), self.log_scale.expand(shape)
        )

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        r"""Draws t (*sample_shape, ..., D), with gradients."""
        z, log_q = self.flow.rsample_and_log_prob(torch.Size(sample_shape))
        t = self.shift + self.log_scale.exp() * z
        self._last = t, t._version, log_q - self.log_scale.sum(-1)
        return t

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        z = self.flow.sample(torch.Size((DRAWS,)))
        return z.mean(0), z.var(0)

    @property
    def mean(self) -> Tensor:
        r"""The mean (..., D), estimated from draws."""
        return self.shift + self.log_scale.exp() * self._moments[0]

    @property
    def variance(self) -> Tensor:
        r"""The variances (..., D), estimated from draws."""
        return (2 * self.log_scale).exp() * self._moments[1]

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log q(t), in nats."""
        last, version, log_q = self._last
        # The log-density cached with a draw without gradients has none either.
        if value is last and value._version == version and log_q.requires_grad >= torch.is_grad_enabled():
            return log_q
        z = (value - self.shift) * (-self.log_scale).exp()
        return self.flow.log_prob(z) - self.log_scale.sum(-1)


class FlowFamily(nn.Module, Family):
    r"""Creates the family q(t) = law of m + s z, z ~ flow(c), from raw numbers (m, log s, c) of shape (..., 2D + C).

    Arguments:
        latent_dim: the number D of latents.
        flow: ``flow(D, C)`` makes a flow of Zuko with D features and a context of C numbers; by default `splines`.
        context: the number C.

    Raises:
        ImportError: if Zuko is not installed.
        ValueError: if C is below 1.
    """

    name = "flow"

    def __init__(self, latent_dim: int, flow: Callable[[int, int], nn.Module] | None = None, context: int = CONTEXT):
        super().__init__()
        if context < 1:
            raise ValueError(f"context is {context}; expected at least 1 number, by which the flow tells points apart")
        self.context, self.flow = context, (splines if flow is None else flow)(latent_dim, context)

    def width(self, latent_dim: int) -> int:
        r"""Returns the number of raw numbers for D latents."""
        return 2 * latent_dim + self.context

    def forward(self, raw: Tensor) -> Flowing:
        r"""Returns the distribution, of batch shape (...) and event shape (D,)."""
        D = (raw.shape[-1] - self.context) // 2
        mean, log_scale, context = raw.split([D, D, self.context], -1)
        return Flowing(self.flow(context), mean, log_scale)


def splines(latent_dim: int, context: int) -> nn.Module:
    r"""Creates a flow of an affine autoregressive transform and three couplings by rational-quadratic splines.

    The splines act on z between −5 and 5. Couplings are equally fast in both directions. The first transform, which can
    make a Gaussian of any covariance, needs D passes of a small network for a draw.

    Arguments:
        latent_dim, context: the numbers D and C.

    Raises:
        ImportError: if Zuko is not installed.

    References:
        Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows" (2019). https://arxiv.org/abs/1906.04032
    """
    flows = zuko().flows
    correlated = flows.MAF(latent_dim, context, transforms=1)
    curved = flows.NSF(latent_dim, context, transforms=3, passes=2)
    transforms = [*correlated.transform.transforms, *curved.transform.transforms]
    return flows.Flow(transforms, curved.base)


def zuko():
    r"""Imports and returns the package Zuko; its import turns off validation in torch.distributions, which is undone.

    Raises:
        ImportError: if it is not installed.
    """
    validated = torch.distributions.Distribution._validate_args
    try:
        import zuko
    except ImportError as error:
        raise ImportError("a flow needs the package zuko, which is the extra 'flow': pip install zuko") from error
    finally:
        torch.distributions.Distribution.set_default_validate_args(validated)
    return zuko


class Flow(Amortized):
    r"""Creates q(t | x) = flow(t; head(encoder(x))): amortized, of flexible shape, with a density.

    The head returns (m, log s, c) for each point: q is the law of m + s z, with z from a normalizing flow that sees the
    context c. KL(q ‖ p) has no closed form, so F is estimated from samples.

    Arguments:
        encoder, latent_dim: as in `Amortized`.
        flow: ``flow(D, C)`` makes a flow of Zuko, for example ``functools.partial(zuko.flows.MAF, transforms=2)``. By
            default `flow.splines`.
        context: the number C of numbers by which the flow tells points apart.
        settings: further arguments of `Amortized`: ``init_scale``, ``mask_input``, ``given_dim``, and names.

    Raises:
        ImportError: if Zuko is not installed.
        ValueError: as `Amortized`, or if C is below 1.

    References:
        Rezende and Mohamed, "Variational inference with normalizing flows" (2015). https://arxiv.org/abs/1505.05770
        Rozet and others, "Zuko: normalizing flows in PyTorch" (2022). https://github.com/probabilists/zuko

    Example:
        >>> from pyro_dlgm import nets
        >>> guide = Flow(nets.MLP(5, 8, hidden=(16,)), 2)
        >>> q = guide.posterior(torch.randn(3, 5))
        >>> q.log_prob(q.rsample((4,))).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        flow: Callable[[int, int], nn.Module] | None = None,
        *,
        context: int = CONTEXT,
        **settings,
    ):
        super().__init__(encoder, latent_dim, partial(FlowFamily, flow=flow, context=context), **settings)

    def start(self, points: Points) -> "FlowRows":
        r"""Creates rows that start at the head's output for each of the points, with a frozen copy of the flow."""
        with torch.no_grad():
            raw = self.raw(points.x, points.mask, points.given)
        return _resting(self, len(points)).to(raw).set_rows(raw)


class FlowRows(PerPoint):
    r"""Creates q_i(t_i) = flow(t_i; row i): one flow for all points, and a row (m_i, log s_i, c_i) for each.

    `evaluate.infer` fits rows for other points while the flow stays as it is.

    Arguments:
        num_points, latent_dim: as in `PerPoint`.
        flow, context: as in `Flow`.
        settings: further arguments of `PerPoint`.

    Raises:
        ImportError: if Zuko is not installed.
    """

    def __init__(
        self,
        num_points: int,
        latent_dim: int,
        flow: Callable[[int, int], nn.Module] | None = None,
        *,
        context: int = CONTEXT,
        **settings,
    ):
        super().__init__(num_points, latent_dim, family=partial(FlowFamily, flow=flow, context=context), **settings)

    def start(self, points: Points) -> "FlowRows":
        r"""Creates a guide with fresh rows for the points, and a frozen copy of the flow."""
        return _resting(self, len(points), init_scale=self.init_scale).to(self.rows.weight)


def _resting(guide: Flow | FlowRows, num_points: int, **settings) -> FlowRows:
    r"""Creates fresh rows for other points, with a frozen copy of the flow of a guide."""
    family = copy.deepcopy(guide.family).requires_grad_(False)
    names = {"latent": guide.latent, "plate": guide.plate}
    return FlowRows(num_points, guide.latent_dim, lambda D, C: family.flow, context=family.context, **settings, **names)
