r"""Small Pyro programs with a plate of points, whose answers are known; all of them in float64."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_dlgm import Points, guides, nets

N, B, T = 10, 4, 3
INDEX = torch.tensor([7, 2, 9, 0])


def real(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ZERO, ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


def points(x, index, size, dim: int = -1, name: str = "data"):
    r"""The plate over points, as a user writes it."""
    if size is None:
        return pyro.plate(name, len(x) if x is not None else len(index), dim=dim)
    if x is None or len(x) == size:
        return pyro.plate(name, size, dim=dim)
    return pyro.plate(name, size, subsample=index, dim=dim)


def normal(x=None, index=None, *, size=None):
    r"""A global mean, and a latent of each point."""
    mu = pyro.sample("mu", dist.Normal(ZERO, 2 * ONE))
    with points(x, index, size):
        z = pyro.sample("z", dist.Normal(mu, ONE))
        return pyro.sample("x", dist.Normal(z, 0.5 * ONE), obs=x)


class GammaPoisson(PyroModule):
    r"""Counts with a rate of each point; the scale of the rates is a global latent, their shape a parameter."""

    def __init__(self):
        super().__init__("gamma_poisson")
        self.shape = PyroParam(2 * ONE, constraint=constraints.positive)

    def forward(self, x=None, index=None, *, size=None):
        rate = pyro.sample("rate", dist.Gamma(3 * ONE, 2 * ONE))
        with points(x, index, size):
            z = pyro.sample("z", dist.Gamma(self.shape, rate))
            return pyro.sample("x", dist.Poisson(z), obs=x)


ALPHA, TOTAL = real(1.5, 2.0, 0.8), 7


def simplex(x=None, index=None, *, size=None):
    r"""Counts of three kinds, with probabilities of each point."""
    with points(x, index, size):
        p = pyro.sample("p", dist.Dirichlet(ALPHA))
        return pyro.sample("x", dist.Multinomial(TOTAL, p), obs=x)


def chain(x=None, index=None, *, size=None):
    r"""z1 -> z2 -> x, all of it Gaussian."""
    with points(x, index, size):
        z1 = pyro.sample("z1", dist.Normal(ZERO, ONE))
        z2 = pyro.sample("z2", dist.Normal(0.8 * z1, 0.5 * ONE))
        return pyro.sample("x", dist.Normal(z2, 0.4 * ONE), obs=x)


def series(x=None, index=None, *, size=None):
    r"""A level of each point and a value at each time; the points are at −1, times at −2, x is (B, T)."""
    times = pyro.plate("time", T, dim=-2)
    with points(x, index, size):
        level = pyro.sample("level", dist.Normal(ZERO, ONE))
        with times:
            v = pyro.sample("v", dist.Normal(level, 0.6 * ONE))
            return pyro.sample("x", dist.Normal(v, 0.5 * ONE), obs=None if x is None else x.mT).mT


def turned(x=None, index=None, *, size=None):
    r"""The same with the points at −2 and times at −1, and a global mean of each time."""
    times, rows = pyro.plate("time", T, dim=-1), points(x, index, size, dim=-2)
    with times:
        mu = pyro.sample("mu", dist.Normal(ZERO, 2 * ONE))
    with rows:
        level = pyro.sample("level", dist.Normal(ZERO, ONE))
        with times:
            v = pyro.sample("v", dist.Normal(mu + level, 0.6 * ONE))
            return pyro.sample("x", dist.Normal(v, 0.5 * ONE), obs=x)


def matrix(x, index=None, *, size=None):
    r"""A latent that is a matrix, all of one event."""
    with points(x, index, size):
        z = pyro.sample("z", dist.LogNormal(ZERO, ONE).expand([2, 3]).to_event(2))
        pyro.sample("x", dist.Normal(z[..., 0] - z[..., 2], ONE).to_event(1), obs=x)


def correlation(x, index=None, *, size=None):
    r"""A correlation of each point."""
    with points(x, index, size):
        L = pyro.sample("L", dist.LKJCholesky(3, 1.5 * ONE))
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(3).double(), scale_tril=L), obs=x)


def bounded(x, index=None, *, size=None):
    r"""Latents with two bounds, and with one."""
    with points(x, index, size):
        a = pyro.sample("a", dist.Uniform(-3 * ONE, 2 * ONE))
        b = pyro.sample("b", dist.Beta(2 * ONE, 3 * ONE))
        c = pyro.sample("c", dist.HalfCauchy(ONE))
        pyro.sample("x", dist.Normal(a + b, 0.1 + c), obs=x)


SHARES, PLACES = real(0.2, 0.5, 0.3), real(-2.0, 0.0, 3.0)


def mixture(x, index=None, *, size=None):
    r"""A discrete latent beside one that is not."""
    with points(x, index, size):
        k = pyro.sample("k", dist.Categorical(SHARES))
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("x", dist.Normal(z + PLACES[k], 0.3 * ONE), obs=x)


def conditioned(x, index=None, *, mask=None, given=None, size=None):
    r"""A latent with covariates, and missing numbers."""
    seen = True if mask is None else mask
    with points(x, index, size):
        z = pyro.sample("z", dist.Normal(given @ real(1.0, -0.5), ONE))
        fn = dist.Normal(z.unsqueeze(-1), 0.5 * ONE).expand([*z.shape, 3]).mask(seen).to_event(1)
        pyro.sample("x", fn, obs=torch.where(torch.as_tensor(seen), x, 0.0))


def fixed(x, index):
    r"""A program that knows N."""
    mu = pyro.sample("mu", dist.Normal(ZERO, 2 * ONE))
    with pyro.plate("data", N, subsample=index):
        z = pyro.sample("z", dist.Normal(mu, ONE))
        pyro.sample("x", dist.Normal(z, 0.5 * ONE), obs=x)


def alone(x):
    r"""A program of x and nothing else."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(2 * ONE, ONE))
        pyro.sample("x", dist.Normal(z.log(), ONE), obs=x)


def weighed(dim: int, x, index=None, *, weight=None, size=None):
    r"""A program that heeds weights; x is (B, T), the plate over points at ``dim``."""
    factor = ONE if weight is None else weight if dim == -1 else weight.unsqueeze(-1)
    mu = pyro.sample("mu", dist.Normal(ZERO, ONE))
    times = pyro.plate("time", T, dim=-3 - dim)
    with points(x, index, size, dim=dim), poutine.scale(scale=factor):
        level = pyro.sample("level", dist.Normal(mu, ONE))
        with times:
            z = pyro.sample("z", dist.Gamma(2 * ONE, ONE))
            pyro.sample("x", dist.Normal(level + z, ONE), obs=x.mT if dim == -1 else x)


Gaussian = torch.distributions.Normal
lower = torch.tril_indices(3, 3, -1)


def _normal(v, x, w):
    return Gaussian(w["mu"], 1.0).log_prob(v["z"]) + Gaussian(v["z"], 0.5).log_prob(x)


def _gamma_poisson(v, x, w):
    prior = torch.distributions.Gamma(2 * ONE, w["rate"]).log_prob(v["z"])
    return prior + x * v["z"].log() - v["z"] - torch.lgamma(x + 1)


def _simplex(v, x, w):
    p = v["p"]
    counts = torch.lgamma(x.sum() + 1) - torch.lgamma(x + 1).sum() + (x * p.log()).sum()
    return torch.distributions.Dirichlet(ALPHA).log_prob(p) + counts


def _chain(v, x, w):
    terms = [Gaussian(ZERO, 1.0).log_prob(v["z1"]), Gaussian(0.8 * v["z1"], 0.5).log_prob(v["z2"])]
    return sum(terms) + Gaussian(v["z2"], 0.4).log_prob(x)


def _series(v, x, w):
    first = Gaussian(ZERO, 1.0).log_prob(v["level"]) + Gaussian(v["level"], 0.6).log_prob(v["v"]).sum()
    return first + Gaussian(v["v"], 0.5).log_prob(x).sum()


def _turned(v, x, w):
    first = Gaussian(ZERO, 1.0).log_prob(v["level"]).sum()
    first = first + Gaussian(w["mu"] + v["level"], 0.6).log_prob(v["v"]).sum()
    return first + Gaussian(v["v"], 0.5).log_prob(x).sum()


def _matrix(v, x, w):
    z = v["z"]
    prior = (Gaussian(ZERO, 1.0).log_prob(z.log()) - z.log()).sum()
    return prior + Gaussian(z[:, 0] - z[:, 2], 1.0).log_prob(x).sum()


def _correlation(v, x, w):
    L = v["L"]
    prior = torch.distributions.LKJCholesky(3, 1.5 * ONE).log_prob(L)
    return prior + torch.distributions.MultivariateNormal(torch.zeros(3).double(), scale_tril=L).log_prob(x)


def _bounded(v, x, w):
    a, b, c = v["a"], v["b"], v["c"]
    prior = -real(5.0).log().squeeze() + torch.distributions.Beta(2 * ONE, 3 * ONE).log_prob(b)
    prior = prior + (2 / torch.pi / (1 + c**2)).log()
    return prior + Gaussian(a + b, 0.1 + c).log_prob(x)


def _mixture(v, x, w):
    sums = SHARES.log() + Gaussian(v["z"] + PLACES, 0.3).log_prob(x)
    return Gaussian(ZERO, 1.0).log_prob(v["z"]) + sums.exp().sum().log()


def _conditioned(v, x, w, mask, given):
    terms = Gaussian(v["z"], 0.5).log_prob(x)
    return Gaussian(given[0] - 0.5 * given[1], 1.0).log_prob(v["z"]) + terms[mask].sum()


def _alone(v, x, w):
    return torch.distributions.Gamma(2 * ONE, ONE).log_prob(v["z"]) + Gaussian(v["z"].log(), 1.0).log_prob(x)


@dataclass(frozen=True)
class Program:
    r"""A program, with points and what is known of them.

    Attributes:
        make: returns the program.
        draw: returns x of some points, at random.
        log_density: by hand, log p(x, values | globals) of one point, of the values of its latents.
        globals: values of its global latents.
        axes: where the points are among the axes of a value, by site; the first one where it is not said.
        coordinates: what the density of a value is one of, by site; all of its numbers where it is not said.
        sized: whether it takes ``size=``.
        beside: returns mask and given of some points.
        width: how many unconstrained numbers a point has.
    """

    make: Callable
    draw: Callable[[int], Tensor]
    log_density: Callable
    width: int
    globals: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    coordinates: dict[str, Callable] = field(default_factory=dict)
    sized: bool = True
    beside: Callable[[int], dict] = lambda num: {}

    def points(self, num: int = B) -> Points:
        return Points(self.draw(num), torch.arange(num), **self.beside(num))

    @property
    def size(self) -> dict:
        return {"size": N} if self.sized else {}


def counts(num: int) -> Tensor:
    return torch.distributions.Multinomial(TOTAL, ALPHA).sample((num,))


def randn(*shape: int) -> Callable[[int], Tensor]:
    return lambda num: torch.randn(num, *shape, dtype=torch.float64)


def _beside(num: int) -> dict:
    mask = torch.rand(num, 3) < 0.6
    return {"mask": mask, "given": torch.randn(num, 2, dtype=torch.float64)}


MU = {"mu": real(0.7).squeeze()}
PROGRAMS = {
    "normal": Program(lambda: normal, randn(), _normal, 1, MU),
    "gamma_poisson": Program(
        GammaPoisson, lambda num: torch.randint(6, (num,)).double(), _gamma_poisson, 1, {"rate": 1.3 * ONE}
    ),
    "simplex": Program(lambda: simplex, counts, _simplex, 2, coordinates={"p": lambda p: p[:-1]}),
    "chain": Program(lambda: chain, randn(), _chain, 2),
    "series": Program(lambda: series, randn(T), _series, 1 + T, axes={"v": -1}),
    "turned": Program(
        lambda: turned, randn(T), _turned, 1 + T, {"mu": real(0.3, -1.0, 2.0)}, axes={"level": -2, "v": -2}
    ),
    "matrix": Program(lambda: matrix, randn(2), _matrix, 6, axes={"z": -3}),
    "correlation": Program(
        lambda: correlation,
        randn(3),
        _correlation,
        3,
        axes={"L": -3},
        coordinates={"L": lambda L: L[lower[0], lower[1]]},
    ),
    "bounded": Program(lambda: bounded, randn(), _bounded, 3),
    "mixture": Program(lambda: mixture, randn(), _mixture, 1),
    "conditioned": Program(lambda: conditioned, randn(3), _conditioned, 1, beside=_beside),
    "fixed": Program(lambda: fixed, randn(), _normal, 1, MU, sized=False),
    "alone": Program(lambda: alone, randn(), _alone, 1, sized=False),
}
NAMES = list(PROGRAMS)
DISCRETE = ["mixture"]
GAUSSIAN = ["normal", "chain", "series", "turned", "fixed"]


def hand(case: Program, values: dict, x: Tensor, **beside) -> Tensor:
    r"""log p(x, values | globals) of one point, by hand."""
    return case.log_density(values, x, case.globals, **beside)


def of_point(case: Program, values: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    r"""The values of one of the points."""
    default = {"p": -2}
    return {name: v.select(case.axes.get(name, default.get(name, -1)), i) for name, v in values.items()}


class Encoder(nn.Module):
    r"""An encoder of whatever a point is, in float64."""

    def __init__(self, x: Tensor):
        super().__init__()
        self.out_features = 8
        self.net = nets.MLP(max(1, x[0].numel()), 8, hidden=(8,)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.reshape(len(x), -1))


def per_point(program, x: Tensor, family: str = "mean_field", **settings):
    return guides.AutoPerPoint(program, len(x), family=family, **settings)


def amortized(program, x: Tensor, family: str = "mean_field", **settings):
    return guides.AutoAmortized(program, Encoder(x), family=family, **settings)


MAKE = {"rows": per_point, "encoder": amortized}


@dataclass
class Pair:
    r"""A program and a guide that has seen it, with all N of its points."""

    case: Program
    model: Callable
    guide: guides.AutoPerPoint
    points: Points

    @property
    def x(self) -> Tensor:
        return self.points.x

    def points_of(self, rows: Tensor | None = None) -> Points:
        r"""Some of the points, by default all of them without an index."""
        return self.points[rows] if rows is not None else replace(self.points, index=None)

    def call(self, rows: Tensor | None = None, **settings) -> tuple[tuple, dict]:
        r"""Arguments and keywords of a call with some of the points."""
        part = self.points[INDEX if rows is None else rows]
        beside = {name: value for name, value in part.keywords.items() if value is not None}
        return (part.x, part.index), {**beside, **self.case.size, **settings}


def pair(name: str, kind: str = "rows", family: str = "mean_field", seed: int = 0, **settings) -> Pair:
    r"""A program with a guide, both fresh; its points are those of the seed."""
    case = PROGRAMS[name]
    torch.manual_seed(seed)
    everything, model = case.points(N), case.make()
    guide = MAKE[kind](model, everything.x, family, **settings)
    return Pair(case, model, guide.setup(everything, **case.size), everything)


def weighing(dim: int) -> Callable:
    r"""`weighed`, with the plate over points at ``dim``."""
    return partial(weighed, dim)
