r"""Priors that are learned: densities by hand, exact evidence of a mixture, one interface for every guide."""

import copy
import json

import cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import biject_to

from pyro_dlgm import DLGM, PPCA, evaluate, fit, guides, likelihoods, load, nets, priors
from pyro_dlgm.cli.main import main
from pyro_dlgm.latents.support import is_identity
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.optim.svi import adam

D, P, K, N = 2, 5, 3, 12
KINDS = ("scaled", "mixture", "vamp")


def encoder() -> guides.Amortized:
    return guides.Amortized(nets.MLP(P, 6, (6,)), D, init_scale=0.5)


def moved(module: nn.Module) -> nn.Module:
    r"""The module with its own parameters away from where they start."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return module


def pair(kind: str) -> tuple[DLGM, guides.Amortized]:
    guide = encoder()
    made = {
        "scaled": lambda: priors.ScaledNormal(D, learn_mean=True),
        "mixture": lambda: priors.MixtureOfNormals(D, K),
        "vamp": lambda: priors.VampPrior(guide, torch.randn(K, P)),
    }[kind]()
    return DLGM(moved(made), likelihoods.FixedNormal(nets.Linear(D, P), 0.5)), guide


@pytest.fixture(params=KINDS)
def made(request):
    return pair(request.param)


@pytest.fixture
def x():
    return torch.randn(N, P)


def truth(model: DLGM, x: torch.Tensor) -> torch.Tensor:
    r"""log p(x | w) of a linear likelihood under a mixture: log Σ_k π_k N(x; W m_k + b, W S_k Wᵀ + σ² I)."""
    net, prior = model.likelihood.net.body[-1], model.prior
    W, b, S = net.weight.double(), net.bias.double(), (2 * prior.log_scale).exp().double().diag_embed()
    cov = W @ S @ W.T + model.likelihood.scale.double().square() * torch.eye(P).double()
    each = torch.distributions.MultivariateNormal(prior.loc.double() @ W.T + b, cov).log_prob(x.double().unsqueeze(1))
    return (each + prior.logits.double().log_softmax(-1)).logsumexp(-1).detach()


# Densities


def test_a_mixture_is_what_its_sum_says():
    prior, t = moved(priors.MixtureOfNormals(D, K)), torch.randn(4, 7, D)
    normal = torch.distributions.Normal(prior.loc, prior.log_scale.exp())
    each = normal.log_prob(t.unsqueeze(-2)).sum(-1).exp() * prior.logits.softmax(-1)
    torch.testing.assert_close(prior().log_prob(t), each.sum(-1).log())
    torch.testing.assert_close(prior.responsibilities(t), each / each.sum(-1, keepdim=True))


def test_a_vamp_prior_is_the_mean_of_the_encoders_densities():
    guide, u, t = encoder(), torch.randn(K, P), torch.randn(7, D)
    prior = priors.VampPrior(guide, u)
    by_hand = sum(guide.posterior(u[k : k + 1]).log_prob(t).exp() for k in range(K)) / K
    torch.testing.assert_close(prior().log_prob(t), by_hand.log())
    one = guide.posterior(u[:1]).log_prob(t).exp() / K
    torch.testing.assert_close(prior.responsibilities(t)[:, 0], one / by_hand)


def test_a_scaled_normal_is_standard_at_the_start_and_a_normal_after_it():
    prior, t = priors.ScaledNormal(D, learn_mean=True), torch.randn(7, D)
    torch.testing.assert_close(prior().log_prob(t), priors.StandardNormal(D)().log_prob(t))
    prior = moved(prior)
    by_hand = torch.distributions.Normal(prior.loc, prior.log_scale.exp()).log_prob(t).sum(-1)
    torch.testing.assert_close(prior().log_prob(t), by_hand)
    assert [name for name, _ in priors.ScaledNormal(D).named_parameters()] == ["log_scale"]


def test_a_mixture_starts_standardized_and_from_its_seed_alone():
    before = torch.get_rng_state()
    prior = priors.MixtureOfNormals(D, 4000, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert prior().mean.abs().max() < 0.05 and (prior().variance - 1).abs().max() < 0.05
    assert torch.equal(prior.loc, priors.MixtureOfNormals(D, 4000, seed=3).loc)
    assert not torch.equal(prior.loc, priors.MixtureOfNormals(D, 4000, seed=4).loc)


@pytest.mark.parametrize("kind", ["scaled", "mixture"])
def test_a_prior_has_the_gradient_of_its_formula(kind):
    prior, t = moved(pair(kind)[0].prior), torch.randn(7, D)
    normal = torch.distributions.Normal(prior.loc, prior.log_scale.exp())
    by_hand = normal.log_prob(t.unsqueeze(-2) if kind == "mixture" else t).sum(-1)
    if kind == "mixture":
        by_hand = (by_hand + prior.logits.log_softmax(-1)).logsumexp(-1)
    found, expected = (torch.autograd.grad(v.sum(), list(prior.parameters())) for v in (prior().log_prob(t), by_hand))
    assert len(found) == {"scaled": 2, "mixture": 3}[kind]
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_half_of_the_variance_of_a_new_mixture_is_between_its_components():
    prior = priors.MixtureOfNormals(D, 4000)
    assert abs(prior.loc.var() - 0.5) < 0.02 and torch.allclose((2 * prior.log_scale).exp(), torch.tensor(0.5))
    assert not prior.logits.any()


def test_a_prior_holds_its_parameters_alone_and_follows_to():
    kept = {"standard": priors.StandardNormal(D), "scaled": priors.ScaledNormal(D), "mixture": pair("mixture")[0].prior}
    names = {"standard": [], "scaled": ["log_scale"], "mixture": ["loc", "log_scale", "logits"]}
    for kind, prior in kept.items():
        assert list(prior.state_dict()) == names[kind]
        p = prior.double()(given=torch.zeros(3, 1))
        assert p.mean.dtype == p.variance.dtype == torch.float64 and is_identity(biject_to(p.support))
    assert list(pair("vamp")[0].prior.state_dict()) == ["pseudo_inputs"]
    torch.testing.assert_close(priors.StandardNormal(D)().log_prob(torch.ones(D)), torch.tensor(-2.8378770))


def test_a_bayesian_network_has_the_prior_that_it_is_told():
    net = nets.Linear(D, P)
    priors.bayesian(net, 0.3)
    site = pyro.poutine.trace(lambda: net(torch.zeros(D))).get_trace().nodes
    drawn = [s["fn"] for s in site.values() if s["type"] == "sample"]
    assert [fn.event_shape for fn in drawn] == [(P, D), (P,)] and not net.state_dict()
    for fn in drawn:
        assert fn.batch_shape == () and not fn.mean.any() and torch.equal(fn.stddev, torch.full_like(fn.mean, 0.3))


# Evidence


def test_the_evidence_of_a_linear_mixture_is_a_mixture_of_gaussians():
    torch.manual_seed(1)
    model, _ = pair("mixture")
    x = model(size=4).detach()
    exact = truth(model, x)
    torch.testing.assert_close(evaluate.quadrature(model, x), exact, atol=2e-3, rtol=0)
    found = evaluate.ais(model, None, x, num_chains=32, num_temperatures=40, seed=0)
    assert ((found.log_px - exact).abs() < 4 * found.stderr + 0.01).all() and found.stderr.max() < 0.3
    rows = evaluate.infer(model, guides.FullRank(len(x), D), x, seed=0)
    table = evaluate.log_weights(model, rows, x, torch.arange(len(x)), 4000, seed=0).double()
    error = (table - evaluate.log_mean_exp(table)).exp().std(0) / len(table) ** 0.5
    assert ((evaluate.log_mean_exp(table) - exact).abs() < 4 * error + 0.01).all()
    assert (evaluate.elbo(model, rows, x, torch.arange(len(x)), 2000, seed=0) < exact + 0.02).all()


def test_bdmc_brackets_a_vamp_prior():
    model, guide = pair("vamp")
    found = evaluate.bdmc(model, guide, 8, 8, 50, seed=0)
    assert abs(found.gap) < 0.1 + 4 * found.stderr
    quadrature = evaluate.quadrature(model, found.x)
    assert (found.lower - quadrature).abs().mean() < 0.15


def test_cluster_probabilities_are_those_of_bayes_rule():
    torch.manual_seed(1)
    model, _ = pair("mixture")
    x = model(size=4).detach()
    rows = evaluate.infer(model, guides.FullRank(len(x), D), x, seed=0)
    index, sharp = torch.arange(len(x)), copy.deepcopy(model)
    found = evaluate.cluster_probabilities(model, rows, x, index, 4000, seed=0)
    for k in range(K):  # p(k, x) / p(x), where p(k, x) is the evidence with the weight of k alone
        with torch.no_grad():
            sharp.prior.logits.fill_(-40.0)[k] = 0.0
        exact = (truth(sharp, x) + model.prior.logits.double().log_softmax(-1)[k] - truth(model, x)).exp()
        assert (found[:, k] - exact).abs().max() < 0.1
    torch.testing.assert_close(found.sum(-1), torch.ones(len(x)))
    again = evaluate.cluster_probabilities(model, rows, x, index, 4000, seed=0)
    assert torch.equal(found, again) and not found.requires_grad


def test_what_has_no_components_has_no_cluster_probabilities(x):
    model, guide = pair("scaled")
    with pytest.raises(TypeError, match="ScaledNormal, which has no components"):
        evaluate.cluster_probabilities(model, guide, x)
    with pytest.raises(ValueError, match="num_samples is 0"):
        evaluate.cluster_probabilities(*pair("mixture"), x, num_samples=0)


# Guides


GUIDES = [(name, make) for name, make in cases.GUIDES if name not in ("exact", "amortized", "amortized_full_rank")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "make"), GUIDES, ids=[name for name, _ in GUIDES])
def test_every_guide_climbs_under_every_prior(name, make, kind, x):
    model, guide = pair(kind)
    other = guides.Hybrid(model, guide, num_transitions=1, num_leapfrog=2) if name == "hybrid" else make(model, N)
    before = cases.tensors(model.prior)
    result = fit(model, other, x, epochs=2, batch_size=5, seed=0)
    assert all(torch.tensor(float(v)).isfinite() for v in result.history[-1].values())
    assert not cases.unmoved(model.prior, before)


def test_kl_falls_back_to_samples_in_both_objectives(made, x):
    model, guide = made
    torch.manual_seed(0)
    sampled = Trace_ELBO(2000, max_plate_nesting=1, vectorize_particles=True).loss(model, guide, x)
    for objective in (ELBO(2000), TraceMeanField_ELBO(2000, max_plate_nesting=1, vectorize_particles=True)):
        assert abs(objective.loss(model, guide, x) - sampled) < 0.02 * abs(sampled)


def test_laplace_climbs_to_the_mode_and_takes_no_gradient_along(made, x):
    model, _ = made
    guide = guides.Laplace(model, num_draws=3, tol=1e-8).eval()
    q = guide.posterior(x)
    assert not q.mean.requires_grad and not q.scale_tril.requires_grad
    t = q.mean.requires_grad_()
    (slope,) = torch.autograd.grad(model.log_joint(x, t).sum(), t)
    there = guide.modes.converged
    assert there.all() and slope.abs().max() < 0.02
    H = torch.stack(
        [torch.autograd.functional.hessian(lambda t, i=i: model.log_joint(x[i], t), t[i]) for i in range(N)]
    )
    straight = ~guide.modes.repaired
    C = torch.cholesky_inverse(q.scale_tril)
    torch.testing.assert_close(C[straight], -H[straight], rtol=0.02, atol=0.02)


def test_exact_is_refused_unless_the_prior_is_standard(x):
    ppca = PPCA(D, P)
    ppca.prior = priors.ScaledNormal(D)
    for call in (lambda: ppca.log_prob(x), lambda: guides.Exact(ppca)(x)):
        with pytest.raises(TypeError, match="ScaledNormal, but the closed forms hold for N"):
            call()
    with pytest.raises(TypeError, match="no closed-form posterior"):
        guides.Exact(pair("mixture")[0])


# What a VampPrior shares


def test_pseudo_inputs_are_of_the_model_and_the_encoder_is_of_the_guide_alone():
    model, guide = pair("vamp")
    assert [name for name, _ in model.prior.named_parameters()] == ["pseudo_inputs"]
    assert not set(model.parameters()) & set(guide.parameters())
    found = [p for o in adam(model, guide) for group in o.param_groups for p in group["params"]]
    assert len(found) == len(set(found)) == len([*model.parameters(), *guide.parameters()])


def test_the_encoder_gets_its_gradient_through_the_prior_as_well(x):
    model, guide = pair("vamp")
    model.log_joint(x, torch.zeros(N, D)).sum().backward()
    assert guide.head.weight.grad.abs().sum() > 0 and model.prior.pseudo_inputs.grad.abs().sum() > 0


def test_copies_of_both_belong_together_and_one_of_the_model_shares_the_guide():
    model, guide = pair("vamp")
    one, two = copy.deepcopy((model, guide))
    with torch.no_grad():
        guide.head.bias.add_(5.0)
    alone, t = copy.deepcopy(model), torch.zeros(1, D)
    assert one.prior._guide[0] is two and alone.prior._guide[0] is guide
    assert torch.equal(alone.prior().log_prob(t), model.prior().log_prob(t))
    assert not torch.equal(one.prior().log_prob(t), model.prior().log_prob(t))


def test_pyros_own_svi_moves_pseudo_inputs_and_encoder(x):
    model, guide = pair("vamp")
    before = cases.tensors(model, guide)
    svi = cases.stock(model, guide)
    svi.step(x), svi.step(x)
    assert not cases.unmoved(nn.ModuleList([model, guide]), before)
    values = [id(pyro.param(name).unconstrained()) for name in pyro.get_param_store()]
    assert len(values) == len(set(values)) == len([*model.parameters(), *guide.parameters()])


def test_an_encoder_is_asked_in_the_mode_of_the_prior():
    net = nn.Sequential(nn.Linear(P, 6), nn.Dropout(0.5), nn.Linear(6, 6))
    guide = guides.Amortized(net, D)
    prior, t = priors.VampPrior(guide, torch.randn(K, P)), torch.randn(4, D)
    assert not torch.equal(prior().log_prob(t), prior().log_prob(t))
    prior.eval()
    assert torch.equal(prior().log_prob(t), prior().log_prob(t)) and guide.training and net[1].training


def test_pseudo_inputs_are_a_copy_in_the_dtype_of_parameters():
    x = torch.rand(K, P)
    prior = priors.VampPrior(encoder(), x)
    with torch.no_grad():
        prior.pseudo_inputs.add_(1.0)
    assert bool((x <= 1).all()) and not torch.equal(x, prior.pseudo_inputs)
    assert priors.VampPrior(encoder(), torch.ones(K, P, dtype=torch.long)).pseudo_inputs.dtype == torch.float32


@pytest.mark.parametrize("bounds", [{"low": 0.0}, {"high": 1.0}])
def test_one_bound_alone_cuts_off(bounds):
    guide, u, t = encoder(), torch.linspace(-2, 2, K * P).reshape(K, P), torch.randn(3, D)
    expected = priors.VampPrior(guide, u.clamp(bounds.get("low"), bounds.get("high")))
    assert torch.equal(priors.VampPrior(guide, u, **bounds)().log_prob(t), expected().log_prob(t))


def test_bounds_cut_pseudo_inputs_off():
    guide, u = encoder(), torch.linspace(-2, 2, K * P).reshape(K, P)
    prior = priors.VampPrior(guide, u, low=0.0, high=1.0)
    t = torch.randn(3, D)
    assert torch.equal(prior().log_prob(t), priors.VampPrior(guide, u.clamp(0, 1))().log_prob(t))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: priors.VampPrior(guides.MeanField(N, D), torch.rand(K, P)), TypeError, "MeanField, which has no dens"),
        (
            lambda: priors.VampPrior(guides.Hybrid(PPCA(D, P), encoder()), torch.rand(K, P)),
            TypeError,
            "Hybrid, which h",
        ),
        (lambda: priors.VampPrior(encoder(), torch.rand(P)), ValueError, r"of shape \(5,\); expected a tensor \(K"),
        (lambda: priors.VampPrior(encoder(), torch.full((K, P), torch.nan)), ValueError, "not finite"),
        (lambda: priors.MixtureOfNormals(D, 0), ValueError, "num_components is 0"),
        (lambda: priors.MixtureOfNormals(0, K), ValueError, "latent_dim is 0"),
        (lambda: priors.ScaledNormal(0), ValueError, "latent_dim is 0"),
    ],
)
def test_bad_priors_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# Runs


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_loaded_with_its_prior(kind, tmp_path):
    run, picture = str(tmp_path / "run"), str(tmp_path / "s.png")
    options = ["--prior", kind, "--components", "4", "--latents", "2", "--epochs", "1", "--batch-size", "600"]
    said = CliRunner().invoke(main, ["fit", *options, "--out", run])
    assert said.exit_code == 0, said.output
    model, guide, config = load(run)
    assert config["recipe"]["prior"] == kind and ("components" in config["recipe"]) == (kind != "scaled")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    if kind == "vamp":
        assert model.prior._guide[0] is guide and model.prior.num_components == 4
    assert CliRunner().invoke(main, ["sample", run, "--out", picture, "--num", "4"]).exit_code == 0
    if kind != "mixture":
        return
    again = CliRunner().invoke(main, ["fit", "--out", run, "--resume", "--epochs", "2", "--stretch"])
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 2


def test_a_vamp_prior_needs_an_encoder_on_the_command_line(tmp_path):
    said = CliRunner().invoke(main, ["fit", "--prior", "vamp", "--guide", "mean-field", "--out", str(tmp_path / "r")])
    assert said.exit_code == 2 and "--prior is 'vamp', which is made of the q of an encoder" in said.output


def test_draws_of_a_mixture_have_its_moments():
    prior = moved(priors.MixtureOfNormals(D, K))
    t = prior()((20_000,))
    assert (t.mean(0) - prior().mean).abs().max() < 0.05 and (t.var(0) - prior().variance).abs().max() < 0.1
    assert isinstance(prior(), dist.MixtureSameFamily)
