r"""Models and guides by name, as the command line builds them and `load` builds them again.

Images (C, H, W) get convolutional networks; rows of an array (P,), and images too small for those, multilayer
perceptrons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .. import guides
from ..likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    DiagonalNormal,
    DiscretizedLogistic,
    FixedNormal,
    LowRankNormal,
)
from ..model import DLGM
from ..nets import MLP, ConvDecoder, ConvEncoder, Linear
from ..nets.conv import SMALLEST
from ..priors import StandardNormal

SCALE = 0.3  # about the standard deviation of a pixel in [0, 1]
SMALL = 16  # images with a shorter side than this get the small networks
RANK = 8  # directions in which pixels vary together given t; each is one more image that the decoder paints


def _convolutional(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and min(shape[1:]) >= SMALLEST


def _network(shape: Sequence[int]) -> dict:
    small = min(shape[1:]) < SMALL
    return {"widths": (32, 64)} if small else {"widths": (32, 64, 64, 64), "norm": True}


def _decoder(D: int, shape, heads: int = 1) -> nn.Module:
    return (
        ConvDecoder(D, shape, heads=heads, **_network(shape)) if _convolutional(shape) else MLP(D, shape, heads=heads)
    )


def _encoder(shape) -> nn.Module:
    if not _convolutional(shape):
        return MLP(shape, 200)
    return ConvEncoder(shape, 128 if min(shape[1:]) < SMALL else 256, **_network(shape))


LIKELIHOODS: dict[str, Callable[[int, tuple], nn.Module]] = {
    "fixed": lambda D, shape: FixedNormal(_decoder(D, shape), SCALE),
    "fixed-per-pixel": lambda D, shape: FixedNormal(_decoder(D, shape), torch.full(shape, SCALE)),
    "diagonal": lambda D, shape: DiagonalNormal(_decoder(D, shape, heads=2)),
    "low-rank": lambda D, shape: LowRankNormal(_decoder(D, shape, heads=2 + RANK), RANK),
    "factor-analysis": lambda D, shape: FixedNormal(Linear(D, shape), torch.full(shape, SCALE)),
    "bernoulli": lambda D, shape: Bernoulli(_decoder(D, shape)),
    "continuous-bernoulli": lambda D, shape: ContinuousBernoulli(_decoder(D, shape)),
    "discretized-logistic": lambda D, shape: DiscretizedLogistic(_decoder(D, shape, heads=2)),
}
GAUSSIAN = ("fixed", "fixed-per-pixel", "diagonal", "low-rank", "factor-analysis")

# Short chains: at a hundred gradients per point, many visits train w better than few good ones.
CHAIN = {"num_states": 1, "num_leapfrog": 3, "burn_in": 0}
HYBRID = {"num_transitions": 1, "num_leapfrog": 1}
GUIDES: dict[str, Callable] = {
    "hard-em": lambda model, N, D, shape: guides.PointEstimate(N, D),
    "mean-field": lambda model, N, D, shape: guides.MeanField(N, D),
    "full-rank": lambda model, N, D, shape: guides.FullRank(N, D),
    "amortized": lambda model, N, D, shape: guides.Amortized(_encoder(shape), D),
    "amortized-full-rank": lambda model, N, D, shape: guides.Amortized(_encoder(shape), D, "full_rank"),
    "mcem": lambda model, N, D, shape: guides.Chain(model, N, D, **CHAIN),
    "mcem-encoder": lambda model, N, D, shape: guides.Hybrid(model, guides.Amortized(_encoder(shape), D), **HYBRID),
    "auto-normal": lambda model, N, D, shape: guides.auto(model, "AutoNormal", N),
    "auto-delta": lambda model, N, D, shape: guides.auto(model, "AutoDelta", N),
}


def model(likelihood: str, D: int, shape: tuple[int, ...]) -> DLGM:
    r"""Creates the model with that likelihood, D latents and points of that shape, (C, H, W) or (P,)."""
    return DLGM(StandardNormal(D), LIKELIHOODS[likelihood](D, shape))


def guide(name: str, D: int, shape: tuple[int, ...]) -> Callable:
    r"""The factory (model, N) -> guide of that name."""
    return lambda model, N: GUIDES[name](model, N, D, shape)


@dataclass(frozen=True)
class Recipe:
    r"""Creates pairs (model, guide) from names; plain values, kept as ``recipe`` in a run's ``config.json``.

    Attributes:
        likelihood, guide: keys of `LIKELIHOODS` and `GUIDES`.
        latents: the number D of latents.
        image_shape: (C, H, W), or (P,) for points that are no images.
        num_points: the number N of training points, for guides with a row for each.

    Raises:
        ValueError: on a name that is not there.
    """

    likelihood: str
    guide: str
    latents: int
    image_shape: Sequence[int]
    num_points: int

    def __post_init__(self):
        for kind, known in (("likelihood", LIKELIHOODS), ("guide", GUIDES)):
            if getattr(self, kind) not in known:
                raise ValueError(f"{kind} is {getattr(self, kind)!r}; expected one of {', '.join(known)}")

    def new_model(self) -> DLGM:
        r"""Creates the model, with random weights."""
        return model(self.likelihood, self.latents, tuple(self.image_shape))

    def new_guide(self, model) -> guides.Guide:
        r"""Creates the guide for that model."""
        return guide(self.guide, self.latents, tuple(self.image_shape))(model, self.num_points)
