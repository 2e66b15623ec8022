r"""A likelihood of the values and of the mask of missing values."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ...distributions import pixels_of
from ...masks import pixelwise
from ...points import side
from ..base import Conditional
from .all_values import AllValues
from .drawn import Drawn
from .mechanism import Mechanism
from .selection import Selection
from .self_masking import SelfMasking

NAMES = ("self_masking", "known", "agnostic")


class Missingness(Conditional):
    r"""Creates p(x, m | t, w) = p(x | t, w) p(m | x, w), for values that are missing not at random.

    Which values are missing is data here. With a mask, the density is that of the observed values and the mask,

        p(x_o, m | t) = ∫ p(x_m, x_o | t) p(m | x) dx_m .

    Without a mask it is p(x | t), and the mechanism is not used: give complete points a mask of ones to count that they
    are complete. A likelihood without this wrapper assumes that values are missing at random. `evaluate.impute` returns
    the mean of the missing values under p(x_m | t, x_o, m): if high values hide, it is higher than that of p(x_m | t).

    Arguments:
        likelihood: p(x | t, w) of Gaussian pixels that are independent given t: `FixedNormal`, `DiagonalNormal`. In a
            table of mixed columns, wrap the real ones: ``Columns({range(3): Missingness(...), ...})``.
        mechanism: p(m | x), with the logits l_j(x) that a value is missing:

            - "self_masking": a_j x_j + c_j, a of any sign; integrated out exactly (`SelfMasking`),
            - "known": the same, if it is known that high values hide (``sign=1``) or low ones (``sign=-1``),
            - "agnostic": (A x + c)_j, of all values (`AllValues`); missing ones are drawn (`Drawn`),
            - a network from x to logits of x's shape, drawn as well, or a `SelfMasking`, `Drawn` or other `Mechanism`.

        sign: for "known", 1 or −1, or a tensor of x's shape.
        shape: x's shape, if the network of the likelihood has no ``out_shape``.

    Raises:
        ValueError: on an unknown mechanism, a sign without "known", or if x's shape is not known.
        TypeError: in a call with a mask, if the pixels are not independent Gaussians.

    Example:
        >>> import torch
        >>> from pyro_dlgm import likelihoods, nets
        >>> p = Missingness(likelihoods.FixedNormal(nets.Linear(2, 5)), "self_masking")
        >>> x, mask = torch.randn(4, 5), torch.rand(4, 5) < 0.5
        >>> p(torch.zeros(4, 2), mask).log_prob(x).shape
        torch.Size([4])

    References:
        Ipsen, Mattei, Frellsen, "not-MIWAE: deep generative modelling with missing not at random data" (2021).
        https://arxiv.org/abs/2006.12871
    """

    def __init__(self, likelihood: nn.Module, mechanism: str | nn.Module, *, sign=None, shape=None):
        super().__init__()
        if (mechanism == "known") != (sign is not None):
            raise ValueError(
                f"mechanism is {mechanism!r} and sign {sign}; expected sign=1 (high values hide) or -1 with 'known', "
                "and with it alone"
            )
        self.likelihood = likelihood
        self.mechanism = _mechanism(mechanism, likelihood, sign, shape)

    def forward(self, t: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> dist.TorchDistribution:
        r"""Returns p(x_o, m | t, w), or without a mask p(x | t, w).

        Arguments:
            t: codes of shape (..., D).
            mask: boolean, True where observed, of x's shape or (B,).
            given: side information (..., C), for the likelihood.
        """
        p = self.likelihood(t, None, **side(given))
        if mask is None:
            return p
        mask = pixelwise(mask, p.event_dim + 1) if t.dim() > 1 else mask
        return Selection(_gaussian(p), mask, self.mechanism, p.event_dim)

    def completed(self, p, x: Tensor, mask: Tensor):
        r"""Returns p(x_m | t, x_o, m) for a p(x | t) of this likelihood."""
        mask = pixelwise(mask, x.dim())
        return self.mechanism.completion(_gaussian(p), torch.where(mask, x, 0.0), mask, p.event_dim)

    def drawn_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        r"""Draws m ~ p(m | x) for complete x; the mask of other points does not fit x."""
        return self.mechanism.draw(x)


def _mechanism(mechanism: str | nn.Module, likelihood: nn.Module, sign, shape) -> Mechanism:
    if isinstance(mechanism, nn.Module):
        return mechanism if isinstance(mechanism, Mechanism) else Drawn(mechanism)
    if mechanism not in NAMES:
        raise ValueError(
            f"mechanism is {mechanism!r}; expected one of {', '.join(map(repr, NAMES))}, or a network from x to the "
            "logits of being missing"
        )
    shape = getattr(getattr(likelihood, "net", None), "out_shape", None) if shape is None else shape
    if shape is None:
        raise ValueError(f"{type(likelihood).__name__} has no network that says out_shape; expected shape=, that of x")
    return Drawn(AllValues(shape)) if mechanism == "agnostic" else SelfMasking(shape, sign)


def _gaussian(p) -> dist.Normal:
    pixels = pixels_of(p)
    if not isinstance(pixels, dist.Normal):
        raise TypeError(
            f"Missingness got pixels of {type(pixels).__name__}; expected Gaussians that are independent given t, of "
            "FixedNormal or DiagonalNormal; in a table wrap the real columns alone, as a part of Columns"
        )
    return pixels
