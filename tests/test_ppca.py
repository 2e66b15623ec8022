"""PPCA, the oracle: the evidence, the posterior and EM, in float64."""

import math

import pytest
import torch
from sklearn.decomposition import PCA

from pyro_dlgm import PPCA, evaluate, guides


def data(N=300, P=12, D=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return (
        draw(N, D) @ (draw(D, P) * torch.linspace(0.5, 3, D, dtype=torch.float64).unsqueeze(1))
        + 0.4 * draw(N, P)
        + draw(P)
    )


def eigenvalue_evidence(X, D):
    """Tipping and Bishop (1999): -N/2 (P ln 2π + Σ_D ln λ_j + (P − D) ln σ² + P), per point."""
    P = X.shape[1]
    values = torch.linalg.eigvalsh(torch.cov(X.T, correction=0)).flip(0)
    sigma2 = values[D:].mean()
    return -0.5 * (P * math.log(2 * math.pi) + values[:D].log().sum() + (P - D) * sigma2.log() + P)


@pytest.mark.parametrize("D", [1, 4, 11])
def test_evidence_is_the_eigenvalue_formula(D):
    X = data()
    assert abs(PPCA.fit(X, D).log_prob(X).mean() - eigenvalue_evidence(X, D)) < 1e-8


def test_evidence_is_the_dense_gaussian():
    X = data()
    ppca = PPCA.fit(X, 4)
    C = ppca.W @ ppca.W.T + ppca.sigma2 * torch.eye(12, dtype=X.dtype)
    dense = torch.distributions.MultivariateNormal(ppca.mu, C).log_prob(X)
    assert (ppca.log_prob(X) - dense).abs().max() < 1e-9


def test_evidence_is_that_of_scikit_learn_behind_its_convention():
    X = data()
    N, D = len(X), 4
    pca = PCA(D, svd_solver="full").fit(X.numpy())
    ppca = PPCA.fit(X, D)
    # scikit-learn divides by N − 1: the same W and σ², scaled.
    ppca.set(ppca.W * (N / (N - 1)) ** 0.5, ppca.mu, ppca.sigma2 * N / (N - 1))
    assert abs(float(ppca.log_prob(X).mean().detach()) - pca.score(X.numpy())) < 1e-8
    assert float(PPCA.fit(X, D).log_prob(X).mean().detach()) > pca.score(X.numpy())


def test_exact_log_weights_are_the_evidence():
    X = data()
    ppca = PPCA.fit(X, 4)
    guide = guides.Exact(ppca)
    evidence = ppca.log_prob(X)
    table = evaluate.log_weights(ppca, guide, X, num_samples=7, seed=0)
    assert (table - evidence).abs().max() < 1e-9
    assert (evaluate.elbo(ppca, guide, X) - evidence).abs().max() < 1e-9
    assert (evaluate.iwae(ppca, guide, X, num_samples=5) - evidence).abs().max() < 1e-9


def test_log_weights_are_exact_at_any_w_and_keep_the_gradient():
    X = data(20)
    ppca = PPCA(4, 12).double()
    q = ppca.posterior(X)
    weight = (ppca.log_joint(X, t := q.rsample()) - q.log_prob(t)).sum()
    of_weight = torch.autograd.grad(weight, list(ppca.parameters()))
    of_evidence = torch.autograd.grad(ppca.log_prob(X).sum(), list(ppca.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-8) for a, b in zip(of_weight, of_evidence, strict=True))


@pytest.mark.parametrize("missing", [False, True])
def test_em_is_monotone(missing):
    X = data()
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) > 0.2 if missing else None
    torch.manual_seed(0)
    ppca = PPCA(4, 12).double()
    path = torch.stack([ppca.em_step(X, mask) for _ in range(100)])
    assert (path.diff() > -1e-12).all()
    assert path[-1] > path[0] + 1


def test_em_reaches_the_closed_form():
    X = data()
    torch.manual_seed(0)
    ppca = PPCA(4, 12).double()
    for _ in range(200):
        ppca.em_step(X)
    closed = PPCA.fit(X, 4)
    assert abs(ppca.log_prob(X).mean() - closed.log_prob(X).mean()) < 1e-6
    assert (ppca.W @ ppca.W.T - closed.W @ closed.W.T).abs().max() < 1e-6
    assert abs(ppca.sigma2 - closed.sigma2) < 1e-6


def test_em_with_a_full_mask_is_em_without():
    X = data()
    full, plain = (PPCA.fit(X, 2) for _ in range(2))
    for ppca in (full, plain):
        ppca.set(ppca.W + 0.1, ppca.mu, ppca.sigma2)
    full.em_step(X, torch.ones_like(X, dtype=torch.bool))
    plain.em_step(X)
    assert (full.W - plain.W).abs().max() < 1e-10


def test_missing_entries_are_marginalized_exactly():
    X = data(30)
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0] = False
    ppca = PPCA.fit(data(), 4)
    C = ppca.W @ ppca.W.T + ppca.sigma2 * torch.eye(12, dtype=X.dtype)
    value, q = ppca.log_prob(X.masked_fill(~mask, math.nan), mask), ppca.posterior(X.masked_fill(~mask, math.inf), mask)
    for i, m in enumerate(mask):
        if m.any():
            dense = torch.distributions.MultivariateNormal(ppca.mu[m], C[m][:, m])
            assert abs(value[i] - dense.log_prob(X[i][m])) < 1e-9
            gain = ppca.W[m].T @ torch.linalg.inv(C[m][:, m])
            assert (q.mean[i] - gain @ (X[i] - ppca.mu)[m]).abs().max() < 1e-9
            assert (q.covariance_matrix[i] - (torch.eye(4) - gain @ ppca.W[m])).abs().max() < 1e-9
    # log 1: two sums of the same logarithms, which round otherwise on another processor.
    assert abs(value[0]) < 1e-14 and q.mean[0].abs().max() < 1e-14


def test_nan_and_mask_say_the_same():
    X = data()
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) > 0.2
    by_nan, by_mask = PPCA.fit(X.masked_fill(~mask, math.nan), 3), PPCA.fit(X, 3, mask=mask)
    assert torch.equal(by_nan.W, by_mask.W)


def test_em_with_missing_entries_ends_where_the_gradient_of_the_evidence_is_zero():
    X = data()
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) > 0.2
    ppca = PPCA.fit(X, 3, mask=mask, tol=1e-14)
    gradients = torch.autograd.grad(ppca.log_prob(X, mask).mean(), list(ppca.parameters()))
    assert max(g.abs().max() for g in gradients) < 1e-5


def test_missing_entries_in_float32_far_from_zero():
    X = data()
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) > 0.2
    fine, coarse = PPCA.fit(X + 1e3, 3, mask=mask), PPCA.fit((X + 1e3).float(), 3, mask=mask)
    assert coarse.W.dtype == torch.float32
    assert float(coarse.sigma2.detach()) == pytest.approx(float(fine.sigma2.detach()), rel=1e-2)


def test_what_is_masked_may_be_anything_and_what_is_not_may_not():
    X = data()
    mask = torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) > 0.2
    assert torch.equal(PPCA.fit(X.masked_fill(~mask, math.inf), 3, mask=mask).W, PPCA.fit(X, 3, mask=mask).W)
    with pytest.raises(ValueError, match="calls observed"):
        PPCA.fit(X.masked_fill(~mask, math.nan), 3, mask=torch.ones_like(mask))


def test_fitting_leaves_the_generator():
    state = torch.get_rng_state()
    PPCA.fit(data(), 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_wide_data_agree_with_tall_algebra():
    X = data(N=20, P=500)
    wide, D = PPCA.fit(X, 5), 5
    values, vectors = torch.linalg.eigh(torch.cov(X.T, correction=0))
    sigma2 = values.flip(0)[D:].mean()
    U = vectors.flip(1)[:, :D]
    WW = U @ torch.diag(values.flip(0)[:D] - sigma2) @ U.T
    assert (wide.W @ wide.W.T - WW).abs().max() < 1e-9 and abs(wide.sigma2 - sigma2) < 1e-12


def test_wide_data_build_no_large_matrix():
    # P x P at P = 200,000 would take 320 GB.
    X = data(N=30, P=200_000)
    ppca = PPCA.fit(X, 3)
    assert ppca.log_prob(X).isfinite().all() and ppca.posterior(X).mean.shape == (30, 3)


def test_more_latents_than_points():
    X = data(N=5, P=40)
    assert PPCA.fit(X, 4 - 1).log_prob(X).isfinite().all()
    with pytest.raises(ValueError, match="choose fewer latents"):
        PPCA.fit(X, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("N", [300, 11])
def test_a_column_in_other_units_costs_the_others_no_digits(dtype, D, N):
    X = data(N)
    X[:, 3] = 3e6 * torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=X.dtype)
    X = X.to(dtype)
    expected = PCA(D, svd_solver="full").fit(X.double().numpy()).noise_variance_ * (N - 1) / (N if N > 12 else 1)
    if N < 12:  # scikit-learn takes the mean over the N − D directions that it has
        expected = expected * (N - D) / (12 - D) / N
    assert float(PPCA.fit(X, D).sigma2.detach()) == pytest.approx(expected, rel=1e-5)


def test_a_column_in_other_units_may_have_missing_entries():
    X = data()
    X[:, 3] *= 3e6
    X[torch.rand(X.shape, generator=torch.Generator().manual_seed(1)) < 0.1] = math.nan
    mask = ~X.isnan()
    ppca = PPCA.fit(X, 1)
    gradients = torch.autograd.grad(ppca.log_prob(X, mask).mean(), [ppca.likelihood.u, ppca.mu])
    assert max(g.abs().max() for g in gradients) < 1e-3
    assert 0.3 < float(ppca.sigma2.detach()) < 20


def little(seed: int):
    """15 numbers in 4 rows of 6 columns: W, μ and σ² of two latents have 19."""
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(4, 6, generator=g, dtype=torch.float64)
    X.view(-1)[torch.randperm(24, generator=g)[:9]] = math.nan
    return X


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-6, torch.tensor([1, 2, 5, 1, 0.5, 1.0])])
def test_an_unbounded_likelihood_is_refused_with_missing_entries_as_without(seed, dtype, scale):
    X = (little(seed) * scale).to(dtype)
    with pytest.raises(ValueError, match="likelihood has no maximum: choose fewer latents"):
        PPCA.fit(X, 2)
    torch.manual_seed(seed)
    ppca = PPCA(2, 6).to(X)
    with pytest.raises(ValueError, match="likelihood has no maximum: choose fewer latents"):
        for _ in range(1000):
            ppca.em_step(X, ~X.isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "move", [lambda x: x, lambda x: x + 100, lambda x: x * torch.logspace(-6, 6, 12), lambda x: x.clamp_min(0) * 0 + 1]
)
def test_what_the_latents_reproduce_has_no_noise(dtype, move):
    g = torch.Generator().manual_seed(0)
    X = move(torch.randn(50, 3, generator=g, dtype=torch.float64) @ torch.randn(3, 12, generator=g).double()).to(dtype)
    for D in (3, 4):
        with pytest.raises(ValueError, match="likelihood has no maximum"):
            PPCA.fit(X, D)
    X[0, 0] = math.nan
    with pytest.raises(ValueError, match="likelihood has no maximum"):
        PPCA.fit(X, 4)


def test_an_evidence_without_a_digit_is_refused():
    X, ppca = data(), PPCA(2, 12).double()
    W = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=X.dtype)
    W[:, 1] = W[:, 0] + 1e-9 * W[:, 1]  # one direction is strong, the other lost in rounding where σ is small
    ppca.set(W, ppca.mu.detach(), torch.tensor(1e-10, dtype=X.dtype))
    dense = W @ W.T + 1e-10 * torch.eye(12, dtype=X.dtype)
    log_det = torch.linalg.slogdet(dense).logabsdet
    at_mu = ppca.log_prob(ppca.mu.detach().unsqueeze(0))
    assert at_mu.item() == pytest.approx(float(-0.5 * (12 * math.log(2 * math.pi) + log_det)), abs=1e-3)
    ppca.set(W, ppca.mu.detach(), torch.tensor(1e-18, dtype=X.dtype))
    with pytest.raises(torch.linalg.LinAlgError, match=r"W up to .*σ = 1e-09; expected .*fewer latents"):
        ppca.log_prob(X)


def test_em_steps_name_a_column_without_an_entry():
    X = data()
    mask = torch.ones_like(X, dtype=torch.bool).index_fill(1, torch.tensor([2, 7]), False)
    with pytest.raises(ValueError, match=r"columns \[2, 7\] .* drop them"):
        PPCA(3, 12).double().em_step(X, mask)


def test_samples_have_the_model_covariance():
    ppca = PPCA.fit(data(), 2)
    torch.manual_seed(0)
    x = ppca(size=200_000).detach()
    C = ppca.W @ ppca.W.T + ppca.sigma2 * torch.eye(12, dtype=x.dtype)
    assert (torch.cov(x.T) - C).abs().max() / C.abs().max() < 0.02
    assert (x.mean(0) - ppca.mu).abs().max() < 0.06


def test_parameters_are_live():
    X = data()
    ppca = PPCA.fit(X, 3)
    before = ppca.log_prob(X).mean()
    with torch.no_grad():
        ppca.W.mul_(2)
    assert ppca.log_prob(X).mean() < before - 0.1
    assert {id(ppca.W), id(ppca.mu)} < {id(p) for p in ppca.parameters()}


@pytest.mark.parametrize(
    ("X", "D", "words"),
    [
        (torch.zeros(3), 1, "shape"),
        (torch.zeros(1, 3), 1, "N >= 2"),
        (torch.zeros(5, 3, dtype=torch.long), 1, "dtype"),
        (torch.full((5, 3), math.inf), 1, "infinite"),
        (torch.randn(5, 3, dtype=torch.float64) * 1e200, 1, "squares overflow: divide X"),
        (torch.randn(5, 3), 3, "latent_dim"),
        (torch.randn(5, 3), 0, "latent_dim"),
        (torch.randn(5, 3).index_fill(1, torch.tensor([1]), math.nan), 1, r"columns \[1\]"),
    ],
)
def test_bad_data_are_named(X, D, words):
    with pytest.raises(ValueError, match=words):
        PPCA.fit(X, D)
