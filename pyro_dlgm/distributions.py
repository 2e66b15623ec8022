r"""Functions of distributions: draws, means and scales, Fisher information, the closed-form KL of Gaussians."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from pyro.distributions import Distribution
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

SAMPLES = 1000


def of_pyro(d, what: str):
    r"""Returns the distribution d, which ``what`` has returned; a `TypeError` unless it is one of Pyro's."""
    if not isinstance(d, Distribution):
        raise TypeError(
            f"{what} returned a {type(d).__module__}.{type(d).__name__}; expected a distribution of Pyro: those of "
            "pyro.distributions have the names and arguments of torch.distributions"
        )
    return d


def draws(d, num: int, batch: int) -> Tensor:
    r"""Returns draws (num, B, D) for B points, of a distribution of batch shape (B,), or () for all of them.

    Like Pyro, it only needs a distribution that can be called with a shape.
    """
    shape = torch.Size((num,)) if len(d.batch_shape) else torch.Size((num, batch))
    with torch.no_grad():
        return getattr(d, "sample", d)(shape)


def mean(d) -> Tensor:
    r"""Returns the mean, of batch and event shape; that of 1,000 draws if there is no closed form."""
    return _said(d, "mean", lambda t: t.mean(0))


def stddev(d) -> Tensor:
    r"""Returns the standard deviations; like `mean`."""
    return _said(d, "stddev", lambda t: t.std(0))


def variance(d) -> Tensor:
    r"""Returns the variances; like `mean`."""
    return _said(d, "variance", lambda t: t.var(0))


def _said(d, name: str, estimate) -> Tensor:
    try:
        return getattr(d, name)
    except (NotImplementedError, AttributeError):
        with torch.no_grad():
            return estimate(getattr(d, "sample", d)(torch.Size((SAMPLES,))))


def averaged(d) -> Tensor:
    r"""Returns what to average over codes for a guess at x: the mean, or class probabilities (``averaged``)."""
    own = unwrapped(d)
    return own.averaged if hasattr(own, "averaged") else mean(d)


def guess(d, averages: Tensor) -> Tensor:
    r"""Returns the guess at x from averages of `averaged`: the averages themselves, or the most probable class."""
    own = unwrapped(d)
    return own.guess(averages) if hasattr(own, "guess") else averages


def unwrapped(d):
    r"""Returns the distribution inside wrappers that add event axes or masks."""
    while hasattr(d, "base_dist"):
        d = d.base_dist
    return d


def kl(q, p) -> Tensor | None:
    r"""Returns KL(q ‖ p) in closed form if both are Gaussian and p is diagonal, else `None`.

    For q = N(m, L Lᵀ) and p = N(a, diag b²):

        KL = ½ Σ_j [((LLᵀ)_jj + (m_j − a_j)²) / b_j² − 1 + log b_j²] − Σ_j log L_jj .

    Arguments:
        q: a distribution of event shape (D,).
        p: a distribution of event shape (D,).

    Returns:
        Nats, of the broadcast batch shape; `None` means that it has to be sampled.
    """
    if not diagonal(p):
        return None
    if diagonal(q):
        return kl_divergence(q.base_dist, p.base_dist).sum(-1)
    if not isinstance(q, MultivariateNormal):
        return None
    L, a, b = q.scale_tril, p.base_dist.loc, p.base_dist.scale
    square = (L.square().sum(-1) + (q.loc - a).square()) / b.square()
    return 0.5 * (square - 1).sum(-1) + b.log().sum(-1) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def diagonal(d) -> bool:
    r"""Returns whether d is a diagonal Gaussian of event shape (D,)."""
    return isinstance(d, Independent) and isinstance(d.base_dist, Normal) and d.reinterpreted_batch_ndims == 1


class Fisher(NamedTuple):
    r"""The parameters of pixels that are independent given t, and their Fisher information.

    Attributes:
        parameters: θ (..., *event, h), h numbers for each pixel.
        information: I = E_x [∂ log p ∂ log pᵀ] (..., *event, h, h), the derivatives by θ.
    """

    parameters: Tensor
    information: Tensor


def fisher(p) -> Fisher | None:
    r"""Returns the Fisher information of p(x | t) for independent pixels, or `None` if it is not known.

    A distribution of pixels, as `Likelihood.pixels` returns it, has it as a method ``fisher()``; for Pyro's, which have
    no such method, it is in a table here.
    """
    pixels = pixels_of(p)
    if hasattr(pixels, "fisher"):
        return pixels.fisher()
    return next((rule(pixels) for kind, rule in KNOWN.items() if isinstance(pixels, kind)), None)


def pixels_of(p):
    r"""Returns the distribution of single pixels in p(x | t), masks included."""
    while isinstance(p, Independent):
        p = p.base_dist
    return p


def apart(*pairs: tuple[Tensor, Tensor]) -> Fisher:
    r"""Creates the Fisher information of orthogonal parameters from pairs (θ_k, I_kk) of one shape."""
    parameters, information = zip(*pairs, strict=True)
    return Fisher(torch.stack(parameters, -1), torch.stack(information, -1).diag_embed())


def _normal(p: Normal) -> Fisher:
    r"""I = 1/σ² for μ, 2/σ² for σ."""
    precision = p.scale**-2
    return apart((p.loc, precision), (p.scale, 2 * precision))


def _bernoulli(p: Bernoulli) -> Fisher:
    r"""I = σ(l) σ(−l) for the logit l."""
    return apart((p.logits, p.logits.sigmoid() * (-p.logits).sigmoid()))


KNOWN: dict[type, Callable] = {Normal: _normal, Bernoulli: _bernoulli}
