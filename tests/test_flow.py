r"""`guides.Flow` and `FlowRows`: a density, exact on PPCA, and on an arc nearer to the posterior than a Gaussian."""

import builtins
import copy
import sys
from functools import partial

import cases
import pyro
import pytest
import torch
from pyro_dlgm.guides import flow as flow_module
from pyro_dlgm.guides.flow import FlowFamily
from torch import nn

from pyro_dlgm import DLGM, PPCA, Points, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.optim.svi import adam

zuko = flow_module.zuko()
LINEAR = partial(zuko.flows.MAF, transforms=1, hidden_features=())  # of z: Gaussians of any covariance
NUM = 12


def bent(family: FlowFamily, num: int = 3):
    r"""Distributions of a flow that is far from Gaussian, in float64."""
    family = family.double()
    with torch.no_grad():
        for p in family.parameters():
            p.mul_(1.5)
    return family(0.5 * torch.randn(num, family.width(2)).double())


# The density


@pytest.mark.parametrize("flow", [None, LINEAR], ids=["splines", "linear"])
def test_the_density_is_normalized(flow):
    r"""By quadrature in two dimensions, and of draws: the same as after a round trip."""
    q = bent(FlowFamily(2, flow, 4))
    with torch.no_grad():
        t = q.sample((4_000,))
        centre, reach = t.mean(0), 9 * t.std(0)
        line = torch.linspace(-1, 1, 301).double()
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 1, 2)
        mass = q.log_prob(centre + grid * reach).exp().sum(0) * (reach * 2 / 300).prod(-1)
    torch.testing.assert_close(mass, torch.ones(3).double(), rtol=0, atol=5e-3)
    kept = q.rsample((50,))
    torch.testing.assert_close(q.log_prob(kept), q.log_prob(kept.clone()), rtol=0, atol=1e-6)


def test_draws_follow_the_density():
    r"""E_q f = ∫ f q, on the same grid, for f the mean, the square and the sine."""
    q = bent(FlowFamily(2, None, 4), 1)
    with torch.no_grad():
        t = q.sample((40_000,)).squeeze(1)
        line = torch.linspace(-1, 1, 301).double()
        reach = 9 * t.std(0)
        grid = t.mean(0) + torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2) * reach
        weight = q.log_prob(grid.unsqueeze(1)).squeeze(1).exp() * (reach * 2 / 300).prod()
        for f in (lambda t: t, torch.square, lambda t: (3 * t).sin()):
            error = f(t).std(0) / len(t) ** 0.5
            assert ((f(t).mean(0) - weight @ f(grid)).abs() < 5 * error + 5e-3).all()


def test_the_density_of_a_draw_is_kept_only_while_it_is_that():
    q = bent(FlowFamily(2, None, 4))
    t = q.rsample()
    first = q.log_prob(t)
    assert q.log_prob(t) is first and q.log_prob(t.clone()) is not first
    still = q.sample()
    assert q.log_prob(still).requires_grad  # though the draw was made without gradients
    with torch.no_grad():
        t = q.rsample()
        before = q.log_prob(t)
        t.add_(1.0)
        assert (q.log_prob(t) != before).all()


def test_moments_are_those_of_draws():
    q = bent(FlowFamily(2, None, 4))
    with torch.no_grad():
        t = q.sample((20_000,))
        assert ((q.mean - t.mean(0)).abs() < 5 * t.std(0) / 200**0.5).all() and q.mean is not q.shift
        assert torch.equal(q.mean, q.mean) and (q.stddev / t.std(0) - 1).abs().max() < 0.4


@pytest.mark.parametrize("D", [1, 2, 5])
def test_shapes_dtypes_and_more_axes(D):
    family = FlowFamily(D, None, 3).double()
    q = family(torch.randn(4, family.width(D)).double()).expand((6, 4))
    t = q.rsample((7,))
    assert t.shape == (7, 6, 4, D) and q.log_prob(t).shape == (7, 6, 4) and t.dtype == torch.float64
    torch.testing.assert_close(q.log_prob(t.clone()), q.log_prob(t))
    assert len(t.flatten(0, 1)[:, 0].unique(dim=0)) == 42


# Exact on PPCA, and better than a Gaussian where it can be


def linear(D=2, P=6):
    ppca = PPCA(D, P, 0.6).double()
    ppca.set(torch.randn(P, D).double(), torch.randn(P).double(), ppca.sigma2.detach())
    return ppca, ppca(size=200).detach()


@pytest.mark.parametrize("masked", [False, True])
def test_with_one_affine_transform_f_touches_the_evidence_of_ppca(masked):
    ppca, x = linear()
    mask = (torch.rand(6) < 0.8).expand_as(x) if masked else None  # one for all: q is linear in what is seen
    guide = guides.Flow(nets.Linear(6, 8), 2, LINEAR).double()
    ppca.requires_grad_(False)
    fit(ppca, guide, x, mask=mask, epochs=400, batch_size=200, lr=3e-2, seed=0)
    missing = ppca.log_prob(x, mask) - evaluate.elbo(ppca, guide, x, mask=mask, seed=0)
    before = guides.Flow(nets.Linear(6, 8), 2, LINEAR).double()
    assert missing.mean().abs() < 0.02
    assert (ppca.log_prob(x, mask) - evaluate.elbo(ppca, before, x, mask=mask, seed=0)).mean() > 1


def test_rows_touch_the_evidence_of_ppca_as_well():
    ppca, x = linear()
    guide = guides.FlowRows(len(x), 2, LINEAR).double()
    ppca.requires_grad_(False)
    fit(ppca, guide, x, epochs=400, batch_size=200, lr=1e-2, row_lr=0.1, seed=0)
    missing = ppca.log_prob(x) - evaluate.elbo(ppca, guide, x, torch.arange(200), seed=0)
    assert missing.mean().abs() < 0.05


class Arc(nn.Module):
    r"""t_2 + t_1²: a posterior along a parabola."""

    def forward(self, t):
        return t[..., 1:] + t[..., :1].square()


def test_on_an_arc_it_is_nearer_to_the_evidence_than_the_best_gaussian():
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Net(2, 1, Arc()), 0.2)).double()
    model.requires_grad_(False)
    x = torch.ones(4, 1).double()
    exact = evaluate.quadrature(model, x)
    best = evaluate.infer(model, guides.FullRank(4, 2).double(), x, seed=0)
    rows = guides.FlowRows(4, 2, init_scale=0.5).double()
    fit(model, rows, x, epochs=200, batch_size=4, lr=1e-2, row_lr=3e-2, objective=ELBO(32), seed=0)
    of_best, of_flow = (evaluate.elbo(model, q, x, torch.arange(4), 4000, seed=0) for q in (best, rows))
    assert (of_flow < exact + 0.05).all()
    assert (exact - of_flow).mean() < 0.5 * (exact - of_best).mean()


# The E-step, and what is trained


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_an_e_step_starts_at_the_encoder_and_lets_the_flow_rest():
    model = cases.conv()
    x, guide = cases.points(model, NUM), guides.Flow(cases.encoder(model), cases.D, init_scale=0.5)
    started = guide.start(Points(x))
    assert torch.equal(started.rows.weight, guide.raw(x))
    best = evaluate.infer(model, guide, x, max_steps=400, seed=0)
    held = dict(guide.family.named_parameters())
    assert all(torch.equal(p, held[name]) for name, p in best.family.named_parameters())
    assert all(p.requires_grad for p in guide.parameters())
    plain = evaluate.elbo(model, guide, x, num_samples=500, seed=0)
    assert (evaluate.elbo(model, best, x, torch.arange(NUM), 500, seed=0) - plain).mean() > 0.3
    again = evaluate.infer(model, best, x[:5], max_steps=20, seed=0)
    assert type(again) is guides.FlowRows and again.num_points == 5


def test_the_flow_of_rows_learns_at_the_rate_of_networks():
    guide = guides.FlowRows(5, 2)
    dense, rows = adam(guide, lr=1e-3, row_lr=0.1)
    assert [group["lr"] for group in dense.param_groups] == [1e-3] and rows.param_groups[0]["lr"] == 0.1
    assert len(dense.param_groups[0]["params"]) == len(list(guide.family.parameters()))


def test_kl_is_sampled_with_one_pass_of_the_flow(monkeypatch):
    model = cases.conv()
    x, guide = cases.points(model, NUM), guides.Flow(cases.encoder(model), cases.D)
    monkeypatch.setattr(zuko.distributions.NormalizingFlow, "log_prob", None)
    for loss in (ELBO(), ELBO(3), pyro.infer.Trace_ELBO(), pyro.infer.TraceMeanField_ELBO()):
        assert abs(loss.loss(model, guide, x)) < float("inf")


def test_copies_train_apart():
    guide = guides.Flow(nets.MLP(5, 8, hidden=(8,)), 2)
    twin, x = copy.deepcopy(guide), torch.randn(3, 5)
    with torch.no_grad():
        for p in twin.family.parameters():
            p.add_(0.1)
    t = torch.randn(3, 2)
    assert not torch.equal(guide.posterior(x).log_prob(t), twin.posterior(x).log_prob(t))


# Refusals


@pytest.mark.parametrize("make", [lambda: guides.Flow(nets.MLP(5, 8), 2), lambda: guides.FlowRows(4, 2)])
def test_without_zuko_the_extra_is_named(make, monkeypatch):
    plain = builtins.__import__

    def without(name, *args, **settings):
        if name == "zuko":
            raise ModuleNotFoundError("No module named 'zuko'")
        return plain(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="the package zuko, which is the extra 'flow': pip install zuko"):
        make()


@pytest.mark.parametrize("validated", [True, False])
def test_the_import_of_zuko_leaves_validation_as_it_was(validated, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", validated)
    guides.Flow(nets.MLP(5, 8), 2)
    assert pyro.settings.get()["validate_distributions_torch"] == validated


def test_a_flow_without_a_context_is_refused():
    with pytest.raises(ValueError, match="context is 0"):
        guides.Flow(nets.MLP(5, 8), 2, context=0)


def test_gaps_need_a_gaussian_and_say_so():
    model = cases.conv()
    with pytest.raises(TypeError, match="expected a Gaussian"):
        evaluate.gaps(model, guides.Flow(cases.encoder(model), cases.D), cases.points(model, 3))
