"""What the diagnostics of q say, against PPCA, where posterior, information and coverage are known."""

import io
import math

import cases
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

from pyro_dlgm import PPCA, Points, evaluate, guides
from pyro_dlgm.evaluate.diagnostics import aggregate, uniformity
from pyro_dlgm.evaluate.diagnostics.calibration import LEVELS
from pyro_dlgm.plots import diagnostics as diagrams

# W with correlated columns, and columns of zeros.
W = torch.tensor([[1.0, 0.8], [0.2, 1.0], [-0.5, 0.3], [0.4, 0.4], [0.9, -0.1]])
DEAD = torch.cat([W[:, :1], torch.zeros(5, 1), W[:, 1:], torch.zeros(5, 1)], 1)


def linear(loadings=W, sigma=0.7):
    r"""PPCA with these loadings."""
    P, D = loadings.shape
    model = PPCA(D, P)
    model.set(loadings, torch.linspace(-1, 1, P), torch.tensor(sigma**2))
    return model


class Altered(guides.Exact):
    r"""Creates q with the mean of the exact posterior moved by ``shift`` and its scales multiplied by ``factor``."""

    def __init__(self, model, factor=1.0, shift=0.0):
        super().__init__(model)
        self.factor, self.shift = factor, shift

    def posterior(self, x=None, index=None, mask=None):
        q = super().posterior(x, index, mask)
        mean = q.mean + self.shift * q.variance.sqrt()
        return dist.MultivariateNormal(mean, scale_tril=self.factor * q.scale_tril)


class Prior(guides.Guide):
    r"""Creates q(t | x) = N(0, I), whatever x is."""

    def posterior(self, x=None, index=None, mask=None):
        return dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)


class NoClosedForm(guides.Exact):
    r"""Creates the exact posterior as a transformed distribution, which has no moments and no closed KL."""

    def posterior(self, x=None, index=None, mask=None):
        q = super().posterior(x, index, mask)
        return dist.TransformedDistribution(q, dist.transforms.AffineTransform(0.0, 1.0, event_dim=1))


class Deaf(guides.Exact):
    r"""Creates the posterior of x with zeros in the place of missing pixels, as if they had been seen."""

    def posterior(self, x=None, index=None, mask=None):
        return super().posterior(x if mask is None else x * mask)


def checked(guide, n=1000, **settings):
    return evaluate.check_calibration(guide._model[0], guide, num_points=n, seed=0, **settings)


def hits(factor, shift=0.0):
    r"""P(|t* − m − shift| <= z_c factor) for t* ~ N(m, 1) and the nominal levels c: (4,)."""
    z = torch.distributions.Normal(0.0, 1.0)
    half = factor * z.icdf((1 + torch.tensor(LEVELS)) / 2)
    return (z.cdf(shift + half) - z.cdf(shift - half)).double()


# --- ranks


@pytest.mark.parametrize(("n", "L"), [(200, 99), (1000, 199), (137, 50), (60, 3)])
def test_chi_square_is_that_of_scipy(n, L):
    ranks = torch.randint(L + 1, (n, 2)).square() // L  # not uniform
    bins = max(2, min(20, L + 1, n // 10))
    for d in range(2):
        found = torch.bincount(ranks[:, d] * bins // (L + 1), minlength=bins)
        share = torch.bincount(torch.arange(L + 1) * bins // (L + 1))
        expected = scipy.stats.chisquare(found.numpy(), (n * share.double() / (L + 1)).numpy()).pvalue
        assert uniformity.chi_square_p(ranks, L)[d].item() == pytest.approx(expected, rel=1e-5, abs=1e-300)


def test_directions_are_standard_normal_under_uniform_ranks():
    z = uniformity.directions(torch.randint(20, (200, 4000)), 19)
    assert z.mean(1).abs().max() < 4 / 4000**0.5
    assert (z.std(1) - 1).abs().max() < 4 / 8000**0.5
    assert torch.corrcoef(z)[0, 1].abs() < 4 / 4000**0.5


def test_the_verdict_raises_false_alarms_as_promised_and_not_much_less_often():
    data = [uniformity.shapes(torch.randint(100, (200, 3)), 99, alpha=0.2) for _ in range(500)]
    rate = sum(any(words) for words in data) / 500
    # At most 0.2; Bonferroni loses a little, since the chi-square shares points with the other two.
    assert 0.10 < rate < 0.2 + 3 * (0.2 * 0.8 / 500) ** 0.5


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_band_holds_a_uniform_ecdf_with_its_probability(level):
    low, high = uniformity.ecdf_band(150, 99, level)
    lines = uniformity.ecdf_difference(torch.randint(100, (150, 4000)), 99).T
    inside = ((lines >= low - 1e-12) & (lines <= high + 1e-12)).all(1).double().mean()
    # The band's level is itself from 1000 simulations.
    assert abs(inside - level) < 4 * (level * (1 - level) * (1 / 4000 + 1 / 1000)) ** 0.5


def test_exact_is_calibrated():
    found = checked(guides.Exact(linear()), n=2000)
    assert found.ranks.shape == (2000, 2) and found.joint_ranks.shape == (2000,)
    assert found.ranks.min() >= 0 and found.ranks.max() <= 199 and not found.ranks.is_floating_point()
    # A false alarm of 3e-3 for three tests, at one seed.
    assert (found.p_values > 1e-3).all() and found.joint_p_value > 1e-3
    assert found.verdicts["ranks"] == "no departure seen in 2000 ranks"
    assert found.verdicts["joint ranks"].startswith("no departure")
    assert found.verdicts["coverage"].startswith("as nominal")
    c = found.coverage
    assert c.found.shape == (4, 2) and c.levels.tolist() == list(LEVELS)
    assert ((c.found - c.levels[:, None]).abs() < 4 * c.stderr[:, None]).all()
    assert ((c.pooled - c.levels).abs() < 4 * c.pooled_stderr).all()


@pytest.mark.parametrize(
    ("factor", "shift", "ranks", "coverage"),
    [(0.4, 0.0, "too narrow", "too low"), (2.5, 0.0, "too wide", "too high"), (1.0, -0.7, "too low", "too low")]
    + [(1.0, 0.7, "too high", "too low")],
)
def test_what_is_wrong_with_q_is_named(factor, shift, ranks, coverage):
    found = checked(Altered(linear(), factor, shift))
    assert f"{ranks} (" in found.verdicts["ranks"] and "all 2 dimensions" in found.verdicts["ranks"]
    others = {"too narrow", "too wide", "too low", "too high"} - {ranks}
    assert not any(word in found.verdicts["ranks"] for word in others)
    assert found.verdicts["coverage"].startswith(coverage) and found.p_values.max() < 1e-6


@pytest.mark.parametrize(("factor", "shift"), [(0.4, 0.0), (2.5, 0.0), (1.0, 0.7), (0.6, -0.3)])
@pytest.mark.parametrize("kind", ["closed", "from ranks"])
def test_coverage_of_an_altered_gaussian_is_the_analytic_one(factor, shift, kind):
    found = checked(Altered(linear(), factor, shift), n=2000)
    if kind == "from ranks":  # what a q without closed marginals gets
        found = evaluate.Calibration(found.ranks, found.joint_ranks, (found.ranks + 0.5) / 200, 199)
    expected = hits(factor, shift)
    c, error = found.coverage, (expected * (1 - expected) / 2000).sqrt()
    slack = 0.0 if kind == "closed" else 0.004  # quantiles of 199 samples are off by O(1/L)
    assert ((c.found - expected[:, None]).abs() < 4 * error[:, None] + slack).all()
    # At 100% nothing scatters: the error of independent dimensions is the least.
    assert ((c.pooled - expected).abs() < 4 * c.pooled_stderr.maximum(error / 2**0.5) + slack).all()


def test_the_pit_of_ranks_gives_every_level_its_exact_share_of_the_ranks():
    found = checked(NoClosedForm(linear()), n=50)
    assert torch.allclose(found.pit, (found.ranks + 0.5) / 200)
    assert (found.pit - checked(guides.Exact(linear()), n=50).pit).abs().max() < 0.2
    ranks = torch.arange(200).unsqueeze(-1)
    every = evaluate.Calibration(ranks, ranks[:, 0], (ranks + 0.5) / 200, 199).coverage
    assert torch.allclose(every.found[:, 0], every.levels)


def test_the_ends_of_an_interval_are_inside():
    held = uniformity.inside(torch.tensor([0.25, 0.75, 0.5, 0.125]), torch.tensor([0.0, 0.5]).double())
    assert held.tolist() == [[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]


def test_only_the_wrong_dimension_is_named():
    ranks = torch.randint(200, (1000, 3))
    ranks[:, 1] = (ranks[:, 1] + torch.randint(200, (1000,))) // 2  # a hump
    verdict = evaluate.Calibration(ranks, ranks[:, 0], (ranks + 0.5) / 200, 199).verdicts
    assert "too wide" in verdict["ranks"] and "in dimension 1" in verdict["ranks"] and "narrow" not in verdict["ranks"]
    assert "too high (q too wide) in dimension 1" in verdict["coverage"]


def test_ranks_that_are_off_in_another_way_are_odd():
    left = torch.tensor([0, 3, 4, 7, 8])  # of 20 bins, with their mirror images: mean and variance about as uniform
    bins = torch.cat([left, 19 - left])
    ranks = (10 * bins.unsqueeze(-1) + torch.arange(10)).reshape(-1, 1)  # (100, 1)
    assert uniformity.directions(ranks.repeat(10, 1), 199).abs().max() < 2
    assert uniformity.shapes(ranks.repeat(10, 1), 199) == ["odd"]


@pytest.mark.parametrize(("rank", "word"), [(199, "low"), (0, "high"), (100, "wide")])
def test_ranks_that_are_all_the_same_are_named(rank, word):
    assert uniformity.shapes(torch.full((100, 1), rank), 199) == [word]


def test_pooled_coverage_of_copies_has_the_error_of_one_dimension():
    pit = torch.rand(1000, 1)
    one = evaluate.Calibration((pit * 200).long(), torch.zeros(1000).long(), pit, 199).coverage
    many = evaluate.Calibration((pit * 200).long(), torch.zeros(1000).long(), pit.expand(-1, 9), 199).coverage
    assert torch.allclose(one.pooled_stderr, many.pooled_stderr) and torch.allclose(one.pooled, many.pooled)
    binomial = (one.levels * (1 - one.levels) / 1000).sqrt()
    assert torch.allclose(one.stderr, binomial) and torch.allclose(one.pooled_stderr, binomial, rtol=0.1)
    pit = torch.rand(1000, 9)
    independent = evaluate.Calibration((pit * 200).long(), torch.zeros(1000).long(), pit, 199).coverage
    assert torch.allclose(independent.pooled_stderr, binomial / 3, rtol=0.1)


def test_the_prior_as_q_passes_in_every_dimension_and_is_seen_by_the_joint_rank():
    model = linear()
    found = evaluate.check_calibration(model, Prior(), seed=0)
    assert found.verdicts["ranks"].startswith("no departure") and found.verdicts["coverage"].startswith("as nominal")
    assert "blind to x" in found.verdicts["joint ranks"] and found.joint_p_value < 1e-6


def test_a_narrow_q_has_samples_that_are_too_probable():
    assert "too narrow" in checked(Altered(linear(), 0.4)).verdicts["joint ranks"]


@pytest.mark.parametrize(("family", "word"), [(guides.FullRank, "no departure"), (guides.MeanField, "too narrow")])
def test_per_point_guides_are_checked_with_an_e_step_of_their_own(family, word):
    model = linear(torch.tensor([[1.0, 0.9], [0.9, 1.0], [0.0, 0.1]]), sigma=0.5)  # correlated posterior
    rows = family(7, 2)
    before = rows.rows.weight.clone()
    found = evaluate.check_calibration(model, rows, num_points=300, seed=0)
    assert word in found.verdicts["ranks"] and torch.equal(before, rows.rows.weight)


def test_the_mask_reaches_model_and_guide():
    mask = torch.rand(1000, 5) > 0.5
    verdicts = checked(guides.Exact(linear()), mask=mask).verdicts
    assert verdicts["ranks"].startswith("no departure") and verdicts["joint ranks"].startswith("no departure")
    assert not checked(Deaf(linear()), mask=mask).verdicts["ranks"].startswith("no departure")


def test_blocks_of_points_and_samples_change_nothing_but_the_draws(monkeypatch):
    monkeypatch.setattr(evaluate.blocks.blocks, "__defaults__", (40 * 5,))
    found = checked(guides.Exact(linear()), n=200)
    assert found.ranks.shape == (200, 2) and found.ranks.max() > 150 and (found.p_values > 1e-4).all()
    assert found.joint_ranks.max() > 150 and found.joint_p_value > 1e-4


# --- information and the aggregate posterior


def test_information_of_exact_is_the_analytic_one_and_codes_fill_the_prior():
    model = linear()
    d = evaluate.diagnose(model, guides.Exact(model), model(size=2000).detach(), num_simulated=0, seed=0)
    exact = 0.5 * torch.linalg.slogdet(torch.eye(2) + W.T @ W / 0.49).logabsdet
    covariance = model.posterior(torch.zeros(1, 5)).covariance_matrix
    assert exact.item() == pytest.approx(-0.5 * covariance.logdet().item(), abs=1e-4)
    # Codes of 2000 points: the lower and the upper bound are 0.01 apart.
    assert d.information - 4 * d.information_stderr < exact < d.information_upper + 4 * d.information_stderr
    assert d.information_upper - d.information < 0.02 and d.information_stderr < 0.03
    assert abs(d.aggregate_kl) < 0.02
    assert d.aggregate_mean.abs().max() < 4 / 2000**0.5
    assert (d.aggregate_std - 1).abs().max() < 4 / 4000**0.5
    assert "well below log N" in d.verdicts["I(x; t)"]
    assert d.verdicts["KL(q(t) || p(t))"].startswith("no departure")
    assert d.verdicts["marginals of q(t)"].startswith("no mean or standard deviation")


def test_the_bounds_hold_the_information_between_them():
    model = linear(3 * W)  # I is 3.2 nats, N is small
    exact = 0.5 * torch.linalg.slogdet(torch.eye(2) + 9 * W.T @ W / 0.49).logabsdet
    found = [
        evaluate.diagnose(model, guides.Exact(model), model(size=60).detach(), num_simulated=0, seed=s)
        for s in range(20)
    ]
    low, high = (torch.tensor([getattr(d, f"information{end}") for d in found]) for end in ("", "_upper"))
    error = 4 * torch.stack([low.std(), high.std()]) / 20**0.5
    assert low.mean() + error[0] < exact < high.mean() - error[1]
    assert (low < math.log(60)).all() and all(w in found[0].verdicts["I(x; t)"] for w in ("between", "more points"))


def test_the_ceiling_is_named():
    model = linear(20 * W, sigma=0.1)  # I is 10.6 nats, log N is 4.6
    d = evaluate.diagnose(model, guides.Exact(model), model(size=100).detach(), num_simulated=0, seed=0)
    assert math.log(100) - 0.5 < d.information <= math.log(100) + 1e-4
    assert "ceiling log N = 4.61" in d.verdicts["I(x; t)"]
    assert d.verdicts["KL(q(t) || p(t))"].startswith("undecided")


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.4, 0.0), (2.5, 0.0), (1.0, 0.7)])
def test_the_rate_is_information_plus_mismatch(factor, shift):
    model = linear(sigma=2.0)
    d = evaluate.diagnose(model, Altered(model, factor, shift), model(size=1000).detach(), num_simulated=0, seed=0)
    error = (d.information_stderr**2 + d.aggregate_kl_stderr**2) ** 0.5
    assert abs(d.rate - d.information - d.aggregate_kl) < 4 * error
    departs = d.verdicts["marginals of q(t)"]
    word = {(0.4, 0.0): "too narrow", (2.5, 0.0): "too wide", (1.0, 0.7): "mean off"}.get((factor, shift), "no mean")
    assert word in departs and ("all 2 dimensions" in departs or word == "no mean")
    exact = (factor, shift) == (1.0, 0.0)
    assert d.verdicts["KL(q(t) || p(t))"].startswith("no departure" if exact else "q(t) is not the prior")


@pytest.mark.parametrize("budget", [8, 10**6])
@pytest.mark.parametrize("points", [3, 100])
def test_the_aggregate_posterior_is_the_mixture(monkeypatch, budget, points):
    monkeypatch.setattr(aggregate, "BUDGET", budget)
    monkeypatch.setattr(evaluate.blocks.blocks, "__defaults__", (points * 5,))
    model = linear().double()
    x, guide = model(size=9).detach(), guides.Exact(model)
    q = model.posterior(x)
    t = q.sample((4,))
    with_own, without = aggregate.log_aggregate(guide, t, q.log_prob(t), Points(x))
    for i in range(9):
        components = dist.MultivariateNormal(q.loc, scale_tril=q.scale_tril)
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(9).double()), components)
        assert torch.allclose(with_own[:, i], mixture.log_prob(t[:, i]))
        weights = torch.ones(9).double().index_fill(0, torch.tensor([i]), 0.0)
        mixture = dist.MixtureSameFamily(dist.Categorical(weights), components)
        assert torch.allclose(without[:, i], mixture.log_prob(t[:, i]))


# --- KL and active units


def test_kl_of_a_factorized_q_is_the_closed_form_and_adds_up():
    guide = guides.MeanField(3, 2)
    mean, log_scale = torch.randn(3, 2), torch.randn(3, 2)
    guide.set_rows(torch.cat([mean, log_scale], 1))
    index = torch.tensor([2, 0])
    d = evaluate.diagnose(linear(), guide, torch.randn(2, 5), index, num_simulated=0)
    by_hand = (0.5 * ((2 * log_scale).exp() + mean**2 - 1) - log_scale)[index]
    assert torch.allclose(d.kl, by_hand.mean(0)) and d.rate == pytest.approx(by_hand.sum(1).mean().item(), rel=1e-5)
    assert d.factorized and "add up to the total" in d.verdicts["KL(q || p)"]
    assert torch.allclose(d.mean_variance, mean[index].var(0))
    moments = mean[index].mean(0), ((2 * log_scale).exp() + mean**2)[index].mean(0)
    assert torch.allclose(d.aggregate_mean, moments[0])
    assert torch.allclose(d.aggregate_std, (moments[1] - moments[0] ** 2).sqrt(), rtol=1e-4)


def test_kl_of_a_correlated_q_is_that_of_its_marginals_and_says_what_is_left():
    model = linear()
    x = model(size=50).detach()
    d = evaluate.diagnose(model, guides.Exact(model), x, num_simulated=0)
    q = model.posterior(x)
    prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert d.rate == pytest.approx(torch.distributions.kl_divergence(q, prior).mean().item(), rel=1e-4)
    correlation = 0.5 * (q.variance.log().sum(-1) - q.covariance_matrix.logdet()).mean().item()
    assert correlation > 0.05
    assert d.rate - d.kl.sum().item() == pytest.approx(correlation, abs=1e-4)
    assert not d.factorized
    assert f"q's correlations make up {correlation:.2f}" in d.verdicts["KL(q || p)"]


def test_dead_columns_are_inactive_by_both_definitions():
    model = linear(DEAD)
    d = evaluate.diagnose(model, guides.Exact(model), model(size=300).detach(), num_simulated=0, seed=0)
    assert d.active_by_variance.tolist() == d.active_by_kl.tolist() == [True, False, True, False]
    assert d.verdicts["active units"].startswith("2 of 4 by the variance") and "2 by KL" in d.verdicts["active units"]
    assert "dimensions 1, 3" in d.verdicts["active units"]


def test_the_two_definitions_differ_where_q_is_narrow_and_does_not_move():
    d = evaluate.diagnose(
        linear(), guides.MeanField(30, 2, init_scale=0.01), torch.randn(30, 5), torch.arange(30), num_simulated=0
    )
    assert not d.active_by_variance.any() and d.active_by_kl.all()


@pytest.mark.parametrize(("moved", "active"), [(1, False), (3, True)])
def test_a_dimension_is_active_by_kl_if_it_is_used_at_more_than_one_percent_of_the_points(moved, active):
    guide = guides.MeanField(200, 2)
    guide.set_rows(torch.zeros(200, 4).index_fill(0, torch.arange(moved), 1.0))
    d = evaluate.diagnose(linear(), guide, torch.zeros(200, 5), torch.arange(200), num_simulated=0)
    assert d.active_by_kl.tolist() == [active] * 2 and d.collapsed.tolist() == pytest.approx([1 - moved / 200] * 2)


def test_a_q_without_closed_forms_is_diagnosed_from_its_samples():
    model = linear(DEAD)
    x = model(size=1000).detach()
    sampled = evaluate.diagnose(model, NoClosedForm(model), x, num_simulated=500, num_samples=8, seed=0)
    closed = evaluate.diagnose(model, guides.Exact(model), x, num_simulated=500, num_samples=8, seed=0)
    assert sampled.kl is None and sampled.active_by_kl is None and "no closed form" in sampled.verdicts["KL(q || p)"]
    assert abs(sampled.rate - closed.rate) < 4 * sampled.rate_stderr
    assert abs(sampled.information - closed.information) < 4 * sampled.information_stderr
    # Means of 4 samples have a variance of 1/4 in the dead columns; it must not count.
    assert (sampled.mean_variance - closed.mean_variance).abs().max() < 4 * (0.25**2 / 1000 * 4) ** 0.5
    assert sampled.mean_variance[[1, 3]].abs().max() < 0.05
    assert (sampled.aggregate_std - closed.aggregate_std).abs().max() < 0.05
    assert sampled.calibration.verdicts["ranks"].startswith("no departure")
    assert (sampled.calibration.coverage.pooled - torch.tensor(LEVELS)).abs().max() < 0.05


# --- what all evaluation promises


@pytest.mark.parametrize("name", ["amortized", "amortized_full_rank", "auto_normal", "mean_field"])
def test_images_and_all_kinds_of_guides_are_diagnosed(name):
    case = cases.make(name, cases.conv(likelihood="bernoulli"))
    simulated = 0 if case.per_point else 50  # an E-step on images would take long
    d = evaluate.diagnose(case.model, case.guide, *case.args, num_samples=2, num_simulated=simulated, seed=0)
    assert d.num_points == cases.B and d.kl.shape == d.aggregate_std.shape == (cases.D,)
    assert d.factorized == (name != "amortized_full_rank") and d.information <= math.log(cases.B) + 1e-6
    assert (d.calibration is None) == case.per_point and case.guide.training
    assert case.per_point or d.calibration.ranks.shape == d.calibration.pit.shape == (50, cases.D)


def test_diagnose_says_one_verdict_a_line():
    model = linear()
    d = evaluate.diagnose(model, guides.Exact(model), model(size=100).detach(), num_simulated=200, seed=0)
    assert len(str(d).splitlines()) == len(d.verdicts) == 8
    assert "coverage" in str(d.calibration) and len(str(d.calibration).splitlines()) == 3


def test_a_mask_of_the_points_is_dealt_to_the_simulated_ones():
    model, mask = linear(), torch.rand(40, 5) > 0.5
    x = model(size=40).detach().masked_fill(~mask, math.nan)
    d = evaluate.diagnose(model, guides.Exact(model), x, mask=mask, num_simulated=500, seed=0)
    assert math.isfinite(d.rate) and d.calibration.verdicts["ranks"].startswith("no departure")
    d = evaluate.diagnose(model, Deaf(model), x.nan_to_num(), mask=mask, num_simulated=500, seed=0)
    assert not d.calibration.verdicts["ranks"].startswith("no departure")


def test_a_seed_decides_and_nothing_is_touched():
    model = linear()
    x, guide = model(size=60).detach(), guides.Exact(model).train()
    before, w = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    one, two, other = (evaluate.diagnose(model, guide, x, num_simulated=100, seed=s) for s in (1, 1, 2))
    assert one.information == two.information != other.information
    assert torch.equal(one.calibration.ranks, two.calibration.ranks)
    assert not torch.equal(one.calibration.ranks, other.calibration.ranks)
    evaluate.diagnose(model, guide, x, num_simulated=100)
    assert torch.equal(before, torch.get_rng_state()) and guide.training
    assert all(torch.equal(a, b) for a, b in zip(w, model.parameters(), strict=True))


def test_points_simulated_with_the_same_seed_share_no_noise_with_the_samples():
    model = linear()
    torch.manual_seed(3)
    x = model(size=2000).detach()
    d = evaluate.diagnose(model, guides.Exact(model), x, num_samples=2, num_simulated=0, seed=3)
    error = (d.information_stderr**2 + d.aggregate_kl_stderr**2) ** 0.5
    assert abs(d.rate - d.information - d.aggregate_kl) < 4 * error and abs(d.aggregate_kl) < 0.1


@pytest.mark.parametrize("name", ["point", "auto_delta"])
def test_point_masses_are_refused_with_the_way_out(name):
    model = linear()
    guide = guides.PointEstimate(4, 2) if name == "point" else guides.auto(model, "AutoDelta", 4)
    with pytest.raises(TypeError, match=r"evaluate\.infer\(model, guides\.FullRank"):
        evaluate.diagnose(model, guide, torch.randn(4, 5), torch.arange(4))
    with pytest.raises(TypeError, match=r"evaluate\.infer\(model, guides\.FullRank"):
        evaluate.check_calibration(model, guide)
    with pytest.raises(TypeError, match="posterior"):
        evaluate.diagnose(model, lambda x: None, torch.randn(4, 5))


@pytest.mark.parametrize(
    ("points", "settings", "message"),
    [
        (1, {}, "x has 1 points"),
        (5, {"num_samples": 1}, "num_samples is 1"),
        (5, {"index": torch.arange(3)}, "one index for each"),
        (5, {"num_simulated": 10}, "num_points is 10"),
        (0, {}, "no points"),
        (5, {"mask": torch.ones(3, 5).bool()}, "mask has shape"),
        (5, {"mask": torch.ones(5, 5)}, "torch.bool"),
    ],
)
def test_what_makes_no_sense_is_refused(points, settings, message):
    model = linear()
    with pytest.raises(ValueError, match=message):
        evaluate.diagnose(model, guides.Exact(model), torch.randn(points, 5), **settings)


def test_values_and_rows_that_are_not_there_are_refused():
    model = linear()
    with pytest.raises(ValueError, match=r"rows \[2\]"):
        evaluate.diagnose(model, guides.Exact(model), torch.zeros(5, 5).index_fill(0, torch.tensor([2]), math.nan))
    with pytest.raises(ValueError, match="index"):
        evaluate.diagnose(model, guides.MeanField(4, 2), torch.zeros(3, 5), torch.tensor([0, 3, 4]))
    with pytest.raises(ValueError, match="mask has shape"):
        evaluate.check_calibration(model, guides.Exact(model), mask=torch.ones(7, 5).bool())


# --- pictures


def test_the_pictures_show_the_numbers():
    model = linear(DEAD)
    d = evaluate.diagnose(model, guides.Exact(model), model(size=100).detach(), num_simulated=100, seed=0)
    figure = diagrams.calibration(d.calibration)
    lines = [line.get_ydata() for line in figure.axes[0].get_lines()]
    expected = uniformity.ecdf_difference(d.calibration.ranks, 199)
    assert len(lines) == 5 and torch.allclose(torch.as_tensor(lines[1]), expected[:, 1])
    figure.savefig(io.BytesIO())
    figure = diagrams.latents(d)
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx(d.kl.tolist())
    figure.savefig(io.BytesIO())


# --- the coverage verdict under an exact q


def pit_of(pit, L=199):
    r"""The calibration with these PIT values (n, D)."""
    return evaluate.Calibration((pit * (L + 1)).long(), torch.zeros(len(pit)).long(), pit, L)


@pytest.mark.parametrize("kind", ["independent", "copies", "one"])
def test_the_coverage_verdict_raises_no_more_than_one_false_alarm_in_a_hundred(kind):
    n, D, runs = 50, 64, 600
    alarms = 0
    for _ in range(runs):
        pit = torch.rand(n, D if kind == "independent" else 1).double().expand(-1, 1 if kind == "one" else D)
        alarms += not pit_of(pit).verdicts["coverage"].startswith("as nominal")
    assert alarms <= 0.01 * runs + 3 * (0.01 * 0.99 * runs) ** 0.5


@pytest.mark.parametrize("L", [3, 10, 50])
def test_coverage_from_few_samples_is_held_against_what_their_ranks_can_show(L):
    r"""Of L + 1 equally likely ranks, no central interval has exactly its nominal share."""
    ranks = torch.randint(L + 1, (2000, 2))
    found = evaluate.Calibration(ranks, ranks[:, 0], (ranks + 0.5) / (L + 1), L)
    assert found.verdicts["coverage"].startswith("as nominal")
    inside = (2 * (torch.arange(L + 1).double() + 0.5) / (L + 1) - 1).abs() <= found.coverage.levels[:, None]
    assert torch.allclose(found.coverage.expected, inside.double().mean(1))


def test_coverage_sees_one_dimension_and_all_together():
    pit = torch.rand(1000, 8).double()
    narrow = torch.special.ndtr(1.5 * torch.special.ndtri(pit[:, :1]))
    assert (
        "too low (q too narrow, or misplaced) in dimension 0"
        in pit_of(torch.cat([narrow, pit[:, 1:]], 1)).verdicts["coverage"]
    )
    pit = torch.rand(4000, 64).double()
    slightly = torch.special.ndtr(1.06 * torch.special.ndtri(pit))
    assert "too low" in pit_of(slightly).verdicts["coverage"]


def test_coverage_says_one_thing_of_a_dimension():
    r"""Where the tails of q are too short, 50% intervals hold the truth too often, and 95% intervals too rarely."""
    pit = torch.rand(4000, 3).double()
    heavy = 0.7 * torch.distributions.StudentT(2.0).sample((4000,)).double()
    pit[:, 1] = torch.special.ndtr(heavy).clamp(1e-6, 1 - 1e-6)
    pit[:, 2] = torch.special.ndtr(0.6 * torch.special.ndtri(pit[:, 2]))
    said = pit_of(pit).verdicts["coverage"]
    assert "at some levels and too high at others (q of another shape than the posterior) in dimension 1" in said
    assert (
        said.count("dimension 1") == 1 and "too high (q too wide) in dimension 2" in said and "too narrow" not in said
    )
    pooled = pit[:, 1:2].expand(-1, 1)
    assert "another shape" in pit_of(pooled).verdicts["coverage"]


def test_verdicts_on_different_things_say_what_they_are_about():
    model = linear()
    x = model(size=1000).detach()
    narrow = evaluate.diagnose(model, Altered(model, 0.4), x, num_simulated=1000, seed=0).verdicts
    assert narrow["ranks"].startswith("q(t | x) is too narrow")
    assert narrow["joint ranks"].endswith("over all dimensions together q(t | x) is too narrow")
    assert narrow["marginals of q(t)"].startswith(
        "the average of q(t | x) over the points, against p(t): too narrow in"
    )


def test_units_without_a_closed_mean_are_active_beyond_the_noise_of_their_samples():
    r"""Means of five samples of N(0, I): the product of two varies by (1/5) / √N, which is more than 0.01."""

    class Samples(guides.Guide):
        def posterior(self, x=None, index=None, mask=None):
            q = dist.MultivariateNormal(torch.zeros(len(x), 40), torch.eye(40))
            return dist.TransformedDistribution(q, dist.transforms.AffineTransform(0.0, 1.0, event_dim=1))

    model = PPCA(40, 5)
    d = evaluate.diagnose(model, Samples(), torch.randn(100, 5), num_simulated=0, seed=0)
    assert not d.active_by_variance.any() and (d.mean_variance > aggregate.ACTIVE).any()
    # A product of two normals has a kurtosis of 9: an error from 100 points scatters by 14%, their mean over 40 by 2%.
    assert float(d.mean_variance_error.mean()) == pytest.approx(0.02, rel=0.1)
    d = evaluate.diagnose(linear(), guides.Exact(linear()), linear()(size=50).detach(), num_simulated=0, seed=0)
    assert not d.mean_variance_error.any() and d.active_by_variance.all()
