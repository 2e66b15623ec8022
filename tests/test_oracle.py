"""Guides on PPCA at a rotated W, where every gap is known in closed form (float64)."""

import warnings

import pytest
import torch
from pyro.distributions import MultivariateNormal
from pyro_dlgm.guides import families
from torch.distributions import kl_divergence

from pyro_dlgm import PPCA, Points, data, evaluate, fit, guides, nets, objectives

N, P, D = 200, 10, 3


@pytest.fixture(scope="module")
def rotated():
    """PPCA with W R for a rotation R that leaves M far from diagonal, and its data."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    X = draw(N, D) @ (draw(D, P) * torch.tensor([[2.0], [1.0], [0.5]])) + 0.7 * draw(N, P)
    ppca = PPCA.fit(X, D)
    R = torch.linalg.qr(draw(D, D)).Q
    ppca.set(ppca.W.detach() @ R, ppca.mu.detach(), ppca.sigma2.detach())
    return ppca, X


def precision(ppca):
    return (ppca.W.mT @ ppca.W + ppca.sigma2 * torch.eye(D, dtype=torch.float64)).detach()


def mean_field_gap(ppca):
    """½ (Σ_j log M_jj − log det M), in nats per point."""
    M = precision(ppca)
    return 0.5 * (M.diagonal().log().sum() - torch.logdet(M))


def gap(ppca, q, X):
    """KL(q ‖ p(t | x)) in closed form, the mean over points."""
    cov = q.covariance_matrix if hasattr(q, "covariance_matrix") else torch.diag_embed(q.variance)
    return kl_divergence(MultivariateNormal(q.mean, cov), ppca.posterior(X)).mean().detach()


def inferred(ppca, X, guide):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at this tolerance a few points are always late
        return evaluate.infer(ppca, guide.double(), X, tol=1e-4, num_particles=32, seed=0)


def test_the_case_is_not_trivial(rotated):
    assert mean_field_gap(rotated[0]) > 0.1


def test_mean_field_reaches_the_best_factorized_q(rotated):
    ppca, X = rotated
    q = inferred(ppca, X, guides.MeanField(1, D)).posterior(index=torch.arange(N))
    expected = ppca.sigma2 / precision(ppca).diagonal()
    assert (q.variance.mean(0) / expected - 1).abs().max() < 0.01
    assert abs(gap(ppca, q, X) - mean_field_gap(ppca)) < 1e-3


def test_full_rank_reaches_the_posterior(rotated):
    ppca, X = rotated
    q = inferred(ppca, X, guides.FullRank(1, D)).posterior(index=torch.arange(N))
    assert gap(ppca, q, X) < 1e-3


def test_hard_em_reaches_the_posterior_mode(rotated):
    ppca, X = rotated
    q = inferred(ppca, X, guides.PointEstimate(1, D)).posterior(index=torch.arange(N))
    assert (q.mean - ppca.posterior(X).mean).abs().max() < 1e-2


def test_auto_normal_reaches_the_best_factorized_q(rotated):
    ppca, X = rotated
    q = evaluate.infer(ppca, guides.auto(ppca, "AutoNormal", 1), X, num_particles=8, seed=0)
    assert abs(gap(ppca, q.posterior(index=torch.arange(N)), X) - mean_field_gap(ppca)) < 0.01


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_a_linear_encoder_has_no_amortization_gap(rotated, family):
    ppca, X = rotated
    torch.manual_seed(0)
    # From about the scale of the posterior: one that is far off costs thousands of steps.
    guide = guides.Amortized(nets.Linear(P, 8), D, family, init_scale=0.3).double()
    for parameter in ppca.parameters():
        parameter.requires_grad_(False)
    ppca.eval()
    loss = objectives.ELBO(num_particles=10)
    fit(ppca, guide, X, steps=3000, batch_size=N, lr=3e-2, schedule="cosine", objective=loss, seed=0)
    best = mean_field_gap(ppca) if family == "mean_field" else 0.0
    assert gap(ppca, guide.posterior(X), X) - best <= 0.01


def test_elbo_and_iwae_know_a_wrong_q(rotated):
    """Too narrow and too wide a q lose exactly their KL divergence; IWAE gives part of it back."""
    ppca, X = rotated
    exact, index = ppca.posterior(X), torch.arange(N)
    for s in (0.5, 1.5):
        guide = guides.FullRank(N, D).double()
        guide.set_rows(families.full_rank.of(MultivariateNormal(exact.mean, scale_tril=s * exact.scale_tril)))
        loss = (ppca.log_prob(X) - evaluate.elbo(ppca, guide, X, index, 4000, seed=0)).mean()
        kl = D * (0.5 * (s**2 - 1) - torch.tensor(s).log())
        assert abs(loss - kl) < 0.02
        assert evaluate.iwae(ppca, guide, X, index, 100, seed=0).mean() > (ppca.log_prob(X) - kl).mean() + 0.1


def test_infer_leaves_w_and_the_guide_alone(rotated):
    ppca, X = rotated
    guide = guides.MeanField(N, D).double()
    before = [p.clone() for p in (*ppca.parameters(), *guide.parameters())]
    fitted = evaluate.infer(ppca, guide, X[:20], seed=0, max_steps=50, tol=1.0)
    assert fitted is not guide and fitted.num_points == 20
    assert all(torch.equal(a, b) for a, b in zip(before, (*ppca.parameters(), *guide.parameters()), strict=True))


def test_infer_refines_an_amortized_guide_from_its_own_q(rotated):
    ppca, X = rotated
    guide = guides.Amortized(nets.Linear(P, 8), D, "full_rank").double()
    start = guide.start(Points(X))
    torch.testing.assert_close(start.posterior(index=torch.arange(N)).mean, guide.posterior(X).mean)
    assert gap(ppca, inferred(ppca, X, guide).posterior(index=torch.arange(N)), X) < 1e-3


def test_infer_on_the_exact_guide_is_itself(rotated):
    ppca, X = rotated
    guide = guides.Exact(ppca)
    assert evaluate.infer(ppca, guide, X) is guide


def test_infer_says_who_has_not_converged(rotated):
    ppca, X = rotated
    with pytest.warns(UserWarning, match="have not converged"):
        fitted = evaluate.infer(ppca, guides.PointEstimate(1, D).double(), X, max_steps=50, tol=1e-6, seed=0)
    assert not fitted.convergence.converged.all()
    assert fitted.convergence.gradients_per_point == 50


def test_the_defaults_of_infer_end_near_the_optimum_for_every_family():
    digits, latents = data.digits(torch.float64), 16
    ppca = PPCA.fit(data.seeded(digits.transform, digits.train, 0).flatten(1), latents)
    torch.manual_seed(0)
    ppca.set(ppca.W.detach() @ torch.linalg.qr(torch.randn(latents, latents).double()).Q, ppca.mu, ppca.sigma2)
    X = digits.test[:100].flatten(1)
    M = (ppca.W.mT @ ppca.W + ppca.sigma2 * torch.eye(latents)).detach()
    factorized = 0.5 * (M.diagonal().log().sum() - torch.logdet(M))
    for guide, best in (
        (guides.MeanField(1, latents).double(), factorized),
        (guides.FullRank(1, latents).double(), 0.0),
        (guides.auto(ppca, "AutoNormal", 1), factorized),
    ):
        q = evaluate.infer(ppca, guide, X, seed=0)
        assert -1e-6 < gap(ppca, q.posterior(index=torch.arange(len(X))), X) - best < 0.03
        assert q.convergence.converged.double().mean() > 0.95


def test_a_falling_bound_has_not_converged(rotated):
    ppca, X = rotated
    with pytest.warns(UserWarning, match="have not converged"):
        q = evaluate.infer(ppca, guides.MeanField(1, D).double(), X, lr=10.0, max_steps=50, seed=0)
    assert not q.convergence.converged.any()


def test_digits_have_the_evidence_of_the_protocol():
    """Test nats of PPCA with 8 and 16 latents, and of one Gaussian for each pixel."""
    digits = data.digits(torch.float64)
    train = data.seeded(digits.transform, digits.train, 0).flatten(1)
    X = digits.test.flatten(1)
    pixelwise = torch.distributions.Normal(train.mean(0), train.std(0, correction=0)).log_prob(X).sum(1).mean()
    values = [PPCA.fit(train, latents).log_prob(X).mean().detach() for latents in (8, 16)]
    assert [float(v) for v in (pixelwise, *values)] == pytest.approx([30.8, 16.8, 26.0], abs=0.2)


@pytest.mark.parametrize("steps", [1, 3, 70])
def test_no_more_steps_are_taken_than_are_allowed(rotated, steps):
    ppca, X = rotated
    with pytest.warns(UserWarning, match="have not converged"):
        fitted = evaluate.infer(ppca, guides.PointEstimate(1, D).double(), X, max_steps=steps, tol=1.0, seed=0)
    # One sample a step, and windows of 50 steps.
    assert fitted.convergence.gradients_per_point == steps and not fitted.convergence.converged.any()


def test_a_window_that_was_cut_short_is_no_sign_of_convergence(rotated):
    r"""With 101 steps the third window, at the last rate, has one step; a step brings little wherever q is."""
    ppca, X = rotated
    short, whole = (
        lambda steps=steps: evaluate.infer(ppca, guides.MeanField(1, D).double(), X, max_steps=steps, tol=1e3, seed=0)
        for steps in (101, 150)
    )
    with pytest.warns(UserWarning, match="have not converged"):
        assert not short().convergence.converged.any()
    assert whole().convergence.converged.all()


def test_a_change_of_eight_standard_errors_is_no_convergence(rotated, monkeypatch):
    r"""F of point 1 rises by 0.05 in each window, with a standard error of 0.0025 from 16 samples; all others rest."""
    from pyro_dlgm.evaluate.e_step import climb as e_step

    ppca, X = rotated
    change = torch.zeros(e_step.CHECK_SAMPLES, 20, dtype=torch.float64)
    change[:, 1] = 0.05 + 0.01 * torch.tensor([-1.0, 1.0]).repeat(e_step.CHECK_SAMPLES // 2)
    tables = iter(n * change for n in range(100))
    monkeypatch.setattr(e_step, "weigh", lambda *args, **settings: (next(tables), None))
    with pytest.warns(UserWarning, match=r"rows \[1\]"):
        found = evaluate.infer(ppca, guides.MeanField(1, D).double(), X[:20], window=1, tol=0.01, seed=0).convergence
    assert found.converged.tolist() == [i != 1 for i in range(20)]
