r"""`guides.Laplace`: exact on PPCA, at a mode elsewhere, a constant for the M-step, and honest where it fails."""

import math
import warnings

import cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_certified_verdicts import Mirror
from torch import nn

import pyro_dlgm.points
from pyro_dlgm import DLGM, PPCA, Points, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.modes.newton import ROUNDING
from pyro_dlgm.modes.starts import AMONG
from pyro_dlgm.objectives import ELBO

NUM = 12


def linear(D: int, dtype=torch.float64, scale=0.6, P=60):
    ppca = PPCA(D, P, scale).to(dtype)
    ppca.set(torch.randn(P, D).to(dtype), torch.randn(P).to(dtype), ppca.sigma2.detach())
    return ppca, ppca(size=NUM).detach()


def conv(likelihood="fixed", factor=2.0):
    r"""A small model with weights so large that it is not linear, and points of it."""
    model = cases.conv(likelihood=likelihood)
    with torch.no_grad():
        for p in model.likelihood.net.parameters():
            p.mul_(factor)
    return model, model(size=NUM).detach()


# Exact where the posterior is Gaussian


@pytest.mark.parametrize("D", [1, 2, 8, 50])
@pytest.mark.parametrize("masked", [False, True])
def test_on_ppca_it_is_the_posterior(D, masked):
    ppca, x = linear(D)
    mask = torch.rand_like(x) < 0.7 if masked else None
    guide = guides.Laplace(ppca).eval()
    q = guide.posterior(x if mask is None else x.masked_fill(~mask, math.nan), mask=mask)
    exact = ppca.posterior(x, mask)
    torch.testing.assert_close(q.mean, exact.mean.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(q.covariance_matrix, exact.covariance_matrix.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(guide.modes.log_px, ppca.log_prob(x, mask).detach(), rtol=0, atol=1e-6)
    bound = evaluate.elbo(ppca, guide, x, mask=mask, num_samples=3, seed=0)
    torch.testing.assert_close(bound, ppca.log_prob(x, mask).detach(), rtol=0, atol=1e-6)


def test_on_ppca_in_float32():
    ppca, x = linear(8, torch.float32)
    q, exact = guides.Laplace(ppca).posterior(x), ppca.posterior(x)
    assert q.mean.dtype == q.scale_tril.dtype == torch.float32
    torch.testing.assert_close(q.mean, exact.mean.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.covariance_matrix, exact.covariance_matrix.detach(), rtol=1e-4, atol=1e-6)


def test_a_conditional_prior_and_what_is_given():
    r"""p(t | c) = N(A c, s²) and x = W t + b: in closed form, with the precision s⁻² + WᵀW / σ²."""

    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.A, self.latent_dim = nn.Linear(3, 2), 2

        def forward(self, given):
            return dist.Normal(self.A(given), torch.tensor([0.5, 2.0]).to(given)).to_event(1)

    model = DLGM(Conditional(), likelihoods.FixedNormal(nets.Linear(5, 7), 0.4)).double()
    c = torch.randn(NUM, 3).double()
    x = model(given=c, size=NUM).detach()
    q = guides.Laplace(model).posterior(x, given=c)
    weight, bias = (v.detach() for v in model.likelihood.net.body[-1].parameters())
    W, of_given = weight[:, :2], c @ weight[:, 2:].mT + bias
    precision = torch.diag(torch.tensor([4.0, 0.25]).double()) + W.mT @ W / 0.4**2
    pull = (x - of_given) @ W / 0.4**2 + model.prior.A(c).detach() * torch.tensor([4.0, 0.25])
    torch.testing.assert_close(q.mean, torch.linalg.solve(precision, pull.mT).mT, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(q.precision_matrix, precision.expand(NUM, 2, 2), rtol=1e-5, atol=1e-6)
    assert guides.Laplace(model).cost(1) > 0


# At a mode elsewhere


@pytest.mark.parametrize("kind", cases.LIKELIHOODS)
def test_the_mean_is_at_a_mode(kind):
    model, x = conv(kind)
    model, x = model.double(), x.double()
    guide = guides.Laplace(model, tol=1e-10, max_steps=400).eval()
    t = guide.posterior(x).mean.requires_grad_()
    value = model.log_joint(x, t)
    (gradient,) = torch.autograd.grad(value.sum(), t)
    assert gradient.abs().max() < 1e-4
    around = t.detach() + 0.02 * torch.randn(200, *t.shape).double()
    assert (model.log_joint(x, around) <= value.detach() + 1e-9).all()


@pytest.mark.parametrize("kind", cases.LIKELIHOODS)
def test_in_float32_it_arrives_at_the_same_place(kind):
    model, x = conv(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = guides.Laplace(model).eval().posterior(x)
        value = model.log_joint(x, single.mean).double()
        double = guides.Laplace(model.double()).eval().posterior(x.double())
    error = double.mean - single.mean
    # Both stop where no more than the tolerance, or rounding, is to be gained.
    off = 0.5 * (error.unsqueeze(-2) @ double.precision_matrix @ error.unsqueeze(-1)).flatten()
    assert (off < 4e-4 + 4 * ROUNDING * torch.finfo(torch.float32).eps * value.abs()).all()


@pytest.mark.parametrize("kind", ["fixed", "bernoulli", "diagonal"])
def test_with_two_latents_its_bound_is_below_the_evidence_and_near_it(kind):
    model = cases.conv(likelihood=kind, latent_dim=2).double()
    x = model(size=NUM).detach()
    guide = guides.Laplace(model)
    exact = evaluate.quadrature(model, x)
    bound = evaluate.elbo(model, guide, x, num_samples=2000, seed=0)
    fitted = evaluate.infer(model, guides.FullRank(1, 2).double(), x, seed=0)
    best = evaluate.elbo(model, fitted, x, torch.arange(NUM), 2000, seed=0)
    assert ((bound - exact) < 0.02).all() and (bound - exact).mean() > -0.3
    assert (bound - best).mean() < 0.01  # the best Gaussian is the best


def test_draws_find_the_larger_of_two_modes():
    r"""x = |t − a| for t of both signs, with the prior in favour of one side."""

    class Folded(nn.Module):
        def forward(self, t):
            return (t + 2) * (t - 1)

    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(Folded(), 0.3)).double()
    x = torch.zeros(NUM, 1).double()
    wrong = guides.Laplace(model, start=Constant(-1.9)).eval()
    assert (wrong.posterior(x).mean < -1.5).all()
    right = guides.Laplace(model, start=Constant(-1.9), num_draws=20).eval()
    assert (right.posterior(x).mean - 1).abs().max() < 0.1
    assert (right.modes.log_px > wrong.modes.log_px + 1).all()


class Constant(guides.Guide):
    r"""A guide whose mean is one number."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def posterior(self, x=None, index=None, mask=None, given=None):
        return dist.Normal(torch.full((len(x), 1), self.value).to(x), 1.0).to_event(1)


def test_the_centre_of_a_symmetric_model_is_no_mode():
    r"""Logits a (t² − 1): at t = 0 the gradient is 0, and the Fisher information as well."""
    model = DLGM(priors.StandardNormal(1), likelihoods.Bernoulli(Mirror())).double()
    x = model(size=NUM).detach()
    guide = guides.Laplace(model).eval()
    q, exact = guide.posterior(x), evaluate.quadrature(model, x)
    clear = q.mean.abs().flatten() > 4 * q.stddev.flatten()
    assert clear.double().mean() > 0.5
    # Of two mirror modes it knows one, hence log 2.
    torch.testing.assert_close(guide.modes.log_px[clear] + math.log(2), exact[clear], rtol=0, atol=0.2)


def test_it_starts_at_another_guide():
    model, x = conv()
    encoder = cases.amortized(model)
    guide = guides.Laplace(model, start=encoder, max_steps=1)
    asked = []
    plain = model.log_joint
    model.log_joint = lambda x, t, *args, **kw: asked.append(t.detach().clone()) or plain(x, t, *args, **kw)
    guide.posterior(x)
    aside = (asked[0] - encoder.posterior(x).mean.detach()).abs()
    assert aside.min() > 0.005 and aside.max() < 0.1 and len(aside[0].unique()) == cases.D


# The M-step


def test_for_the_m_step_q_is_a_constant():
    r"""The gradient of the loss is that of E_q log p(x, t | w) at q's own draws; nothing flows through t̂ or C."""
    model, x = conv()
    guide = guides.Laplace(model)
    q = guide.posterior(x)
    assert not q.mean.requires_grad and not q.scale_tril.requires_grad and list(guide.parameters()) == []
    torch.manual_seed(1)
    ELBO(analytic_kl=False).differentiable_loss(model, guide, x).backward()
    found = [p.grad.clone() for p in model.parameters()]
    torch.manual_seed(1)
    model.zero_grad()
    (-model.log_joint(x, q.rsample()).sum()).backward()
    for one, two in zip(found, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_laplace_em_climbs_the_evidence_of_ppca():
    truth, _ = linear(2, P=8)
    x = truth(size=300).detach()
    best = PPCA.fit(x, 2).log_prob(x).mean()
    ppca = PPCA(2, 8).double()
    before = ppca.log_prob(x).mean()
    result = fit(ppca, guides.Laplace(ppca, max_steps=4), x, epochs=80, batch_size=300, lr=1e-1, seed=0)
    assert before + 1 < best - 0.05 < ppca.log_prob(x).mean() < best + 1e-9
    # Two curvatures of two tangents, three gradients, and the M-step.
    assert result.history[-1]["gradients_per_point"] / 80 == pytest.approx(8, abs=1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_it_works_with_and_without_gradients(mode):
    model, x = conv()
    with mode():
        q = guides.Laplace(model).posterior(x)
        torch.testing.assert_close(q.mean, guides.Laplace(model).posterior(x).mean)


def test_inference_mode_is_refused():
    model, x = conv()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        guides.Laplace(model).posterior(x)


def test_networks_rest_while_it_climbs():
    r"""With dropout and batch statistics, points would depend on chance and on each other."""
    net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 6))
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Net(2, 6, net)))
    x, guide = torch.randn(5, 6), guides.Laplace(model)
    before, state = guide.posterior(x), torch.get_rng_state()
    held = cases.tensors(model)
    assert torch.equal(guide.posterior(x).mean, before.mean)
    torch.testing.assert_close(guide.posterior(x[:2]).mean, before.mean[:2])
    assert model.training and net[1].training and cases.same(held, cases.tensors(model))
    assert torch.equal(state, torch.get_rng_state())


# Counting, and what goes wrong


def test_gradient_evaluations_are_counted(monkeypatch):
    model, x = conv()
    spent, guide = cases.spent(monkeypatch), guides.Laplace(model, num_draws=2)
    guide.posterior(x)
    assert guide.gradients == sum(spent) > 3 * NUM * (2 + cases.D)
    assert guide.gradients <= NUM * guide.cost(1)
    assert guides.Laplace(model, num_draws=2, max_steps=5).cost(7) == 7 * (3 * 6 * (1 + cases.D) + 2 * AMONG + 1)


def test_points_that_have_not_converged_are_named():
    model, x = conv()
    guide = guides.Laplace(model, max_steps=1).eval()
    with pytest.warns(UserWarning, match=r"not converged at \d+ of 12 points \(rows \[.*raise max_steps=1") as caught:
        guide.posterior(x)
    assert caught[0].filename == __file__
    assert 0 < (~guide.modes.converged).sum() == int(str(caught[0].message).split(" at ")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guide.train().posterior(x)


class Saddle(nn.Module):
    r"""p(t) = ½ N(−2, 1) + ½ N(2, 1): between its modes it is convex."""

    def forward(self, given=None):
        parts = dist.Normal(torch.tensor([-2.0, 2.0]), 1.0)
        return dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts).expand([1]).to_event(1)


def test_points_whose_curvature_was_repaired_are_named():
    model = DLGM(Saddle(), likelihoods.FixedNormal(nets.Linear(1, 3), 5.0))
    guide = guides.Laplace(model, start=Constant(0.0), max_steps=1, tol=1e9).eval()  # it stays where it is
    with pytest.warns(UserWarning, match=r"curvature at 12 of 12 points .* was repaired"):
        q = guide.posterior(model(size=NUM).detach())
    assert guide.modes.repaired.all() and q.scale_tril.isfinite().all()
    climbed = guides.Laplace(model, start=Constant(0.0)).eval()
    q = climbed.posterior(model(size=NUM).detach())
    assert (q.mean.abs() > 1).all() and not climbed.modes.repaired.any()


def test_a_scale_at_its_floor_leaves_a_density():
    r"""σ = 1e-3 with signals of 1: the curvature is 1e6 times that of the prior."""
    model, x = conv()
    with torch.no_grad():
        model.likelihood.u.fill_(-30.0)
    guide = guides.Laplace(model, num_draws=8, max_steps=200).eval()
    q = guide.posterior(x)
    assert model.likelihood.scale < 1.01e-3 and q.scale_tril.isfinite().all()
    bound = evaluate.elbo(model, guide, x, num_samples=50, seed=0)
    assert bound.isfinite().all()


@pytest.mark.parametrize("kind", ["fixed", "low_rank"])
def test_blocks_change_nothing(kind, monkeypatch):
    model, x = conv(kind)
    model, x = model.double(), x.double()
    mask = torch.rand_like(x) < 0.8
    whole = guides.Laplace(model).find(Points(x, mask=mask))
    monkeypatch.setattr(pyro_dlgm.points, "NUMBERS", 3 * x[0].numel() * cases.D)
    parts = guides.Laplace(model).find(Points(x, mask=mask))
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_draws": -1}, "num_draws is -1"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"tol": 0.0}, "tol is 0.0"),
        ({"tol": math.inf}, "tol is inf"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        guides.Laplace(cases.conv(), **settings)


def test_a_start_with_rows_is_refused():
    with pytest.raises(TypeError, match="start is a MeanField, which has no q for new points"):
        guides.Laplace(cases.conv(), start=guides.MeanField(3, cases.D))


def test_it_runs_under_pyro_s_own_svi_beside_other_sites():
    model, x = conv()
    svi = pyro.infer.SVI(model, guides.Laplace(model), pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    before = cases.tensors(model)
    assert svi.step(x) < float("inf") and cases.unmoved(model, before) == []
