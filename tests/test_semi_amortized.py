r"""`guides.SemiAmortized`: F rises with the steps, to the best q of the family; its gradients; what it leaves alone."""

import copy
import math
from itertools import pairwise

import cases
import pyro
import pytest
import torch
from pyro_dlgm.guides import ascent
from pyro_dlgm.guides import semi_amortized as module
from torch import nn

import pyro_dlgm.points
from pyro_dlgm import DLGM, PPCA, Points, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.objectives import ELBO

NUM = 6


def linear(D: int = 4, P: int = 20, scale: float = 0.6):
    r"""A PPCA in float64 with points of it."""
    ppca = PPCA(D, P, scale).double()
    ppca.set(torch.randn(P, D).double(), torch.randn(P).double(), ppca.sigma2.detach())
    return ppca, ppca(size=NUM).detach()


def refining(model, x, steps=2, family="mean_field", **settings):
    encoder = guides.Amortized(nets.MLP(x[0].numel(), 8, hidden=(8,)), model.prior.latent_dim, family, init_scale=0.5)
    return guides.SemiAmortized(model, encoder.to(x), steps, **settings)


def bound_on_ppca(ppca, q, x, mask=None):
    r"""F(q) = log p(x) − KL(q ‖ posterior), in closed form."""
    p = ppca.posterior(x, mask)
    L = q.scale_tril if hasattr(q, "scale_tril") else q.stddev.diag_embed()
    kl = torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(q.mean, scale_tril=L), p)
    return (ppca.log_prob(x, mask) - kl).detach()


def conv(**settings):
    model = cases.conv().double()
    x = cases.points(model, NUM).double()
    return model, x, guides.SemiAmortized(model, cases.amortized(model).double(), **settings)


# The ascent


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
@pytest.mark.parametrize("masked", [False, True])
def test_on_ppca_f_rises_to_the_best_of_the_family(family, masked):
    r"""The best q is ½ (Σ log M_jj − log det M) below the evidence for mean field, and nothing for full rank."""
    ppca, x = linear()
    mask = torch.rand_like(x) < 0.8 if masked else None
    seen = x if mask is None else x.masked_fill(~mask, math.nan)
    guide = refining(ppca, x, 0, family)
    reached = []
    for guide.steps in (0, 1, 2, 3, 5, 8, 13, 200):
        q = guide.posterior(seen, mask=mask)
        reached.append(bound_on_ppca(ppca, q, x, mask))
        if guide.steps:
            torch.testing.assert_close(guide.refined.after, reached[-1])  # F̂ is F here
            torch.testing.assert_close(guide.refined.before, reached[0])
    assert all((b >= a - 1e-9).all() for a, b in pairwise(reached))
    assert (reached[4] > reached[0] + 1).all()
    M = ppca.posterior(x, mask).precision_matrix.detach()
    gap = 0.5 * (M.diagonal(dim1=-2, dim2=-1).log().sum(-1) - M.logdet()) if family == "mean_field" else 0.0
    torch.testing.assert_close(reached[-1], (ppca.log_prob(x, mask) - gap).detach(), rtol=0, atol=1e-5)


def test_elsewhere_the_bound_on_its_noise_never_falls():
    _, x, guide = conv()
    reached = []
    for guide.steps in (1, 2, 4, 8, 16):
        guide.posterior(x)
        reached.append(guide.refined.after)
    assert (reached[0] >= guide.refined.before).all()
    assert all((b >= a).all() for a, b in pairwise(reached))
    assert (reached[-1] > guide.refined.before + 0.01).all()


def test_it_closes_the_amortization_gap():
    model, x, guide = conv(steps=30)
    f = evaluate.elbo(model, guide, x, num_samples=2000, seed=0)
    plain = evaluate.elbo(model, guide.guide, x, num_samples=2000, seed=0)
    best = evaluate.infer(model, guide, x, seed=0)
    f_best = evaluate.elbo(model, best, x, torch.arange(NUM), 2000, seed=0)
    assert (f_best - plain).mean() > 0.3 and (f_best - f).abs().mean() < 0.03


def test_without_steps_it_is_the_guide():
    model, x, guide = conv(steps=0)
    assert torch.equal(guide.posterior(x).mean, guide.guide.posterior(x).mean)
    for one in (guide, guide.guide):
        torch.manual_seed(1)
        ELBO().differentiable_loss(model, one, x).backward()
    assert guide.gradients == 0 and guide.cost(3) == 3 and guide.refined is None
    found = [p.grad.clone() for p in guide.parameters()]
    assert all(g.abs().sum() > 0 for g in found)


@pytest.mark.parametrize("num", [2, 6, 8, 40])
def test_noise_has_the_moments_that_f_asks_for(num):
    epsilon = ascent.noise(num, 4, seed=3)
    assert epsilon.shape == (num, 4) and torch.equal(epsilon, ascent.noise(num, 4, seed=3))
    assert not torch.equal(epsilon, ascent.noise(num, 4, seed=4))
    torch.testing.assert_close(epsilon.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(epsilon.square().mean(0), torch.ones(4).double())
    lengths = epsilon[: num // 2].norm(dim=-1)
    if num % 8 == 0:
        sets = lengths.unflatten(0, (-1, 4))  # as a normal draw, each set of directions has its own length
        torch.testing.assert_close(sets, sets[:, :1].expand_as(sets))
        assert len({round(float(length), 6) for length in sets[:, 0]}) == num // 8
        torch.testing.assert_close(epsilon.mT @ epsilon / num, torch.eye(4).double())


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_a_natural_step_on_a_gaussian_has_its_closed_form(family):
    r"""At the posterior's mean, L = diag(s): log s moves by ½ (1 − s_j² M_jj), B by −s_i M_ij s_j, m not at all."""
    ppca, x = linear(3)
    p = ppca.posterior(x)
    M, s = p.precision_matrix[0].detach(), torch.tensor([0.1, 0.2, 0.3]).double()
    of = module.Amortized(nn.Linear(20, 3), 3, family).family
    raw = of.of(torch.distributions.Independent(torch.distributions.Normal(p.mean.detach(), s), 1))
    bound = ascent.Bound(ppca, Points(x), of, ascent.noise(6, 3, 0))
    uphill = ascent.look(bound, of, raw, through=False).uphill[0]
    torch.testing.assert_close(uphill[:3], torch.zeros(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(uphill[3:6], 0.5 * (1 - s.square() * M.diagonal()))
    if family == "full_rank":
        i, j = torch.tril_indices(3, 3, -1)
        torch.testing.assert_close(uphill[6:], -(s[i] * M[i, j] * s[j]))


def test_an_ascent_with_a_tolerance_goes_on_after_steps_that_were_not_taken():
    r"""A ridge so narrow that the first steps, at most √2 long, lead far beyond it."""
    family = module.Amortized(nn.Linear(5, 3), 1, "mean_field").family
    ridge = lambda raw: -1e4 * (raw[:, 0] - 0.01).square() + 0 * raw[:, 1]  # noqa: E731
    found = ascent.climb(ridge, family, torch.zeros(1, 2), steps=20, tol=0.02)
    assert found.looks.tolist() < [21] and found.after - found.before > 0.5
    once = ascent.climb(ridge, family, torch.tensor([[0.01, 0.0]]), steps=20, tol=0.02)
    assert once.looks.tolist() == [2]  # nothing to gain


@pytest.mark.parametrize("name", ["mean_field", "full_rank"])
def test_coordinates_around_q_are_those_of_its_factor(name):
    family = module.Amortized(nn.Linear(5, 3), 3, name).family
    raw, step = 0.3 * torch.randn(2, family.width(3)).double(), 0.3 * torch.randn(2, family.width(3)).double()
    q, moved = family(raw), family(family.nearby(raw, step))
    L = q.scale_tril if name == "full_rank" else q.stddev.diag_embed()
    factor = step[:, 3:6].exp().diag_embed()
    i, j = torch.tril_indices(3, 3, -1)
    if name == "full_rank":
        factor[:, i, j] = step[:, 6:]
    torch.testing.assert_close(moved.mean, q.mean + (L @ step[:, :3, None]).squeeze(-1))
    got = moved.scale_tril if name == "full_rank" else moved.stddev.diag_embed()
    torch.testing.assert_close(got, L @ factor)
    epsilon = torch.randn(7, 1, 3).double()
    torch.testing.assert_close(family.codes(raw, epsilon), q.mean + (L @ epsilon.unsqueeze(-1)).squeeze(-1))


# q is a function of x, φ and w


def test_q_of_a_point_does_not_depend_on_chance_or_on_others(monkeypatch):
    model, x, guide = conv(steps=3)
    state, whole = torch.get_rng_state(), guide.posterior(x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(5)
    assert torch.equal(guide.posterior(x).mean, whole.mean)
    torch.testing.assert_close(guide.posterior(x[2:4]).stddev, whole.stddev[2:4])
    monkeypatch.setattr(pyro_dlgm.points, "NUMBERS", 2 * x[0].numel() * guide.num_samples)
    torch.testing.assert_close(guide.posterior(x).mean, whole.mean)
    assert not torch.equal(guides.SemiAmortized(model, guide.guide, 3, seed=1).posterior(x).mean, whole.mean)


def test_what_is_missing_changes_nothing():
    _, x, guide = conv(steps=3)
    mask = torch.rand_like(x) < 0.6
    one = guide.posterior(x.masked_fill(~mask, math.nan), mask=mask)
    two = guide.posterior(x.masked_fill(~mask, 0.3), mask=mask)
    assert torch.equal(one.mean, two.mean) and not torch.equal(one.mean, guide.posterior(x).mean)


def test_what_is_given_goes_to_all_three():
    r"""x = t + 5 c with a sharp likelihood: q follows c, which the encoder is not told."""
    net = nets.Linear(3, 2)
    with torch.no_grad():
        weight, bias = net.body[-1].parameters()
        weight.copy_(torch.tensor([[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]])), bias.zero_()
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(net, 0.1)).double()
    x, c = torch.randn(NUM, 2).double(), torch.randn(NUM, 1).double()
    encoder = guides.Amortized(nets.MLP(2, 8, hidden=(8,)), 2, given_dim=1).double()
    q = guides.SemiAmortized(model, encoder, 100).posterior(x, given=c)
    torch.testing.assert_close(q.mean, (x - 5 * c) / 1.01, rtol=0, atol=1e-5)
    torch.testing.assert_close(q.variance, torch.full_like(x, 0.01 / 1.01), rtol=1e-4, atol=0)


@pytest.mark.parametrize("through", [False, True])
def test_it_works_with_and_without_gradients(through):
    _, x, guide = conv(steps=2, through=through)
    with torch.no_grad():
        found = guide.posterior(x)
    assert not found.mean.requires_grad
    torch.testing.assert_close(found.mean, guide.posterior(x).mean)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        guide.posterior(x)


def test_networks_rest_while_it_climbs():
    net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 6))
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Net(2, 6, net)))
    x = torch.randn(5, 6)
    guide = refining(model, x)
    held = cases.tensors(model)
    before = guide.posterior(x)
    assert torch.equal(guide.posterior(x).mean, before.mean)
    assert model.training and net[1].training and cases.same(held, cases.tensors(model))


# How it is trained


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_gradients_through_the_steps_are_those_of_the_unrolled_f(family):
    r"""By φ and by w, against central differences of F at the end of all steps, with one noise for F."""
    model, x, _ = conv()
    guide = guides.SemiAmortized(model, cases.amortized(model, family).double(), 3, through=True)
    epsilon = torch.randn(4, 1, cases.D).double()

    def f():
        q = guide.posterior(x)
        t = q.mean + (guide.guide.family.codes(guide.guide.family.of(q), epsilon) - q.mean)
        return (model.log_joint(x, t) - q.log_prob(t)).mean()

    parameters = [*guide.parameters(), *model.parameters()]
    found = torch.autograd.grad(f(), parameters)
    assert (guide.refined.after > guide.refined.before).all()
    for p, gradient in zip(parameters, found, strict=True):
        way = torch.randn_like(p)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * 1e-5 * way)
                ends.append(float(f()))
                p.sub_(sign * 1e-5 * way)
        assert float((gradient * way).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-6)


def test_without_gradients_through_them_each_side_climbs_its_own_f():
    r"""w: E_q log p at the refined q, held; φ: F̂ of the encoder's q, on the same noise."""
    model, x, guide = conv(steps=3)
    torch.manual_seed(1)
    loss = ELBO(analytic_kl=False).differentiable_loss(model, guide, x)
    loss.backward()
    of_w, of_q = ([p.grad.clone() for p in side.parameters()] for side in (model, guide))
    q = guide.posterior(x)
    torch.manual_seed(1)
    t = q.rsample()
    log_joint = model.log_joint(x, t).sum()
    assert float(loss) == pytest.approx(float(q.log_prob(t).sum() - log_joint), rel=1e-9)  # the factor adds nothing
    for one, two in zip(of_w, torch.autograd.grad(-log_joint, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, two)
    bound = ascent.Bound(model, Points(x), guide.guide.family, ascent.noise(2 * cases.D, cases.D, 0))
    own = torch.autograd.grad(-bound(guide.guide.raw(x)).sum(), list(guide.parameters()))
    for one, two in zip(of_q, own, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("through", [False, True])
def test_training_climbs_the_evidence_and_the_encoder_learns(through):
    truth, _ = linear(2, P=8)
    x = truth(size=200).detach()
    best = PPCA.fit(x, 2).log_prob(x).mean()
    ppca = PPCA(2, 8).double()
    guide = refining(ppca, x, 2, "full_rank", through=through)
    apart = (ppca.log_prob(x) - bound_on_ppca(ppca, guide.guide.posterior(x), x)).mean()
    fit(ppca, guide, x, epochs=40, batch_size=50, lr=1e-1, seed=0)
    assert best - 0.1 < ppca.log_prob(x).mean() < best + 1e-9
    left = (ppca.log_prob(x) - bound_on_ppca(ppca, guide.guide.posterior(x), x)).mean()
    after = (ppca.log_prob(x) - bound_on_ppca(ppca, guide.posterior(x), x)).mean()
    assert after < left and after < 0.05
    assert through or left < 0.2 * apart


def test_it_runs_under_pyro_s_own_svi():
    model, x, guide = conv(steps=1)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO())
    before = cases.tensors(model), cases.tensors(guide)
    assert svi.step(x) < float("inf")
    assert cases.unmoved(model, before[0]) == cases.unmoved(guide, before[1]) == []


# Counting, copies, refusals


@pytest.mark.parametrize("steps", [1, 4])
def test_gradient_evaluations_are_counted(monkeypatch, steps):
    _, x, guide = conv(steps=steps)
    spent, plain = [], DLGM.log_joint

    def counted(self, x, t, *args, **settings):
        spent.append(t.shape[:-1].numel())
        return plain(self, x, t, *args, **settings)

    monkeypatch.setattr(DLGM, "log_joint", counted)
    guide.posterior(x)
    assert guide.gradients == sum(spent) == NUM * (guide.cost(1) - 1) == NUM * 2 * cases.D * (steps + 1)


def test_second_derivatives_count_as_two():
    _, x, guide = conv(steps=3, through=True)
    guide.posterior(x)
    assert guide.gradients == NUM * (guide.cost(1) - 1) == NUM * 2 * cases.D * (4 + 2 * 3)


def test_copies_look_at_their_own_model():
    model, x, guide = conv(steps=2)
    twin, copied = copy.deepcopy((model, guide))
    assert copied._model[0] is twin and copy.deepcopy(guide)._model[0] is model
    assert torch.equal(copied.posterior(x).mean, guide.posterior(x).mean)
    guides.SemiAmortized(model, copy.deepcopy(guide.guide), 1)  # the family of a copy is a copy


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"num_samples": 3}, "num_samples is 3"),
        ({"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        conv(**settings)


def test_too_few_samples_for_full_rank_are_refused():
    model = cases.conv()
    with pytest.raises(ValueError, match=f"num_samples is 4; expected an even number, at least {2 * cases.D}"):
        guides.SemiAmortized(model, cases.amortized(model, "full_rank"), num_samples=4)


def test_guides_that_cannot_be_refined_are_refused():
    model = cases.conv()
    for guide in (guides.MeanField(3, cases.D), guides.Flow(cases.encoder(model), cases.D)):
        with pytest.raises(TypeError, match=r"expected guides\.Amortized of a Gaussian family"):
            guides.SemiAmortized(model, guide)
