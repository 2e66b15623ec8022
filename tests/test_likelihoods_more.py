r"""Joint Gaussians, densities on [0, 1] and probabilities of levels, against formulas written out here."""

import math

import pyro
import pytest
import torch
from torch import nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from pyro_dlgm import DLGM, SVI, data, guides, likelihoods, nets, priors
from pyro_dlgm.likelihoods.bernoulli import ContinuousBernoulliPixels
from pyro_dlgm.likelihoods.discretized_logistic import DiscretizedLogisticPixels

SHAPE, P, B, D, R = (2, 4, 5), 40, 3, 2, 3
LEADS = pytest.mark.parametrize("lead", [(), (B,), (4, B)])


def conv(heads: int = 1) -> nn.Module:
    return nets.ConvDecoder(D, SHAPE, widths=(4,), heads=heads)


def low_rank() -> likelihoods.LowRankNormal:
    r"""With networks that vary enough for Σ(t) to matter."""
    p = likelihoods.LowRankNormal(nets.MLP(D, SHAPE, (16,), heads=2 + R), R, floor=0.05)
    with torch.no_grad():
        p.net.body[-1].weight.mul_(3)
    return p.double()


def parts(p, t):
    r"""μ (..., P), σ² (..., P) and F (..., P, R), by hand."""
    mu, r, *F = p.net(t)
    scale = 0.05 + torch.nn.functional.softplus(r)
    return mu.flatten(-3), scale.square().flatten(-3), torch.stack([f.flatten(-3) for f in F], -1)


NEW = {
    "low_rank": lambda: likelihoods.LowRankNormal(conv(2 + R), R),
    "continuous_bernoulli": lambda: likelihoods.ContinuousBernoulli(conv()),
    "logistic": lambda: likelihoods.DiscretizedLogistic(conv(2)),
}
EACH = pytest.mark.parametrize("name", list(NEW))


def points(name: str, *lead: int):
    r"""x that each likelihood takes."""
    x = torch.rand(*lead, *SHAPE)
    return (255 * x).round() / 255 if name == "logistic" else x


# All three, in the model


@EACH
@LEADS
def test_shapes_follow_the_code(name, lead):
    p = NEW[name]()(torch.randn(*lead, D))
    assert (p.batch_shape, p.event_shape) == (lead, SHAPE)
    x = p.sample((5,))
    assert x.shape == (5, *lead, *SHAPE) and p.support.check(x).all()
    assert p.log_prob(x).shape == (5, *lead)
    assert p.mean.shape == p.stddev.shape == lead + SHAPE
    assert p.expand((6, *lead)).log_prob(x[0]).shape == (6, *lead)


@EACH
def test_a_model_trains_on_what_it_generates_with_missing_pixels_that_hold_nan(name):
    model = DLGM(priors.StandardNormal(D), NEW[name]())
    x = model(size=6).detach()
    assert x.shape == (6, *SHAPE)
    mask = torch.rand(6, *SHAPE) < 0.6
    mask[2] = False
    svi = SVI(model, guides.MeanField(6, D))
    loss = svi.objective.differentiable_loss(
        model, svi.guide, x.masked_fill(~mask, float("nan")), torch.arange(6), mask=mask
    )
    loss.backward()
    assert loss.isfinite() and all(v.grad is None or v.grad.isfinite().all() for v in model.parameters())


@EACH
def test_what_is_missing_has_no_influence_and_a_missing_point_adds_nothing(name):
    model = DLGM(priors.StandardNormal(D), NEW[name]())
    t, x, mask = torch.randn(4, B, D), points(name, B), torch.rand(B, *SHAPE) < 0.5
    other = torch.where(mask, x, points(name, B))
    torch.testing.assert_close(model.log_joint(x, t, mask), model.log_joint(other, t, mask))
    lost = torch.tensor([True, False, True])
    assert (model.likelihood(t, lost).log_prob(x)[:, 1] == 0).all()
    pixels = lost.reshape(B, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(model.log_joint(x, t, lost), model.log_joint(x, t, pixels))
    everything = torch.ones_like(mask)
    torch.testing.assert_close(model.log_joint(x, t, everything), model.log_joint(x, t), rtol=1e-5, atol=1e-4)


@EACH
def test_the_stock_svi_of_pyro_takes_a_step(name):
    model = DLGM(priors.StandardNormal(D), NEW[name]())
    guide = guides.MeanField(B, D)
    svi = pyro.infer.SVI(
        model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO(2, vectorize_particles=True)
    )
    assert math.isfinite(svi.step(points(name, B), torch.arange(B)))


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("continuous_bernoulli", 1.01),
        ("continuous_bernoulli", -0.01),
        ("continuous_bernoulli", float("nan")),
        ("logistic", 0.5),
        ("logistic", 256 / 255),
        ("logistic", -1 / 255),
        ("logistic", 77.0),
        ("logistic", float("nan")),
        ("logistic", float("inf")),
        ("low_rank", float("nan")),
    ],
)
def test_values_outside_the_support_are_refused_by_the_model(name, bad):
    model, x = DLGM(priors.StandardNormal(D), NEW[name]()), points(name, B)
    x[1, 0, 2, 3] = bad
    with pytest.raises(ValueError, match=f"outside the support of {type(model.likelihood).__name__}"):
        model(x)
    with pytest.raises(ValueError, match="outside the support"):
        model.log_joint(x, torch.randn(B, D))
    mask = torch.ones_like(x).bool()
    mask[1, 0, 2, 3] = False
    assert model.log_joint(x, torch.randn(B, D), mask).isfinite().all()


# LowRankNormal


@LEADS
def test_low_rank_is_that_of_torch(lead):
    p = low_rank()
    t, x = torch.randn(*lead, D).double(), torch.randn(*lead, *SHAPE).double()
    mu, variance, F = parts(p, t)
    expected = LowRankMultivariateNormal(mu, F, variance)
    torch.testing.assert_close(p(t).log_prob(x), expected.log_prob(x.flatten(-3)), rtol=0, atol=1e-9)
    torch.testing.assert_close(p(t).variance.flatten(-3), expected.variance, rtol=0, atol=1e-12)
    torch.testing.assert_close(p(t).mean.flatten(-3), mu)


@pytest.mark.parametrize("lead", [(B,), (4, B)])
def test_missing_pixels_are_marginalized_as_in_the_dense_formula(lead):
    p = low_rank()
    t, x, mask = torch.randn(*lead, D).double(), torch.randn(B, *SHAPE).double(), torch.rand(B, *SHAPE) < 0.5
    mu, variance, F = parts(p, t)
    S = F @ F.mT + variance.diag_embed()
    value = p(t, mask).log_prob(x).reshape(-1, B)
    for i in range(B):
        m = mask[i].flatten()
        dense = MultivariateNormal(mu[..., i, m], S[..., i, m, :][..., m])
        torch.testing.assert_close(value[:, i], dense.log_prob(x[i].flatten()[m]).reshape(-1), rtol=0, atol=1e-9)


def test_one_point_without_a_batch_may_have_missing_pixels():
    p = low_rank()
    t, x, mask = torch.randn(D).double(), torch.randn(SHAPE).double(), torch.rand(SHAPE) < 0.5
    batched = p(t[None], mask[None]).log_prob(x[None])[0]
    torch.testing.assert_close(p(t, mask).log_prob(x), batched, rtol=0, atol=1e-12)


def test_features_without_axes_and_a_mask_of_points():
    p = likelihoods.LowRankNormal(nets.Linear(D, 6, heads=4), 2).double()
    t, x, mask = torch.randn(B, D).double(), torch.randn(B, 6).double(), torch.tensor([True, False, True])
    torch.testing.assert_close(p(t, mask).log_prob(x), p(t).log_prob(x) * mask, rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_dense_formula():
    p = low_rank()
    t, x = torch.randn(B, D).double(), torch.randn(B, *SHAPE).double()
    ours = torch.autograd.grad(p(t).log_prob(x).sum(), list(p.parameters()))
    mu, variance, F = parts(p, t)
    dense = MultivariateNormal(mu, F @ F.mT + variance.diag_embed()).log_prob(x.flatten(1))
    for g, h in zip(ours, torch.autograd.grad(dense.sum(), list(p.parameters())), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-8, atol=1e-8)


def test_nan_behind_a_mask_reaches_no_gradient_of_the_density_itself():
    p, t, mask = low_rank(), torch.randn(B, D).double(), torch.rand(B, *SHAPE) < 0.5
    x = torch.randn(B, *SHAPE).double().masked_fill(~mask, float("nan"))
    with pyro.validation_enabled(False):
        p(t, mask).log_prob(x).sum().backward()
    assert all(v.grad.isfinite().all() for v in p.parameters())


def test_float32_holds_where_the_directions_dwarf_the_scale():
    # C has eigenvalues from 1 to about 1e9 here: in float32 it is no positive matrix any more.
    net = nets.Linear(D, 50, heads=5)
    p = likelihoods.LowRankNormal(net, 3, floor=1e-3)
    with torch.no_grad():
        net.body[-1].bias[50:100] = -30
        net.body[-1].bias[100:150] = net.body[-1].bias[150:200] = 5
    t, q = torch.zeros(1, D), likelihoods.LowRankNormal(nets.Linear(D, 50, heads=5), 3, floor=1e-3).double()
    q.load_state_dict(p.state_dict())
    x = p(t).sample()
    exact = q(t.double()).log_prob(x.double())
    assert abs(p(t).log_prob(x).double() - exact) < 1e-2 * abs(exact)


def test_samples_have_the_covariance_that_they_claim():
    p, t = low_rank(), torch.randn(D).double()
    _, variance, F = parts(p, t)
    x = p(t).sample((100_000,)).flatten(1)
    S = F @ F.mT + variance.diag()
    assert ((x.T.cov() - S).abs().max() / S.abs().max()) < 0.03


@pytest.mark.parametrize(
    ("heads", "rank", "floor", "match"),
    [(4, 3, 1e-3, "heads"), (5, 0, 1e-3, "rank is 0"), (5, 3, -1.0, "floor")],
)
def test_low_rank_refuses_what_does_not_fit(heads, rank, floor, match):
    with pytest.raises(ValueError, match=match):
        likelihoods.LowRankNormal(conv(heads), rank, floor=floor)


def test_low_rank_counts_the_heads_of_foreign_networks_when_called():
    p = likelihoods.LowRankNormal(_Two(), 3)
    with pytest.raises(ValueError, match="has 2 heads"):
        p(torch.zeros(B, D))


class _Two(nn.Module):
    def forward(self, t):
        return t, t


# ContinuousBernoulli


LOGITS = [-500.0, -40.0, -3.0, -0.6, -0.5, -0.4, -1e-3, -1e-9, 0.0, 1e-9, 1e-4, 0.01, 0.3, 0.5, 0.51, 2.0, 17.0, 300.0]


def in_double(l, x):
    r"""log p, mean and variance by expm1 and coth in high precision."""
    from mpmath import coth, exp, expm1, log, mp, mpf, sinh

    mp.dps = 60
    l, x = mpf(l), mpf(x)
    if l == 0:
        return 0.0, 0.5, 1 / 12
    a = l / 2
    log_p = log(l / expm1(l)) + l * x if l < 0 else log(l / (1 - exp(-l))) + l * (x - 1)
    return float(log_p), float(0.5 + (coth(a) - 1 / a) / 2), float((1 / a**2 - 1 / sinh(a) ** 2) / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_continuous_bernoulli_is_exact_at_all_logits(dtype):
    pytest.importorskip("mpmath")
    l = torch.tensor(LOGITS, dtype=dtype)
    p, x = ContinuousBernoulliPixels(l), torch.linspace(0, 1, len(l), dtype=dtype)
    expected = [in_double(float(a), float(b)) for a, b in zip(l, x, strict=True)]
    log_p, mean, variance = torch.tensor(expected, dtype=torch.float64).T
    eps = 10 * torch.finfo(dtype).eps
    torch.testing.assert_close(p.log_prob(x).double(), log_p, rtol=eps, atol=eps)
    torch.testing.assert_close(p.mean.double(), mean, rtol=2 * eps, atol=2 * eps)
    torch.testing.assert_close(p.variance.double(), variance, rtol=1e3 * eps, atol=10 * eps)


def test_gradients_of_the_continuous_bernoulli_are_x_minus_the_mean():
    for dtype, tol in ((torch.float32, 3e-6), (torch.float64, 1e-14)):
        l = torch.tensor(LOGITS, dtype=dtype).requires_grad_()
        p = ContinuousBernoulliPixels(l)
        p.log_prob(torch.full_like(l, 0.25)).sum().backward()
        torch.testing.assert_close(l.grad, 0.25 - p.mean.detach(), rtol=0, atol=tol)
        (g,) = torch.autograd.grad(p.mean.sum() + p.variance.sum(), l)
        assert g.isfinite().all()


def test_continuous_bernoulli_agrees_with_torch_away_from_its_seams():
    l, x = torch.tensor([-9.0, -1.0, 0.4, 6.0]).double(), torch.rand(5, 4).double()
    torch.testing.assert_close(
        ContinuousBernoulliPixels(l).log_prob(x), torch.distributions.ContinuousBernoulli(logits=l).log_prob(x)
    )


def test_continuous_bernoulli_integrates_to_one():
    x = torch.linspace(0, 1, 20_001).double()
    for l in (-30.0, -0.2, 0.0, 3.0):
        p = ContinuousBernoulliPixels(torch.tensor(l).double())
        assert float(torch.trapezoid(p.log_prob(x).exp(), x)) == pytest.approx(1, abs=1e-5)


def test_samples_of_the_continuous_bernoulli_have_its_moments():
    l = torch.tensor([-50.0, -2.0, 0.0, 1e-7, 0.1, 5.0, 200.0])
    p = ContinuousBernoulliPixels(l)
    x = p.sample((100_000,))
    assert x.min() >= 0 and x.max() <= 1
    torch.testing.assert_close(x.mean(0), p.mean, rtol=0, atol=5e-3)
    torch.testing.assert_close(x.std(0), p.stddev, rtol=0.03, atol=0)


# DiscretizedLogistic


def levels(count: int = 256, dtype=torch.float32):
    return torch.arange(count, dtype=dtype).div(count - 1).unsqueeze(-1)


# In float32 a level is known to 3e-8, which is 6e-5 of the narrowest scale.
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 6e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("count", [2, 3, 17, 256])
def test_probabilities_of_the_levels_sum_to_one(count, dtype, tol):
    mu = torch.tensor([-3.0, 0.0, 0.1, 0.5, 1.0, 1.7], dtype=dtype).repeat_interleave(4)
    s = torch.tensor([5e-4, 0.01, 0.3, 50.0], dtype=dtype).repeat(6)
    total = DiscretizedLogisticPixels(mu, s, count).log_prob(levels(count, dtype)).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=tol)


def test_probabilities_are_differences_of_the_distribution_function():
    mu, s, x = torch.rand(50).double(), 0.02 + torch.rand(50).double(), levels(256, torch.float64)
    by_hand = ((x + 1 / 510 - mu) / s).sigmoid() - ((x - 1 / 510 - mu) / s).sigmoid()
    by_hand[0], by_hand[-1] = ((1 / 510 - mu) / s).sigmoid(), 1 - ((1 - 1 / 510 - mu) / s).sigmoid()
    torch.testing.assert_close(DiscretizedLogisticPixels(mu, s, 256).log_prob(x).exp(), by_hand, rtol=1e-9, atol=1e-15)


def test_float32_is_right_far_in_the_tails_with_finite_gradients():
    mu = torch.tensor([-40.0, 0.0, 0.5, 1.0, 90.0]).repeat_interleave(4)
    s = torch.tensor([5e-4, 0.01, 1.0, 1e4]).repeat(5)
    single = [v.clone().requires_grad_() for v in (mu, s)]
    double = [v.double().requires_grad_() for v in (mu, s)]
    values = [DiscretizedLogisticPixels(*v, 256).log_prob(levels(256, v[0].dtype)) for v in (single, double)]
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-5, atol=1e-3)
    for value, v in zip(values, (single, double), strict=True):
        value.sum().backward()
        assert all(a.grad.isfinite().all() for a in v)


def test_mean_is_within_half_a_level_and_the_variance_exact():
    mu, s, x = torch.linspace(-0.5, 1.5, 40).double().repeat(4), torch.tensor([1e-3, 0.02, 0.3, 5.0]).double(), levels()
    p = DiscretizedLogisticPixels(mu, s.repeat_interleave(40), 256)
    weights = p.log_prob(x.double().mul(255).round().div(255)).exp()
    mean, square = (weights * x).sum(0), (weights * x.double().square()).sum(0)
    assert (p.mean - mean).abs().max() < 0.5 / 255
    torch.testing.assert_close(p.variance, square - mean.square(), rtol=1e-5, atol=1e-6)


def test_samples_have_the_probabilities_that_they_claim():
    p = DiscretizedLogisticPixels(torch.tensor(0.2), torch.tensor(0.3), 5)
    x = p.sample((200_000,))
    frequency = torch.stack([(x == k / 4).float().mean() for k in range(5)])
    torch.testing.assert_close(frequency, p.log_prob(levels(5)).exp().flatten(), rtol=0, atol=5e-3)


def test_all_256_levels_of_the_grid_are_in_the_support_and_nothing_between():
    v = torch.arange(256, dtype=torch.uint8)
    support = DiscretizedLogisticPixels(torch.tensor(0.0), torch.tensor(1.0), 256).support
    assert support.check(data.Grid(256)(v)).all() and support.check(v / 255).all()
    assert not support.check(data.Dequantize(256)(v)).all() and not support.check((v[:-1] + 0.5) / 255).any()


def test_bits_per_dimension_of_the_uniform_distribution_over_256_levels_are_8():
    log_p = -P * math.log(256)
    assert likelihoods.DiscretizedLogistic.bits_per_dim(log_p, P) == pytest.approx(8)


def test_two_networks_make_a_logistic_with_a_scale_not_below_its_floor():
    p = likelihoods.DiscretizedLogistic(conv(), lambda t: torch.full((len(t), *SHAPE), -200.0), floor=0.1)
    assert p.pixels(torch.zeros(B, D)).scale.min().item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("settings", "match"), [({"levels": 1}, "levels is 1"), ({"floor": 0.0}, "floor is 0"), ({"floor": -1.0}, "floor")]
)
def test_a_logistic_refuses_what_makes_no_sense(settings, match):
    with pytest.raises(ValueError, match=match):
        likelihoods.DiscretizedLogistic(conv(2), **settings)
