r"""Pyro's tools on programs with a plate of points, with rows and with an encoder as their guides."""

import contextlib
import warnings

import programs
import pyro
import pyro.infer as infer
import pytest
import torch
from programs import INDEX, ONE, B, N, real
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer.autoguide import AutoNormal

from pyro_dlgm import SVI, guides
from pyro_dlgm.latents.call import accepting

from .group import MISLEADS, Group
from .pairs import about, close, same_draw, sites, traced

tool = Group("Any program: `guides.AutoPerPoint` and `guides.AutoAmortized`")

CONTINUOUS = [name for name in programs.NAMES if name not in programs.DISCRETE]
KINDS = list(programs.MAKE)


def all_pairs(names=CONTINUOUS):
    r"""Each program with each guide, and a call with a batch of its points."""
    for name in names:
        for kind in KINDS:
            pair = programs.pair(name, kind)
            yield pair, accepting(pair.model), *pair.call()


def latents(trace) -> set[str]:
    return {n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"] and "fn" in s} - {
        "data",
        "time",
    }


@tool("trace, replay", "the guide's sites are the latents of the program, and one more for u, which is auxiliary")
def replaying():
    for pair, model, args, kwargs in all_pairs():
        q = traced(pair.guide, *args, **kwargs)
        p = traced(poutine.replay(model, trace=q), *args, **kwargs)
        assert all(torch.equal(p.nodes[n]["value"], q.nodes[n]["value"]) for n in latents(p))
        assert latents(p) <= latents(q) and p.log_prob_sum().isfinite()


@tool("Predictive, posterior", "with `poutine.uncondition(model)`; with parallel=True as well")
def predicting():
    for pair, model, args, kwargs in all_pairs():
        for parallel in (False, True):
            predictive = infer.Predictive(
                poutine.uncondition(model), guide=pair.guide, num_samples=3, parallel=parallel
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = predictive(*args, **kwargs)
            x = found["x"].reshape(3, B, -1)
            assert x.isfinite().all() and x.shape[-1] == max(1, args[0][0].numel())
    for kind in KINDS:
        pair = programs.pair("normal", kind)
        args, kwargs = pair.call()
        predictive = infer.Predictive(
            poutine.uncondition(pair.model), guide=pair.guide, num_samples=4000, parallel=True
        )
        about(predictive(*args, **kwargs)["x"].mean(0), pair.guide.posterior(*args).mean.squeeze(-1), 0.05)


@tool("Predictive, prior", "of a program that is called as program(size=n)")
def predicting_from_the_prior():
    x = infer.Predictive(programs.normal, num_samples=5000, parallel=True)(size=3)["x"]
    assert x.shape == (5000, 3)
    about(x.var(0), real(5.25, 5.25, 5.25), 0.6)
    about((x[:, 0] * x[:, 1]).mean(), 4.0, 0.6)  # mu is one for all points


@tool("Predictive, the guide alone", "`return_sites` names latents; draws of u are there, too")
def predicting_latents():
    for kind in KINDS:
        pair = programs.pair("chain", kind)
        args, kwargs = pair.call()
        found = infer.Predictive(pair.guide, num_samples=4000, parallel=True)(*args, **kwargs)
        assert set(found) == {"z1", "z2", "data_latents"}
        about(found["z1"].mean(0), pair.guide.posterior(*args).mean[:, 0], 0.05)


@tool("pyro.render_model", "of the program and of the guide")
def rendering():
    pytest.importorskip("graphviz", reason="pyro.render_model needs the Python package graphviz")
    for pair, model, args, kwargs in all_pairs(["normal", "chain", "series", "turned", "simplex"]):
        drawn = pyro.render_model(model, model_args=args, model_kwargs=kwargs).source
        assert "label=data" in drawn and "-> x" in drawn
        drawn = pyro.render_model(pair.guide, model_args=args, model_kwargs=kwargs).source
        assert "data_latents" in drawn


@tool("condition", "a latent that is known before the guide is made is none of its latents; x may be given so")
def conditioning():
    for kind in KINDS:
        x = torch.randn(N).double()
        held = poutine.condition(programs.normal, data={"mu": 2 * ONE})
        guide = programs.MAKE[kind](held, x)
        guide.setup(x, torch.arange(N), size=N)
        assert guide.dense is None and guide.local.global_names == ()
        loss = infer.Trace_ELBO().loss(held, guide, x[INDEX], INDEX, size=N)
        assert torch.tensor(loss).isfinite()
        close(guide.local.log_joint(_points(x), torch.zeros(N, 1).double()), _normal(x, 2.0))


def _points(x):
    from pyro_dlgm import Points

    return Points(x, torch.arange(len(x)))


def _normal(x, mu: float):
    z = torch.zeros_like(x)
    return torch.distributions.Normal(mu, 1.0).log_prob(z) + torch.distributions.Normal(z, 0.5).log_prob(x)


@tool("condition, of what the guide samples", "the guide's draw is not the value that the program has", MISLEADS)
def conditioning_afterwards():
    for kind in KINDS:
        pair = programs.pair("normal", kind)
        args, kwargs = pair.call()
        held = poutine.condition(pair.model, data={"mu": 2 * ONE})
        q = traced(pair.guide, *args, **kwargs)
        p = traced(poutine.replay(held, trace=q), *args, **kwargs)
        assert float(p.nodes["mu"]["value"]) != float(q.nodes["mu"]["value"])


@tool("do", "points see the value that was set; the site goes on being drawn")
def intervening():
    for kind in KINDS:
        pair = programs.pair("normal", kind)
        args, kwargs = pair.call()
        trace = traced(poutine.do(pair.model, data={"mu": 9 * ONE}), *args, **kwargs)
        close(trace.nodes["z"]["fn"].mean, 9 * torch.ones(B).double())
        assert float(trace.nodes["mu"]["value"]) != 9.0
        done = poutine.do(pair.model, data={"mu": 9 * ONE})
        assert torch.tensor(infer.Trace_ELBO().loss(done, pair.guide, *args, **kwargs)).isfinite()


@tool("block", "with x hidden, what is left of the loss is KL(q ‖ p) of all latents")
def blocking():
    for pair, model, args, kwargs in all_pairs():
        q = same_draw(traced, pair.guide, *args, **kwargs)
        p = traced(poutine.replay(poutine.block(model, hide=["x"]), trace=q), *args, **kwargs)
        loss = same_draw(
            infer.Trace_ELBO(max_plate_nesting=2).loss, poutine.block(model, hide=["x"]), pair.guide, *args, **kwargs
        )
        close(loss, q.log_prob_sum() - p.log_prob_sum())


@tool("autoname.scope", "around both: sites and plates get the prefix, the loss stays")
def scoping():
    for pair, model, args, kwargs in all_pairs():
        loss = infer.Trace_ELBO(max_plate_nesting=2).loss
        plain = same_draw(loss, model, pair.guide, *args, **kwargs)
        scoped = [scope(program, prefix="a") for program in (model, pair.guide)]
        close(same_draw(loss, *scoped, *args, **kwargs), plain)
        trace = traced(scoped[1], *args, **kwargs)
        assert all(name.startswith("a/") for name in sites(trace))


@tool("NUTS", "on the program: globals and all points in one trajectory, at scale 1 without `size=`")
def nuts():
    x = torch.randn(B).double() + 1
    chain = infer.MCMC(infer.NUTS(programs.normal, max_tree_depth=4), 250, 80, disable_progbar=True)
    chain.run(x)
    samples = chain.get_samples()
    precision = 1 / 4 + B / 1.25
    about(samples["mu"].mean(), float(x.sum() / 1.25 / precision), 0.25)
    about(samples["mu"].std(), precision**-0.5, 0.12)
    guide = guides.AutoPerPoint(programs.normal, B).setup(x, torch.arange(B))
    predictive = infer.Predictive(programs.normal, posterior_samples=samples, parallel=True)
    assert predictive(x)["x"].shape == (250, B) and guide.is_set_up


@tool("NUTS, of the other programs", "any support, and nested plates; discrete latents are summed out there as well")
def nuts_of_others():
    for name in ("gamma_poisson", "simplex", "series", "turned", "correlation", "bounded", "mixture"):
        pair = programs.pair(name)
        chain = infer.MCMC(infer.NUTS(pair.model, max_tree_depth=2), 2, 2, disable_progbar=True)
        chain.run(pair.x[INDEX], INDEX)
        samples = chain.get_samples()
        assert {*pair.guide.local.sites, *pair.guide.local.global_names} == set(samples)


@tool("TraceEnum_ELBO", "sums discrete latents of points out; mark them: `infer.config_enumerate(model)`")
def enumerating():
    for kind in KINDS:
        pair = programs.pair("mixture", kind)
        args, kwargs = pair.call()
        model = infer.config_enumerate(pair.model)
        loss = same_draw(infer.TraceEnum_ELBO(max_plate_nesting=1).loss, model, pair.guide, *args, **kwargs)
        u = same_draw(traced, pair.guide, *args, **kwargs).nodes["data_latents"]["value"]
        q = pair.guide.posterior(*args).log_prob(u)
        close(loss, N / B * (q - pair.guide.local.log_joint(pair.points[INDEX], u)).sum())


@tool(
    "Trace_ELBO, with discrete latents",
    "it draws them from the prior, with a warning: use `TraceEnum_ELBO`",
    MISLEADS,
)
def enumerating_without():
    for kind in KINDS:
        pair = programs.pair("mixture", kind)
        args, kwargs = pair.call()
        with warnings.catch_warnings(record=True) as said, pyro.validation_enabled(True):
            warnings.simplefilter("always")
            infer.Trace_ELBO().loss(pair.model, pair.guide, *args, **kwargs)
        assert any("Found vars in model but not guide" in str(w.message) for w in said)


@tool("TraceEnum_ELBO, TraceGraph_ELBO", "of continuous latents alone they are Trace_ELBO")
def other_objectives():
    for pair, model, args, kwargs in all_pairs():
        plain = same_draw(infer.Trace_ELBO(max_plate_nesting=2).loss, model, pair.guide, *args, **kwargs)
        for objective in (infer.TraceEnum_ELBO(max_plate_nesting=2), infer.TraceGraph_ELBO(max_plate_nesting=2)):
            close(same_draw(objective.loss, model, pair.guide, *args, **kwargs), plain)


@tool(
    "TraceMeanField_ELBO",
    "it forgets the log-Jacobians of what is not real, of Pyro's autoguides as well; `SVI` and `fit` refuse it there",
    MISLEADS,
)
def mean_field_objective():
    for pair, model, args, kwargs in all_pairs(["chain", "turned", "matrix", "bounded"]):
        objective = infer.TraceMeanField_ELBO(max_plate_nesting=2)
        losses = [
            same_draw(each.loss, model, pair.guide, *args, **kwargs)
            for each in (infer.Trace_ELBO(max_plate_nesting=2), objective)
        ]
        is_real = pair.model in (programs.chain, programs.turned)
        assert (losses[0] == pytest.approx(losses[1])) == is_real
        with contextlib.nullcontext() if is_real else pytest.raises(ValueError, match="leaves out the log-Jacobians"):
            SVI(pair.model, pair.guide, loss=objective)


@tool("vectorize_particles", "of `Trace_ELBO`, with `max_plate_nesting=` that of the program")
def vectorized():
    for pair, model, args, kwargs in all_pairs():
        objective = infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=2)
        assert torch.tensor(objective.loss(model, pair.guide, *args, **kwargs)).isfinite()


@tool("ELBOModule, in a loop of torch", "call the guide once before, so that its parameters exist")
def looping():
    for pair, model, args, kwargs in all_pairs():
        loss = infer.Trace_ELBO(max_plate_nesting=2)(model, pair.guide)
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
        before = [p.detach().clone() for p in loss.parameters()]
        for _ in range(3):
            optimizer.zero_grad()
            loss(*args, **kwargs).backward()
            optimizer.step()
        assert before and not any(torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


@tool("ELBOModule, with Lightning", "as a loop of torch: `training_step` returns the loss")
def lightning():
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    pair = programs.pair("normal")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.loss = infer.Trace_ELBO()(pair.model, pair.guide)

        def training_step(self, batch, _):
            return self.loss(*batch, size=N)

        def configure_optimizers(self):
            return torch.optim.Adam(self.loss.parameters(), lr=0.05)

    data = torch.utils.data.TensorDataset(pair.x, torch.arange(N))
    before = pair.guide.inner.rows.weight.detach().clone()
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=5))
    assert not torch.equal(before, pair.guide.inner.rows.weight)


@tool(
    "AutoNormal, of the same program", "with `create_plates=` it has rows as well; `guides.auto` makes it for a model"
)
def stock_autoguide():
    x = torch.randn(N).double()
    guide = AutoNormal(programs.normal, create_plates=lambda x, index, size: pyro.plate("data", N, subsample=index))
    guide(x, torch.arange(N), size=N)
    trace = traced(guide, x[INDEX], INDEX, size=N)
    assert float(trace.nodes["z_unconstrained"]["scale"]) == N / B
