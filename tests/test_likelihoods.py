r"""Likelihoods against formulas written out here."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import softplus

from pyro_dlgm import likelihoods, nets
from pyro_dlgm.masks import observed, pixelwise

SHAPE, B, D = (2, 4, 5), 3, 2


def conv(heads: int = 1) -> nn.Module:
    return nets.ConvDecoder(D, SHAPE, widths=(4,), heads=heads)


def fixed():
    p = likelihoods.FixedNormal(conv(), 0.3, floor=0.01)
    return p, lambda t: Normal(p.net(t), 0.3)


def per_pixel():
    scale = 0.2 + torch.rand(SHAPE)
    p = likelihoods.FixedNormal(conv(), scale)
    return p, lambda t: Normal(p.net(t), scale)


def two_heads():
    p = likelihoods.DiagonalNormal(conv(2), floor=0.05)
    return p, lambda t: Normal(p.net(t)[0], 0.05 + softplus(p.net(t)[1]))


def two_nets():
    p = likelihoods.DiagonalNormal(conv(), conv(), floor=0.05)
    return p, lambda t: Normal(p.net(t), 0.05 + softplus(p.scale_net(t)))


def bernoulli():
    p = likelihoods.Bernoulli(conv())
    return p, lambda t: Bernoulli(logits=p.net(t))


ALL = pytest.mark.parametrize("make", [fixed, per_pixel, two_heads, two_nets, bernoulli])


@ALL
@pytest.mark.parametrize("lead", [(), (B,), (4, B)])
def test_log_prob_is_the_sum_over_pixels(make, lead):
    p, by_hand = make()
    t, x = torch.randn(*lead, D), torch.rand(*lead, *SHAPE).bernoulli()
    assert (p(t).batch_shape, p(t).event_shape) == (lead, SHAPE)
    torch.testing.assert_close(p(t).log_prob(x), by_hand(t).log_prob(x).sum((-3, -2, -1)), rtol=1e-5, atol=1e-5)


@ALL
@pytest.mark.parametrize("lead", [(B,), (4, B)])
def test_missing_pixels_add_nothing(make, lead):
    p, by_hand = make()
    t, x = torch.randn(*lead, D), torch.rand(B, *SHAPE).bernoulli()
    mask = torch.rand(B, *SHAPE) < 0.5
    expected = (by_hand(t).log_prob(x) * mask).sum((-3, -2, -1))
    torch.testing.assert_close(p(t, mask).log_prob(x), expected, rtol=1e-5, atol=1e-5)


@ALL
@pytest.mark.parametrize("lead", [(B,), (4, B)])
def test_missing_points_have_log_prob_zero(make, lead):
    p, by_hand = make()
    t, x = torch.randn(*lead, D), torch.rand(B, *SHAPE).bernoulli()
    mask = torch.tensor([True, False, True])
    expected = by_hand(t).log_prob(x).sum((-3, -2, -1)) * mask
    assert p(t, mask).event_shape == SHAPE
    torch.testing.assert_close(p(t, mask).log_prob(x), expected, rtol=1e-5, atol=1e-5)


@ALL
def test_one_point_without_a_batch_may_have_missing_pixels(make):
    p, by_hand = make()
    t, x, mask = torch.randn(D), torch.rand(SHAPE).bernoulli(), torch.rand(SHAPE) < 0.5
    torch.testing.assert_close(p(t, mask).log_prob(x), (by_hand(t).log_prob(x) * mask).sum(), rtol=1e-5, atol=1e-5)


def test_a_mask_of_features_works_for_points_without_axes():
    p = likelihoods.FixedNormal(nets.Linear(D, 6), 0.3)
    t, x, mask = torch.randn(B, D), torch.randn(B, 6), torch.rand(B, 6) < 0.5
    expected = (Normal(p.net(t), 0.3).log_prob(x) * mask).sum(-1)
    torch.testing.assert_close(p(t, mask).log_prob(x), expected, rtol=1e-5, atol=1e-5)


def test_the_scale_is_the_one_asked_for_and_never_below_the_floor():
    p = likelihoods.FixedNormal(conv(), 0.3, floor=0.1)
    assert p.scale.item() == pytest.approx(0.3, rel=1e-6)
    nn.init.constant_(p.u, -200.0)
    assert p.scale.item() == pytest.approx(0.1, rel=1e-6)
    q = likelihoods.DiagonalNormal(conv(), lambda t: torch.full((len(t), *SHAPE), -200.0), floor=0.1)
    assert q(torch.zeros(B, D)).stddev.min().item() == pytest.approx(0.1, rel=1e-6)


def test_the_floor_bounds_the_likelihood():
    p = likelihoods.FixedNormal(conv(), 0.3, floor=0.1)
    nn.init.constant_(p.u, -200.0)
    t = torch.randn(B, D)
    bound = -math.prod(SHAPE) * math.log(0.1 * math.sqrt(2 * math.pi))
    assert p(t).log_prob(p.net(t)).max().item() == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize("learn", [True, False])
def test_the_scale_is_learned_only_if_asked(learn):
    p = likelihoods.FixedNormal(conv(), 0.3, learn=learn)
    assert ("u" in dict(p.named_parameters())) == learn
    assert "u" in p.state_dict()


def test_one_scale_for_each_pixel_has_a_gradient_for_each():
    p = likelihoods.FixedNormal(conv(), torch.full(SHAPE, 0.3))
    assert p.scale.shape == SHAPE
    p(torch.randn(B, D)).log_prob(torch.rand(B, *SHAPE)).sum().backward()
    assert (p.u.grad != 0).all()


@pytest.mark.parametrize(
    ("scale", "floor"), [(0.0, 0.0), (0.1, 0.1), (0.05, 0.1), (-1.0, 0.0), (1.0, -0.1), (float("nan"), 0.0)]
)
def test_a_scale_not_above_its_floor_is_refused(scale, floor):
    with pytest.raises(ValueError, match="floor"):
        likelihoods.FixedNormal(conv(), scale, floor=floor)


def test_one_pixel_below_the_floor_is_refused():
    scale = torch.ones(SHAPE)
    scale[0, 1, 2] = 1e-4
    with pytest.raises(ValueError, match="floor"):
        likelihoods.FixedNormal(conv(), scale)


def test_a_negative_floor_is_refused():
    with pytest.raises(ValueError, match="floor"):
        likelihoods.DiagonalNormal(conv(2), floor=-1e-3)


def test_both_networks_learn():
    p = likelihoods.DiagonalNormal(conv(), conv())
    p(torch.randn(B, D)).log_prob(torch.rand(B, *SHAPE)).sum().backward()
    assert all((v.grad != 0).any() for v in p.parameters())


def test_samples_have_the_mean_and_scale_that_they_claim():
    p, by_hand = two_heads()
    t = torch.randn(D)
    x = p(t).sample((20_000,))
    torch.testing.assert_close(x.mean(0), by_hand(t).mean, rtol=0, atol=0.05)
    torch.testing.assert_close(x.std(0), by_hand(t).stddev, rtol=0.05, atol=0)


def test_missing_values_are_replaced_and_observed_ones_kept():
    x = torch.randn(B, *SHAPE)
    mask = torch.rand(B, *SHAPE) < 0.5
    for value in (float("nan"), float("inf"), 1e30):
        seen = observed(x.masked_fill(~mask, value), mask)
        assert torch.equal(seen[mask], x[mask]) and (seen[~mask] == 0).all()
    assert observed(x, None) is x
    points = torch.tensor([True, False, True])
    assert (observed(x, points)[1] == 0).all() and torch.equal(observed(x, points)[[0, 2]], x[[0, 2]])


def test_a_mask_of_points_gets_an_axis_for_each_axis_of_x():
    assert pixelwise(torch.ones(B).bool(), 4).shape == (B, 1, 1, 1)
    assert pixelwise(torch.ones(B).bool(), 1).shape == (B,)
    assert pixelwise(torch.ones(B, *SHAPE).bool(), 4).shape == (B, *SHAPE)


@pytest.mark.parametrize("mask", [torch.ones(B), torch.ones(B, *SHAPE), torch.ones(B).long()])
def test_masks_that_are_not_boolean_are_refused(mask):
    with pytest.raises(ValueError, match=r"mask\.bool"):
        observed(torch.zeros(B, *SHAPE), mask)


@pytest.mark.parametrize("shape", [(B + 1,), SHAPE, (B, 1, 4, 5), (B, 2)])
def test_masks_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="mask has shape"):
        observed(torch.zeros(B, *SHAPE), torch.ones(shape).bool())


# The table of a Bernoulli


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("missing", [None, "pixels", "points"])
def test_the_table_of_a_bernoulli_has_the_log_prob_of_all_pairs(dtype, missing):
    p, C = likelihoods.Bernoulli(conv()).to(dtype), 7
    t, x = 3 * torch.randn(C, D, dtype=dtype), torch.rand(B, *SHAPE).bernoulli().to(dtype)
    mask = {None: None, "pixels": torch.rand(B, *SHAPE) < 0.5, "points": torch.tensor([True, False, True])}[missing]
    spoiled = x if mask is None else x.masked_fill(~pixelwise(mask, 4), math.nan)
    found = p.table(spoiled, t, mask)
    expected = torch.stack([p(row.expand(B, D), mask).log_prob(x) for row in t]).double()
    assert found.shape == (C, B) and found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("num", [1, 15, 16, 17, 784])
def test_the_table_of_any_number_of_pixels_has_gradients(num):
    p, t = likelihoods.Bernoulli(nn.Linear(D, num)).double(), torch.randn(7, D, dtype=torch.float64, requires_grad=True)
    x = torch.rand(B, num).bernoulli().double()
    found, expected = p.table(x, t), torch.stack([p(row.expand(B, D)).log_prob(x) for row in t])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    one, other = (torch.autograd.grad(v.square().sum(), t)[0] for v in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_table_of_a_bernoulli_is_accurate_at_large_logits(dtype):
    """Σ_j −log(1 + e^∓l) of 1,000 pixels with logits up to ±40: float32 sums would be off by 1e-3."""
    logits = torch.linspace(-40, 40, 1000, dtype=dtype)
    p = likelihoods.Bernoulli(lambda t: t * logits)
    x = torch.stack([logits > 0, logits < 0, torch.rand(1000) < 0.5]).to(dtype)
    found = p.table(x, torch.tensor([[1.0], [-1.0]], dtype=dtype))
    sure, wrong = (nn.functional.logsigmoid(v * logits.double().abs()).sum() for v in (1, -1))
    assert found[0, 0].item() == pytest.approx(sure.item(), rel=1e-9)
    assert found[0, 1].item() == pytest.approx(wrong.item(), rel=1e-9)
    exact = torch.where(x[2] == 1, -logits.double(), logits.double())
    assert found[1, 2].item() == pytest.approx(nn.functional.logsigmoid(exact).sum().item(), rel=1e-9)
