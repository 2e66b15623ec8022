r"""Pyro's objectives, under its SVI and under `fit`."""

import numpy
import pyro
import pyro.contrib.gp.kernels as kernels
import pyro.distributions as dist
import pyro.infer as infer
import torch
from pyro import poutine

from pyro_dlgm import evaluate, fit

from .group import MISLEADS, Group
from .pairs import (
    INDEX,
    B,
    N,
    Pair,
    about,
    bound,
    check_evidence,
    check_moves,
    check_stock_step,
    close,
    divergence,
    exact,
    gradients,
    images,
    likelihood,
    linear,
    same_draw,
)

tool = Group("Objectives: `pyro.infer`")


@tool("Trace_ELBO", "KL(q ‖ p) is sampled: `objectives.ELBO` has its closed form")
def trace_elbo():
    check_evidence(infer.Trace_ELBO())
    check_evidence(infer.Trace_ELBO(num_particles=3))
    check_stock_step(infer.Trace_ELBO(), images(), size=N)


@tool("Trace_ELBO, vectorize_particles=True", "particles are an axis on the left, in one call of the networks")
def vectorized_particles():
    check_evidence(infer.Trace_ELBO(num_particles=3, vectorize_particles=True))
    check_stock_step(infer.Trace_ELBO(num_particles=3, vectorize_particles=True), images(), size=N)


@tool("Trace_ELBO()(model, guide)", "a module with the parameters of both, for torch optimizers")
def elbo_module():
    pair = exact()
    module = infer.Trace_ELBO()(pair.model, pair.guide)
    close(module(*pair.args, size=N), -N / B * pair.evidence.sum())
    optimizer = torch.optim.Adam(module.parameters())

    def step(*args):
        module(*args).backward()
        optimizer.step()

    check_moves(pair, step)


@tool(
    "TraceMeanField_ELBO",
    "KL(q ‖ p) in closed form, as in `objectives.ELBO`; that of an autoguide is sampled all the same",
)
def mean_field_elbo():
    pair, nothing = linear(), torch.zeros(B).bool()
    close(infer.TraceMeanField_ELBO().loss(pair.model, pair.guide, *pair.args, mask=nothing), divergence(pair).sum())
    loss = infer.TraceMeanField_ELBO(num_particles=20_000, vectorize_particles=True)
    about(loss.loss(pair.model, pair.guide, *pair.args), -bound(pair), 0.1)
    check_stock_step(infer.TraceMeanField_ELBO(), images(), size=N)


@tool("TraceGraph_ELBO", "t has reparametrized samples: the gradient is that of `Trace_ELBO`")
def graph_elbo():
    check_evidence(infer.TraceGraph_ELBO())
    pair = exact(2.0)
    close(gradients(pair, infer.TraceGraph_ELBO()), gradients(pair, infer.Trace_ELBO()))


@tool("TraceEnum_ELBO", "for larger programs with labels; on a pair alone it is `Trace_ELBO`, with a warning")
def enum_elbo():
    check_evidence(infer.TraceEnum_ELBO(max_plate_nesting=1))
    pair = exact(2.0)
    close(gradients(pair, infer.TraceEnum_ELBO(max_plate_nesting=1)), gradients(pair, infer.Trace_ELBO()))


def several(pair: Pair, num: int = 50):
    r"""The guide with K samples of t for each point, as tensor Monte Carlo takes them."""
    return infer.config_enumerate(pair.guide, default="parallel", num_samples=num, expand=True)


@tool("TraceTMC_ELBO", "`config_enumerate(guide, default='parallel', num_samples=K)` makes it IWAE-K, a point each")
def tmc_elbo():
    pair, loss = exact(), infer.TraceTMC_ELBO(max_plate_nesting=1)
    close(loss.loss(pair.model, several(pair), *pair.args), -pair.evidence.sum())
    pair = exact(2.0)
    with torch.no_grad():
        value = same_draw(loss.differentiable_loss, pair.model, several(pair), *pair.args)
        t = same_draw(poutine.enum(several(pair), first_available_dim=-2), *pair.args)
    table = pair.model.log_joint(pair.x, t) - pair.guide.posterior(*pair.args).log_prob(t)
    close(value, -evaluate.log_mean_exp(table).sum())


@tool(
    "TraceTMC_ELBO, with size=N",
    "the scale N/B stands inside the log-mean-exp: the value is no bound, and may lie above log p(x)",
    MISLEADS,
)
def tmc_elbo_of_a_batch():
    pair, loss = exact(2.0), infer.TraceTMC_ELBO(max_plate_nesting=1)
    values = [-loss.loss(pair.model, several(pair), *pair.args, size=N) for _ in range(10)]
    assert min(values) > N / B * pair.evidence.sum()


@tool("RenyiELBO", "α = 0 is IWAE-K, a point each, as long as every site is in the plate and `size` is left out")
def renyi_elbo():
    check_evidence(infer.RenyiELBO(num_particles=3))
    pair = exact(2.0)
    loss = infer.RenyiELBO(num_particles=9, vectorize_particles=True, max_plate_nesting=1)
    value = same_draw(loss.loss, pair.model, pair.guide, *pair.args)
    with pyro.plate("num_particles_vectorized", 9, dim=-2):
        t = same_draw(pair.guide, *pair.args)
    table = pair.model.log_joint(pair.x, t) - pair.guide.posterior(*pair.args).log_prob(t)
    close(value, -evaluate.log_mean_exp(table).sum())
    check_stock_step(loss)


@tool(
    "RenyiELBO, with size=N",
    "the scale N/B stands inside the log-mean-exp: the value is no bound, and may lie above log p(x)",
    MISLEADS,
)
def renyi_elbo_of_a_batch():
    pair = exact(2.0)
    loss = infer.RenyiELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
    values = [-loss.loss(pair.model, pair.guide, *pair.args, size=N) for _ in range(10)]
    assert min(values) > N / B * pair.evidence.sum()


@tool(
    "RenyiELBO, with a site outside the plate",
    "one `pyro.deterministic` there makes it one bound for the whole batch: use `evaluate.iwae`",
    MISLEADS,
)
def renyi_elbo_of_a_program():
    pair = exact(2.0)

    def program(*args):
        pyro.deterministic("sigma", pair.model.likelihood.scale)
        return pair.model(*args)

    loss = infer.RenyiELBO(num_particles=9, vectorize_particles=True, max_plate_nesting=1)
    value = same_draw(loss.loss, program, pair.guide, *pair.args)
    with pyro.plate("num_particles_vectorized", 9, dim=-2):
        t = same_draw(pair.guide, *pair.args)
    table = pair.model.log_joint(pair.x, t) - pair.guide.posterior(*pair.args).log_prob(t)
    close(value, -evaluate.log_mean_exp(table.sum(1, keepdim=True)).sum())
    assert value > -evaluate.log_mean_exp(table).sum() + 0.01


JITTED = {
    "JitTrace_ELBO": infer.JitTrace_ELBO,
    "JitTraceGraph_ELBO": infer.JitTraceGraph_ELBO,
    "JitTraceEnum_ELBO": lambda: infer.JitTraceEnum_ELBO(max_plate_nesting=1),
}


def jitting(name: str):
    pair, loss, other = exact(), JITTED[name](), torch.tensor([1, 3, 4])
    evidence = pair.model.log_prob(pair.everything)
    for index in (INDEX, other, INDEX):
        value = loss.loss_and_grads(pair.model, pair.guide, pair.everything[index], index, size=N)
        close(value, -N / len(index) * evidence[index].sum(), rtol=1e-6)
    pair, loss = exact(2.0), JITTED[name]()
    gradients(pair, loss, size=N)  # compiling draws as well
    close(gradients(pair, loss, size=N), gradients(pair, infer.Trace_ELBO(), size=N))


for jitted in JITTED:
    tool(jitted, "x and index are inputs of the compiled function, all keywords are constants")(
        lambda name=jitted: jitting(name)
    )


@tool("JitTraceMeanField_ELBO", "x and index are inputs of the compiled function, all keywords are constants")
def jitted_mean_field():
    pair, loss = linear(), infer.JitTraceMeanField_ELBO(num_particles=2000, vectorize_particles=True)
    for index in (INDEX, torch.tensor([1, 3, 4, 5])):
        pair.index = index
        about(loss.loss_and_grads(pair.model, pair.guide, *pair.args, size=N), -N / B * bound(pair), 0.5)
    check_stock_step(loss, pair, size=N)


@tool(
    "JitTrace_ELBO, batches of two lengths",
    "without `size` the length of the first batch is compiled in: give `size=N`, or batches of one length",
    RuntimeError,
    "must match the existing size",
)
def jitting_two_lengths():
    pair, loss = images(), infer.JitTrace_ELBO()
    loss.loss_and_grads(pair.model, pair.guide, pair.everything[:4])
    loss.loss_and_grads(pair.model, pair.guide, pair.everything[:3])


@tool("ReweightedWakeSleep", "losses for w and for q; the bound is one of the whole batch, looser than IWAE-K")
def wake_sleep():
    pair = exact()
    loss = infer.ReweightedWakeSleep(num_particles=9, max_plate_nesting=1)
    close(loss.loss(pair.model, pair.guide, *pair.args)[0], -pair.evidence.sum())
    pair = exact(2.0)
    with_w, with_q = same_draw(loss.loss, pair.model, pair.guide, *pair.args)
    with pyro.plate("num_particles_vectorized", 9, dim=-2):
        t = same_draw(pair.guide, *pair.args)
    log_q = pair.guide.posterior(*pair.args).log_prob(t)
    table = (pair.model.log_joint(pair.x, t) - log_q).sum(1)
    close(with_w, -evaluate.log_mean_exp(table))
    close(with_q, -(table.softmax(0) * log_q.sum(1)).sum())
    check_stock_step(loss, pair)


@tool(
    "ReweightedWakeSleep, with size=N",
    "it knows no minibatches: the scale N/B is inside the log-mean-exp, and the value is no bound",
    MISLEADS,
)
def wake_sleep_of_a_batch():
    pair = exact(2.0)
    loss = infer.ReweightedWakeSleep(num_particles=20_000, max_plate_nesting=1)
    values = [-loss.loss(pair.model, pair.guide, *pair.args, size=N)[0] for _ in range(3)]
    assert min(values) > N / B * pair.evidence.sum()


@tool(
    "ReweightedWakeSleep, insomnia < 1",
    "the sleep phase hands over `observations=`, which our programs do not take: wrap both in functions that do",
    TypeError,
    "'observations'",
)
def asleep():
    pair = images()
    infer.ReweightedWakeSleep(insomnia=0.5, max_plate_nesting=1).loss(pair.model, pair.guide, *pair.args)


@tool(
    "ReweightedWakeSleep, insomnia < 1, both wrapped",
    "q learns from x that the model makes up; with vectorize_particles=False, so that this x is a batch",
)
def asleep_but_wrapped():
    pair = images()

    def model(x, index=None, observations=None):
        return pair.model(x, index)

    def guide(x, index=None, observations=None):
        return pair.guide(x if observations is None else observations["x"], index)

    loss = infer.ReweightedWakeSleep(insomnia=0.0, model_has_params=False, vectorize_particles=False)
    svi = infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    first = numpy.mean([svi.evaluate_loss(*pair.args)[1] for _ in range(50)])
    for _ in range(50):
        svi.step(*pair.args)
    assert numpy.mean([svi.evaluate_loss(*pair.args)[1] for _ in range(50)]) < first - 0.5


@tool("TraceTailAdaptive_ELBO", "it has gradients and no value: the loss of a step is inf; not for minibatches")
def tail_adaptive():
    loss = infer.TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True)
    assert check_stock_step(loss) == float("inf")


@tool("TraceTailAdaptive_ELBO.loss", "it has no value", NotImplementedError, "not implemented")
def tail_adaptive_loss():
    pair = images()
    infer.TraceTailAdaptive_ELBO(4, vectorize_particles=True).loss(pair.model, pair.guide, *pair.args)


@tool("Trace_MMD", "MMD is over particles, all points at once, and has no scale N/B: give `mmd_scale` for that")
def mmd():
    pair = linear()
    penalties, kernel = [], kernels.RBF(2 * B, lengthscale=torch.tensor(2.0)).double()
    for scale in (0.0, 3.0):
        loss = infer.Trace_MMD(kernel, mmd_scale=scale, num_particles=1000, max_plate_nesting=1)
        penalties.append(same_draw(loss.loss, pair.model, pair.guide, *pair.args) + likelihood(pair).sum().item())
    about(penalties[0], 0.0, 1.0)
    draws = torch.randn(1000, 2 * B).double(), pair.guide.posterior(*pair.args).sample((1000,)).flatten(1)
    own = kernel(draws[0]).mean() + kernel(draws[1]).mean() - 2 * kernel(*draws).mean()
    about((penalties[1] - penalties[0]) / 3, own.detach(), 0.05)
    assert own > 0.1
    check_stock_step(infer.Trace_MMD(kernel, max_plate_nesting=1), pair)


@tool("EnergyDistance", "one distance for the whole batch; N/B goes under the square root: no loss per point")
def energy():
    pair = linear()
    svi = infer.SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), infer.EnergyDistance(num_particles=500))
    with torch.no_grad():
        means = pair.guide.posterior(*pair.args).sample((2, 4000)) @ pair.model.W.mT + pair.model.mu
        x = dist.Normal(means, pair.model.sigma2.sqrt()).sample()
        error, spread = (x[0] - pair.x).flatten(1).norm(dim=1).mean(), (x[0] - x[1]).flatten(1).norm(dim=1).mean()
    about(svi.evaluate_loss(*pair.args), error - spread / 2, 0.1)
    about(svi.evaluate_loss(*pair.args, size=N), (N / B) ** 0.5 * (error - spread / 2), 0.2)
    check_moves(pair, svi.step)


@tool("fit(objective=), Trace_ELBO and TraceEnum_ELBO", "the loss of a step is divided by N, as with our own")
def fitting_another_objective():
    for loss in (infer.Trace_ELBO(), infer.TraceEnum_ELBO(max_plate_nesting=1)):
        pair = exact()
        lazy = {"lr": 1e-30, "row_lr": 1e-30, "epochs": 1, "batch_size": 5, "seed": 0}
        history = fit(pair.model, pair.guide, pair.everything, objective=loss, **lazy).history
        close(history[0]["elbo"], pair.model.log_prob(pair.everything).mean())
        check_moves(
            pair, lambda *_, p=pair, loss=loss: fit(p.model, p.guide, p.everything, objective=loss, steps=2, seed=0)
        )


def fitting(loss) -> None:
    pair = exact()
    fit(pair.model, pair.guide, pair.everything, steps=2, objective=loss, seed=0)


UNDIFFERENTIABLE = {
    "RenyiELBO": infer.RenyiELBO,
    "TraceGraph_ELBO": infer.TraceGraph_ELBO,
    "ReweightedWakeSleep": infer.ReweightedWakeSleep,
    "EnergyDistance": infer.EnergyDistance,
}
for undifferentiable, make_loss in UNDIFFERENTIABLE.items():
    tool(
        f"fit(objective=), {undifferentiable}",
        "it has no `differentiable_loss`; it runs under `pyro.infer.SVI`",
        TypeError,
        "has no differentiable_loss",
    )(lambda make=make_loss: fitting(make()))


@tool(
    "fit(objective=), JitTrace_ELBO",
    "compiled losses take parameters from Pyro's store, and `fit` keeps none there; they run under `pyro.infer.SVI`",
    TypeError,
    "compiles the program for one batch",
)
def fitting_compiled():
    fitting(infer.JitTrace_ELBO())


@tool(
    "fit(objective=), TraceTailAdaptive_ELBO",
    "its loss is always inf, which `fit` takes for a failed step; it runs under `pyro.infer.SVI`",
    FloatingPointError,
    "the loss is inf",
)
def fitting_tail_adaptive():
    fitting(infer.TraceTailAdaptive_ELBO(4, vectorize_particles=True))
