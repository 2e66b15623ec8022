r"""Pyro's handlers around model and guide."""

import random
from queue import Queue

import cases
import numpy
import pyro
import pyro.distributions as dist
import pyro.infer as infer
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer.reparam import AutoReparam, LocScaleReparam

from pyro_dlgm import evaluate, fit, guides
from pyro_dlgm.objectives import ELBO, Tempered

from .group import MISLEADS, Group
from .pairs import (
    INDEX,
    B,
    N,
    Pair,
    about,
    close,
    divergence,
    exact,
    images,
    labelled,
    linear,
    same_draw,
    sites,
    traced,
)

tool = Group("Handlers: `pyro.poutine`")


@tool("trace", "`log_prob` of a site has the scale N/B of the plate in it, `unscaled_log_prob` has not")
def tracing():
    pair = linear()
    trace = traced(pair.model, *pair.args, size=N)
    t, parts = trace.nodes["t"]["value"], [trace.nodes[name]["unscaled_log_prob"] for name in ("t", "x")]
    close(sum(parts), pair.model.log_joint(pair.x, t))
    close(trace.log_prob_sum(), N / B * sum(parts).sum())


@tool("replay", "the model's t is that of the guide's trace")
def replaying():
    pair = exact()
    q = traced(pair.guide, *pair.args)
    p = traced(poutine.replay(pair.model, trace=q), *pair.args)
    assert torch.equal(p.nodes["t"]["value"], q.nodes["t"]["value"])
    close(p.log_prob_sum() - q.log_prob_sum(), pair.evidence.sum())


@tool("condition", "x may be given so, in place of the argument; then `size=` or `index` says how many points")
def conditioning():
    pair, t = linear(), torch.randn(B, 2).double()
    trace = traced(poutine.condition(pair.model, data={"t": t, "x": pair.x}), size=B)
    close(trace.log_prob_sum(), pair.model.log_joint(pair.x, t).sum())


@tool("uncondition", "x is drawn at the t of a trace: posterior predictive samples")
def unconditioning():
    pair = linear()
    with pyro.plate("many", 4000, dim=-2):
        q = traced(pair.guide, *pair.args)
        x = poutine.uncondition(poutine.replay(pair.model, trace=q))(*pair.args)
    about(x.mean(0), pair.guide.posterior(*pair.args).mean @ pair.model.W.mT + pair.model.mu, 0.1)


@tool("block", "with x hidden from the objective, what is left of the loss is KL(q ‖ p)")
def blocking():
    pair = linear()
    close(ELBO().loss(poutine.block(pair.model, hide=["x"]), pair.guide, *pair.args), divergence(pair).sum())


@tool("mask", "around model and guide it leaves points out; pixels are left out by the argument `mask=`")
def masking():
    pair, mask = exact(), torch.tensor([True, False, True, True])
    programs = [poutine.mask(program, mask=mask) for program in (pair.model, pair.guide)]
    close(infer.Trace_ELBO().loss(*programs, *pair.args, size=N), -N / B * pair.evidence[mask].sum())


@tool("scale", "around model and guide it scales the loss; `fit` does that by itself, its loss is per point")
def scaling():
    pair = exact()
    programs = [poutine.scale(program, scale=1 / N) for program in (pair.model, pair.guide)]
    for loss in (infer.Trace_ELBO(), infer.TraceGraph_ELBO()):
        close(loss.loss(*programs, *pair.args, size=N), -pair.evidence.mean())


@tool(
    "scale, around the model alone",
    "the closed form of KL has the guide's scale: only log p(x given t) is scaled; for β use `objectives.Tempered`",
    MISLEADS,
)
def scaling_the_model():
    pair, nothing = linear(), torch.zeros(B).bool()
    half = poutine.scale(pair.model, scale=0.5)
    for loss in (ELBO(), infer.TraceMeanField_ELBO()):
        close(loss.loss(half, pair.guide, *pair.args, mask=nothing), divergence(pair).sum())
    programs = [Tempered(0.5)(program) for program in (pair.model, pair.guide)]
    close(ELBO().loss(*programs, *pair.args, mask=nothing), 0.5 * divergence(pair).sum())


@tool("seed", "the generators are as before when the call ends")
def seeding():
    pair = images()
    state = torch.get_rng_state()
    for program, args in ((pair.model, (None, INDEX)), (pair.guide, pair.args)):
        first, second = (poutine.seed(program, rng_seed=7)(*args) for _ in range(2))
        assert torch.equal(first, second) and not torch.equal(first, program(*args))
        torch.set_rng_state(state)
        poutine.seed(program, rng_seed=7)(*args)
        assert torch.equal(state, torch.get_rng_state())


@tool("pyro.set_rng_seed", "it seeds torch, `random` and NumPy, for good")
def seeding_globally():
    states, pair = (random.getstate(), numpy.random.get_state()), images()
    pyro.set_rng_seed(7)
    first = pair.guide(*pair.args)
    pyro.set_rng_seed(7)
    assert torch.equal(first, pair.guide(*pair.args))
    random.setstate(states[0]), numpy.random.set_state(states[1])


@tool(
    "substitute",
    "the weights of a network stay what they are: set them by `load_state_dict`, or `torch.func.functional_call`",
    MISLEADS,
)
def substituting():
    pair = linear()
    pair.model(*pair.args)
    zeros = {name: torch.zeros_like(p) for name, p in pyro.get_param_store().items()}
    held = poutine.condition(poutine.substitute(pair.model, data=zeros), data={"t": torch.ones(B, 2).double()})
    assert len(zeros) == 3
    close(traced(held, *pair.args).nodes["x"]["fn"].mean[0], pair.model.mu + pair.model.W.sum(-1))


@tool("lift", "sites of weights appear, and the network does not read them: use `priors.bayesian`", MISLEADS)
def lifting():
    pair = linear()
    lifted = poutine.lift(pair.model, prior=dist.Normal(100.0, 1.0))
    trace = traced(poutine.condition(lifted, data={"t": torch.zeros(B, 2).double()}), *pair.args)
    name = next(name for name in sites(trace) if name.endswith("bias"))
    assert (trace.nodes[name]["value"] > 50).all()
    close(trace.nodes["x"]["fn"].mean, pair.model.mu.expand(B, -1))


@tool("enum, config_enumerate", "t is continuous: on a pair alone there is nothing to enumerate")
def enumerating_nothing():
    pair = exact()
    guide = infer.config_enumerate(pair.guide)
    trace = traced(poutine.enum(guide, first_available_dim=-2), *pair.args)
    assert "enumerate" not in trace.nodes["t"]["infer"] and trace.nodes["t"]["value"].shape == (B, 1)
    close(infer.TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, guide, *pair.args), -pair.evidence.sum())


@tool("enum, in a larger program", "a label goes in as `given`: networks take its axis on the left of the points")
def enumerating_a_label():
    model, guide, program, q = labelled()
    x, index = torch.randn(B, 6).double(), torch.arange(B)
    loss = same_draw(infer.TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss, program, q, x, index)
    t = same_draw(q, x, index)
    log_joint = torch.stack([model.log_joint(x, t, given=c.expand(B, -1)) for c in torch.eye(3).double()])
    close(loss, (guide.posterior(x, index).log_prob(t) - log_joint.logsumexp(0) + torch.tensor(3.0).log()).sum())


@tool(
    "enum, of x itself",
    "an x with more axes on the left than its t is refused: let the label change p(x given t), as `given`",
    ValueError,
    "this likelihood expects points of shape",
)
def enumerating_x():
    pair, shifts = exact(), torch.tensor([-1.0, 0.0, 2.0]).double()

    def program(x, index):
        with pyro.plate("points", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(3).double()), infer={"enumerate": "parallel"})
            return pair.model.datum(x - shifts[k].unsqueeze(-1))

    def guide(x, index):
        with pyro.plate("points", len(x), dim=-1):
            return pair.guide.datum(x, index)

    infer.TraceEnum_ELBO(max_plate_nesting=1).loss(program, guide, *pair.args)


@tool("infer_config", "the guide's `analytic_kl` is in `infer`: so KL is sampled, site by site")
def configuring():
    pair = linear()
    sampled = poutine.infer_config(pair.guide, config_fn=lambda site: {"analytic_kl": False})
    expected = same_draw(ELBO(analytic_kl=False).loss, pair.model, pair.guide, *pair.args)
    close(same_draw(ELBO().loss, pair.model, sampled, *pair.args), expected)
    assert same_draw(ELBO().loss, pair.model, pair.guide, *pair.args) != pytest.approx(expected, rel=1e-3)


@tool("do", "x sees the t that was set; the site t itself goes on being drawn from the prior")
def intervening():
    pair, t = linear(), torch.ones(B, 2).double()
    trace = traced(poutine.do(pair.model, data={"t": t}), *pair.args)
    close(trace.nodes["x"]["fn"].mean, t @ pair.model.W.mT + pair.model.mu)
    assert not trace.nodes["t"]["is_observed"] and not torch.equal(trace.nodes["t"]["value"], t)


@tool("markov, with autoname.scope", "a sequence of x: one `scope` for each step gives it its own sites")
def marking_a_sequence():
    pair = linear()

    def program(x):
        with pyro.plate("points", B, dim=-1):
            for step in pyro.markov(range(len(x))):
                scope(pair.model.datum, prefix=str(step))(x[step])

    x = torch.stack([pair.x, pair.x + 1])
    trace = traced(program, x)
    assert sites(trace) == ["points", "0/t", "0/x", "1/t", "1/x"]
    parts = [pair.model.log_joint(x[step], trace.nodes[f"{step}/t"]["value"]).sum() for step in range(2)]
    close(trace.log_prob_sum(), sum(parts))


@tool("equalize", "two copies in one program share their t")
def equalizing():
    pytest.importorskip("pyro", "1.9.1")
    pair = linear()

    def twice(x):
        for prefix in ("a", "b"):
            scope(pair.model, prefix=prefix)(x)

    trace = traced(poutine.equalize(twice, ["a/t", "b/t"]), pair.x)
    means = [trace.nodes[f"{prefix}/x"]["fn"].mean for prefix in ("a", "b")]
    assert torch.equal(*means) and not torch.equal(*(traced(twice, pair.x).nodes[f"{p}/t"]["value"] for p in "ab"))


def decentred(pair: Pair) -> guides.Guide:
    r"""The guide of a pair for the site that takes the place of t."""
    guide = guides.MeanField(N, 1, latent="t_decentered").double()
    guide.load_state_dict(pair.guide.state_dict())
    return guide


@tool("reparam, LocScaleReparam", "around the model alone; the guide then samples `t_decentered`")
def reparametrizing():
    pair = exact()
    guide, model = decentred(pair), poutine.reparam(pair.model, config={"t": LocScaleReparam(0.0)})
    assert sites(traced(model, *pair.args)) == ["data", "t_decentered", "t", "x"]
    close(infer.Trace_ELBO().loss(model, guide, *pair.args, size=N), -N / B * pair.evidence.sum())
    close(evaluate.log_weights(model, guide, *pair.args, 3), pair.evidence.expand(3, -1))


@tool(
    "reparam, around model and guide",
    "both then draw the same standard normal, and the guide's rows are not in the loss; Pyro only warns",
    MISLEADS,
)
def reparametrizing_both():
    pair = exact()
    programs = [poutine.reparam(program, {"t": LocScaleReparam(0.0)}) for program in (pair.model, pair.guide)]
    loss = infer.Trace_ELBO(1000, max_plate_nesting=1, vectorize_particles=True)
    losses = [same_draw(loss.loss, *programs, *pair.args)]
    pair.guide.set_rows(pair.guide.rows.weight + 100)
    losses += [same_draw(loss.loss, *programs, *pair.args)]
    assert losses[0] == losses[1] > -pair.evidence.sum() + 0.1


@tool("AutoReparam", "it decentres t, as `LocScaleReparam` does")
def reparametrizing_automatically():
    pair = exact()
    model = AutoReparam()(pair.model)
    assert sites(traced(model, *pair.args)) == ["data", "t_decentered", "t", "x"]
    close(infer.Trace_ELBO().loss(model, decentred(pair), *pair.args, size=N), -N / B * pair.evidence.sum())


@tool("AutoReparam, of two models", "its parameter is called `t_centered` in both, and is one: rename t", MISLEADS)
def reparametrizing_two_models():
    trained, other = exact(), exact()
    names = []
    for pair in (trained, other):
        trace = traced(AutoReparam()(pair.model), *pair.args)
        names.append(trace.nodes["t_centered"]["value"].unconstrained())
    assert names[0] is names[1]


@tool("broadcast", "shapes are whole already: nothing changes")
def broadcasting():
    pair = exact()
    programs = [poutine.broadcast(program) for program in (pair.model, pair.guide)]
    close(infer.Trace_ELBO().loss(*programs, *pair.args, size=N), -N / B * pair.evidence.sum())


@tool("plate, around the call", "particles, restarts and the like go on the left of the points, at dim −2")
def plating():
    pair = images()
    with pyro.plate("particles", 3, dim=-2):
        q = traced(pair.guide, *pair.args)
        p = traced(poutine.replay(pair.model, trace=q), *pair.args)
    t = q.nodes["t"]["value"]
    assert t.shape == (3, B, cases.D) and len(t.unique(dim=0)) == 3
    log_joint = p.nodes["t"]["log_prob"] + p.nodes["x"]["log_prob"]
    close(log_joint, pair.model.log_joint(pair.x, t), rtol=1e-5)


@tool("queue", "it is for discrete sites; here the first partial trace of the queue is run to the end")
def queueing():
    pair, queue = images(), Queue()
    queue.put(poutine.Trace())
    assert poutine.queue(pair.model, queue)(None, INDEX).shape == pair.x.shape and queue.empty()


@tool("escape", "leaving the program at a site is what it is for", poutine.NonlocalExit)
def escaping():
    pair = images()
    poutine.escape(pair.model, lambda site: site["name"] == "t")(*pair.args)


@tool("collapse", "it needs the package funsor, which is not a requirement of this one", ImportError, "funsor")
def collapsing():
    pair = images()
    try:
        import funsor  # noqa: F401
    except ImportError:
        poutine.collapse(pair.model)(*pair.args)
    pytest.skip("funsor is installed")


@tool("contrib.autoname.scope", "sites and plates get a prefix: two pairs live in one program")
def scoping():
    pair = exact()
    programs = [scope(program, prefix="a") for program in (pair.model, pair.guide)]
    assert sites(traced(programs[0], *pair.args)) == ["a/data", "a/t", "a/x"]
    close(infer.Trace_ELBO().loss(*programs, *pair.args, size=N), -N / B * pair.evidence.sum())


@tool(
    "a handler around the model, in evaluate",
    "weights are per point and unscaled: `scale` is ignored, `mask` counts",
)
def evaluating_in_handlers():
    pair, mask = exact(), torch.tensor([True, False, True, True])
    options = {"num_samples": 3, "seed": 1}
    plain = evaluate.log_weights(pair.model, pair.guide, *pair.args, **options)
    scaled = evaluate.log_weights(poutine.scale(pair.model, scale=0.5), pair.guide, *pair.args, **options)
    close(scaled, plain)
    programs = [poutine.mask(program, mask=mask) for program in (pair.model, pair.guide)]
    close(evaluate.log_weights(*programs, *pair.args, **options), plain * mask)


@tool(
    "condition on t, or block t, in evaluate",
    "refused, since log q(t) would count for a t that the model does not draw",
    ValueError,
    "which the model does not",
)
def evaluating_without_the_latent():
    pair, t = exact(), torch.zeros(B, 1).double()
    with pytest.raises(ValueError, match="which the model does not"):
        evaluate.log_weights(poutine.block(pair.model, hide=["t"]), pair.guide, *pair.args, 2, seed=1)
    evaluate.log_weights(poutine.condition(pair.model, data={"t": t}), pair.guide, *pair.args, 2, seed=1)


@tool(
    "a handler around the model, in fit",
    "`fit` takes modules; a handler goes around the call, `with poutine.mask(mask=...): fit(...)`",
    TypeError,
    "whose parameters cannot be found",
)
def fitting_in_a_handler():
    pair = images()
    fit(poutine.scale(pair.model, scale=0.5), pair.guide, pair.everything, steps=1, seed=0)


@tool("a handler around the call of fit", "it acts on model and guide alike")
def fitting_below_a_handler():
    pair = exact()
    options = {"lr": 1e-30, "row_lr": 1e-30, "steps": 1, "seed": 0, "objective": infer.Trace_ELBO()}
    with poutine.scale(scale=0.5):
        history = fit(pair.model, pair.guide, pair.everything, **options).history
    close(history[0]["elbo"], pair.model.log_prob(pair.everything).mean().detach() / 2, rtol=1e-6)
