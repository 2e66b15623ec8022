r"""Pyro's modules, parameter store and settings."""

import tempfile
from pathlib import Path

import cases
import pyro
import pyro.distributions as dist
import pyro.infer as infer
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import DenseNN, PyroParam, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn

from pyro_dlgm import DLGM, SVI, fit, guides, likelihoods, nets, priors
from pyro_dlgm.objectives import ELBO

from .group import MISLEADS, Group
from .pairs import B, N, Pair, check_moves, close, exact, images, linear, same_draw, sites, traced

tool = Group("Modules, parameters and settings: `pyro.nn`, `pyro.param`")


@tool("to_pyro_module_", "of the model or a part of it, in place: names in the parameter store change, nothing else")
def changing_classes():
    for part in ("likelihood", "prior", None):
        pair = images()
        before = same_draw(ELBO().loss, pair.model, pair.guide, *pair.args)
        to_pyro_module_(getattr(pair.model, part) if part else pair.model)
        assert same_draw(ELBO().loss, pair.model, pair.guide, *pair.args) == before
        for svi in (cases.stock(pair.model, pair.guide), SVI(pair.model, pair.guide)):
            check_moves(pair, svi.step)


@tool("PyroParam", "a constrained weight, after `to_pyro_module_` of the network")
def constraining_a_weight():
    pair = linear()
    layer = to_pyro_module_(pair.model.likelihood.net) or pair.model.likelihood.net.body[-1]
    layer.bias = PyroParam(torch.full((6,), 1e-3).double(), constraints.positive)
    for svi in (cases.stock(pair.model, pair.guide), SVI(pair.model, pair.guide)):
        check_moves(pair, svi.step)
    assert (layer.bias > 0).all() and "likelihood.net.body.1.bias_unconstrained" in pair.model.state_dict()


@tool("PyroSample", "a random weight, after `to_pyro_module_`: drawn once, before the plate, at scale 1")
def drawing_a_weight():
    pair = linear()
    layer = to_pyro_module_(pair.model.likelihood.net) or pair.model.likelihood.net.body[-1]
    layer.bias = PyroSample(dist.Normal(torch.zeros(6).double(), 1.0).to_event(1))
    trace = traced(pair.model, *pair.args, size=N)
    assert sites(trace) == ["likelihood.net.body.1.bias", "data", "t", "x"]
    bias, x = trace.nodes["likelihood.net.body.1.bias"], trace.nodes["x"]
    assert bias["scale"] == 1.0 and x["scale"] == N / B and bias["value"].shape == (6,)
    close(x["fn"].mean, trace.nodes["t"]["value"] @ pair.model.W.mT + bias["value"])


@tool("priors.bayesian", "a prior on every weight; their q may be an autoguide of `poutine.block(model, hide=['t'])`")
def bayesian_weights():
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(priors.bayesian(nets.Linear(2, 6), 0.5)))
    pair = Pair(model, guides.MeanField(N, 2), torch.randn(N, 6))
    weights = infer.autoguide.AutoNormal(poutine.block(model, hide=["t"]))

    def guide(*args, **kwargs):
        weights(*args, **kwargs)
        return pair.guide(*args, **kwargs)

    svi = cases.stock(model, guide)
    svi.step(*pair.args, size=N)
    before = cases.tensors(weights)
    check_moves(pair, svi.step, size=N)
    assert cases.unmoved(weights, before) == [] and len(before) == 4
    drawn = [traced(model, *pair.args, size=N).nodes["likelihood.net.body.1.weight"] for _ in range(400)]
    assert {site["scale"] for site in drawn} == {1.0}
    assert abs(torch.stack([site["value"] for site in drawn]).std() - 0.5) < 0.05


@tool("nn.DenseNN", "in `nets.Net`, which flattens leading axes around it and knows the shape of x")
def dense():
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Net(2, (6,), DenseNN(2, [8], [6]))))
    pair = Pair(model, guides.MeanField(N, 2), torch.randn(N, 6))
    assert model.log_joint(pair.x, torch.randn(5, B, 2)).shape == (5, B)
    check_moves(pair, cases.stock(model, pair.guide).step)


class Spline(nn.Module):
    r"""Creates a prior of two latents that are coupled by a spline."""

    def __init__(self):
        super().__init__()
        self.spline = dist.transforms.spline_coupling(2)

    def forward(self):
        return dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [self.spline])


@tool("distributions.transforms", "a flow in the prior: KL is sampled then, since it has no closed form")
def flowing():
    model = DLGM(Spline(), likelihoods.FixedNormal(nets.Linear(2, 6)))
    pair, t = Pair(model, guides.MeanField(N, 2), torch.randn(N, 6)), torch.randn(B, 2)
    close(model.log_joint(pair.x, t), model.prior().log_prob(t) + model.likelihood(t).log_prob(pair.x), rtol=1e-5)
    for svi in (cases.stock(model, pair.guide), SVI(model, pair.guide)):
        check_moves(pair, svi.step)


@tool("pyro.validation_enabled(False)", "the numbers are the same; x outside of the support is no longer found")
def not_validating():
    pair = images()
    before = same_draw(ELBO().loss, pair.model, pair.guide, *pair.args)
    with pyro.validation_enabled(False):
        assert same_draw(ELBO().loss, pair.model, pair.guide, *pair.args) == before
        assert ELBO().loss(pair.model, pair.guide, pair.x.fill_(float("nan"))) != before


@tool("settings: module_local_params, fit and Trace_ELBO()(model, guide)", "torch optimizers; the store stays empty")
def local_parameters():
    with pyro.settings.context(module_local_params=True):
        pair = images()
        check_moves(pair, SVI(pair.model, pair.guide).step)
        check_moves(pair, lambda *_: fit(pair.model, pair.guide, pair.everything, steps=2, seed=0))
        module = infer.Trace_ELBO()(pair.model, pair.guide)
        optimizer = torch.optim.Adam(module.parameters())
        module(*pair.args).backward()
        check_moves(pair, lambda *_: optimizer.step())
        assert len(pyro.get_param_store()) == 0


@tool(
    "settings: module_local_params, pyro.infer.SVI",
    "Pyro's own SVI then fails on every module with an `nn.Module` inside",
    AttributeError,
    "unconstrained",
)
def local_parameters_in_stock_svi():
    with pyro.settings.context(module_local_params=True):
        pair = images()
        cases.stock(pair.model, pair.guide).step(*pair.args)


def saved(pair: Pair):
    r"""A trained pair, its SVI and what it was when the parameter store was saved; the file was loaded again."""
    svi = cases.stock(pair.model, pair.guide)
    svi.step(*pair.args)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "store")
        pyro.get_param_store().save(path)
        then = cases.tensors(pair.model, pair.guide)
        svi.step(*pair.args)
        pyro.get_param_store().load(path)
    return svi, then


@tool(
    "ParamStore.load",
    "live modules keep their parameters, and Pyro's SVI no longer trains them: save `state_dict`s, or runs of `fit`",
    MISLEADS,
)
def loading_a_store():
    pair = exact(2.0)
    svi, then = saved(pair)
    now = cases.tensors(pair.model, pair.guide)
    assert not cases.same(then, now)
    svi.step(*pair.args)
    assert cases.same(now, cases.tensors(pair.model, pair.guide))


@tool("ParamStore.load, pyro.module(update_module_params=True)", "each child under its name in the store")
def loading_a_store_into_modules():
    pair = exact(2.0)
    svi, then = saved(pair)
    for program in (pair.model, pair.guide):
        for name, child in program.named_children():
            pyro.module(f"{program._pyro_name}.{name}", child, update_module_params=True)
    assert cases.same(then, cases.tensors(pair.model, pair.guide))
    check_moves(pair, svi.step)


@tool("pyro.clear_param_store", "model and guide keep their parameters, and go on training")
def clearing():
    pair = exact(2.0)
    svi = cases.stock(pair.model, pair.guide)
    svi.step(*pair.args)
    before = cases.tensors(pair.model, pair.guide)
    pyro.clear_param_store()
    assert cases.same(before, cases.tensors(pair.model, pair.guide))
    check_moves(pair, svi.step)
    assert len(pyro.get_param_store()) == 4


@tool("ParamStore.scope", "a store for a while; two pairs need none, since their names differ")
def scoping_the_store():
    pair = exact(2.0)
    with pyro.get_param_store().scope():
        check_moves(pair, cases.stock(pair.model, pair.guide).step)
        assert len(pyro.get_param_store()) == 4
    assert len(pyro.get_param_store()) == 0
