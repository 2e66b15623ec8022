r"""Models and guides by name, as the command line builds them and `load` builds them again.

Images (C, H, W) get convolutional networks; rows of an array (P,), and images too small for those, multilayer
perceptrons. What a recipe builds from is imported when it is built: names are read without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..guides.base import Guide
    from ..model import DLGM

SCALE = 0.3  # about the standard deviation of a pixel in [0, 1]
SMALL = 16  # images with a shorter side than this get the small networks
RANK = 8  # directions in which pixels vary together given t; each is one more image that the decoder paints

# Functions of what `_parts` gives, D latents and the shape of a point.
LIKELIHOODS: dict[str, Callable] = {
    "fixed": lambda p, D, shape: p.FixedNormal(_decoder(p, D, shape), SCALE),
    "fixed-per-pixel": lambda p, D, shape: p.FixedNormal(_decoder(p, D, shape), p.torch.full(shape, SCALE)),
    "diagonal": lambda p, D, shape: p.DiagonalNormal(_decoder(p, D, shape, heads=2)),
    "low-rank": lambda p, D, shape: p.LowRankNormal(_decoder(p, D, shape, heads=2 + RANK), RANK),
    "factor-analysis": lambda p, D, shape: p.FixedNormal(p.Linear(D, shape), p.torch.full(shape, SCALE)),
    "bernoulli": lambda p, D, shape: p.Bernoulli(_decoder(p, D, shape)),
    "continuous-bernoulli": lambda p, D, shape: p.ContinuousBernoulli(_decoder(p, D, shape)),
    "discretized-logistic": lambda p, D, shape: p.DiscretizedLogistic(_decoder(p, D, shape, heads=2)),
}
GAUSSIAN = ("fixed", "fixed-per-pixel", "diagonal", "low-rank", "factor-analysis")
MASSES = ("bernoulli", "discretized-logistic")  # of whole numbers: their log p(x) compares with no density's

# Short chains: at a hundred gradients per point, many visits train w better than few good ones.
CHAIN = {"num_states": 1, "num_leapfrog": 3, "burn_in": 0}
HYBRID = {"num_transitions": 1, "num_leapfrog": 1}
# Functions of what `_parts` gives, the model, N training points, D latents and the shape of a point.
GUIDES: dict[str, Callable] = {
    "hard-em": lambda p, model, N, D, shape, C=0: p.PointEstimate(N, D),
    "mean-field": lambda p, model, N, D, shape, C=0: p.MeanField(N, D),
    "full-rank": lambda p, model, N, D, shape, C=0: p.FullRank(N, D),
    "amortized": lambda p, model, N, D, shape, C=0: p.Amortized(_encoder(p, shape), D, given_dim=C),
    "amortized-full-rank": lambda p, model, N, D, shape, C=0: p.Amortized(
        _encoder(p, shape), D, "full_rank", given_dim=C
    ),
    "mcem": lambda p, model, N, D, shape, C=0: p.Chain(model, N, D, **CHAIN),
    "mcem-encoder": lambda p, model, N, D, shape, C=0: p.Hybrid(
        model, p.Amortized(_encoder(p, shape), D, given_dim=C), **HYBRID
    ),
    "auto-normal": lambda p, model, N, D, shape, C=0: p.auto(model, "AutoNormal", N),
    "auto-delta": lambda p, model, N, D, shape, C=0: p.auto(model, "AutoDelta", N),
}


def _parts() -> SimpleNamespace:
    r"""Returns the classes and functions that recipes build from."""
    import torch

    from ..guides import amortized, autoguides, chain, hybrid, per_point
    from ..likelihoods import bernoulli, discretized_logistic, low_rank, normal
    from ..nets import conv, net

    modules = (amortized, autoguides, chain, hybrid, per_point, bernoulli, discretized_logistic, low_rank, normal)
    names = {name: value for module in (*modules, conv, net) for name, value in vars(module).items()}
    return SimpleNamespace(**names | {"torch": torch})


def _stages(p, shape: Sequence[int]) -> dict:
    r"""How the convolutional networks of these points are built; empty where they get perceptrons."""
    if len(shape) != 3 or min(shape[1:]) < p.SMALLEST:
        return {}
    return {"widths": (32, 64)} if min(shape[1:]) < SMALL else {"widths": (32, 64, 64, 64), "norm": True}


def network(shape: Sequence[int]) -> str:
    r"""What decodes points of that shape: "conv" or "mlp"."""
    return "conv" if _stages(_parts(), shape) else "mlp"


def _decoder(p, D: int, shape, heads: int = 1):
    stages = _stages(p, shape)
    return p.ConvDecoder(D, shape, heads=heads, **stages) if stages else p.MLP(D, shape, heads=heads)


def _encoder(p, shape):
    stages = _stages(p, shape)
    return p.ConvEncoder(shape, 128 if min(shape[1:]) < SMALL else 256, **stages) if stages else p.MLP(shape, 200)


def model(likelihood: str, D: int, shape: tuple[int, ...], given_dim: int = 0) -> DLGM:
    r"""Creates the model with that likelihood, D latents and points of that shape, (C, H, W) or (P,).

    Its network decodes D numbers and the ``given_dim`` that are given.
    """
    from ..model import DLGM
    from ..priors import StandardNormal

    return DLGM(StandardNormal(D), LIKELIHOODS[likelihood](_parts(), D + given_dim, shape))


def guide(name: str, D: int, shape: tuple[int, ...], given_dim: int = 0) -> Callable[[DLGM, int], Guide]:
    r"""Returns the factory (model, N) -> guide of that name."""
    return lambda model, N: GUIDES[name](_parts(), model, N, D, shape, given_dim)


@dataclass(frozen=True)
class Recipe:
    r"""Creates pairs (model, guide) from names; plain values, kept as ``recipe`` in a run's ``config.json``.

    Attributes:
        likelihood, guide: keys of `LIKELIHOODS` and `GUIDES`.
        latents: the number D of latents.
        image_shape: (C, H, W), or (P,) for points that are no images.
        num_points: the number N of training points, for guides with a row for each.
        given_dim: the number C of what is given beside x and t.

    Raises:
        ValueError: on a name that is not there.
    """

    likelihood: str
    guide: str
    latents: int
    image_shape: Sequence[int]
    num_points: int
    given_dim: int = 0

    def __post_init__(self):
        for kind, known in (("likelihood", LIKELIHOODS), ("guide", GUIDES)):
            if getattr(self, kind) not in known:
                raise ValueError(f"{kind} is {getattr(self, kind)!r}; expected one of {', '.join(known)}")

    def new_model(self) -> DLGM:
        r"""Creates the model, with random weights."""
        return model(self.likelihood, self.latents, tuple(self.image_shape), self.given_dim)

    def new_guide(self, model: DLGM) -> Guide:
        r"""Creates the guide for that model."""
        return guide(self.guide, self.latents, tuple(self.image_shape), self.given_dim)(model, self.num_points)

    def plain(self) -> dict:
        r"""The recipe as plain values; ``given_dim`` is left out where nothing is given."""
        return {name: value for name, value in vars(self).items() if name != "given_dim" or value}
