r"""The Fisher information of pixels: how sharply p(x | θ) tells its parameters θ apart, whatever x is.

A distribution of pixels, as `Likelihood.pixels` returns it, says it by a method ``fisher()``; those of Pyro, which have
none, stand in a table here. What has neither is left to exact second derivatives.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal


class Fisher(NamedTuple):
    r"""Parameters of pixels that are independent given t, and what is known of them.

    Attributes:
        parameters: θ (..., *event, h), h numbers for each pixel.
        information: I = E_x [∂ log p ∂ log pᵀ] (..., *event, h, h), the derivatives by θ.
    """

    parameters: Tensor
    information: Tensor


def fisher(p) -> Fisher | None:
    r"""The Fisher information of p(x | t), of independent pixels, or `None` where nobody says it."""
    pixels = pixels_of(p)
    if hasattr(pixels, "fisher"):
        return pixels.fisher()
    return next((rule(pixels) for kind, rule in KNOWN.items() if isinstance(pixels, kind)), None)


def pixels_of(p):
    r"""The distribution of single pixels within p(x | t)."""
    while isinstance(p, Independent):
        p = p.base_dist
    return p


def diagonal(*pairs: tuple[Tensor, Tensor]) -> Fisher:
    r"""Creates the information of parameters that say nothing of each other, from pairs (θ_k, I_kk) of one shape."""
    parameters, information = zip(*pairs, strict=True)
    return Fisher(torch.stack(parameters, -1), torch.stack(information, -1).diag_embed())


def _normal(p: Normal) -> Fisher:
    r"""I = 1/σ² for μ, 2/σ² for σ."""
    precision = p.scale**-2
    return diagonal((p.loc, precision), (p.scale, 2 * precision))


def _bernoulli(p: Bernoulli) -> Fisher:
    r"""I = σ(l) σ(−l) for the logit l."""
    return diagonal((p.logits, p.logits.sigmoid() * (-p.logits).sigmoid()))


KNOWN: dict[type, Callable] = {Normal: _normal, Bernoulli: _bernoulli}
