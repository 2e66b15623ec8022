r"""Models and guides by name, for the command line and `load`.

The parts are imported when a recipe is built (`networks.parts`), so that names can be read without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

from . import mechanisms, tables
from .imports import built, imported, is_path
from .networks import decoder, encoder, network, parts, skewed

if TYPE_CHECKING:
    from ..guides.base import Guide
    from ..model import DLGM

SCALE = 0.3  # about the standard deviation of a pixel in [0, 1]
RANK = 8  # directions in which pixels vary together given t; each is one more output image of the decoder
FEATURES = 200  # outputs of the network that the likelihoods of a table's columns share

# Functions of the parts, D latents and the shape of a point.
LIKELIHOODS: dict[str, Callable] = {
    "fixed": lambda p, D, shape: p.FixedNormal(decoder(p, D, shape), SCALE),
    "fixed-per-pixel": lambda p, D, shape: p.FixedNormal(decoder(p, D, shape), p.torch.full(shape, SCALE)),
    "diagonal": lambda p, D, shape: p.DiagonalNormal(decoder(p, D, shape, heads=2)),
    "low-rank": lambda p, D, shape: p.LowRankNormal(decoder(p, D, shape, heads=2 + RANK), RANK),
    "factor-analysis": lambda p, D, shape: p.FixedNormal(p.Linear(D, shape), p.torch.full(shape, SCALE)),
    "linear": lambda p, D, shape: p.FixedNormal(p.Linear(D, shape), SCALE),
    "bernoulli": lambda p, D, shape: p.Bernoulli(decoder(p, D, shape)),
    "continuous-bernoulli": lambda p, D, shape: p.ContinuousBernoulli(decoder(p, D, shape)),
    "discretized-logistic": lambda p, D, shape: p.DiscretizedLogistic(decoder(p, D, shape, heads=2)),
    "student-t": lambda p, D, shape: p.StudentT(decoder(p, D, shape, heads=2)),
    "zero-inflated-log-normal": lambda p, D, shape: p.ZeroInflatedLogNormal(decoder(p, D, shape, heads=3)),
    "poisson": lambda p, D, shape: p.Poisson(decoder(p, D, shape)),
    "negative-binomial": lambda p, D, shape: p.NegativeBinomial(decoder(p, D, shape)),
    "zero-inflated-negative-binomial": lambda p, D, shape: p.ZeroInflatedNegativeBinomial(
        decoder(p, D, shape, heads=2)
    ),
}
GAUSSIAN = ("fixed", "fixed-per-pixel", "diagonal", "low-rank", "factor-analysis", "linear")
REAL = (*GAUSSIAN, "student-t")
AMOUNTS = ("zero-inflated-log-normal",)  # real numbers >= 0, which a shift or a logarithm would spoil
COUNTS = ("poisson", "negative-binomial", "zero-inflated-negative-binomial")
# Probabilities, of zeros or of all numbers: their log p(x) cannot be compared with densities.
MASSES = ("bernoulli", "discretized-logistic", *AMOUNTS, *COUNTS, "categorical")
LINEAR = ("factor-analysis", "linear")  # μ is linear in t
COLUMNS = tuple(name for name in LIKELIHOODS if name not in LINEAR)  # likelihoods for columns of a table

# Short chains: with a hundred gradients per point, many visits train w better than a few long ones.
CHAIN = {"num_states": 1, "num_leapfrog": 3, "burn_in": 0}
LAPLACE = {"max_steps": 5}  # Newton steps per visit: each costs a gradient evaluation per latent
SEMI_AMORTIZED = {"steps": 2, "num_samples": 4}  # a few samples suffice for training w; scoring takes more
HYBRID = {"num_transitions": 1, "num_leapfrog": 1}
# Functions of the parts, the model, N training points, D latents, the shape of a point, and C columns of given.
GUIDES: dict[str, Callable] = {
    "hard-em": lambda p, model, N, D, shape, C=0: p.PointEstimate(N, D),
    "mean-field": lambda p, model, N, D, shape, C=0: p.MeanField(N, D),
    "full-rank": lambda p, model, N, D, shape, C=0: p.FullRank(N, D),
    "laplace": lambda p, model, N, D, shape, C=0: p.Laplace(model, **LAPLACE),
    "amortized": lambda p, model, N, D, shape, C=0: p.Amortized(encoder(p, model, shape), D, given_dim=C),
    "amortized-full-rank": lambda p, model, N, D, shape, C=0: p.Amortized(
        encoder(p, model, shape), D, "full_rank", given_dim=C
    ),
    "semi-amortized": lambda p, model, N, D, shape, C=0: p.SemiAmortized(
        model, p.Amortized(encoder(p, model, shape), D, given_dim=C), **SEMI_AMORTIZED
    ),
    "flow": lambda p, model, N, D, shape, C=0: p.Flow(encoder(p, model, shape), D, given_dim=C),
    "mcem": lambda p, model, N, D, shape, C=0: p.Chain(model, N, D, **CHAIN),
    "mcem-encoder": lambda p, model, N, D, shape, C=0: p.Hybrid(
        model, p.Amortized(encoder(p, model, shape), D, given_dim=C), **HYBRID
    ),
    "auto-normal": lambda p, model, N, D, shape, C=0: p.auto(model, "AutoNormal", N),
    "auto-delta": lambda p, model, N, D, shape, C=0: p.auto(model, "AutoDelta", N),
}

# Functions of the parts, D latents and the number of components; "vamp" needs the guide as well.
COMPONENTS, MIXTURES = 10, ("mixture", "vamp")
PRIORS: dict[str, Callable] = {
    "standard": lambda p, D, K: p.StandardNormal(D),
    "scaled": lambda p, D, K: p.ScaledNormal(D),
    "mixture": lambda p, D, K: p.MixtureOfNormals(D, K),
    "vamp": lambda p, D, K: p.StandardNormal(D),  # until the guide exists, whose q it is made of
}


def called(likelihood: str, shape: Sequence[int]) -> str:
    r"""Returns a short name of the model for tables: its network and its likelihood."""
    if likelihood in LINEAR:
        return likelihood
    if is_path(likelihood):
        return likelihood.rpartition(":")[2]
    short = "columns" if tables.is_table(likelihood) else likelihood.replace("zero-inflated", "zi")
    return f"{network(shape)}-{short}"


def names(likelihood: str) -> list[str]:
    r"""Returns the names of the likelihoods in a name: the one of all columns, or those of the groups."""
    found = tables.parts(likelihood, COLUMNS) if tables.is_table(likelihood) else [(None, likelihood)]
    return ["categorical" if tables.num_classes(name) else name for _, name in found]


def _likelihood(p, name: str, D: int, shape, given_dim: int):
    r"""Returns the likelihood of that name, with a network that decodes D numbers, ``given_dim`` of them given."""
    if is_path(name):
        thing = imported(name)
        offered = {"net": partial(decoder, p, D, shape, getattr(thing, "heads", 1)), "shape": lambda: shape}
        offered |= {"latent_dim": lambda: D - given_dim, "given_dim": lambda: given_dim}
        return built(name, thing, offered)
    if tables.is_table(name):
        return _table(p, tables.parts(name, COLUMNS), D, shape)
    K = tables.num_classes(name)
    return p.Categorical(decoder(p, D, shape, heads=K), K) if K else LIKELIHOODS[name](p, D, shape)


def _table(p, groups: list[tuple[list[int], str]], D: int, shape):
    r"""Returns the likelihood of a table's columns, each with linear outputs of a shared perceptron."""
    P = sum(len(numbers) for numbers, _ in groups)
    if tuple(shape) != (P,):
        raise ValueError(f"points have shape {tuple(shape)}, and {P} columns are named; expected rows ({P},)")
    trunk = p.Net(D, FEATURES, p.torch.nn.Sequential(p.MLP(D, FEATURES, (FEATURES,)), p.torch.nn.ELU()))
    linear = SimpleNamespace(**vars(p) | {"linear": True})
    return p.Columns([(n, _likelihood(linear, name, FEATURES, (len(n),), 0)) for n, name in groups], trunk)


def model(
    likelihood: str,
    D: int,
    shape: tuple[int, ...],
    given_dim: int = 0,
    prior: str = "standard",
    K: int = COMPONENTS,
    missingness: str | None = None,
) -> DLGM:
    r"""Creates the model with that likelihood, D latents and points of that shape, (C, H, W) or (P,).

    Its network decodes D latents and ``given_dim`` given numbers. The prior "vamp" is N(0, I) until `with_vamp`.
    """
    from ..model import DLGM

    p = parts()
    made = _likelihood(p, likelihood, D + given_dim, shape, given_dim)
    return DLGM(PRIORS[prior](p, D, K), mechanisms.hiding(p, made, missingness, shape))


def with_vamp(model: DLGM, guide: Guide, shape: tuple[int, ...], K: int) -> None:
    r"""Sets the model's prior, in place, to the `VampPrior` of a guide with K pseudo-inputs, which start as noise."""
    p = parts()
    low = 0.0 if skewed(p, model.likelihood) else None  # the encoder takes log(1 + u)
    model.prior = p.VampPrior(guide, p.torch.rand(K, *shape), low=low)


def guide(name: str, D: int, shape: tuple[int, ...], given_dim: int = 0) -> Callable[[DLGM, int], Guide]:
    r"""Returns the factory (model, N) -> guide for a name or import path."""
    if is_path(name):
        return lambda model, N: _own(name, model, N, D, shape, given_dim)
    return lambda model, N: GUIDES[name](parts(), model, N, D, shape, given_dim)


def _own(path: str, model, N: int, D: int, shape, given_dim: int):
    offered = {"model": lambda: model, "num_points": lambda: N, "latent_dim": lambda: D}
    offered |= {"encoder": lambda: encoder(parts(), model, shape), "given_dim": lambda: given_dim}
    return built(path, imported(path), offered)


def check_name(kind: str, name: str) -> None:
    r"""Raises a `ValueError` unless it is the name of a likelihood or guide, or an import path, which is not imported.

    Arguments:
        kind: "likelihood" or "guide".
        name: a key of `LIKELIHOODS`, "categorical:K" or columns with their likelihoods; or a key of `GUIDES`.
    """
    if is_path(name):
        return
    if kind == "likelihood" and tables.is_table(name):
        tables.parts(name, COLUMNS)
        return
    known = {"likelihood": LIKELIHOODS, "guide": GUIDES}[kind]
    if name not in known and not (kind == "likelihood" and tables.num_classes(name)):
        more = f", categorical:K, {tables.FORM}" if kind == "likelihood" else ""
        raise ValueError(f"{kind} is {name!r}; expected one of {', '.join(known)}{more}, or module:Name")


@dataclass(frozen=True)
class Recipe:
    r"""Creates pairs (model, guide) from names; its plain values are the ``recipe`` in a run's ``config.json``.

    Attributes:
        likelihood, guide: keys of `LIKELIHOODS` and `GUIDES`, or import paths "module:Name", which are imported when
            model and guide are created; for a likelihood also "categorical:K", or columns with likelihoods.
        latents: the number D of latents.
        image_shape: (C, H, W), or (P,) for points that are not images.
        num_points: the number N of training points, for guides with a row for each.
        prior: a key of `PRIORS`.
        components: the number of components of a mixture, or of pseudo-inputs.
        given_dim: the number C of columns of ``given``.
        missingness: a key of `mechanisms.MECHANISMS`, or `None`: values are missing at random.

    Raises:
        ValueError: on an unknown name.
    """

    likelihood: str
    guide: str
    latents: int
    image_shape: Sequence[int]
    num_points: int
    given_dim: int = 0
    prior: str = "standard"
    components: int = COMPONENTS
    missingness: str | None = None

    def __post_init__(self):
        for kind in ("likelihood", "guide"):
            check_name(kind, getattr(self, kind))
        mechanisms.check(self.missingness, self.likelihood, names(self.likelihood))
        if self.prior not in PRIORS:
            raise ValueError(f"prior is {self.prior!r}; expected one of {', '.join(PRIORS)}")
        if self.prior == "vamp" and (not self.guide.startswith("amortized") or self.given_dim):
            raise ValueError(
                f"prior is 'vamp', which is made of the q of an encoder of x alone, and guide is {self.guide!r}, "
                f"given_dim {self.given_dim}; expected guide 'amortized' or 'amortized-full-rank' without given"
            )

    def new_model(self) -> DLGM:
        r"""Creates the model, with random weights."""
        shape = tuple(self.image_shape)
        built = self.latents, shape, self.given_dim, self.prior, self.components, self.missingness
        return model(self.likelihood, *built)

    def new_guide(self, model: DLGM) -> Guide:
        r"""Creates the guide for that model; sets the prior "vamp" of the model to that of this guide, in place."""
        shape = tuple(self.image_shape)
        made = guide(self.guide, self.latents, shape, self.given_dim)(model, self.num_points)
        if self.prior == "vamp":
            with_vamp(model, made, shape, self.components)
        return made

    def plain(self) -> dict:
        r"""Returns the recipe as plain values; newer fields with default values are left out."""
        later = {"given_dim": 0, "prior": "standard", "missingness": None}
        if self.prior not in MIXTURES:
            later["components"] = self.components
        return {name: value for name, value in vars(self).items() if name not in later or value != later[name]}
