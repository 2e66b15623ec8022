"""Values missing not at random: p(x, m | t) against numerical integration, what follows from it, what is refused."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, special, stats

from pyro_dlgm import DLGM, SVI, Points, evaluate, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.evaluate.marginal.trial import Trial
from pyro_dlgm.evaluate.predict import simulated
from pyro_dlgm.likelihoods.missingness import integral
from pyro_dlgm.likelihoods.missingness.integral import Averages, draw

P, SIGMA = 3, 0.7
SLOPE, INTERCEPT = torch.tensor([2.0, -3.0, 0.0]).double(), torch.tensor([0.3, -0.5, -1.0]).double()
MASKS = torch.tensor([[a, b, c] for a in (1, 0) for b in (1, 0) for c in (1, 0)]).bool()


def hiding(slope=SLOPE, learn=False, **options) -> likelihoods.SelfMasking:
    return likelihoods.SelfMasking((P,), slope=slope, intercept=INTERCEPT, learn=learn, **options)


def model_of(mechanism, D=1) -> DLGM:
    torch.manual_seed(1)
    likelihood = likelihoods.FixedNormal(nets.Linear(D, P), SIGMA)
    if mechanism is not None:
        likelihood = likelihoods.Missingness(likelihood, mechanism)
    return DLGM(priors.StandardNormal(D), likelihood).double()


@pytest.fixture
def x():
    x = torch.randn(8, P, generator=torch.Generator().manual_seed(3)).double()
    return x.masked_fill(~MASKS, math.nan)


def line(model):
    r"""The weights, biases and σ of the linear decoder, as numbers."""
    net, sigma = model.likelihood.likelihood.net, model.likelihood.likelihood.scale.item()
    return net.body[-1].weight[:, 0].tolist(), net.body[-1].bias.tolist(), sigma


def hidden_moment(order, mu, sigma, a, c):
    r"""∫ x^order N(x; μ, σ²) σ(a x + c) dx, for one or many μ."""
    z = np.linspace(-9, 9, 361)
    x = np.expand_dims(mu, -1) + sigma * z
    return integrate.simpson(x**order * stats.norm.pdf(z) * special.expit(a * x + c), x=z, axis=-1)


def factor(x, seen, mu, sigma, a, c):
    r"""p(x_j, m_j | t), by integration where x_j is missing."""
    if seen:
        return stats.norm.pdf(x, mu, sigma) * special.expit(-(a * x + c))
    return hidden_moment(0, mu, sigma, a, c)


def evidence(model, x, seen):
    r"""log p(x_o, m) = log ∫ p(t) p(x_o, m | t) dt."""
    t = np.linspace(-8, 8, 801)
    weights, biases, sigma = line(model)
    columns = zip(x.tolist(), seen.tolist(), weights, biases, SLOPE.tolist(), INTERCEPT.tolist(), strict=True)
    made = [factor(v, there, w * t + b, sigma, a, c) for v, there, w, b, a, c in columns]
    return math.log(integrate.simpson(stats.norm.pdf(t) * np.prod(made, 0), x=t))


# The integral


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-6), (torch.float32, 3e-6)])
def test_averages_of_a_logistic_are_right_also_where_they_underflow_and_where_it_is_a_step(dtype, tol):
    m, s = torch.meshgrid(
        torch.tensor([-1000.0, -200.0, -30.0, -3.0, -0.2, 0.0, 1.0, 5.0, 60.0, 400.0]),
        torch.tensor([0.0, 1e-4, 0.3, 1.0, 2.0, 6.0, 30.0, 100.0]),
        indexing="ij",
    )
    z = torch.linspace(-14, 114, 500_001, dtype=torch.float64)
    for one, two in zip(m.flatten(), s.flatten(), strict=True):
        terms = torch.nn.functional.logsigmoid(one.double() + two.double() * z) - 0.5 * z.square()
        expected = terms.logsumexp(0) + math.log((z[1] - z[0]) / math.sqrt(2 * math.pi))
        found = Averages(one.to(dtype), two.to(dtype)).log_mean
        assert abs(found - expected) < tol * max(1.0, abs(expected) if dtype == torch.float32 else 1.0), (one, two)


def test_averages_have_the_gradients_of_their_values(monkeypatch):
    m, s = torch.tensor([-9.0, -0.5, 0.0, 4.0]).double(), torch.tensor([0.2, 3.0, 20.0, 1.0]).double()
    inputs = m.requires_grad_(), s.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: Averages(m, s).log_mean, inputs, eps=1e-4, atol=1e-5)
    monkeypatch.setattr(integral, "BLOCK", 3)
    assert torch.autograd.gradcheck(integral.log_mean, inputs, eps=1e-4, atol=1e-5)


@pytest.mark.parametrize(("m", "s"), [(0.5, 0.0), (-1.0, 1.5), (-8.0, 2.0), (-30.0, 20.0), (3.0, 60.0)])
def test_draws_have_the_moments_of_quadrature(m, s):
    m, s = torch.full((40_000,), m).double(), torch.full((40_000,), s).double()
    z, (mean, variance) = draw(m, s), Averages(m[0], s[0]).moments()
    assert abs(z.mean() - mean) < 5 * (variance / len(z)).sqrt()
    assert z.var() == pytest.approx(float(variance), rel=0.06)


def test_integrals_are_computed_for_missing_values_alone_block_by_block(x, monkeypatch):
    model, t, sizes = model_of(hiding()), torch.randn(40, len(x), 1).to(x), []
    whole = model.likelihood(t, MASKS)

    def counted(m, s):
        sizes.append(m.numel())
        return Averages(m, s)

    completed = model.likelihood.completed(model.likelihood(t), x, MASKS)
    known = whole.log_prob(x), completed.mean, completed.variance
    monkeypatch.setattr(integral, "Averages", counted)
    monkeypatch.setattr(integral, "BLOCK", 7)
    for found, expected in zip((whole.log_prob(x), completed.mean, completed.variance), known, strict=True):
        torch.testing.assert_close(found, expected)
    # log_prob once, the mean once, and once more for the variance.
    assert sum(sizes) == 3 * 40 * int((~MASKS).sum()) and max(sizes) == 7


# The density


def test_the_evidence_of_self_masked_columns_equals_numerical_integration(x):
    model = model_of(hiding())
    found = evaluate.quadrature(model, x, mask=MASKS)
    expected = torch.tensor([evidence(model, *row) for row in zip(x, MASKS, strict=True)])
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-4, rtol=0)
    wrong = evaluate.quadrature(model_of(hiding(-SLOPE)), x, mask=MASKS)
    assert (wrong - expected).abs()[1:].max() > 0.1


def test_a_mask_of_whole_points_and_of_entries_say_the_same_and_nan_has_no_gradient(x):
    model, t = model_of(hiding(learn=True)), torch.randn(2, 8, 1).double().requires_grad_()
    whole = torch.arange(8) % 2 == 0
    entries = whole.unsqueeze(1).expand(8, P)
    full = x.nan_to_num(1.0).masked_fill(~entries, math.nan)
    one, two = (model.log_joint(full, t, mask) for mask in (whole, entries))
    torch.testing.assert_close(one, two)
    direct = model.likelihood(t, whole).log_prob(full) + model.prior().log_prob(t)
    torch.testing.assert_close(direct, one)
    one.sum().backward()
    assert all(p.grad.isfinite().all() for p in (t, *model.parameters()))


def test_the_mask_is_data_only_where_it_is_given():
    model, plain, t = model_of(hiding()), model_of(None), torch.randn(8, 1).double()
    x = torch.randn(8, P).double()
    torch.testing.assert_close(model.log_joint(x, t), plain.log_joint(x, t))
    ones = torch.ones_like(x, dtype=torch.bool)
    told = torch.nn.functional.logsigmoid(-(SLOPE * x + INTERCEPT)).sum(1)
    torch.testing.assert_close(model.log_joint(x, t, ones), plain.log_joint(x, t, ones) + told)


def constant() -> torch.nn.Module:
    net = nets.Linear(P, P).double()
    with torch.no_grad():
        net.body[-1].weight.zero_(), net.body[-1].bias.copy_(INTERCEPT)
    return net


@pytest.mark.parametrize("mechanism", [hiding(torch.zeros(P).double()), constant()], ids=["integrated", "drawn"])
def test_a_constant_mechanism_adds_log_p_of_the_mask_and_changes_no_gradient(x, mechanism):
    model, plain, t = model_of(mechanism), model_of(None), torch.randn(8, 1).double()
    values = [m.log_joint(x, t, MASKS) for m in (model, plain)]
    told = torch.nn.functional.logsigmoid(torch.where(MASKS, -INTERCEPT, INTERCEPT)).sum(1)
    torch.testing.assert_close(values[0] - values[1], told, atol=1e-8, rtol=0)
    nets_ = model.likelihood.likelihood.net, plain.likelihood.net
    one, two = (torch.autograd.grad(v.sum(), list(net.parameters())) for v, net in zip(values, nets_, strict=True))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-8)


class Logits(torch.nn.Module):
    r"""The logits of a self-masking, as a network of the user's."""

    def forward(self, x):
        return SLOPE * x + INTERCEPT


@pytest.mark.parametrize("training", [True, False])
def test_drawn_values_average_to_the_integral_and_never_above_it(x, training):
    exact, t = model_of(hiding()), torch.randn(8, 1).double()
    expected = exact.log_joint(x, t, MASKS)
    model = model_of(likelihoods.Drawn(Logits(), 20_000)).train(training)
    torch.testing.assert_close(model.log_joint(x, t, MASKS), expected, atol=0.03, rtol=0)
    few = model_of(likelihoods.Drawn(Logits(), 2)).train()
    table = torch.stack([few.log_joint(x, t, MASKS) for _ in range(1000)])
    below, error = expected - table.mean(0), table.std(0) / 1000**0.5
    assert (below > -4 * error - 1e-9).all() and below.sum() > 0.03  # log E >= E log
    again = table.logsumexp(0) - math.log(len(table))
    torch.testing.assert_close(again, expected, atol=0.06, rtol=0)
    with torch.no_grad():
        few.eval()
        assert torch.equal(few.log_joint(x, t, MASKS), few.log_joint(x, t, MASKS))
        torch.testing.assert_close(few.log_joint(x, t, MASKS)[3:5], few.log_joint(x[3:5], t[3:5], MASKS[3:5]))


# What follows


def fixed(guide_of, x, model, **options):
    r"""F of the q of a guide after a fit of it alone, w being right."""
    for p in model.parameters():
        p.requires_grad_(False)
    guide = guide_of()
    fit(model, guide, x, mask=MASKS, steps=150, lr=3e-2, row_lr=2e-1, batch_size=8, seed=0, **options)
    return guide


GUIDES = {
    "rows": lambda: guides.FullRank(8, 1).double(),
    "encoder": lambda: guides.Amortized(nets.MLP(2 * P, 32, (32,)), 1, "full_rank", mask_input=True).double(),
}


@pytest.mark.filterwarnings("ignore:IWAE is not to be trusted")
@pytest.mark.parametrize("name", GUIDES)
def test_bounds_of_rows_and_encoders_meet_the_joint(x, name):
    model = model_of(hiding())
    log_px = torch.tensor([evidence(model, *row) for row in zip(x, MASKS, strict=True)]).double()
    guide, index = fixed(GUIDES[name], x, model), torch.arange(8)
    points = {"mask": MASKS, "seed": 0}
    F = evaluate.elbo(model, guide, x, index, 2000, **points)
    assert (F - log_px).max() < 0.02 and (log_px - F).mean() < 0.08
    iwae = evaluate.iwae(model, guide, x, index, 5000, **points)
    torch.testing.assert_close(iwae, log_px, atol=0.03, rtol=0)
    ais = evaluate.ais(model, guide, x, index, num_chains=4, num_temperatures=10, **points)
    torch.testing.assert_close(ais.log_px, log_px, atol=0.1, rtol=0)


def test_laplace_and_new_rows_see_the_mechanism(x):
    model = model_of(hiding())
    log_px = torch.tensor([evidence(model, *row) for row in zip(x, MASKS, strict=True)]).double()
    for guide in (guides.Laplace(model), evaluate.infer(model, guides.FullRank(8, 1).double(), x, mask=MASKS, seed=0)):
        F = evaluate.elbo(model, guide, x, torch.arange(8), 2000, mask=MASKS, seed=0)
        assert (log_px - F).abs().mean() < 0.1


def test_what_is_missing_is_imputed_by_its_tilted_mean(x):
    model, t0 = model_of(hiding()), 0.4
    guide = guides.FullRank(8, 1).double().set_rows(torch.tensor([[t0, -20.0]]).double().expand(8, 2))
    made = evaluate.impute(model, guide, x, torch.arange(8), mask=MASKS, num_samples=None)
    assert torch.equal(made[MASKS], x[MASKS])
    W, b, sigma = line(model)
    for j in range(P):
        args = W[j] * t0 + b[j], sigma, float(SLOPE[j]), float(INTERCEPT[j])
        expected = float(hidden_moment(1, *args) / hidden_moment(0, *args))
        torch.testing.assert_close(made[:, j][~MASKS[:, j]], torch.full((4,), expected).double(), atol=1e-5, rtol=0)
    reconstructed = evaluate.reconstruct(model, guide, x, torch.arange(8), mask=MASKS)
    torch.testing.assert_close(reconstructed[0], torch.tensor([w * t0 + v for w, v in zip(W, b, strict=True)]).double())


def test_drawn_mechanisms_impute_the_same(x):
    guide = guides.FullRank(8, 1).double().set_rows(torch.tensor([[0.4, -20.0]]).double().expand(8, 2))
    made = [
        evaluate.impute(model_of(m), guide, x, torch.arange(8), mask=MASKS, num_samples=None)
        for m in (hiding(), likelihoods.Drawn(Logits(), 20_000))
    ]
    torch.testing.assert_close(*made, atol=0.03, rtol=0)


@pytest.mark.parametrize("mechanism", [hiding(), likelihoods.Drawn(Logits(), 2000)], ids=["integrated", "drawn"])
def test_multiple_imputations_have_the_tilted_mean(x, mechanism):
    model, at = model_of(mechanism), torch.tensor([[0.4, -20.0]]).double().expand(8, 2)
    args = model, guides.FullRank(8, 1).double().set_rows(at), x, torch.arange(8)
    drawn = evaluate.impute(*args, 2000, by="draws", num_proposals=0, mask=MASKS, seed=0)
    assert drawn.shape == (2000, 8, P) and torch.equal(drawn[5][MASKS], x[MASKS])
    error = drawn.mean(0) - evaluate.impute(*args, None, mask=MASKS)
    assert (error.abs() <= 5 * drawn.std(0) / 2000**0.5 + 1e-6).all()


@pytest.mark.parametrize("mechanism", [hiding(), likelihoods.Drawn(Logits(), 2000)], ids=["integrated", "drawn"])
def test_completions_draw_what_they_say(x, mechanism):
    model, t = model_of(mechanism).eval(), torch.randn(2, 8, 1).double()
    p = model.likelihood.completed(model.likelihood(t), x, MASKS)
    drawn = p.sample((3000,))
    assert drawn.shape == (3000, 2, 8, P) and p.mean.shape == p.variance.shape == (2, 8, P)
    assert torch.equal(drawn[0, 1][MASKS], x[MASKS])
    error = (drawn.mean(0) - p.mean).abs() / (p.variance / 3000).sqrt().clamp_min(1e-9)
    assert error.max() < 5
    torch.testing.assert_close(drawn.var(0), p.variance, atol=0.05, rtol=0.15)


def test_simulated_points_have_masks_of_the_mechanism():
    model = model_of(hiding())
    points, _ = simulated(model, 20_000, torch.ones(20_000, P).bool(), None)
    assert simulated(model, 5, None, None)[0].mask is None
    W, b, sigma = line(model)
    for j in range(P):
        wide = math.hypot(W[j], sigma)
        share = hidden_moment(0, b[j], wide, float(SLOPE[j]), float(INTERCEPT[j]))
        assert float((~points.mask[:, j]).double().mean()) == pytest.approx(share, abs=0.02)


def test_bidirectional_monte_carlo_closes_on_the_joint_of_values_and_masks(x):
    model = model_of(hiding())
    guide = fixed(GUIDES["encoder"], x, model)
    found = evaluate.bdmc(model, guide, num_points=64, mask=MASKS.repeat(8, 1), num_temperatures=10, seed=0)
    assert abs(found.gap) < 0.1


@pytest.mark.parametrize("T", [1, 4])
def test_bounds_of_simulated_points_with_hidden_values_are_bounds(T):
    r"""With the masks of other points t is no draw of the posterior, and log p(x, m) was bounded from below twice."""
    model = model_of(hiding(slope=torch.full((P,), 6.0).double()))
    mask = torch.zeros(P).bool()
    found = evaluate.bdmc(model, None, 2000, 3, T, mask=mask, seed=0)
    gap, control = found.upper - found.lower, found.upper - found.lower - found.gaps
    for value, least in ((gap, -3.0), (control, -4.0), (-control, -4.0)):
        assert value.mean() > least * value.std() / len(value) ** 0.5
    points = Points(torch.zeros(2, P).double(), mask=mask.expand(2, P))
    hidden = ~Trial.simulated(model, points, 500, seed=0).points.mask
    assert 0.2 < hidden.double().mean() < 0.8


# Learning


def self_masked(N=400):
    r"""Rows of one factor; of the first column, mostly what is high is missing."""
    t, noise = torch.randn(N, 1), torch.randn(N, P)
    x = t * torch.tensor([1.0, 1.0, -1.0]) + 0.4 * noise
    mask = torch.ones(N, P).bool()
    mask[:, 0] = (-4 * x[:, 0]).sigmoid().bernoulli().bool()
    return x, mask


class Own(torch.nn.Module):
    r"""A network of the user's, of each value by itself, that starts at a weak self-masking."""

    def __init__(self):
        super().__init__()
        self.a, self.c = torch.nn.Parameter(torch.ones(P)), torch.nn.Parameter(torch.zeros(P))

    def forward(self, x):
        return self.a * x + self.c


@pytest.mark.parametrize("mechanism", ["known", "self_masking", "agnostic", "network"])
def test_a_mechanism_that_is_learned_mends_the_mean_and_the_wrong_sign_does_not(mechanism):
    x, mask = self_masked()
    errors = {}
    for name, sign in (("mar", None), (mechanism, 1 if mechanism == "known" else None), ("wrong", -1)):
        torch.manual_seed(0)
        p = likelihoods.FixedNormal(nets.Linear(1, P))
        if name != "mar":
            which = {"wrong": "known", "network": Own()}.get(name, name)
            p = likelihoods.Missingness(p, which, sign=sign)
        model, guide = DLGM(priors.StandardNormal(1), p), guides.FullRank(len(x), 1)
        fit(model, guide, x, mask=mask, steps=150, batch_size=len(x), lr=1e-1, seed=0)
        made = evaluate.impute(model, guide, x, torch.arange(len(x)), 20, mask=mask, seed=0)
        errors[name] = float((made - x)[~mask].square().mean().sqrt())
    assert errors[mechanism] < errors["mar"] - 0.05 and errors["wrong"] > errors["mar"]


@pytest.mark.parametrize("mechanism", ["known", "self_masking", "agnostic", "network"])
def test_stock_svi_moves_all_parameters_and_particles_broadcast(mechanism, x):
    net = nets.MLP(P, P, (4,)).double() if mechanism == "network" else mechanism
    likelihood = likelihoods.Missingness(
        likelihoods.DiagonalNormal(nets.MLP(2, P, (4,), heads=2)), net, sign=1 if mechanism == "known" else None
    )
    model, guide = DLGM(priors.StandardNormal(2), likelihood).double(), guides.MeanField(8, 2).double()
    before = [p.detach().clone() for p in model.parameters()]
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    for _ in range(2):
        svi.step(x, torch.arange(8), mask=MASKS, size=8)
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    loss = objectives.ELBO(num_particles=3)
    optimizer = torch.optim.Adam(model.parameters())
    assert math.isfinite(SVI(model, guide, optimizer, loss).step(x[:4], torch.arange(4), mask=MASKS[:4], size=8))


def test_a_table_has_a_mechanism_in_its_real_columns(x):
    real = likelihoods.Missingness(likelihoods.FixedNormal(nets.Linear(1, P), SIGMA), hiding())
    table = likelihoods.Columns({range(P): real, P: likelihoods.Categorical(nets.Linear(1, 1, heads=2), 2)})
    model = DLGM(priors.StandardNormal(1), table).double()
    wide, mask = (torch.cat([v, v[:, :1] * 0 + 1], 1) for v in (x.nan_to_num(0.0), MASKS.double()))
    mask, t = mask.bool(), torch.zeros(8, 1).double()
    kind = table.parts[1](t).log_prob(wide[:, P:])
    told = real(t, MASKS).log_prob(x.nan_to_num(0.0)) + kind + model.prior().log_prob(t)
    torch.testing.assert_close(model.log_joint(wide, t, mask), told)
    guide = guides.FullRank(8, 1).double().set_rows(torch.tensor([[0.0, -20.0]]).double().expand(8, 2))
    made = evaluate.impute(model, guide, wide, torch.arange(8), mask=mask, num_samples=None)
    expected = real.completed(real(t), x, MASKS).mean
    torch.testing.assert_close(made[:, :P], expected, atol=1e-6, rtol=0)
    points, _ = simulated(model, 200, mask.repeat(25, 1), None)
    assert points.mask[:, P].all() and not points.mask[:, :P].all()


# What is refused


def test_errors_name_what_was_given_and_what_to_do():
    normal = likelihoods.FixedNormal(nets.Linear(2, P))
    with pytest.raises(ValueError, match="'mnar'; expected one of 'self_masking', 'known', 'agnostic', or a network"):
        likelihoods.Missingness(normal, "mnar")
    with pytest.raises(ValueError, match="sign None; expected sign=1"):
        likelihoods.Missingness(normal, "known")
    with pytest.raises(ValueError, match="'self_masking' and sign 1"):
        likelihoods.Missingness(normal, "self_masking", sign=1)
    with pytest.raises(ValueError, match=r"sign is 2; expected 1"):
        likelihoods.Missingness(normal, "known", sign=2)
    with pytest.raises(ValueError, match="numbers > 0"):
        likelihoods.SelfMasking((P,), 1, slope=0.0)
    with pytest.raises(ValueError, match="expected shape="):
        likelihoods.Missingness(likelihoods.FixedNormal(torch.nn.Linear(2, P)), "known", sign=1)
    with pytest.raises(ValueError, match="even number"):
        likelihoods.Drawn(Logits(), 3)
    mask = torch.ones(4, P).bool()
    counts = likelihoods.Missingness(likelihoods.Poisson(nets.Linear(2, P)), "self_masking")
    with pytest.raises(TypeError, match=r"pixels of PoissonPixels; expected Gaussians .* part of Columns"):
        counts(torch.zeros(4, 2), mask)
    short = likelihoods.Missingness(normal, nets.Linear(P, 1))
    with pytest.raises(ValueError, match=r"logits of shape \(32, 4, 1\) for x of shape \(32, 4, 3\)"):
        short(torch.zeros(4, 2), mask).log_prob(torch.zeros(4, P))


def test_points_of_a_table_with_nan_are_masked_as_ever(x):
    model = model_of(hiding())
    points = Points(x, torch.arange(8), ~x.isnan())
    F = evaluate.elbo(model, guides.FullRank(8, 1).double(), points, seed=0)
    assert F.isfinite().all()


@pytest.mark.parametrize("mechanism", ["self-masking", "drawn"])
def test_imputations_are_draws_of_what_hides_values(x, mechanism):
    hides = hiding() if mechanism == "self-masking" else likelihoods.Drawn(hiding(), 64)
    model = model_of(hides).eval()
    guide = evaluate.infer(model, guides.FullRank(8, 1).double(), x, mask=MASKS, seed=0)
    options = {"mask": MASKS, "seed": 1}
    draws = evaluate.impute(model, guide, x, torch.arange(8), 4000, by="draws", num_proposals=0, **options)
    mean = evaluate.impute(model, guide, x, torch.arange(8), 4000, **options)
    assert torch.equal(draws[:, MASKS], x[MASKS].expand(4000, -1))
    error = 5 * draws[:, ~MASKS].std(0) / 4000**0.5
    assert (draws.mean(0) - mean)[~MASKS].abs().le(2 * error).all()
    at_random = DLGM(model.prior, model.likelihood.likelihood)  # the same p(x | t), and nothing that hides
    plain = evaluate.impute(at_random, guide, x, torch.arange(8), 4000, by="draws", num_proposals=0, **options)
    hidden = ~MASKS[:, :2]
    moved = (draws.mean(0) - plain.mean(0))[:, :2] * torch.tensor([1.0, -1.0])
    assert (moved[hidden] > error.new_tensor(0.05)).all()
