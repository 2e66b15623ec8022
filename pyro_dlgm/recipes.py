r"""Models, guides and data by name, as the command line builds them and `load` builds them again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from . import data, guides
from .likelihoods import Bernoulli, ContinuousBernoulli, DiagonalNormal, DiscretizedLogistic, FixedNormal, Likelihood
from .model import DLGM
from .nets import ConvDecoder, ConvEncoder, Linear
from .priors import StandardNormal

SCALE = 0.3  # about the standard deviation of a pixel in [0, 1]
SMALL = 16  # images with a shorter side than this get the small networks
VALIDATION = 5000  # training images of MNIST that validate where validation is asked for


def _network(shape: Sequence[int]) -> dict:
    small = min(shape[1:]) < SMALL
    return {"widths": (32, 64)} if small else {"widths": (32, 64, 64, 64), "norm": True}


def _decoder(D: int, shape, heads: int = 1) -> nn.Module:
    return ConvDecoder(D, shape, heads=heads, **_network(shape))


def _encoder(shape) -> nn.Module:
    return ConvEncoder(shape, 128 if min(shape[1:]) < SMALL else 256, **_network(shape))


LIKELIHOODS: dict[str, Callable[[int, tuple], Likelihood]] = {
    "fixed": lambda D, shape: FixedNormal(_decoder(D, shape), SCALE),
    "fixed-per-pixel": lambda D, shape: FixedNormal(_decoder(D, shape), torch.full(shape, SCALE)),
    "diagonal": lambda D, shape: DiagonalNormal(_decoder(D, shape, heads=2)),
    "factor-analysis": lambda D, shape: FixedNormal(Linear(D, shape), torch.full(shape, SCALE)),
    "bernoulli": lambda D, shape: Bernoulli(_decoder(D, shape)),
    "continuous-bernoulli": lambda D, shape: ContinuousBernoulli(_decoder(D, shape)),
    "discretized-logistic": lambda D, shape: DiscretizedLogistic(_decoder(D, shape, heads=2)),
}
GAUSSIAN = ("fixed", "fixed-per-pixel", "diagonal", "factor-analysis")

GUIDES: dict[str, Callable] = {
    "hard-em": lambda model, N, D, shape: guides.PointEstimate(N, D),
    "mean-field": lambda model, N, D, shape: guides.MeanField(N, D),
    "full-rank": lambda model, N, D, shape: guides.FullRank(N, D),
    "amortized": lambda model, N, D, shape: guides.Amortized(_encoder(shape), D),
    "amortized-full-rank": lambda model, N, D, shape: guides.Amortized(_encoder(shape), D, "full_rank"),
    "auto-normal": lambda model, N, D, shape: guides.auto(model, "AutoNormal", N),
    "auto-delta": lambda model, N, D, shape: guides.auto(model, "AutoDelta", N),
}

# What becomes of 8-bit images for a likelihood; for all others they are dequantized.
PIXELS = {"bernoulli": {"binarization": "dynamic"}, "discretized-logistic": {"transform": data.Grid(256)}}
DATA: dict[str, Callable[..., data.Dataset]] = {
    "digits": lambda root, **_: data.digits(),
    "mnist": data.mnist,
    "fashion-mnist": data.fashion_mnist,
}


def model(likelihood: str, D: int, shape: tuple[int, ...]) -> DLGM:
    r"""Creates the model with that likelihood, D latents and images (C, H, W)."""
    return DLGM(StandardNormal(D), LIKELIHOODS[likelihood](D, shape))


def guide(name: str, D: int, shape: tuple[int, ...]) -> Callable:
    r"""The factory (model, N) -> guide of that name."""
    return lambda model, N: GUIDES[name](model, N, D, shape)


def dataset(
    name: str, root: str | Path | None, likelihood: str, *, validate: bool = False, download: bool = False
) -> data.Dataset:
    r"""The data set of that name, with its values as the likelihood takes them.

    8-bit images are binarized afresh at each access for "bernoulli", put on the grid k/255 for "discretized-logistic",
    and dequantized otherwise. With ``validate``, the last 5,000 training images validate; digits have 200 in any
    case. With ``download``, torchvision may fetch or unpack what is not there.

    Raises:
        ValueError: if the folder is not given, or the likelihood does not fit the data.
        FileNotFoundError: if the files are not there.
    """
    if name == "digits":
        if likelihood in PIXELS:
            fitting = ", ".join(known for known in LIKELIHOODS if known not in PIXELS)
            raise ValueError(f"{likelihood} does not fit digits, which are dequantized grey values; use {fitting}")
        return data.digits()
    if root is None:
        raise ValueError(f"{name} lies in files: say where with --data-root, the folder that holds its raw/ folder")
    pixels = PIXELS.get(likelihood, {"transform": data.Dequantize(256)})
    num_val = VALIDATION if validate else 0
    return DATA[name](str(root), num_val=num_val, download=download, **({"binarization": None} | pixels))


@dataclass(frozen=True)
class Recipe:
    r"""Creates pairs (model, guide) from names; plain values, kept as ``recipe`` in a run's ``config.json``.

    Attributes:
        likelihood, guide: keys of `LIKELIHOODS` and `GUIDES`.
        latents: the number D of latents.
        image_shape: (C, H, W).
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
