"""What is seen of a pair, against closed forms; looking moves nothing."""

import math

import pytest
import torch
from cases import NAMES, conv, make, ppca, same, tensors
from sklearn.decomposition import PCA

from pyro_dlgm import DLGM, PPCA, Points, distributions, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate import snapshot
from pyro_dlgm.evaluate.diagnostics import aggregate
from pyro_dlgm.evaluate.snapshot import Snapshot

N, D, P = 50, 3, 8


def linear():
    r"""The maximum-likelihood PPCA of some points, with these points."""
    x = torch.randn(N, 5, dtype=torch.float64) @ torch.randn(5, P, dtype=torch.float64)
    x += 0.3 * torch.randn(N, P, dtype=torch.float64)
    return PPCA.fit(x, D), x


def test_the_kl_of_the_marginals_sums_to_the_kl_where_latents_are_independent():
    model, guide = ppca(), guides.MeanField(N, 2, init_scale=0.7)
    q, p = guide.posterior(index=torch.arange(N)), model.prior()
    assert torch.allclose(aggregate.marginal_kl(q, p).sum(-1), distributions.kl(q, p), atol=1e-5)


def test_ppca_uses_its_directions_in_the_order_of_their_variance():
    model, x = linear()
    use = Snapshot(model, guides.Exact(model), x).nats()
    # On its training points the mean KL of latent j is ½ log(λ_j / σ²), λ_j the j-th eigenvalue of the covariance.
    eigenvalues = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)[:D]
    assert torch.allclose(use, 0.5 * (eigenvalues / model.sigma2.detach()).log(), atol=1e-8)
    assert use.argsort(descending=True).tolist() == [0, 1, 2]


def test_a_point_mass_uses_what_the_prior_charges():
    model, x = linear()
    guide = guides.PointEstimate(N, D).double()
    q = guide.posterior(index=torch.arange(N))
    charged = -(
        priors.StandardNormal(D)().base_dist.log_prob(q.mean)
        - priors.StandardNormal(D)().base_dist.log_prob(torch.zeros(()))
    )
    assert torch.allclose(Snapshot(model, guide, x).nats(), charged.mean(0).detach())


def test_a_traversal_goes_along_one_column_of_w():
    model, x = linear()
    look = Snapshot(model, guides.Exact(model), x)
    t = look.means()[0]
    with torch.no_grad():
        images = snapshot.traversal(model, t, [2, 0], 7, Points(t.unsqueeze(0)))
        for row, j in enumerate([2, 0]):
            for step, value in enumerate([-3, -2, -1, 0, 1, 2, 3]):
                code = t.clone()
                code[j] = value
                assert torch.allclose(images[row, step], code @ model.W.T + model.mu)


def test_a_look_takes_the_most_used_latents_from_the_posterior_mean_of_the_first_point():
    model, guide = conv(likelihood="fixed"), guides.MeanField(N, D, init_scale=0.1)
    with torch.no_grad():
        guide.rows.weight[:, 1] += 3.0
    look = Snapshot(model, guide, torch.rand(N, 1, 5, 7))
    most, images = look.traversals(2, 5)
    assert most[0] == 1 and len(most) == 2 and images.shape == (2, 5, 1, 5, 7)
    code = look.means()[0]
    code[1] = -1.5
    assert torch.allclose(images[0, 1], model.likelihood(code).mean, atol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_plane_is_the_latents_or_their_pca(d):
    means = torch.randn(N, d) * torch.arange(1, d + 1)
    seen = snapshot.plane(means)
    if d <= 2:
        assert torch.equal(seen.points[:, :d], means) and seen.axes[0] == "posterior mean of t0"
        assert d == 2 or not seen.points[:, 1].any()
        return
    pca = PCA(2).fit(means.numpy())
    assert torch.allclose(seen.points.abs(), torch.as_tensor(pca.transform(means.numpy())).abs(), atol=1e-4)
    for j in range(2):
        assert (
            seen.axes[j]
            == f"PCA {j + 1} of the posterior means, {pca.explained_variance_ratio_[j]:.0%} of the variance"
        )


def test_a_single_point_has_a_place_in_the_plane():
    assert snapshot.plane(torch.randn(1, 4)).points.tolist() == [[0.0, 0.0]]


def test_bounds_of_the_exact_posterior_are_the_evidence():
    model, x = linear()
    found = Snapshot(model, guides.Exact(model), x).bounds()
    assert found["log_px"] == pytest.approx(float(model.log_prob(x).mean().detach()))
    assert found["elbo"] == pytest.approx(found["log_px"]) == found["iwae_10"]
    assert found["rate"] == pytest.approx(float(distributions.kl(model.posterior(x), model.prior()).mean().detach()))
    assert found["distortion"] == pytest.approx(-(found["elbo"] + found["rate"]))


def test_the_rate_is_sampled_where_it_has_no_closed_form(monkeypatch):
    model, x = linear()
    look = Snapshot(model, guides.MeanField(N, D, init_scale=0.5).double(), x)
    closed = look.bounds()["rate"]
    monkeypatch.setattr("pyro_dlgm.evaluate.scores.distributions.kl", lambda q, p: None)
    sampled = look.bounds()["rate"]
    assert sampled == pytest.approx(closed, abs=0.2) and sampled != closed


def test_a_linear_model_takes_images_as_rows_and_shows_them_as_images():
    model = PPCA(2, 12, scale=0.5).double()
    x = torch.rand(6, 1, 3, 4)
    look = Snapshot(model, guides.Exact(model), x)
    assert look.x.shape == (6, 12) and look.x.dtype == torch.float64
    assert look.data(2).shape == look.reconstructions(2).shape == look.samples(2).shape == (2, 1, 3, 4)
    code = model.posterior(look.x[:2]).mean
    assert torch.allclose(look.reconstructions(2).flatten(1), (code @ model.W.T + model.mu).detach())


def test_reconstructions_see_the_mask():
    model = PPCA(2, 12, scale=0.5)
    x, mask = torch.rand(6, 12), torch.rand(6, 12) < 0.5
    look = Snapshot(model, guides.Exact(model), x, mask=mask)
    look.image_shape = (1, 3, 4)
    expected = evaluate.reconstruct(model, guides.Exact(model), x, mask=mask)
    assert torch.allclose(look.reconstructions(6).flatten(1), expected)
    assert not torch.allclose(expected, evaluate.reconstruct(model, guides.Exact(model), x))


@pytest.mark.parametrize("name", NAMES)
def test_looking_moves_nothing(name):
    case = make(name)
    if case.x.dim() == 4:
        assert Snapshot(case.model, case.guide, case.x, case.index).image_shape == tuple(case.x.shape[1:])
    before, state = tensors(case.model, case.guide), torch.get_rng_state()
    look = Snapshot(case.model, case.guide, case.x, case.index)
    look.bounds(), look.nats(), look.means(), look.active()
    if look.image_shape:
        look.reconstructions(2), look.samples(2), look.traversals(2, 3)
    assert same(before, tensors(case.model, case.guide)) and torch.equal(state, torch.get_rng_state())
    assert case.model.training and case.guide.training
    assert not any(v.requires_grad for v in (look.means(), look.nats()))


def test_looking_is_done_in_eval_mode():
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(35), torch.nn.Linear(35, 8))
    guide, model, x = guides.Amortized(encoder, D), conv(), torch.rand(N, 1, 5, 7)
    before = tensors(guide)
    look = Snapshot(model, guide, x)
    look.means(), look.nats(), look.active(), look.bounds(), look.reconstructions(2), look.traversals(1, 3)
    assert same(before, tensors(guide)) and encoder.training


def test_samples_are_the_same_draws_for_all_models_of_the_same_latents():
    look = Snapshot(ppca(), guides.MeanField(4, 2), torch.rand(4, 6))
    look.image_shape = (1, 2, 3)
    assert torch.equal(look.samples(3, seed=1), look.samples(3, seed=1))
    assert not torch.equal(look.samples(3, seed=1), look.samples(3, seed=2))


def test_a_latent_is_active_if_its_mean_varies():
    model, guide = ppca(), guides.MeanField(N, 2, init_scale=0.01)
    look = Snapshot(model, guide, torch.rand(N, 6))
    assert look.active() == 0
    with torch.no_grad():
        guide.rows.weight[:, 0] = torch.randn(N)
    assert look.active() == 1


# Chains: sampling noise is no use of a latent


def states_of(points: int, M: int, D: int = 8, used: int = 0, single: bool = False):
    r"""A pair whose decoder ignores all latents but the first ``used``, and a guide of M states for each point."""
    net = torch.nn.Linear(D, 6)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[:used, :used] = 3 * torch.eye(used)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net, 0.3))
    x = model(size=points).detach()
    return model, guides.Chain(model, points, D, num_states=M, num_leapfrog=4, burn_in=30), x


@pytest.mark.parametrize("M", [2, 4, 32])
def test_chains_use_no_latent_that_the_decoder_ignores(M):
    model, chain, x = states_of(100, M)
    look = Snapshot(model, chain, x)
    assert look.active() == 0 and look.nats().max() < 4 * 2 / M / 2 / 100**0.5


@pytest.mark.parametrize("num_states", [1, 4])
def test_hybrids_use_no_latent_that_the_decoder_ignores(num_states):
    model, _, x = states_of(100, 4)
    encoder = guides.Amortized(nets.MLP(6, 16, (8,)), 8, init_scale=1.0)
    look = Snapshot(model, guides.Hybrid(model, encoder, num_states=num_states), x)
    assert look.active() == 0 and look.nats().max() < 0.2


def test_chains_use_the_latents_that_the_decoder_does():
    model, chain, x = states_of(100, 4, used=2)
    chain.train()(x, torch.arange(100))  # burn-in
    look = Snapshot(model, chain, x)
    assert look.active() == 2 and sorted(look.nats().argsort(descending=True)[:2].tolist()) == [0, 1]
    assert (look.nats()[:2] - 0.5).abs().max() < 0.3  # ½ E t², nearly all of which x tells
    images = Snapshot(model, chain, x.reshape(100, 1, 2, 3))
    images.image_shape = (1, 2, 3)
    assert sorted(images.traversals(2, 3)[0]) == [0, 1]


def test_a_single_state_of_a_chain_tells_nothing_of_its_mean():
    model, chain, x = states_of(50, 1)
    look = Snapshot(model, chain, x)
    assert look.nats().isnan().all() and math.isnan(look.active())
    look.image_shape = (1, 2, 3)
    assert look.traversals(2, 3)[0] == [0, 1]
