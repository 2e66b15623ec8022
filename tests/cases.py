r"""Small models, all guides, and pairs of them with data."""

from dataclasses import dataclass
from functools import partial

import pyro
import torch
from torch import Tensor

from pyro_dlgm import DLGM, PPCA, guides, likelihoods, nets, priors
from pyro_dlgm.modes import curvature

N, B, D = 10, 4, 3
INDEX = torch.tensor([7, 2, 9, 0])
WIDTHS = (4, 8)
RANK, LEVELS, CLASSES = 2, 17, 3
# How far two float32 sums of the same terms, up to 200 of them, may differ if they are added up in another order.
ROUNDING = 200 * torch.finfo(torch.float32).eps
LIKELIHOODS = {
    "fixed": likelihoods.FixedNormal,
    "diagonal": likelihoods.DiagonalNormal,
    "low_rank": partial(likelihoods.LowRankNormal, rank=RANK),
    "bernoulli": likelihoods.Bernoulli,
    "continuous_bernoulli": likelihoods.ContinuousBernoulli,
    "logistic": partial(likelihoods.DiscretizedLogistic, levels=LEVELS),
    "student_t": likelihoods.StudentT,
    "amounts": likelihoods.ZeroInflatedLogNormal,
    "poisson": likelihoods.Poisson,
    "negative_binomial": likelihoods.NegativeBinomial,
    "zero_inflated": likelihoods.ZeroInflatedNegativeBinomial,
    "categorical": partial(likelihoods.Categorical, num_classes=CLASSES),
}
HEADS = {
    "diagonal": 2,
    "low_rank": 2 + RANK,
    "logistic": 2,
    "student_t": 2,
    "amounts": 3,
    "zero_inflated": 2,
    "categorical": CLASSES,
}
COUNTS = (likelihoods.Poisson, likelihoods.NegativeBinomial)
DISCRETE = (likelihoods.Bernoulli, likelihoods.DiscretizedLogistic, likelihoods.Categorical, *COUNTS)


def conv(shape=(1, 5, 7), likelihood: str = "fixed", latent_dim: int = D) -> DLGM:
    r"""A small convolutional model."""
    net = nets.ConvDecoder(latent_dim, shape, widths=WIDTHS, heads=HEADS.get(likelihood, 1))
    return DLGM(priors.StandardNormal(latent_dim), LIKELIHOODS[likelihood](net))


def ppca(num_features: int = 6, latent_dim: int = 2) -> PPCA:
    r"""A small linear model."""
    return PPCA(latent_dim, num_features, scale=0.7)


def encoder(model, channels: int = 1):
    r"""A network for the points of a model, their channels (or features) times ``channels``."""
    first, *rest = model.likelihood.net.out_shape
    shape = (channels * first, *rest)
    return nets.ConvEncoder(shape, 12, widths=WIDTHS) if rest else nets.MLP(shape, 12, hidden=(16,))


def amortized(model, family: str = "mean_field", *, mask_input: bool = False):
    r"""An amortized guide for a model."""
    net = encoder(model, 2 if mask_input else 1)
    return guides.Amortized(net, model.prior.latent_dim, family, init_scale=0.5, mask_input=mask_input)


QUICK = {"num_states": 3, "num_leapfrog": 2}
GUIDES = [
    ("exact", lambda model, num: guides.Exact(model)),
    ("laplace", lambda model, num: guides.Laplace(model)),
    ("point", lambda model, num: guides.PointEstimate(num, model.prior.latent_dim)),
    ("mean_field", lambda model, num: guides.MeanField(num, model.prior.latent_dim)),
    ("full_rank", lambda model, num: guides.FullRank(num, model.prior.latent_dim)),
    ("amortized", lambda model, num: amortized(model)),
    ("amortized_full_rank", lambda model, num: amortized(model, "full_rank")),
    ("semi_amortized", lambda model, num: guides.SemiAmortized(model, amortized(model), 2)),
    ("flow", lambda model, num: guides.Flow(encoder(model), model.prior.latent_dim, init_scale=0.5)),
    ("flow_rows", lambda model, num: guides.FlowRows(num, model.prior.latent_dim)),
    ("chain", lambda model, num: guides.Chain(model, num, model.prior.latent_dim, burn_in=2, **QUICK)),
    ("hybrid", lambda model, num: guides.Hybrid(model, amortized(model), **QUICK)),
    ("auto_normal", lambda model, num: guides.auto(model, "AutoNormal", num)),
    ("auto_delta", lambda model, num: guides.auto(model, "AutoDelta", num)),
]
FACTORIES = dict(GUIDES)
NAMES = list(FACTORIES)
PER_POINT = ["chain", "point", "mean_field", "full_rank", "flow_rows", "auto_normal", "auto_delta"]
DENSE = [name for name in NAMES if name not in ("chain", "hybrid", "point", "auto_delta")]
GAUSSIAN = ["mean_field", "full_rank", "amortized", "amortized_full_rank"]
# Every guide, and every likelihood with one guide; `None` is the plain model of `make`.
PAIRS = [(name, None) for name in NAMES] + [
    ("full_rank", "diagonal"),
    ("laplace", "low_rank"),
    ("laplace", "bernoulli"),
    ("mean_field", "low_rank"),
    ("amortized", "bernoulli"),
    ("amortized_full_rank", "continuous_bernoulli"),
    ("auto_normal", "logistic"),
    ("mean_field", "student_t"),
    ("amortized", "zero_inflated"),
    ("full_rank", "categorical"),
]


@dataclass
class Case:
    r"""A pair with a batch of B of N points."""

    name: str
    model: DLGM
    guide: guides.Guide
    x: Tensor
    index: Tensor

    @property
    def per_point(self) -> bool:
        return self.name in PER_POINT

    @property
    def args(self) -> tuple[Tensor, Tensor]:
        return self.x, self.index

    def fresh_guide(self):
        r"""Another guide of the same kind for the same model."""
        return FACTORIES[self.name](self.model, N)


def make(name: str, model: DLGM | None = None) -> Case:
    r"""The guide of that name with a model, by default a small one: linear for the exact guide, else convolutional."""
    if model is None:
        model = ppca() if name == "exact" else conv()
    return Case(name, model, FACTORIES[name](model, N), points(model, B), INDEX.clone())


def points(model: DLGM, *lead: int) -> Tensor:
    r"""Points in [0, 1] that the likelihood of the model takes."""
    x = torch.rand(*lead, *model.likelihood.net.out_shape)
    if isinstance(model.likelihood, likelihoods.Bernoulli):
        return x.bernoulli()
    if isinstance(model.likelihood, likelihoods.DiscretizedLogistic):
        return (x * (LEVELS - 1)).round() / (LEVELS - 1)
    if isinstance(model.likelihood, COUNTS):
        return (8 * x * x).round()
    if isinstance(model.likelihood, likelihoods.Categorical):
        return (x * CLASSES).floor()
    return x


def tensors(*modules) -> list[Tensor]:
    r"""Copies of all that the modules hold."""
    return [v.detach().clone() for m in modules for v in (*m.parameters(), *m.buffers())]


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    r"""Whether two lists of tensors agree bit for bit."""
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def unmoved(module, before: list[Tensor]) -> list[str]:
    r"""The names of the parameters that are where they were."""
    named = zip(module.named_parameters(), before, strict=False)
    return [name for (name, p), old in named if torch.equal(p, old)]


def stock(model, guide, loss=None) -> pyro.infer.SVI:
    r"""Pyro's own SVI."""
    return pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss or pyro.infer.Trace_ELBO())


def spent(monkeypatch) -> list[int]:
    r"""A list that grows with what is spent: one for a value or gradient of log p(x, t), and one for each tangent."""
    counts, log_joint, gauss_newton = [], DLGM.log_joint, curvature.gauss_newton

    def counted(self, x, t, *args, **settings):
        counts.append(t.shape[:-1].numel())
        return log_joint(self, x, t, *args, **settings)

    def product(J, information):
        counts.append(J.shape[0] * J.shape[1])
        return gauss_newton(J, information)

    monkeypatch.setattr(DLGM, "log_joint", counted)
    monkeypatch.setattr(curvature, "gauss_newton", product)
    return counts
