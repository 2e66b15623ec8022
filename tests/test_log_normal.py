"""Amounts that are zero or log-normal, against SciPy, integration, draws, and closed-form estimates; errors."""

import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from scipy import stats

from pyro_dlgm import DLGM, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.likelihoods.log_normal import ZeroInflatedLogNormalPixels
from pyro_dlgm.recipes import datasets, networks, pairs

MU, SIGMA, GATE = (torch.tensor(v, dtype=torch.double) for v in ([-1.0, 0.3, 2.0], [0.2, 1.0, 1.7], [-2.0, 0.0, 1.5]))
PI = GATE.sigmoid()


def pixels() -> ZeroInflatedLogNormalPixels:
    return ZeroInflatedLogNormalPixels(MU, SIGMA, GATE)


def scipy_amounts():
    return stats.lognorm(SIGMA.numpy(), scale=MU.exp().numpy())


def model_of(P: int = 5, D: int = 2, **settings) -> DLGM:
    return DLGM(priors.StandardNormal(D), likelihoods.ZeroInflatedLogNormal(nets.Linear(D, P, heads=3), **settings))


@pytest.mark.parametrize("x", [1e-6, 0.4, 1.0, 3.0, 1e5])
def test_an_amount_has_the_density_of_a_log_normal_times_its_share(x):
    known = torch.from_numpy(scipy_amounts().logpdf(x)) + (1 - PI).log()
    torch.testing.assert_close(
        pixels().log_prob(torch.full((3,), x, dtype=torch.double)), known, rtol=1e-10, atol=1e-10
    )


def test_a_zero_has_its_probability_and_all_add_up_to_one():
    p, u = pixels(), torch.linspace(-30, 30, 20_001).double().unsqueeze(1)
    torch.testing.assert_close(p.log_prob(torch.zeros(3).double()), PI.log(), rtol=1e-12, atol=0)
    amounts = torch.trapezoid((p.log_prob(u.exp()) + u).exp(), u.squeeze(1), dim=0)
    torch.testing.assert_close(amounts + PI, torch.ones(3).double(), rtol=0, atol=1e-9)


def test_moments_are_those_of_the_mixture():
    p, known = pixels(), scipy_amounts()
    mean, second = (torch.from_numpy(v) for v in (known.mean(), known.var() + known.mean() ** 2))
    torch.testing.assert_close(p.mean, (1 - PI) * mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(p.variance, (1 - PI) * second - ((1 - PI) * mean) ** 2, rtol=1e-9, atol=0)


def test_draws_are_zero_as_often_as_said_and_else_log_normal():
    torch.manual_seed(0)
    x = pixels().expand((4, 3)).sample((30_000,)).flatten(0, 1)
    assert x.shape == (120_000, 3) and x.dtype == torch.float64
    for v, mu, sigma, share in zip(x.T, MU, SIGMA, PI, strict=True):
        assert abs(float((v == 0).double().mean() - share)) < 4 * math.sqrt(float(share * (1 - share)) / len(v))
        assert stats.kstest(v[v > 0].log(), stats.norm(mu, sigma).cdf).pvalue > 1e-3
    zero = x[:, 1] == 0
    after = zero[1:][zero[:-1]].double().mean()
    assert abs(float(after) - 0.5) < 0.01  # draws are independent of each other


def test_the_fisher_information_is_the_mean_square_of_the_gradient():
    parameters = torch.stack([MU, SIGMA, GATE], -1)
    found = pixels().fisher()
    torch.testing.assert_close(found.parameters, parameters)
    u = torch.linspace(-30, 30, 20_001).double()
    for k in range(3):
        score = torch.func.vmap(torch.func.grad(lambda v, x: ZeroInflatedLogNormalPixels(*v).log_prob(x)), (None, 0))
        at = score(parameters[k], u.exp())
        p = ZeroInflatedLogNormalPixels(*parameters[k])
        weight = (p.log_prob(u.exp()) + u).exp()
        zero = score(parameters[k], torch.zeros(1).double())[0]
        mean = torch.trapezoid(weight[:, None, None] * at[:, :, None] * at[:, None, :], u, dim=0)
        mean = mean + PI[k] * torch.outer(zero, zero)
        torch.testing.assert_close(found.information[k], mean, rtol=1e-6, atol=1e-8)


def test_gradients_are_those_of_differences_and_vanish_at_the_estimate_in_closed_form():
    x = torch.tensor([0.0, 0.0, 0.2, 1.5, 7.0], dtype=torch.double)
    logs, share = x[x > 0].log(), 2 / 5
    best = torch.stack(
        [logs.mean(), logs.std(correction=0), torch.tensor(math.log(share / (1 - share)), dtype=torch.double)]
    )
    mean = lambda v: ZeroInflatedLogNormalPixels(*v).log_prob(x).mean()  # noqa: E731
    assert torch.func.grad(mean)(best).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda v: ZeroInflatedLogNormalPixels(*v).log_prob(x), best.requires_grad_())


def test_a_network_says_mean_scale_and_gate_and_a_factor_shifts_the_mean():
    model = model_of(floor=0.5).double()
    t = torch.randn(4, 2).double()
    mu, r, gate = model.likelihood.net(t)
    p = model.likelihood.pixels(t)
    for found, known in ((p.loc, mu), (p.scale, 0.5 + torch.nn.functional.softplus(r)), (p.gate, gate)):
        torch.testing.assert_close(found, known)
    x = torch.tensor([0.0, 1.0, 2.0, 0.0, 30.0]).double()
    # p(c x) under μ + log c is p(x)/c for each amount, and p(0) stays.
    moved = ZeroInflatedLogNormalPixels(mu + math.log(7), p.scale, gate).log_prob(7 * x)
    torch.testing.assert_close(moved, p.log_prob(x) - math.log(7) * (x > 0))


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_what_is_no_amount_is_refused_and_never_taken_for_a_zero(bad):
    model, x = model_of(), torch.rand(3, 5)
    x[1, 2] = bad
    words = r"ZeroInflatedLogNormal in rows \[1\].*" + ("numbers >= 0" if bad == -1 else "expected finite numbers")
    with pytest.raises(ValueError, match=words):
        model.check(x)
    with pyro.validation_enabled(False):
        found = model.likelihood(torch.zeros(3, 2)).log_prob(x)
    assert found.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("gate", [-100.0, 100.0, 300.0])
def test_certain_zeros_and_certain_amounts_lose_no_digits(gate):
    single = [torch.tensor(v) for v in (0.5, 15.0 if gate > 0 else 1.0, gate)]
    p, q = ZeroInflatedLogNormalPixels(*single), ZeroInflatedLogNormalPixels(*(v.double() for v in single))
    for x in (0.0, 2.0):
        torch.testing.assert_close(p.log_prob(torch.tensor(x)).double(), q.log_prob(torch.tensor(x).double()))
        assert p.log_prob(torch.tensor(x)).isfinite()
    exact = [v.log().item() if v > 0 else -math.inf for v in (q.mean, q.variance)]
    assert exact[0] == pytest.approx(math.log(1) - math.log1p(math.exp(gate)) + 0.5 + single[1].item() ** 2 / 2)
    for found, known in zip((p.mean, p.variance), exact, strict=True):
        assert not -87 < known < 88 or found.double().log().item() == pytest.approx(known, rel=1e-5)
    for one, two in zip(p.fisher(), q.fisher(), strict=True):
        torch.testing.assert_close(one.double(), two)


def test_draws_carry_no_gradient():
    assert not ZeroInflatedLogNormalPixels(MU.clone().requires_grad_(), SIGMA, GATE).sample().requires_grad


def test_amounts_far_from_one_get_a_note():
    model, x = model_of(), torch.rand(50, 5) + 0.5
    x[:, 2] *= 0
    for factor, noted in ((1.0, False), (5.0, False), (1e3, True), (1e-3, True)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit(model, guides.PointEstimate(50, 2), factor * x, epochs=1)
        found = [str(w.message) for w in said if "amounts" in str(w.message)]
        assert bool(found) == noted and (not noted or "divide each column by its typical size" in found[0])


def test_heads_and_floor_are_checked():
    assert model_of().likelihood.floor == 1e-3 and model_of(floor=0.0).likelihood.floor == 0
    with pytest.raises(ValueError, match="2 heads; expected three, for μ and r of the logarithm"):
        likelihoods.ZeroInflatedLogNormal(nets.Linear(2, 3, heads=2))
    with pytest.raises(ValueError, match="floor is -1"):
        likelihoods.ZeroInflatedLogNormal(nets.Linear(2, 3, heads=3), floor=-1)


def test_intervals_of_hidden_amounts_contain_the_truth_as_often_as_they_should():
    """Three fifths of the values are 0: ties are broken at random, so the share is exact there as well."""
    torch.manual_seed(0)
    model = model_of(P=8, D=1)
    with torch.no_grad():
        model.likelihood.net.body[-1].bias.view(3, 8)[2].fill_(0.4)
    x = model(size=400).detach()
    assert 0.4 < float((x == 0).double().mean()) < 0.8
    mask = torch.rand(x.shape) < 0.7
    guide = guides.Laplace(model).eval()
    few = {"num_samples": 19, "num_proposals": 200}
    found = evaluate.check_imputations(model, guide, x, mask=mask, held_out=~mask, seed=0, **few)
    for level, (share, error) in found.coverage.items():
        assert abs(share - level) < 4 * error < 0.1


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_files_of_whole_amounts_and_of_amounts_below_one_are_taken(scale, tmp_path):
    v = np.array([[0.0, 7.0], [3.0, 0.0], [100.0, 2.0], [0.0, 1.0]] * 3, np.float32) * scale
    np.save(tmp_path / "amounts.npy", v)
    for likelihood in ("zero-inflated-log-normal", "zero-inflated-log-normal=0,diagonal=1"):
        found = datasets.dataset("file", tmp_path / "amounts.npy", likelihood)
        assert found.transform is None and np.isin(found.train.numpy(), v).all()
    np.save(tmp_path / "amounts.npy", (v / scale).astype(np.uint8))
    with pytest.raises(ValueError, match=r"8-bit values; use fixed.*or save amounts as float32"):
        datasets.dataset("file", tmp_path / "amounts.npy", "zero-inflated-log-normal")
    table = datasets.dataset("file", tmp_path / "amounts.npy", "zero-inflated-log-normal=0,poisson=1")
    assert table.transform is None


def test_recipes_compress_what_an_encoder_and_pseudo_inputs_see():
    model = pairs.model("zero-inflated-log-normal", 2, (5,))
    assert isinstance(networks.encoder(networks.parts(), model, (5,))[0], nets.Log1p)
    table = pairs.model("diagonal=0+4,zero-inflated-log-normal=1+3,poisson=2", 2, (5,))
    x = torch.tensor([[-2.0, 9.0, 9.0, 0.0, 9.0]])
    first, net = networks.encoder(networks.parts(), table, (5,))
    torch.testing.assert_close(first(x), torch.tensor([[-2.0, math.log(10), 9.0, 0.0, 9.0]]))
    assert x[0, 1] == 9 and isinstance(net, nets.MLP)
    counts = pairs.model("diagonal=0,poisson=1-4", 2, (5,))
    assert isinstance(networks.encoder(networks.parts(), counts, (5,)), nets.MLP)
    guide = guides.Amortized(nets.MLP(5, 8), 2)
    pairs.with_vamp(model, guide, (5,), 3)
    with torch.no_grad():
        model.prior.inputs.sub_(10)
    assert (model.prior().component_distribution.batch_shape[-1] == 3) and np.isfinite(model.prior.low)
