r"""Gaussians near the posteriors, from which walks start, and the numbers of temperatures that the pilot tries."""

import importlib
import itertools
import math
import warnings
from dataclasses import replace

import cases
import pytest
import torch
from pyro import distributions as dist
from pyro_dlgm.guides import families
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyro_dlgm.points
from pyro_dlgm import DLGM, PPCA, Points, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.e_step.climb import FAR, climb
from pyro_dlgm.evaluate.e_step.gaussians import Near, _noise, gaussians
from pyro_dlgm.evaluate.marginal import pilot, starts
from pyro_dlgm.evaluate.marginal.annealing.bdmc import BDMC
from pyro_dlgm.evaluate.marginal.annealing.path import Settings, Walk
from pyro_dlgm.evaluate.marginal.trial import Trial
from pyro_dlgm.latents.asked import log_joint
from pyro_dlgm.modes.starts import AMONG, likeliest

evidence = importlib.import_module("pyro_dlgm.evaluate.marginal.evidence")
e_step = importlib.import_module("pyro_dlgm.evaluate.e_step.infer")
WALKS = Settings(4, 1, 3, 0.65, 2**28)


def bound(model, q, points):
    r"""F of each point."""
    return evaluate.elbo(model, q, points.x, points.index, 4000, seed=0)


# The Gaussians


def near(model, points, guide=guides.FullRank):
    r"""A guide with the Gaussians as its rows."""
    raw = gaussians(model, points, guide.family, seed=0).raw
    return guide(len(points), guide.family.latent_dim(raw.shape[-1])).to(raw).set_rows(raw)


def test_on_ppca_they_are_the_posteriors():
    ppca = PPCA(3, 7, 0.5).double()
    ppca.set(torch.randn(7, 3).double(), torch.randn(7).double(), ppca.sigma2.detach())
    points = Points(ppca(size=5).detach()).numbered()
    guide = near(ppca, points)
    exact, q = ppca.posterior(points.x), guide.posterior(index=points.index)
    torch.testing.assert_close(q.mean, exact.mean.detach(), rtol=0, atol=1e-5)
    covariance = exact.covariance_matrix.detach().expand(5, 3, 3)
    torch.testing.assert_close(q.covariance_matrix, covariance, rtol=0, atol=1e-5)


def test_factorized_ones_are_the_closest_to_the_posteriors_of_ppca():
    r"""KL(q ‖ p) is smallest where q has p's mean and the diagonal of its precision (Bishop, 2006, equation 10.14)."""
    ppca = PPCA(3, 7, 0.5).double()
    ppca.set(torch.randn(7, 3).double(), torch.randn(7).double(), ppca.sigma2.detach())
    points = Points(ppca(size=5).detach()).numbered()
    exact, q = ppca.posterior(points.x), near(ppca, points, guides.MeanField).posterior(index=points.index)
    torch.testing.assert_close(q.mean, exact.mean.detach(), rtol=0, atol=1e-5)
    precision = exact.precision_matrix.detach().diagonal(dim1=-2, dim2=-1).expand(5, 3)
    scale = precision.rsqrt()
    torch.testing.assert_close(q.base_dist.scale, scale, rtol=0.03, atol=0)  # steps end where they gain 0.02 nats
    assert (exact.stddev.detach() > 1.1 * scale).any()


def test_steps_bring_most_of_what_laplace_lacks():
    model = cases.conv()
    with torch.no_grad():
        for p in model.likelihood.net.parameters():
            p.mul_(2)
    points = Points(model(size=12).detach()).numbered()
    laplace = bound(model, guides.Laplace(model), points)
    guide = near(model, points)
    best = bound(model, evaluate.infer(model, guides.FullRank(12, cases.D), points.x, seed=0), points)
    assert (best - laplace).mean() > 0.1  # there is something to bring
    assert (best - bound(model, guide, points)).mean() < 0.2 * (best - laplace).mean()
    assert torch.equal(guide.rows.weight, near(model, points).rows.weight)


class Broken(nn.Module):
    r"""A decoder whose output is no number."""

    def forward(self, t):
        return t.sum(-1, keepdim=True) * torch.nan


def test_a_point_without_a_mode_starts_at_the_priors_scales():
    class Wide(nn.Module):
        def forward(self, given=None):
            return dist.Normal(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 3.0])).to_event(1)

    model = DLGM(Wide(), likelihoods.FixedNormal(nets.Net(2, 1, Broken()), 0.5))
    guide = near(model, Points(torch.zeros(2, 1)).numbered())
    q = guide.posterior(index=torch.arange(2))
    torch.testing.assert_close(q.stddev, torch.tensor([[2.0, 3.0]]).expand(2, 2))
    assert (q.mean == 0).all()


class Tanh(torch.autograd.Function):
    r"""A function with a backward pass alone: it has no tangents."""

    @staticmethod
    def forward(ctx, t):
        ctx.save_for_backward(t.tanh())
        return t.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors
        return gradient * (1 - y**2)


class Backward(nn.Module):
    r"""A network t -> W tanh(t)."""

    def __init__(self, W, tanh):
        super().__init__()
        self.register_buffer("W", W)
        self.tanh = tanh

    def forward(self, t):
        return self.tanh(t) @ self.W


def test_a_decoder_without_tangents_starts_at_the_priors_scales():
    W = torch.randn(2, 6)
    plain, odd = (
        DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Net(2, 6, Backward(W, tanh)), 0.5))
        for tanh in (torch.tanh, Tanh.apply)
    )
    points = Points(plain(size=8).detach()).numbered()
    with pytest.raises(RuntimeError):
        guides.Laplace(odd).posterior(points.x)
    assert (bound(plain, near(plain, points), points) - bound(odd, near(odd, points), points)).abs().max() < 0.3
    for guide in (guides.MeanField(1, 2), guides.FullRank(1, 2)):
        best = [bound(m, evaluate.infer(m, guide, points, seed=0), points) for m in (plain, odd)]
        assert (best[0] - best[1]).abs().max() < 0.05
    settings = {"num_temperatures": 20, "num_simulated": 0, "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log_px = [evaluate.evidence(m, None, points, **settings).log_px.value for m in (plain, odd)]
    assert (log_px[0] - log_px[1]).abs().max() < 0.2


def test_samples_of_a_step_span_all_directions_where_q_has_correlations():
    assert _noise(families.full_rank, 64, 0).shape == (128, 64)
    assert _noise(families.mean_field, 64, 0).shape == (16, 64)
    for family in (families.mean_field, families.full_rank):  # few directions, several times
        assert _noise(family, 3, 0).shape == (18, 3)


def test_few_samples_leave_factorized_rows_near_the_optimum_of_many_correlated_latents():
    r"""F(q*) = log p(x) − KL, KL = ½ (Σ log M_jj − log det M) with the posterior's precision M / σ²."""
    D = 32
    ppca = PPCA(D, 40, 0.5).double()
    W = torch.randn(40, D).double() @ (torch.eye(D) + 0.5 * torch.randn(D, D)).double() / D**0.5
    ppca.set(W, torch.zeros(40).double(), ppca.sigma2.detach())
    points = Points(ppca(size=20).detach()).numbered()
    M = (W.mT @ W + ppca.sigma2 * torch.eye(D)).detach()
    best = ppca.log_prob(points.x).detach() - 0.5 * (M.diagonal().log().sum() - torch.logdet(M))
    q = evaluate.infer(ppca, guides.MeanField(1, D).double(), points, seed=0)
    q, p = q.posterior(index=points.index), ppca.posterior(points.x)
    q = MultivariateNormal(q.mean, covariance_matrix=q.variance.diag_embed())
    missed = best - (ppca.log_prob(points.x) - kl_divergence(q, MultivariateNormal(p.mean, p.covariance_matrix)))
    assert (best < ppca.log_prob(points.x) - 2).all()  # correlations matter
    assert missed.max() < 0.15 and missed.mean() < 0.1  # of 16 nats


def test_a_point_that_is_no_number_leaves_the_others_alone(monkeypatch):
    model = cases.conv()
    points = Points(model(size=6).detach()).numbered()
    real = e_step.gaussians

    def spoiled(*asked, **settings):
        near = real(*asked, **settings)
        return near._replace(raw=near.raw.index_fill(0, torch.tensor([2]), torch.nan), found=points.index != 2)

    plain = bound(model, evaluate.infer(model, guides.FullRank(1, cases.D), points, seed=0), points)
    monkeypatch.setattr(e_step, "gaussians", spoiled)
    q = evaluate.infer(model, guides.FullRank(1, cases.D), points, seed=0)
    assert q.convergence.converged.all() and (bound(model, q, points) - plain).abs().max() < 0.05


def test_many_latents_start_at_fresh_rows(monkeypatch):
    monkeypatch.setattr(e_step, "gaussians", None)
    model = DLGM(priors.StandardNormal(65), likelihoods.FixedNormal(nets.Linear(65, (3,))))
    with pytest.warns(UserWarning, match="not converged"):
        evaluate.infer(model, guides.MeanField(1, 65), torch.zeros(2, 3), max_steps=2, window=2, seed=0)


def test_gradients_on_the_way_to_the_gaussians_are_counted(monkeypatch):
    model = cases.conv()
    points = Points(model(size=6).detach()).numbered()
    spent = cases.spent(monkeypatch)
    assert gaussians(model, points, guides.FullRank.family, seed=0).gradients == sum(spent)


@pytest.mark.parametrize("guide", [guides.MeanField, guides.FullRank])
@pytest.mark.parametrize("missed", [0, 1])
def test_an_e_step_goes_on_from_the_gaussians_and_says_what_they_cost(guide, missed, monkeypatch):
    r"""A point whose Gaussian was not found keeps its fresh row, and the climb begins far from the optimum."""
    model = cases.conv()
    points, seen = Points(model(size=6).detach()).numbered(), []
    raw, found = gaussians(model, points, guide.family, seed=0).raw, torch.arange(6) >= missed
    monkeypatch.setattr(e_step, "gaussians", lambda m, p, *_, **__: Near(raw[p.index], found[p.index], len(p) * 1000))
    monkeypatch.setattr(
        e_step, "climb", lambda m, q, p, pace, **how: (seen.append(how), climb(m, q, p, pace, **how))[1]
    )
    with pytest.warns(UserWarning, match="6 of 6 points have not converged"):
        q = evaluate.infer(model, guide(1, cases.D), points, max_steps=2, window=2, batch_size=3, seed=0)
    samples = 1 if missed else 4
    assert seen == [{"far": FAR if missed else (), "spent": 6000}]
    assert q.convergence.gradients_per_point == 1000 + 2 * samples
    # Two steps of Adam, at a tenth of the rate near the optimum.
    moved = (q.rows.weight - raw)[missed:].abs().max()
    assert moved <= 2 * 0.1 * (1.0 if missed else 0.1) * 1.01
    assert not missed or (q.rows.weight - raw)[0].abs().max() > 2 * 0.1 * 1.01


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_an_encoders_q_stays_where_an_e_step_starts(monkeypatch):
    model = cases.conv()
    x = model(size=3).detach()
    guide = guides.Amortized(nets.MLP(x.shape[1:], 8), cases.D)
    monkeypatch.setattr(e_step, "gaussians", None)
    q = evaluate.infer(model, guide, x, max_steps=2, window=2, lr=1e-6, seed=0)
    torch.testing.assert_close(q.posterior(index=torch.arange(3)).mean, guide.posterior(x).mean, rtol=0, atol=1e-4)


class Bumps(nn.Module):
    r"""A low bump at 0.8 and a high one at -1: x = 1 is explained by the high one, uphill of t = 0 is the low one."""

    def forward(self, t):
        return 0.5 * torch.exp(-((t - 0.8) ** 2) / 0.1) + torch.exp(-((t + 1) ** 2) / 0.1)


@pytest.mark.parametrize("guide", [guides.MeanField, guides.FullRank])
def test_rows_end_at_the_mode_that_has_the_mass(guide):
    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(Bumps(), 0.1)).double()
    points = Points(torch.ones(8, 1).double()).numbered()
    nearest = guides.Laplace(model).posterior(points.x)
    assert (nearest.mean > 0.7).all()
    q = evaluate.infer(model, guide(1, 1).double(), points, seed=0)
    assert (q.posterior(index=points.index).mean < -0.9).all()
    assert (evaluate.quadrature(model, points.x) - bound(model, q, points)).max() < 0.1


def test_a_last_step_that_promises_much_is_taken_only_if_it_climbs():
    r"""On top of the bump the curvature is that of the prior alone, and a step promises half a nat, at t = 0."""
    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(Bumps(), 0.1)).double()
    points = Points(torch.ones(8, 1).double()).numbered()
    modes = guides.Laplace(model, num_draws=16, tol=1.0).find(points)
    value = log_joint(model, points, modes.mean.unsqueeze(0))[0].detach()
    assert (value > -0.1).all() and (modes.mean < -0.9).all()
    spread = modes.scale_tril[:, 0, 0].log() + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(modes.log_px, value + spread, rtol=0, atol=0.02)


class Ring(nn.Module):
    r"""|t|²: the posterior is a thin ring, and equally long draws in all directions would seem to fit it."""

    def forward(self, t):
        return t.square().sum(-1, keepdim=True)


@pytest.mark.parametrize("guide", [guides.MeanField, guides.FullRank])
def test_rows_leave_the_axes_and_diagonals_of_a_symmetric_posterior(guide):
    r"""A Gaussian along the ring, at an end of an axis, has F of -3.85; a factorized one on a diagonal has -4.90."""
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(Ring(), 0.2))
    points = Points(torch.full((20, 1), 2.0)).numbered()
    q = evaluate.infer(model, guide(1, 2), points, seed=0)
    assert bound(model, q, points).mean() > -4.4


def test_of_the_draws_that_explain_a_point_best_each_start_is_one(monkeypatch):
    model = cases.conv()
    points = Points(model(size=5).detach()).numbered()
    torch.manual_seed(3)
    found = likeliest(model, points, 2)
    torch.manual_seed(3)
    t = model.prior().sample((2 * AMONG, 5)).unflatten(0, (2, AMONG))
    log_likelihood = model.log_joint(points.x, t) - model.prior().log_prob(t)
    for num, each in enumerate(log_likelihood.argmax(1)):
        assert torch.equal(found[num], t[num, each, torch.arange(5)])
    assert not torch.equal(found[0], found[1])
    monkeypatch.setattr(pyro_dlgm.points, "NUMBERS", 1)
    torch.manual_seed(3)
    assert torch.equal(likeliest(model, points, 2), found)


def test_draws_without_a_number_are_no_starts():
    class Positive(nn.Module):
        def forward(self, t):
            return t.sqrt()

    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(Positive(), 1.0))
    assert (likeliest(model, Points(torch.ones(6, 1)), 3) > 0).all()


# Which points need another start


def test_longer_walks_are_taken_only_where_few_temperatures_do_not_agree(monkeypatch):
    asked, apart = [], {10: (1, 4), 30: (4,)}

    def upwards(model, guide, points, settings, *, seed, progress):
        T, rows = settings.num_temperatures, points.index.tolist()
        asked.append((T, rows, seed))
        far = torch.tensor([5.0 if row in apart[T] else 0.0 for row in rows])
        return Walk(torch.stack([-far, far]), far, far)

    monkeypatch.setattr(starts, "upwards", upwards)
    none, points = starts.Starts(None, torch.zeros(6) > 0, 0), Points(torch.zeros(6, 1)).numbered()
    few, walks = replace(WALKS, num_temperatures=10), replace(WALKS, num_temperatures=30)
    rows, before, spent = starts._apart(None, none, points, walks, 0, False)
    assert rows.tolist() == [4] and before.tolist() == [[-5.0], [5.0]]
    assert [call[:2] for call in asked] == [(10, [*range(6)]), (30, [1, 4])] and asked[0][2] != asked[1][2]
    assert spent == 6 * few.gradients(1) + 2 * walks.gradients(1)


# The pilot


class Told:
    r"""A trial whose points have these gaps, by the number of temperatures; and the calls."""

    def __init__(self, monkeypatch, gaps: dict[int, torch.Tensor], gradients=1000):
        self.gaps, self.gradients, self.calls = gaps, gradients, []
        self.starts = starts.Starts(None, torch.zeros(16) > 0, 70)
        monkeypatch.setattr(pilot, "Trial", self)

    def simulated(self, model, like, num_points, *, seed):
        self.made = num_points, seed
        return self

    def bracketed(self, settings, *, seed, refit, progress):
        self.calls.append((settings.num_temperatures, refit, progress, seed))
        gap = self.gaps[settings.num_temperatures]
        none = torch.zeros_like(gap)
        return BDMC(none, none, gap, none, none, none), self.gradients


def spread(num, mean, deviation):
    r"""Gaps with exactly this mean and standard deviation."""
    v = torch.linspace(-1, 1, num, dtype=torch.float64)
    return mean + deviation * v / v.std()


@pytest.mark.parametrize(
    ("mean", "deviation", "T"), [(0.09, 0.01, 15), (-0.15, 0.01, 24), (0.02, 0.16, 16), (0.02, 3.0, 30)]
)
def test_temperatures_are_added_on_the_same_points(mean, deviation, T, monkeypatch):
    r"""Where the gap is too large whatever its error is, of either sign, or its error is."""
    trial = Told(monkeypatch, {10: spread(16, mean, deviation), T: spread(16, 0.0, 0.01)})
    found = pilot.pilot(None, Points(torch.zeros(50, 1)), 16, WALKS, tol=0.1, budget=8000, seed=0, progress=True)
    assert [call[:3] for call in trial.calls] == [(10, False, True), (T, T >= 30, True)]  # E-steps for long walks
    assert trial.made[0] == 16 and len({trial.made[1], *(call[3] for call in trial.calls)}) == 3
    assert found.num_temperatures == T and found.gradients == 70 + 2 * 1000
    assert found.gaps == {10: pytest.approx(abs(mean) + 2 * deviation / 4), T: pytest.approx(2 * 0.01 / 4)}


@pytest.mark.parametrize(
    ("mean", "expected"), [(9.0, [10, 30, 90, 270, 555]), (math.nan, [10, 30, 90, 270, 555]), (0.081, None)]
)
def test_the_last_number_of_temperatures_is_that_of_the_budget(mean, expected, monkeypatch):
    class Always(dict):
        def __missing__(self, T):
            return spread(16, mean, 1e-6)

    trial = Told(monkeypatch, Always())
    found = pilot.pilot(None, Points(torch.zeros(50, 1)), 16, WALKS, tol=0.1, budget=8000, seed=0)
    tried = [call[0] for call in trial.calls]
    assert tried[0] == 10 and tried[-1] == found.num_temperatures == 555 and expected in (None, tried)
    assert all(b >= 1.4 * a for a, b in itertools.pairwise(tried)) and len({c[3] for c in trial.calls}) == len(tried)


def test_simulated_points_take_masks_and_conditions_in_turn():
    ppca = PPCA(2, 5, 0.5).double()
    mask = torch.tensor([[True, True, False, True, True], [True, False, True, True, True]])
    made = Trial.simulated(ppca, Points(torch.zeros(2, 5).double(), mask=mask), 5, seed=0)
    assert torch.equal(made.points.mask, mask[[0, 1, 0, 1, 0]]) and made.t.shape == (5, 2)
    assert made.points.index.tolist() == [*range(5)] and not made.starts.refitted.any()


def test_a_trial_counts_what_is_spent_after_its_starts():
    ppca = PPCA(2, 5, 0.5).double()
    ppca.set(torch.randn(5, 2).double(), torch.randn(5).double(), ppca.sigma2.detach())
    trial, walks = Trial.simulated(ppca, Points(ppca(size=3).detach()), 7, seed=0), replace(WALKS, num_temperatures=12)
    _, plain = trial.bracketed(walks, seed=1, refit=False)
    _, tried = trial.bracketed(walks, seed=1)
    few = replace(WALKS, num_temperatures=10)
    assert plain == 7 * walks.gradients(2) and tried == plain + 7 * few.gradients(1)
