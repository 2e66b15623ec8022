r"""Pyro's samplers and weights."""

import pyro
import pyro.infer as infer
import pytest
import torch
from pyro import poutine
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights
from pyro.infer.inspect import get_dependencies
from torch import Tensor

from pyro_dlgm import DLGM, likelihoods, nets, priors

from .group import MISLEADS, Group
from .pairs import B, N, Pair, about, close, exact, frozen, images, labelled, linear, traced

tool = Group("Samples and weights: `pyro.infer`")


@tool("Predictive, prior", "`size=n` says how many points to draw")
def predicting_from_the_prior():
    pair = linear()
    x = infer.Predictive(pair.model, num_samples=4000, parallel=True)(size=2)["x"]
    assert x.shape == (4000, 2, 6)
    about(x[:, 0].T.cov(), pair.model.W @ pair.model.W.mT + pair.model.sigma2 * torch.eye(6), 0.15)


@tool("Predictive, posterior", "with `poutine.uncondition(model)`; also with parallel=True")
def predicting():
    pair = linear()
    expected = pair.guide.posterior(*pair.args).mean @ pair.model.W.mT + pair.model.mu
    for parallel, num, atol in ((True, 4000, 0.1), (False, 300, 0.35)):
        predictive = infer.Predictive(
            poutine.uncondition(pair.model), guide=pair.guide, num_samples=num, parallel=parallel
        )
        x = predictive(*pair.args)["x"]
        assert x.shape == (num, B, 6)
        about(x.mean(0), expected, atol)


@tool(
    "Predictive, the model as it is",
    "x has to be given to an amortized guide, and is then observed: the samples are copies of the data",
    MISLEADS,
)
def predicting_the_data():
    pair = images()
    assert (infer.Predictive(pair.model, guide=pair.guide, num_samples=3)(*pair.args)["x"] == pair.x).all()


@tool("Predictive, posterior_samples", "draws of t (S, B, D) from anywhere, a chain say")
def predicting_from_samples():
    pair = linear()
    t = pair.guide.posterior(*pair.args).sample((4000,))
    program = poutine.uncondition(pair.model)
    x = infer.Predictive(program, posterior_samples={"t": t}, parallel=True)(*pair.args)["x"]
    residual = x - t @ pair.model.W.mT - pair.model.mu
    about(residual.std(), pair.model.sigma2.sqrt(), 0.02)


@tool("WeighedPredictive", "one weight for all points together: `evaluate.log_weights` has one for each")
def predicting_with_weights():
    pytest.importorskip("pyro", "1.9.1")
    pair = exact()
    for parallel in (False, True):
        predictive = infer.WeighedPredictive(pair.model, guide=pair.guide, num_samples=5, parallel=parallel)
        close(predictive(*pair.args).log_weights, pair.evidence.sum().expand(5))


@tool("Importance, EmpiricalMarginal", "one weight for all points together")
def importance():
    pair = exact()
    posterior = infer.Importance(pair.model, pair.guide, num_samples=500).run(*pair.args)
    close(posterior.get_log_normalizer(), pair.evidence.sum())
    close(posterior.get_ESS(), 500.0)
    q = pair.guide.posterior(*pair.args)
    about(infer.EmpiricalMarginal(posterior, sites="t").mean, q.mean.detach(), 5 * q.stddev.max().item() / 500**0.5)


@tool("vectorized_importance_weights", "it sums over the points: one weight for the batch, at scale N/B")
def vectorized_weights():
    pair = exact()
    for size, scale in ((None, 1.0), (N, N / B)):
        options = {"num_samples": 5, "max_plate_nesting": 1, "size": size}
        weights = vectorized_importance_weights(pair.model, pair.guide, *pair.args, **options)[0]
        close(weights, scale * pair.evidence.sum().expand(5))


@tool(
    "vectorized_importance_weights(normalized=True)",
    "Pyro 1.9.2 forgets an argument of `logsumexp`",
    TypeError,
    "logsumexp",
)
def normalized_weights():
    pair = exact()
    options = {"num_samples": 5, "max_plate_nesting": 1, "normalized": True}
    vectorized_importance_weights(pair.model, pair.guide, *pair.args, **options)


@tool("psis_diagnostic", "one k̂ for all points together: `evaluate.pareto_k` has one for each")
def pareto():
    found = []
    for wider in (1.5, 0.4):
        pair = exact(wider)
        found.append(psis_diagnostic(pair.model, pair.guide, *pair.args, num_particles=1000, max_plate_nesting=1))
    assert found[0] < 0.5 < found[1]


def sampling(kernel, pair: Pair, num: int = 150, warmup: int = 50, **kwargs) -> Tensor:
    r"""Samples of t (S, B, 1) from a chain, in units of the exact posterior."""
    chain = infer.MCMC(kernel, num_samples=num, warmup_steps=warmup, disable_progbar=True)
    chain.run(*pair.args, **kwargs)
    p = pair.model.posterior(pair.x)
    return (chain.get_samples()["t"] - p.mean.detach()) / p.stddev.detach()


@tool("NUTS", "t is sampled at the w of the model, all points in one trajectory: `guides.Chain` has one each")
def nuts():
    pair = exact()
    t = sampling(infer.NUTS(pair.model, max_tree_depth=4), pair)
    assert t.shape == (150, B, 1)
    about(t.mean(0), torch.zeros(B, 1), 0.8)
    about(t.std(), 1.0, 0.25)


@tool("NUTS, with size=N", "the N/B of the plate counts each point N/B times: posteriors are too narrow", MISLEADS)
def nuts_of_a_batch():
    pair = exact()
    t = sampling(infer.NUTS(pair.model, max_tree_depth=4), pair, size=N)
    about(t.std(), (B / N) ** 0.5, 0.12)


@tool("NUTS(jit_compile=True)", "Pyro's compiler does not take these programs", RuntimeError, "Unsupported")
def nuts_compiled():
    pair = exact()
    sampling(infer.NUTS(pair.model, jit_compile=True, ignore_jit_warnings=True), pair, 2, 2)


@tool("HMC", "as NUTS, with a trajectory of the length that is given")
def hmc():
    pair = exact()
    t = sampling(infer.HMC(pair.model, trajectory_length=1.0), pair)
    about(t.mean(0), torch.zeros(B, 1), 0.8)
    about(t.std(), 1.0, 0.25)


@tool("RandomWalkKernel", "slow to mix: each proposal moves the t of all points")
def random_walk():
    pair = exact()
    t = sampling(infer.RandomWalkKernel(pair.model), pair, 600, 300)
    about(t.mean(0), torch.zeros(B, 1), 0.8)
    about(t.std(), 1.0, 0.3)


@tool("NUTS, of a Bayesian w", "with `priors.bayesian`: w and t are sampled together, w once")
def nuts_of_weights():
    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(priors.bayesian(nets.Linear(1, 3))))
    chain = infer.MCMC(infer.NUTS(model, max_tree_depth=3), num_samples=40, warmup_steps=40, disable_progbar=True)
    x = 5 + 0.1 * torch.randn(B, 3)
    chain.run(x)
    samples = chain.get_samples()
    bias, weight = (samples[f"likelihood.net.body.1.{name}"] for name in ("bias", "weight"))
    assert set(map(len, samples.values())) == {40} and len(samples) == 3
    assert (bias.shape, weight.shape, samples["t"].shape) == ((40, 3), (40, 3, 1), (40, B, 1))
    about((samples["t"] @ weight.mT + bias.unsqueeze(1))[-10:].mean(0), x, 2.5)


@tool("SVGD, RBFSteinKernel and IMQSteinKernel", "it trains the model's w as well, where that is not frozen")
def stein():
    for kernel, spread in ((infer.RBFSteinKernel(), 0.2), (infer.IMQSteinKernel(), 0.5)):
        pair = frozen(exact())
        svgd = infer.SVGD(pair.model, kernel, pyro.optim.Adam({"lr": 0.1}), num_particles=20, max_plate_nesting=1)
        for _ in range(150):
            svgd.step(*pair.args)
        t, p = svgd.get_named_particles()["t"].detach(), pair.model.posterior(pair.x)
        assert t.shape == (20, B, 1)
        about((t.mean(0) - p.mean) / p.stddev, torch.zeros(B, 1), 0.1)
        about((t.std(0) / p.stddev).log(), torch.zeros(B, 1), spread)
        pyro.clear_param_store()


@tool("MHResampler", "of a `WeighedPredictive`: it accepts or rejects all points together")
def resampling():
    pytest.importorskip("pyro", "1.9.1")
    pair = frozen(exact(1.5))
    predictive = infer.WeighedPredictive(pair.model, guide=pair.guide, num_samples=500, parallel=True)
    resampler = infer.MHResampler(predictive)
    for _ in range(15):
        t = resampler(*pair.args).samples["t"]
    p = pair.model.posterior(pair.x)
    about(((t - p.mean) / p.stddev).std(), 1.0, 0.15)


@tool("CSIS", "it hands x over as `observations=`: wrap both programs", TypeError, "'observations'")
def compiled_inference():
    pair = images()
    infer.CSIS(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3})).step(*pair.args)


@tool("infer_discrete", "labels of a larger program, given t")
def inferring_labels():
    model, _, program, _ = labelled()
    t = torch.zeros(B, 1).double()
    with torch.no_grad():
        model.likelihood.net.body[-1].weight.mul_(20)
    held = poutine.condition(program, data={"t": t})
    k = torch.tensor([2, 0, 1, 2])
    x = model.likelihood(t, None, torch.eye(3).double()[k]).sample()
    found = traced(infer.infer_discrete(held, first_available_dim=-2, temperature=0), x).nodes["k"]["value"]
    assert torch.equal(found, k)


@tool("infer.inspect.get_dependencies", "x depends on t, and t given x on x")
def depending():
    pair = images()
    found = get_dependencies(pair.model, pair.args)
    assert set(found["prior_dependencies"]["x"]) == {"x", "t"}
    assert set(found["posterior_dependencies"]["t"]) == {"t", "x"}


@tool("pyro.render_model", "it needs graphviz, the Python package; drawing a file also needs the program")
def rendering():
    pytest.importorskip("graphviz", reason="pyro.render_model needs the Python package graphviz")
    pair = images()
    drawn = pyro.render_model(pair.model, model_args=pair.args).source
    assert "t -> x" in drawn and "label=data" in drawn
    assert "t [" in pyro.render_model(pair.guide, model_args=pair.args).source
