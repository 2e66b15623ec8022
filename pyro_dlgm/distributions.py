r"""What is asked of distributions: draws, means and scales, Fisher information, the closed-form KL of Gaussians."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

SAMPLES = 1000


def draws(d, num: int, batch: int) -> Tensor:
    r"""``num`` draws for each of B points, (num, B, D), of a distribution of batch shape (B,) or () for all of them.

    Of the distribution it asks no more than Pyro does, to be called with a shape.
    """
    shape = torch.Size((num,)) if len(d.batch_shape) else torch.Size((num, batch))
    with torch.no_grad():
        return getattr(d, "sample", d)(shape)


def mean(d) -> Tensor:
    r"""The mean, of batch and event shape; of 1,000 draws where the distribution has none in closed form."""
    return _said(d, "mean", lambda t: t.mean(0))


def stddev(d) -> Tensor:
    r"""The standard deviations, as `mean`."""
    return _said(d, "stddev", lambda t: t.std(0))


def variance(d) -> Tensor:
    r"""The variances, as `mean`."""
    return _said(d, "variance", lambda t: t.var(0))


def _said(d, name: str, estimate) -> Tensor:
    try:
        return getattr(d, name)
    except (NotImplementedError, AttributeError):
        with torch.no_grad():
            return estimate(getattr(d, "sample", d)(torch.Size((SAMPLES,))))


def averaged(d) -> Tensor:
    r"""What is averaged over codes for a guess at x: the mean, or what the distribution says, class probabilities."""
    own = unwrapped(d)
    return own.averaged if hasattr(own, "averaged") else mean(d)


def guess(d, averages: Tensor) -> Tensor:
    r"""The guess at x by averages of `averaged`: these themselves, or of classes the most probable one."""
    own = unwrapped(d)
    return own.guess(averages) if hasattr(own, "guess") else averages


def unwrapped(d):
    r"""The distribution inside of what gives another one event axes or masks."""
    while hasattr(d, "base_dist"):
        d = d.base_dist
    return d


def kl(q, p) -> Tensor | None:
    r"""KL(q ‖ p) in closed form if both are Gaussian with diagonal p, else `None`.

    For q = N(m, L Lᵀ) and p = N(a, diag b²):

        KL = ½ Σ_j [((LLᵀ)_jj + (m_j − a_j)²) / b_j² − 1 + log b_j²] − Σ_j log L_jj .

    Arguments:
        q: a distribution of event shape (D,).
        p: a distribution of event shape (D,).

    Returns:
        Nats, of the broadcast batch shape, or `None`: then one samples it.
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
    r"""Whether d is a diagonal Gaussian of event shape (D,)."""
    return isinstance(d, Independent) and isinstance(d.base_dist, Normal) and d.reinterpreted_batch_ndims == 1


class Fisher(NamedTuple):
    r"""Parameters of pixels that are independent given t, and what is known of them.

    Attributes:
        parameters: θ (..., *event, h), h numbers for each pixel.
        information: I = E_x [∂ log p ∂ log pᵀ] (..., *event, h, h), the derivatives by θ.
    """

    parameters: Tensor
    information: Tensor


def fisher(p) -> Fisher | None:
    r"""The Fisher information of p(x | t), of independent pixels, or `None` where it is not known.

    A distribution of pixels, as `Likelihood.pixels` returns it, says it by a method ``fisher()``; those of Pyro, which
    have none, stand in a table here.
    """
    pixels = pixels_of(p)
    if hasattr(pixels, "fisher"):
        return pixels.fisher()
    return next((rule(pixels) for kind, rule in KNOWN.items() if isinstance(pixels, kind)), None)


def pixels_of(p):
    r"""The distribution of single pixels in p(x | t), masks among them."""
    while isinstance(p, Independent):
        p = p.base_dist
    return p


def apart(*pairs: tuple[Tensor, Tensor]) -> Fisher:
    r"""Creates the information of parameters that say nothing of each other, from pairs (θ_k, I_kk) of one shape."""
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
