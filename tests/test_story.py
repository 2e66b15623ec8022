"""The story told once: what `datum` says is what is scored; further latents are refused by name; globals come first."""

import copy
import pickle
from typing import ClassVar

import cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import kl_divergence

from pyro_dlgm import DLGM, Points, evaluate, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.evaluate.scores import mean_scores, rate

N, P, D = 12, 5, 2


def model(**names) -> DLGM:
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, hidden=(6,)), 0.7), **names)


def amortized() -> guides.Amortized:
    return guides.Amortized(nets.MLP(P, 6, hidden=()), D, init_scale=0.5)


@pytest.fixture
def x():
    return torch.randn(N, P)


# One story


class WithLabel(DLGM):
    """A model that observes a further number of each point, y ~ N(t_0, 0.3²), which it keeps."""

    def datum(self, x=None, mask=None, *, given=None, t=None):
        if t is None:
            t = pyro.sample("t", self.prior())
        pyro.sample("y", dist.Normal(t[..., 0], 0.3), obs=given.squeeze(-1))
        return super().datum(x, mask, t=t)


@pytest.fixture
def labelled(x):
    m = WithLabel(model().prior, model().likelihood)
    return m, Points(x, given=torch.randn(N, 1))


def test_an_observed_site_of_a_subclass_counts_everywhere(labelled):
    m, points = labelled
    t = torch.randn(3, N, D)
    y = dist.Normal(t[..., 0], 0.3).log_prob(points.given.squeeze(-1))
    plain = m.prior().log_prob(t) + m.likelihood(t).log_prob(points.x)
    torch.testing.assert_close(m.log_joint(points.x, t, given=points.given), plain + y)
    guide = amortized()
    q = guide.posterior(points.x)
    table = evaluate.log_weights(m, guide, points, num_samples=4, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        t = q.sample((4,))
    y = dist.Normal(t[..., 0], 0.3).log_prob(points.given.squeeze(-1))
    expected = m.prior().log_prob(t) + m.likelihood(t).log_prob(points.x) + y - q.log_prob(t)
    torch.testing.assert_close(table, expected.detach())
    means = mean_scores(m, guide, points, seed=2)
    assert means["elbo"] == pytest.approx(float(evaluate.elbo(m, guide, points, num_samples=10, seed=2).mean()))


def test_an_observed_site_of_a_subclass_counts_in_validation_and_in_training(labelled):
    m, points = labelled
    guide = amortized()
    history = fit(m, guide, points, x_val=points, epochs=400, lr=1e-30, seed=0).history
    scores = [float(evaluate.elbo(m, guide, points, num_samples=k, seed=0).mean()) for k in (10, 4000)]
    assert history[0]["val_elbo"] == pytest.approx(scores[0], rel=1e-5)
    assert sum(r["elbo"] for r in history) / 400 == pytest.approx(scores[1], abs=0.5)


class Mixture(nn.Module):
    """A prior that samples the component of a mixture as a site of its own."""

    def forward(self):
        k = pyro.sample("component", dist.Bernoulli(0.5))
        return dist.Normal(4 * k.unsqueeze(-1) - 2, torch.ones(D)).to_event(1)


def test_a_prior_that_samples_a_site_is_refused_by_name(x):
    m = DLGM(Mixture(), model().likelihood)
    guide, index = guides.MeanField(N, D), torch.arange(N)
    asked = [
        lambda: m.log_joint(x, torch.zeros(N, D)),
        lambda: evaluate.elbo(m, guide, x, index),
        lambda: evaluate.log_weights(m, guide, x, index),
        lambda: evaluate.log_joint(m, guide, x, index),
        lambda: evaluate.ais(m, guide, x, index, 2, 2),
        lambda: evaluate.bdmc(m, None, 2, 1, 1),
        lambda: evaluate.gaps(m, guide, x, index, num_simulated=0, num_temperatures=2),
        lambda: evaluate.quadrature(m, x),
        lambda: evaluate.diagnose(m, guide, x, index, num_simulated=0),
        lambda: rate(m, guide, Points(x, index)),
        lambda: evaluate.check_calibration(m, amortized(), num_points=50),
    ]
    for number, ask in enumerate(asked):
        with pytest.raises(ValueError, match="samples 'component'"):
            ask()
            pytest.fail(f"number {number} was not refused")


def test_a_further_latent_may_be_held_by_a_handler(x):
    m = DLGM(Mixture(), model().likelihood)
    t = torch.randn(N, D)
    with poutine.condition(data={"component": torch.ones(N)}):
        found = m.log_joint(x, t)
    prior = dist.Normal(torch.full((D,), 2.0), 1.0).to_event(1)
    component = torch.tensor(0.5).log()
    torch.testing.assert_close(found, prior.log_prob(t) + m.likelihood(t).log_prob(x) + component)


def test_log_joint_leaves_no_site_to_handlers_around_it(x):
    m = model()
    with poutine.trace() as tracer, poutine.scale(scale=3.0):
        value = m.log_joint(x, torch.zeros(N, D))
    assert not [name for name, site in tracer.trace.nodes.items() if site["type"] == "sample"]
    torch.testing.assert_close(value, m.log_joint(x, torch.zeros(N, D)))


def test_a_site_without_a_number_for_each_point_is_refused(x):
    class Wrong(DLGM):
        def datum(self, x=None, mask=None, *, given=None, t=None):
            pyro.sample("level", dist.Normal(0.0, 1.0).expand([7]), obs=torch.zeros(7))
            return super().datum(x, mask, given=given, t=t)

    with pytest.raises(ValueError, match="site 'level' has no log-density for each point"):
        Wrong(model().prior, model().likelihood).log_joint(x, torch.zeros(N, D))


# Larger programs


def test_two_models_share_a_latent(x):
    pictures, words = model(), model(observed="words")

    def program(x, y):
        with pyro.plate("data", N):
            t = pyro.sample("t", pictures.prior())
            pictures.datum(x, t=t)
            words.datum(y, t=t)

    trace = poutine.trace(program).get_trace(x, x + 1)
    trace.compute_log_prob()
    t = trace.nodes["t"]["value"]
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], pictures.likelihood(t).log_prob(x))
    torch.testing.assert_close(trace.nodes["words"]["log_prob"], words.likelihood(t).log_prob(x + 1))
    assert [n for n, s in trace.nodes.items() if s["type"] == "sample" and not n.startswith("data")] == [
        "t",
        "x",
        "words",
    ]


def test_a_state_space_model_emits(x):
    emissions = [model(observed=f"x_{k}") for k in range(3)]

    def program(xs):
        t = torch.zeros(N, D)
        with pyro.plate("data", N):
            for k, emission in enumerate(emissions):
                t = pyro.sample(f"t_{k}", dist.Normal(0.9 * t, 0.4).to_event(1))
                emission.datum(xs[k], t=t)

    xs = torch.randn(3, N, P)
    guide = AutoNormal(program)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    before = [p.clone() for e in emissions for p in e.parameters()]
    assert all(torch.isfinite(torch.tensor(svi.step(xs))) for _ in range(3))
    assert not any(
        torch.equal(a, b) for a, b in zip(before, (p for e in emissions for p in e.parameters()), strict=True)
    )


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("batch", [3, 4])
def test_an_enumerated_label_gives_the_loss_of_plain_pyro(batch, blind):
    """K = 3 labels for 3 and for 4 points: an axis of labels is not taken for one of points, nor for one of pixels."""
    K, x = 3, torch.randn(batch, P)
    net = nets.MLP(D + K, P, hidden=(6,))
    m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net, 0.7))
    encoder = guides.Amortized(nets.MLP(P, 6, hidden=()), D, given_dim=K)

    def ours(x):
        with pyro.plate("data", batch):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(K)), infer={"enumerate": "parallel"})
            m.datum(x, given=y)

    def our_guide(x):
        with pyro.plate("data", batch):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(K)), infer={"enumerate": "parallel"})
            encoder.datum(x, given=torch.zeros(batch, K) if blind else y)

    def plain(x):
        with pyro.plate("data", batch):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(K)), infer={"enumerate": "parallel"})
            t = pyro.sample("t", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            lead = torch.broadcast_shapes(t.shape[:-1], y.shape[:-1])
            code = torch.cat([t.expand(*lead, D), y.expand(*lead, K)], -1)
            mu = net.body(code)
            pyro.sample("x", dist.Normal(mu, m.likelihood.scale).to_event(1), obs=x)

    def plain_guide(x):
        with pyro.plate("data", batch):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(K)), infer={"enumerate": "parallel"})
            features, y = encoder.encoder(x), torch.zeros(batch, K) if blind else y
            lead = torch.broadcast_shapes(features.shape[:-1], y.shape[:-1])
            raw = encoder.head(torch.cat([features.expand(*lead, -1), y.expand(*lead, K)], -1))
            mean, log_scale = raw.chunk(2, -1)
            pyro.sample("t", dist.Normal(mean, log_scale.exp()).to_event(1))

    losses = []
    for pair in ((ours, our_guide), (plain, plain_guide)):
        torch.manual_seed(1)
        losses.append(TraceEnum_ELBO(max_plate_nesting=1).loss(*pair, x))
    assert losses[0] == pytest.approx(losses[1], rel=cases.ROUNDING)


@pytest.mark.parametrize("what", ["posterior", "prior and likelihood"])
def test_parts_in_a_plain_function_train_under_the_stock_svi(x, what):
    m, guide = model(), amortized()

    def program(x):
        with pyro.plate("data", N):
            t = pyro.sample("t", m.prior())
            pyro.sample("x", m.likelihood(t), obs=x)

    def q(x):
        with pyro.plate("data", N):
            pyro.sample("t", guide.posterior(x))

    part = guide if what == "posterior" else m
    before = [p.clone() for p in part.parameters()]
    svi = SVI(program, q, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(x)
    assert not any(torch.equal(a, b) for a, b in zip(before, part.parameters(), strict=True))


def test_parts_outside_of_a_program_leave_the_parameter_store_alone(x):
    m, guide = model(), amortized()
    guide.posterior(x)
    m.likelihood(torch.zeros(3, D))
    m.log_joint(x, torch.zeros(N, D))
    evaluate.elbo(m, guide, x)
    assert not list(pyro.get_param_store().keys())


# The closed-form KL and the guide's order


def dependent(order):
    """p(t2) p(t1 | t2), and a guide that draws t1, then t2 given t1, or the other way round."""

    def program(x):
        with pyro.plate("data", 1):
            t2 = pyro.sample("t2", dist.Normal(torch.zeros(1), torch.tensor([1.5])).to_event(1))
            t1 = pyro.sample("t1", dist.Normal(2 * t2, torch.tensor([0.5])).to_event(1))
            pyro.sample("x", dist.Normal(t1, 1.0).to_event(1), obs=x)

    def first(name, loc):
        return pyro.sample(name, dist.Normal(loc, torch.tensor([0.6])).to_event(1))

    def guide(x):
        with pyro.plate("data", 1):
            if order == "t1, t2":
                t1 = first("t1", torch.tensor([[1.0]]))
                first("t2", 0.4 * t1)
            else:
                t2 = first("t2", torch.tensor([[0.5]]))
                first("t1", 1.5 * t2)

    return program, guide


@pytest.mark.parametrize("order", ["t1, t2", "t2, t1"])
def test_the_closed_form_is_used_where_p_knows_its_parents_only(order):
    pair, x = dependent(order), torch.ones(1, 1)
    losses = {}
    for name, objective in (
        ("sampled", Trace_ELBO(20_000, vectorize_particles=True, max_plate_nesting=1)),
        ("ours", objectives.ELBO(20_000)),
    ):
        torch.manual_seed(0)
        losses[name] = objective.loss(*pair, x)
    assert losses["ours"] == pytest.approx(losses["sampled"], abs=0.15)


# Global latents


def bayesian(x, whole=False):
    """A model with a Bayesian bias, in a network or in a likelihood that is a Pyro module."""
    net = nets.Linear(D, P)
    likelihood = likelihoods.FixedNormal(net, 0.7)
    pyro.nn.module.to_pyro_module_(likelihood if whole else net)
    m = DLGM(priors.StandardNormal(D), likelihood)
    net.body[1].bias = PyroSample(dist.Normal(torch.zeros(P), 2.0).to_event(1))
    return m


BIAS = "likelihood.net.body.1.bias"


class Wide(PyroModule):
    """q(w) q(t | x): a Gaussian over the bias, then an amortized guide."""

    def __init__(self, inner):
        super().__init__("wide")
        self.inner = inner
        self.loc, self.log_scale = nn.Parameter(torch.zeros(P)), nn.Parameter(torch.full((P,), -1.0))

    def forward(self, x=None, index=None, *, mask=None, size=None):
        pyro.sample(BIAS, dist.Normal(self.loc, self.log_scale.exp()).to_event(1))
        return self.inner(x, index, mask=mask, size=size)


def test_a_bayesian_bias_is_drawn_once_at_scale_1(x):
    m = bayesian(x)
    trace = poutine.trace(m).get_trace(x, torch.arange(N), size=10 * N)
    site = trace.nodes[BIAS]
    assert site["value"].shape == (P,) and site["scale"] == 1.0 and site["cond_indep_stack"] == ()
    assert trace.nodes["t"]["scale"] == 10.0 and list(trace.nodes)[1] == BIAS


def test_particles_of_a_bayesian_network_are_drawn_apart(x):
    m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(priors.bayesian(nets.MLP(D, P, hidden=(6,))), 0.7))
    with pyro.plate("particles", 3, dim=-2):
        trace = poutine.trace(m).get_trace(x)
    weight, t = trace.nodes["likelihood.net.body.1.weight"]["value"], trace.nodes["t"]["value"]
    assert weight.shape == (3, 1, 6, D) and trace.nodes["x"]["fn"].batch_shape == (3, N)
    names = {n: s["value"][1, 0] for n, s in trace.nodes.items() if n.startswith("likelihood")}
    mean = trace.nodes["x"]["fn"].base_dist.loc[1]
    hidden = nn.functional.elu(t[1] @ names["likelihood.net.body.1.weight"].T + names["likelihood.net.body.1.bias"])
    expected = hidden @ names["likelihood.net.body.3.weight"].T + names["likelihood.net.body.3.bias"]
    torch.testing.assert_close(mean, expected)


def test_an_axis_of_sampled_weights_is_none_of_pixels(x):
    m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(priors.bayesian(nets.Linear(D, P)), 0.7))
    with pyro.plate("particles", N, dim=-2):
        trace = poutine.trace(lambda: m.datum(x, t=torch.zeros(N, D))).get_trace()
    assert trace.nodes["x"]["fn"].batch_shape == (N, N) and trace.nodes["x"]["fn"].event_shape == (P,)


@pytest.mark.parametrize("whole", [False, True])
def test_a_copy_has_the_same_sites(x, whole):
    m = bayesian(x, whole)
    posterior = {BIAS: torch.randn(4, 1, P)}
    made = []
    for program in (m, copy.deepcopy(m), pickle.loads(pickle.dumps(m)), copy.deepcopy(copy.deepcopy(m))):
        for parallel in (False, True):
            torch.manual_seed(0)
            drawn = Predictive(program, posterior, return_sites=[BIAS, "x"], parallel=parallel)(size=6)
            made.append(drawn["x"].detach())
            torch.testing.assert_close(drawn[BIAS].squeeze().detach(), posterior[BIAS].squeeze())
    assert all(torch.equal(m, made[0]) for m in made[::2]) and all(torch.equal(m, made[1]) for m in made[1::2])


def test_a_program_inside_of_a_larger_one_keeps_its_place(x):
    class Larger(PyroModule):
        def __init__(self):
            super().__init__()
            self.decoder = bayesian(x)

        def forward(self, x):
            with self.decoder.global_latents(), pyro.plate("points", len(x)):
                return self.decoder.datum(x)

    one = Larger()
    traces = [poutine.trace(program).get_trace(x).nodes for program in (one, copy.deepcopy(one))]
    sites = [[name for name, site in trace.items() if site["type"] == "sample"] for trace in traces]
    assert f"decoder.{BIAS}" in sites[0] and sites[0] == sites[1]


def test_a_bayesian_w_trains(x):
    m = bayesian(x)
    guide = Wide(amortized())
    fit(m, guide, x, epochs=3, batch_size=4, seed=0)
    assert not torch.equal(guide.loc, torch.zeros(P))


def test_evaluation_draws_a_global_latent_once_for_each_sample(x, monkeypatch):
    from pyro_dlgm.evaluate import blocks

    m, guide = bayesian(x), Wide(amortized())
    seen = []
    m.register_forward_hook(lambda program, args, out: seen.append(program.likelihood.net.body[1].bias.clone()))
    whole = evaluate.log_weights(m, guide, x, None, 6, seed=0)
    assert whole.shape == (6, N) and seen[-1].shape == (6, 1, P) and len(seen[-1].unique(dim=0)) == 6
    seen.clear()
    monkeypatch.setattr(blocks.blocks, "__defaults__", (3 * P,))
    evaluate.log_weights(m, guide, x, None, 6, seed=0)
    drawn = torch.cat(seen[1:])  # the first one is a look at what the model samples
    assert len(seen) > 2 and len(drawn.unique(dim=0)) == 6


def test_weights_under_a_bayesian_w_are_those_given_each_w(x):
    m, guide = bayesian(x), Wide(amortized())
    with torch.no_grad():
        guide.log_scale.fill_(-30.0)  # a w that hardly varies: the model with that bias
        guide.loc.copy_(torch.randn(P))
    fixed = DLGM(m.prior, likelihoods.FixedNormal(nets.Linear(D, P), 0.7))
    with torch.no_grad():
        fixed.likelihood.net.body[1].weight.copy_(m.likelihood.net.body[1].weight)
        fixed.likelihood.net.body[1].bias.copy_(guide.loc)
    found, expected = (evaluate.log_weights(*p, x, None, 4000, seed=0) for p in ((m, guide), (fixed, guide.inner)))
    error = (found.var(0) + expected.var(0)).sqrt() / 4000**0.5
    assert ((found.mean(0) - expected.mean(0)).abs() < 5 * error).all()
    assert expected.var(0).min() > 0.1


def test_a_global_latent_that_no_one_knows_is_refused_by_name(x):
    m = bayesian(x)
    for ask in (
        lambda: evaluate.elbo(m, amortized(), x),
        lambda: evaluate.ais(m, amortized(), x, num_chains=1, num_temperatures=1),
        lambda: m.log_joint(x, torch.zeros(N, D)),
    ):
        with pytest.raises(ValueError, match=r"samples 'likelihood\.net\.body\.1\.bias'"):
            ask()
    with poutine.condition(data={BIAS: torch.zeros(P)}):
        found = m.log_joint(x, torch.zeros(N, D))
        assert evaluate.ais(m, amortized(), x, num_chains=1, num_temperatures=2).log_px.isfinite().all()
    mean = m.likelihood.net.body[1].weight.new_zeros(P)
    expected = m.prior().log_prob(torch.zeros(N, D)) + dist.Normal(mean, m.likelihood.scale).to_event(1).log_prob(x)
    torch.testing.assert_close(found, expected)


def test_beta_tempers_the_latents_of_points_alone(x):
    m, guide = bayesian(x), Wide(amortized())
    for program in (m, guide):
        trace = poutine.trace(objectives.Tempered(0.25)(program)).get_trace(x, torch.arange(N), size=2 * N)
        assert trace.nodes["t"]["scale"] == 0.5 and trace.nodes[BIAS]["scale"] == 1.0
    torch.manual_seed(0)
    untempered = objectives.ELBO(beta=0.0).loss(m, guide, x)
    torch.manual_seed(0)
    trace = poutine.trace(guide).get_trace(x)
    replayed = poutine.trace(poutine.replay(m, trace=trace)).get_trace(x)
    replayed.compute_log_prob()
    of_w = kl_divergence(trace.nodes[BIAS]["fn"], replayed.nodes[BIAS]["fn"]).item()
    assert untempered == pytest.approx(of_w - replayed.nodes["x"]["log_prob_sum"].item(), rel=1e-5)


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_a_scale_of_weights_is_above_0(bad):
    with pytest.raises(ValueError, match="scale is"):
        priors.bayesian(nets.Linear(2, 3), bad)
    with pytest.raises(ValueError, match="no parameters"):
        priors.bayesian(nn.Tanh())


# Parameters that are made at the first call


@pytest.mark.parametrize("name", ["AutoNormal", "AutoLowRankMultivariateNormal"])
def test_an_autoguide_through_fit_moves(x, name):
    m = model()
    made = {"AutoNormal": AutoNormal, "AutoLowRankMultivariateNormal": AutoLowRankMultivariateNormal}[name]
    guide = made(m, init_scale=0.5)
    result = fit(m, guide, x, epochs=40, batch_size=N, row_lr=0.05, lr=0.05, seed=0)
    assert (
        result.history[-1]["log_joint" if "elbo" not in result.history[-1] else "elbo"] > result.history[0]["elbo"] + 1
    )
    start = made(m, init_scale=0.5)
    with pyro.get_param_store().scope():  # two guides of one class share their entries
        start(x)
    moved = [not torch.equal(a, b) for a, b in zip(guide.parameters(), start.parameters(), strict=True)]
    assert moved and all(moved)


def test_rows_of_an_autoguide_are_those_of_their_points():
    """Points far apart: q of each must be where its own x is, whatever order the training takes."""
    x = 10 * torch.arange(N).float().unsqueeze(1).repeat(1, P)
    net = nets.Linear(1, P)
    with torch.no_grad():
        net.body[1].weight.fill_(10.0), net.body[1].bias.zero_()
    m = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(net, 1.0)).requires_grad_(False)
    guide = AutoLowRankMultivariateNormal(m)
    fit(m, guide, x, epochs=400, batch_size=N, lr=0.2, schedule="constant", seed=0)
    exact = 10 * x.sum(1) / (1 + 100 * P)
    torch.testing.assert_close(guide.median()["t"].squeeze(-1), exact, rtol=0.05, atol=0.3)


@pytest.mark.parametrize("made", [AutoNormal, AutoLowRankMultivariateNormal])
def test_an_autoguide_of_the_batch_is_refused_by_name(x, made):
    with pytest.raises(ValueError, match=f"{made.__name__} has .* guides.auto"):
        fit(m := model(), made(m), x, epochs=1, batch_size=4)


def test_an_autoguide_with_plates_of_its_own_is_taken(x):
    m = model()
    plates = lambda x=None, index=None, **more: pyro.plate("data", N, subsample=index, dim=-1)  # noqa: E731
    guide = AutoNormal(m, create_plates=plates)
    before = fit(m, guide, x, epochs=2, batch_size=4, seed=0).history
    assert len(before) == 2 and guide.locs.t.shape == (N, D)


# Distributions that say little


class Bare(dist.TorchDistribution):
    """N(loc, 1), of which nothing is known but how to draw and its density."""

    arg_constraints: ClassVar = {}
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Bare(self.loc.expand(torch.Size(batch_shape) + self.event_shape))

    def rsample(self, sample_shape=()):
        return self.loc + torch.randn(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.0).to_event(1).log_prob(value)


class BarePrior(nn.Module):
    def forward(self):
        return Bare(torch.zeros(D))


class BareGuide(guides.Guide):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(P, D)

    def posterior(self, x=None, index=None, mask=None):
        return Bare(self.map(x))


def test_a_prior_and_a_guide_without_moments_work_everywhere(x):
    m, guide = DLGM(BarePrior(), model().likelihood), BareGuide()
    plain = DLGM(priors.StandardNormal(D), m.likelihood)
    fit(m, guide, x, x_val=x, epochs=2, seed=0)
    t = torch.randn(3, N, D)
    torch.testing.assert_close(m.log_joint(x, t), plain.log_joint(x, t))
    exact = evaluate.quadrature(plain, x)
    walks = evaluate.ais(m, guide, x, num_chains=16, num_temperatures=40, seed=0)
    assert ((walks.log_px - exact).abs() < 5 * walks.stderr + 0.1).all()
    assert evaluate.iwae(m, guide, x, num_samples=30, seed=0).shape == (N,)
    assert evaluate.reconstruct(m, guide, x, seed=0).shape == x.shape
    d = evaluate.diagnose(m, guide, x, num_simulated=60, seed=0)
    assert d.prior_std.sub(1).abs().max() < 0.2 and d.kl is None
    from pyro_dlgm.evaluate.snapshot import Snapshot

    look = Snapshot(m, guide, x)
    assert look.means().shape == (N, D) and look.nats().shape == (D,) and look.active() <= D
    chain = guides.Chain(m, N, D, num_states=2, num_leapfrog=2, burn_in=2, start_from=guide)
    chain(x, torch.arange(N))
    assert chain.states.isfinite().all()
