r"""Counts 0, 1, 2, ...: Poisson, negative binomial, and zero-inflated negative binomial."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ...points import joined
from ..base import Likelihood, check_heads
from .pixels import CountPixels, NegativeBinomialPixels, PoissonPixels, ZeroInflatedPixels


class Counts(Likelihood):
    r"""The base of likelihoods of counts: a network for the logarithm of the mean, and an exposure.

    Arguments:
        net: the network of the logarithm of the mean, and of the further ``outputs`` of a subclass.
        exposure: whether the first column of ``given`` is an exposure s > 0 of the point, such as sequencing depth or
            the length of an interval: then means are s times the output of the network, which decodes t with the other
            columns. A guide with ``given_dim=0`` does not see s.

    Raises:
        ValueError: if the network has another number of heads; on a call, if an exposure is missing or not above 0.
    """

    outputs: ClassVar = (1, "one, for the logarithm of the mean")
    takes = "whole numbers >= 0: use data of counts as they are, neither scaled nor logarithms"

    def __init__(self, net: nn.Module, *, exposure: bool = False):
        super().__init__()
        check_heads(net, *self.outputs)
        self.net, self.exposure = net, exposure

    def code(self, t: Tensor, given: Tensor | None) -> Tensor:
        r"""Returns [t | c], or with an exposure [t | the other columns of c | log s]."""
        if not self.exposure:
            return super().code(t, given)
        if given is None or not bool((given[..., :1] > 0).all()):
            found = "given is None" if given is None else f"the exposure goes down to {given[..., 0].min():g}"
            raise ValueError(f"{found}; expected given (B, C) with an exposure > 0 of each point in its first column")
        code = super().code(t, given[..., 1:] if given.shape[-1] > 1 else None)
        return joined(code, given[..., :1].log())

    def decoded(self, code: Tensor) -> tuple[Tensor, ...]:
        r"""Returns the heads of the network, with the logarithm of the exposure added to the first."""
        log_s = code[..., -1] if self.exposure else None
        y = self.net(code[..., :-1] if self.exposure else code)
        first, *others = (y,) if isinstance(y, Tensor) else y
        if log_s is not None:
            first = first + log_s.reshape(*log_s.shape, *[1] * (first.dim() - log_s.dim()))
        return first, *others


class Poisson(Counts):
    r"""Creates p(x | t, w) = ∏_j Poisson(x_j; e^{l_j(t, w)}), for counts whose variance equals their mean.

    Arguments:
        net: the network of the logarithms l of the rates, from t (..., D) to x's shape.
        exposure: whether the rates are e^l times an exposure, the first column of ``given``.

    Example:
        >>> from pyro_dlgm import nets
        >>> p = Poisson(nets.Linear(2, 5))
        >>> p(torch.zeros(3, 2)).log_prob(torch.tensor([0, 1, 2, 3, 1_000_000])).shape
        torch.Size([3])
    """

    def pixels(self, t: Tensor) -> PoissonPixels:
        return PoissonPixels(*self.decoded(t))


class NegativeBinomial(Counts):
    r"""Creates p(x | t, w) = ∏_j NB(x_j; μ_j, r_j), with mean μ = e^{m(t, w)} and variance μ + μ²/r.

    r_j > 0 is the inverse dispersion of the feature j, the same for every t; its logarithm `u` is part of w. As r
    grows, this becomes `Poisson`.

    Arguments:
        net: the network of the logarithms m of the means, from t (..., D) to x's shape.
        inverse_dispersion: the initial r, a number or a tensor of x's shape. Each feature has its own r if the network
            has an ``out_shape`` or a tensor is given; else one r serves all.
        learn: whether r is part of w.
        exposure: whether the means are e^m times an exposure, the first column of ``given``.

    Raises:
        ValueError: if an inverse dispersion is not a finite number > 0.

    References:
        Lopez, Regier, Cole, Jordan, Yosef, "Deep generative modeling for single-cell transcriptomics" (2018).
        https://doi.org/10.1038/s41592-018-0229-2
    """

    def __init__(
        self, net: nn.Module, inverse_dispersion: float | Tensor = 1.0, *, learn: bool = True, exposure: bool = False
    ):
        super().__init__(net, exposure=exposure)
        u = torch.as_tensor(inverse_dispersion, dtype=torch.get_default_dtype()).log()
        if not bool(u.isfinite().all()):
            raise ValueError(f"inverse_dispersion is {inverse_dispersion}; expected finite numbers > 0, such as 1")
        u = u.expand(getattr(net, "out_shape", u.shape) if u.dim() == 0 else u.shape).clone()
        if learn:
            self.u = nn.Parameter(u)
        else:
            self.register_buffer("u", u)

    @property
    def inverse_dispersion(self) -> Tensor:
        r"""r, of x's shape or ()."""
        return self.u.exp()

    def pixels(self, t: Tensor) -> CountPixels:
        return NegativeBinomialPixels(*self.decoded(t), self.u)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""Creates p(x | t, w) = ∏_j [π_j 1(x_j = 0) + (1 − π_j) NB(x_j; μ_j, r_j)], π = 1/(1 + e^{−g}), for extra zeros.

    Arguments:
        net: a network with two heads: the logarithms m of the means μ, and g.
        inverse_dispersion, learn, exposure: as in `NegativeBinomial`; an exposure multiplies μ.
    """

    heads = 2
    outputs: ClassVar = (2, "two, for the logarithm of the mean and the logit of an extra zero")

    def pixels(self, t: Tensor) -> ZeroInflatedPixels:
        m, g = self.decoded(t)
        return ZeroInflatedPixels(m, self.u, g)
