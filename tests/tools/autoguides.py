r"""Pyro's autoguides on a `DLGM`."""

import cases
import pyro
import pyro.distributions as dist
import pyro.infer as infer
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import autoguide
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from pyro_dlgm import fit, guides

from .group import MISLEADS, Group
from .pairs import INDEX, B, N, Pair, about, close, exact, frozen, same_draw, single

tool = Group("Pyro's guides: `pyro.infer.autoguide`")


WIDE = (
    "AutoDiagonalNormal",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
    "AutoIAFNormal",
    "AutoGaussian",
)
STRUCTURED = {"conditionals": "normal", "dependencies": {}}


def auto(name: str, model, **kwargs):
    r"""The autoguide of that name, in the form that is tried."""
    if name == "AutoNormalizingFlow":
        return autoguide.AutoNormalizingFlow(model, lambda num: dist.transforms.affine_autoregressive(num, [2 * num]))
    if name == "AutoGuideList":
        made = autoguide.AutoGuideList(model)
        made.append(AutoNormal(poutine.block(model, expose=["t"])))
        return made
    return getattr(autoguide, name)(model, **(STRUCTURED if name == "AutoStructured" else {}), **kwargs)


def climbing(guide, pair: Pair, steps: int = 150, gamma: float = 0.97) -> None:
    r"""The E-step by Pyro's own SVI, all points in each batch, at a falling learning rate."""
    options = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": gamma}
    scheduler = pyro.optim.ExponentialLR(options)
    svi = infer.SVI(pair.model, guide, scheduler, infer.Trace_ELBO(4, vectorize_particles=True, max_plate_nesting=1))
    for _ in range(steps):
        svi.step(*pair.whole)
        scheduler.step()


def off(guide, pair: Pair, num: int = 400) -> tuple[Tensor, Tensor]:
    r"""How far means and scales of a guide are from the posterior's, in its scales."""
    p = pair.model.posterior(pair.everything)
    with torch.no_grad():
        t = torch.stack([poutine.trace(guide).get_trace(*pair.whole).nodes["t"]["value"] for _ in range(num)])
    return ((t.mean(0) - p.mean) / p.stddev).abs().max(), (t.std(0) / p.stddev).log().abs().max()


def fitting_all_points(name: str) -> None:
    r"""Pyro's SVI finds the posterior, and `fit` moves every parameter."""
    pair = frozen(single(exact()))
    guide = auto(name, pair.model)
    climbing(guide, pair)
    mean, scale = off(guide, pair)
    assert mean < 0.45 and (scale < 0.5 or name == "AutoDelta")
    before = cases.tensors(guide)
    fit(pair.model, guide, pair.everything, steps=3, batch_size=N, seed=0)
    assert set(cases.unmoved(guide, before)) <= {"weights.t_unconstrained"}


REMARKS = {
    "AutoNormal": "KL is sampled; its parameters are made at the first call: `fit` makes one",
    "AutoDelta": "a point mass: `guides.PointEstimate` does the same",
    "AutoDiagonalNormal": "all t of all points are one vector",
    "AutoMultivariateNormal": "all t of all points are one vector: the covariance has (N D)² numbers",
    "AutoLowRankMultivariateNormal": "all t of all points are one vector",
    "AutoIAFNormal": "all t of all points are one vector; its network is float32, whatever the model is",
    "AutoNormalizingFlow": "all t of all points are one vector; its network is float32, whatever the model is",
    "AutoGaussian": "it scatters into float32, whatever the model is",
    "AutoStructured": "`dependencies={}` makes it `AutoNormal`",
    "AutoNormalMessenger": "its parameters are made at the first call",
    "AutoHierarchicalNormalMessenger": "its weight is one of the prior's mean, which is 0 here: it has no gradient",
    "AutoRegressiveMessenger": "its parameters are made at the first call",
    "AutoGuideList": "parts go by sites, `poutine.block(model, expose=['t'])`",
}
for auto_name, auto_remark in REMARKS.items():
    tool(f"{auto_name}, all points in each batch", auto_remark)(lambda name=auto_name: fitting_all_points(name))


def climbing_in_float64(name: str) -> None:
    pair = frozen(exact())
    climbing(auto(name, pair.model), pair, 1)


FLOAT32 = {
    "AutoIAFNormal": (ValueError, "Linear got torch.float32"),
    "AutoNormalizingFlow": (ValueError, "Linear got torch.float32"),
    "AutoGaussian": (RuntimeError, "scatter"),
}
for float32_name, refusal in FLOAT32.items():
    tool(f"{float32_name}, of a model in float64", "use `model.float()`", *refusal)(
        lambda name=float32_name: climbing_in_float64(name)
    )


@tool("AutoDiscreteParallel", "t is continuous", NotImplementedError, "to be discrete")
def discrete():
    pair = exact()
    autoguide.AutoDiscreteParallel(pair.model)(*pair.args)


@tool("mean_field_entropy", "of a guide: the entropy of q, for each point")
def entropy():
    pair = exact()
    close(autoguide.mean_field_entropy(pair.guide, pair.args), pair.guide.posterior(*pair.args).entropy())


@tool("AutoLaplaceApproximation", "after its point estimate has converged; exact for PPCA")
def laplace():
    pair = frozen(exact())
    guide = autoguide.AutoLaplaceApproximation(pair.model)
    climbing(guide, pair, 500, gamma=0.985)
    q, p = guide.laplace_approximation(*pair.whole).get_posterior(), pair.model.posterior(pair.everything)
    about(q.mean, p.mean.flatten(), 0.02)
    close(q.stddev, p.stddev.flatten(), rtol=1e-5)


@tool("EasyGuide", "its own plates see the subsample of the model")
def easy():
    class Easy(EasyGuide):
        def guide(self, x, index=None, **kwargs):
            rows = pyro.param("rows", torch.zeros(N, 1).double())
            with self.plate("data", N, subsample=index, dim=-1):
                pyro.sample("t", dist.Normal(rows[index], 1.0).to_event(1))

    pair = exact()
    infer.SVI(pair.model, Easy(pair.model), pyro.optim.Adam({"lr": 0.1}), infer.Trace_ELBO()).step(*pair.args, size=N)
    assert set(pyro.param("rows").nonzero()[:, 0].tolist()) == set(INDEX.tolist())


def fitting_batches(name: str, **kwargs) -> None:
    pair = frozen(single(exact()))
    guide = auto(name, pair.model, **kwargs)
    fit(pair.model, guide, pair.everything, steps=400, batch_size=5, lr=0.05, seed=0)
    mean, scale = off(guide, pair)
    assert mean < 0.45 and (scale < 0.5 or name == "AutoDelta")


for wide in ("AutoNormal", "AutoDelta", *WIDE, "AutoStructured", "AutoGuideList"):
    tool(
        f"fit(batch_size=), {wide}",
        "its rows would go to the wrong points; `create_plates=` helps `AutoNormal` and `AutoDelta`",
        ValueError,
        "use guides.MeanField, guides.FullRank or guides.auto",
    )(lambda name=wide: fitting_batches(name))


def plates(x, index=None, **kwargs):
    return pyro.plate("data", N, subsample=index, dim=-1)


@tool("fit(batch_size=), AutoNormal and AutoDelta with create_plates=", "a plate of N points with the batch's index")
def fitting_batches_with_plates():
    for name in ("AutoNormal", "AutoDelta"):
        fitting_batches(name, create_plates=plates)


@tool("fit(batch_size=), AutoNormalMessenger", "`size=N` gives it N rows, and the batch's index picks among them")
def fitting_batches_by_messages():
    fitting_batches("AutoNormalMessenger")


@tool(
    "AutoNormalMessenger, batches without size=N",
    "rows are made for the first batch and taken by position: other points get the same ones",
    MISLEADS,
)
def messages_by_position():
    pair = frozen(exact())
    guide = autoguide.AutoNormalMessenger(pair.model)
    svi = cases.stock(pair.model, guide)
    svi.step(pair.everything[:5], torch.arange(5))
    assert [len(p) for p in guide.parameters()] == [5, 5]
    before = cases.tensors(guide)
    svi.step(pair.everything[5:], torch.arange(5, N))
    assert cases.unmoved(guide, before) == []


@tool(
    "AutoNormal in Pyro's SVI, batches with size=N",
    "without `create_plates=` its plate draws its own index: rows train on the points of others",
    MISLEADS,
)
def wrong_rows():
    pair = frozen(exact())
    guide = AutoNormal(pair.model)
    svi = infer.SVI(pair.model, guide, pyro.optim.Adam({"lr": 0.1}), infer.Trace_ELBO())
    guide(*pair.args, size=N)
    before = guide.locs.t.detach().clone()
    same_draw(svi.step, *pair.args, size=N)
    moved = (guide.locs.t != before).any(1).nonzero().flatten().tolist()
    assert len(moved) == B and set(moved) != set(INDEX.tolist())


@tool("guides.auto, AutoNormal and AutoDelta", "these two, with N rows made by this package")
def our_auto():
    for name in ("AutoNormal", "AutoDelta"):
        pair = frozen(exact())
        guide = guides.auto(pair.model, name, N).double()
        fit(pair.model, guide, pair.everything, steps=400, batch_size=5, row_lr=0.05, seed=0)
        p = pair.model.posterior(pair.everything)
        about((guide.posterior(None, torch.arange(N)).mean - p.mean) / p.stddev, torch.zeros(N, 1), 0.45)


@tool("guides.auto, any other", "it is refused, with the reason", ValueError, "expected one of AutoNormal, AutoDelta")
def our_auto_of_another():
    guides.auto(cases.conv(), "AutoDiagonalNormal", N)
