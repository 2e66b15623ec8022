"""Data far from unit scale: the default guide starts, digits stay as they are, and a failure names the range of x."""

import copy
import warnings

import pytest
import torch

from pyro_dlgm import DLGM, Points, data, fit, guides, likelihoods, load, nets, priors
from pyro_dlgm.points import evenly

G = torch.Generator().manual_seed(0)
FAR = {
    "300 times as wide": 300 * torch.randn(200, 6, generator=G),
    "counts": torch.poisson(1e3 * torch.rand(200, 6, generator=G)),
    "far from 0": 1e5 + torch.randn(200, 6, generator=G),
    "one column in other units": torch.randn(200, 6, generator=G) * torch.tensor([1, 1, 3e6, 1, 1, 1]),
    "images": 300 * torch.rand(60, 1, 8, 8, generator=G),
}


def pair(x, family="mean_field"):
    torch.manual_seed(1)
    shape = tuple(x.shape[1:])
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.MLP(2, shape, (16,)), 0.3))
    net = nets.ConvEncoder(shape, 12, widths=(4, 8)) if len(shape) == 3 else nets.MLP(shape, 200)
    return model, guides.Amortized(net, 2, family)


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
@pytest.mark.parametrize("name", FAR)
def test_the_default_guide_starts_and_climbs(name, family, tmp_path):
    x = FAR[name]
    model, guide = pair(x, family)
    result = fit(model, guide, x, epochs=20, seed=0, out=tmp_path / "run")
    assert result.history[-1]["elbo"] > result.history[0]["elbo"]
    q = guide.posterior(x)
    assert q.mean.isfinite().all() and q.stddev.isfinite().all()
    other = pair(x, family)
    load(tmp_path / "run", model=other[0], guide=other[1])
    assert torch.equal(other[1].posterior(x).mean, q.mean)  # what the encoder sees is in the checkpoint
    assert torch.equal(copy.deepcopy(guide).posterior(x).mean, q.mean)


def test_a_hybrid_starts_too():
    x = FAR["300 times as wide"]
    model, guide = pair(x)
    assert len(fit(model, guides.Hybrid(model, guide, num_leapfrog=1), x, epochs=2, seed=0).history) == 2


@pytest.mark.parametrize("x", [torch.rand(50, 6), torch.randn(50, 6), 3 * torch.randn(50, 6) + 2])
def test_data_of_about_unit_scale_are_seen_as_they_are(x):
    _, guide = pair(x)
    before, keys = guide.posterior(x).mean, list(guide.state_dict())
    guide.prepare(lambda: Points(x))
    assert torch.equal(guide.posterior(x).mean, before) and list(guide.state_dict()) == keys


def test_what_is_hidden_does_not_count():
    x = FAR["300 times as wide"].clone()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.3
    said = []
    for hidden in (0.0, 1e30, float("nan")):
        model, guide = pair(x)
        said.append(fit(model, guide, torch.where(mask, x, hidden), mask=mask, epochs=2, seed=0).history[-1]["elbo"])
    assert said[0] == said[1] == said[2]


def test_checkpoints_with_and_without_a_scaling_load_into_any_guide():
    x = FAR["counts"]
    plain, scaled = pair(x)[1], pair(x)[1]
    scaled.prepare(lambda: Points(x))
    assert scaled.spread is not None
    saved = scaled.posterior(x).mean
    plain.load_state_dict(scaled.state_dict())
    assert torch.equal(plain.posterior(x).mean, saved)
    fresh = pair(x)[1]
    before = fresh.posterior(x).mean
    scaled.load_state_dict(fresh.state_dict())
    assert torch.equal(scaled.posterior(x).mean, before)


def test_a_resumed_training_keeps_its_scaling(tmp_path):
    x = FAR["counts"]
    for steps in (3, 6):
        fit(*pair(x), x, steps=steps, schedule="constant", seed=0, out=tmp_path / "a", resume=True)
    result = fit(*pair(x), x, steps=6, schedule="constant", seed=0)
    other = pair(x)
    load(tmp_path / "a", model=other[0], guide=other[1])
    assert torch.equal(other[1].posterior(x).mean, result.guide.posterior(x).mean)


def test_a_failure_names_the_range_of_x():
    x = 1e30 * torch.ones(20, 6)
    x[3] = -2e30
    with pytest.raises(FloatingPointError, match=r"x goes from -2e\+30 to 1e\+30: scale it"):
        fit(*pair(x), x, epochs=2)
    with pytest.raises(FloatingPointError, match=r"x goes from 0 to 1\b(?!: scale)"):
        fit(*pair(x), torch.eye(6).repeat(4, 1), epochs=30, lr=1e30)


def noted(x, likelihood=likelihoods.FixedNormal, **settings):
    r"""The notes on the scale of x that a step of `fit` gives."""
    torch.manual_seed(1)
    net = nets.MLP(2, tuple(x.shape[1:]), (16,), heads=likelihood.heads)
    model, guide = DLGM(priors.StandardNormal(2), likelihood(net)), guides.MeanField(len(x), 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fit(model, guide, x, steps=1, seed=0, **settings)
    return [str(one.message) for one in said if "0 ± 1" in str(one.message)]


GREY = torch.randint(256, (60, 1, 8, 8), generator=G).float()
RARE = torch.poisson(2 * torch.ones(60, 6), generator=G)


def test_raw_grey_levels_under_a_density_are_noted_with_the_remedy():
    for x in (GREY, GREY.flatten(1), GREY.double().clamp(max=250).float()):
        (said,) = noted(x)
        assert "whole numbers from 0 to 25" in said and "FixedNormal" in said and "data.Dequantize(256)" in said
    (said,) = noted(GREY / 2)
    assert said.startswith("values of x lie far from 0 ± 1") and "standardize" in said and "Dequantize" not in said
    assert noted(GREY, likelihoods.DiagonalNormal) and noted(GREY, likelihoods.StudentT)


def test_data_of_unit_scale_and_counts_are_not_noted():
    assert not noted(GREY, transform=data.Dequantize(256)) and not noted(GREY / 255)
    assert not noted((GREY > 100).float(), likelihoods.Bernoulli)
    for likelihood in (likelihoods.Poisson, likelihoods.NegativeBinomial):
        assert not noted(FAR["counts"], likelihood) and not noted(RARE, likelihood)
    assert not noted(RARE) and not noted((GREY.flatten(1) - 128) / 74)


def test_what_is_missing_is_not_noted_and_columns_are_named():
    x = torch.randn(60, 3)
    x[:, 1] = 1e6
    assert noted(x) and not noted(x, mask=torch.tensor([True, False, True]).expand(60, 3))
    parts = {
        range(2): likelihoods.DiagonalNormal(nets.Linear(4, 2, heads=2)),
        2: likelihoods.Poisson(nets.Linear(4, 1)),
    }
    model = DLGM(priors.StandardNormal(2), likelihoods.Columns(parts, net=nets.MLP(2, 4, (4,))))
    x[:, 2] = 1e4
    with pytest.warns(UserWarning, match=r"columns \[0, 1\] of x lie far"):
        fit(model, guides.MeanField(60, 2), x, steps=1)


@pytest.mark.parametrize("num_points", [3, 1000, 2**24 + 1, 10**8])
def test_points_from_all_over_the_data_are_points_of_it(num_points):
    r"""float32 rounds 10⁸ − 1 up to 10⁸, which is no point."""
    rows = evenly(num_points, 1000)
    assert int(rows[0]) == 0 and int(rows[-1]) == num_points - 1
    assert len(rows) == min(num_points, 1000) and (rows.diff() > 0).all()
