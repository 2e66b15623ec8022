r"""Models and guides by name, as the command line builds them."""

from collections.abc import Callable

import torch
from torch import nn

from . import guides
from .likelihoods import DiagonalNormal, FixedNormal, Likelihood
from .model import DLGM
from .nets import ConvDecoder, ConvEncoder, Linear
from .priors import StandardNormal

WIDTHS = (32, 64)
FEATURES = 128
SCALE = 0.3  # about the standard deviation of a pixel in [0, 1]


def _decoder(D: int, shape, heads: int = 1) -> nn.Module:
    return ConvDecoder(D, shape, widths=WIDTHS, heads=heads)


LIKELIHOODS: dict[str, Callable[[int, tuple], Likelihood]] = {
    "fixed": lambda D, shape: FixedNormal(_decoder(D, shape), SCALE),
    "fixed-per-pixel": lambda D, shape: FixedNormal(_decoder(D, shape), torch.full(shape, SCALE)),
    "diagonal": lambda D, shape: DiagonalNormal(_decoder(D, shape, heads=2)),
    "factor-analysis": lambda D, shape: FixedNormal(Linear(D, shape), torch.full(shape, SCALE)),
}

GUIDES: dict[str, Callable] = {
    "hard-em": lambda model, N, D, shape: guides.PointEstimate(N, D),
    "mean-field": lambda model, N, D, shape: guides.MeanField(N, D),
    "full-rank": lambda model, N, D, shape: guides.FullRank(N, D),
    "amortized": lambda model, N, D, shape: guides.Amortized(ConvEncoder(shape, FEATURES, widths=WIDTHS), D),
    "amortized-full-rank": lambda model, N, D, shape: guides.Amortized(
        ConvEncoder(shape, FEATURES, widths=WIDTHS), D, "full_rank"
    ),
    "auto-normal": lambda model, N, D, shape: guides.auto(model, "AutoNormal", N),
    "auto-delta": lambda model, N, D, shape: guides.auto(model, "AutoDelta", N),
}


def model(likelihood: str, D: int, shape: tuple[int, ...]) -> DLGM:
    r"""Creates the model with that likelihood, D latents and images (C, H, W)."""
    return DLGM(StandardNormal(D), LIKELIHOODS[likelihood](D, shape))


def guide(name: str, D: int, shape: tuple[int, ...]) -> Callable:
    r"""The factory (model, N) -> guide of that name."""
    return lambda model, N: GUIDES[name](model, N, D, shape)
