r"""What the estimators say against what is known: PPCA, scikit-learn's PCA, Jacobians, and the values under holes."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA

import pyro_dlgm
from pyro_dlgm.sklearn import PPCA, DeepLatentGaussian, DLGMImputer
from pyro_dlgm.sklearn.units import Units, columns_with

X = load_wine().data
Z = (X - X.mean(0)) / X.std(0)
LOG_SCALE = np.log(X.std(0)).sum()
POWERS = 2.0 ** np.arange(-6, 7)
TINY = {"max_iter": 3, "num_samples": 3, "random_state": 0}


def with_holes(seed=0, part=0.2):
    return np.where(np.random.default_rng(seed).random(X.shape) < part, np.nan, X)


def test_ppca_scores_as_scikit_learn_after_the_correction_by_one():
    N, D = len(Z), 3
    theirs = PCA(D).fit(Z)
    ours = PPCA(D).fit(Z)
    # Their covariance is over N − 1: at the maximum both covariances differ by that factor, Mahalanobis terms too.
    C = theirs.get_covariance() * (N - 1) / N
    expected = torch.distributions.MultivariateNormal(torch.tensor(theirs.mean_), torch.tensor(C)).log_prob(
        torch.tensor(Z)
    )
    assert np.allclose(ours.score_samples(Z), expected.numpy(), atol=1e-8)
    assert ours.score(Z) > theirs.score(Z) > ours.score(Z) - 1 / N


@pytest.mark.parametrize("x", [Z, np.where(np.isnan(with_holes()), np.nan, Z)], ids=["complete", "holes"])
def test_ppca_is_the_ppca_of_the_package(x):
    t, D = torch.tensor(x), 2
    model, ours = pyro_dlgm.PPCA.fit(t, D), PPCA(D).fit(x)
    mask = ~t.isnan()
    with torch.no_grad():
        assert np.allclose(ours.score_samples(x), model.log_prob(t, mask).numpy(), atol=1e-10)
        codes = model.posterior(t, mask).mean
        assert np.allclose(ours.transform(x), codes.numpy(), atol=1e-10)
        assert np.allclose(ours.inverse_transform(codes.numpy()), codes @ model.W.mT + model.mu)
    drawn = ours.sample(4000, random_state=0)
    cov = (model.W @ model.W.mT + model.sigma2 * torch.eye(13)).detach().numpy()
    assert np.abs(np.cov(drawn.T) - cov).max() < 0.15


def test_a_linear_decoder_reaches_the_evidence_of_ppca_in_the_units_of_x():
    model = DeepLatentGaussian(2, likelihood="linear", lr=1e-2, max_iter=1000, random_state=0).fit(X)
    known = PPCA(2).fit(Z)
    assert model.score(X) == pytest.approx(known.score(Z) - LOG_SCALE, abs=0.05)
    assert model.score_samples(X).mean() == pytest.approx(model.score(X), abs=1e-9)
    # The units of what comes out are those of x, too.
    drawn = model.sample(4000, random_state=0)
    assert np.abs((drawn.mean(0) - X.mean(0)) / X.std(0)).max() < 0.15
    spread = (known.model_.W.square().sum(1) + known.model_.sigma2).sqrt().detach().numpy() * X.std(0)
    assert np.abs(np.log(drawn.std(0) / spread)).max() < 0.08
    made, closest = model.inverse_transform(model.transform(X)), known.inverse_transform(known.transform(Z))
    assert np.abs((made - X.mean(0)) / X.std(0) - closest).mean() < 0.1


@pytest.mark.parametrize("likelihood", ["fixed", "diagonal", "low-rank", "student-t", "diagonal=0-5,fixed=6-12"])
def test_scores_follow_the_units_of_x_by_the_jacobian_alone(likelihood):
    # Powers of two: nothing is rounded, so that what is trained is bit for bit the same.
    x = with_holes()
    here = DeepLatentGaussian(likelihood=likelihood, **TINY).fit(x)
    there = DeepLatentGaussian(likelihood=likelihood, **TINY).fit(x * POWERS)
    jacobian = ~np.isnan(x) @ np.log(POWERS)
    assert np.allclose(there.score_samples(x * POWERS), here.score_samples(x) - jacobian, atol=1e-9)
    codes = here.transform(x)
    assert np.array_equal(there.transform(x * POWERS), codes)
    assert np.allclose(there.inverse_transform(codes), here.inverse_transform(codes) * POWERS, rtol=1e-12)
    assert np.allclose(there.sample(5, random_state=0), here.sample(5, random_state=0) * POWERS, rtol=1e-12)


def test_what_is_missing_is_integrated_out():
    x = with_holes()[:20]
    model = DeepLatentGaussian(likelihood="linear", guide="laplace", **TINY).fit(X)
    W, mu = (
        p.detach() for p in (model.model_.likelihood.net.body[-1].weight, model.model_.likelihood.net.body[-1].bias)
    )
    cov = W @ W.mT + model.model_.likelihood.scale.detach().square() * torch.eye(13)
    for row, score in zip(x, model.score_samples(x), strict=True):
        o = ~np.isnan(row)
        z = torch.tensor(((row - X.mean(0)) / X.std(0))[o])
        known = torch.distributions.MultivariateNormal(mu[o], cov[o][:, o]).log_prob(z) - np.log(X.std(0)[o]).sum()
        assert score == pytest.approx(float(known), abs=1e-6)  # Laplace is exact here: weights do not vary


@pytest.mark.filterwarnings("ignore:.*converged")
@pytest.mark.parametrize("guide", ["amortized", "mean-field"])
def test_the_imputer_leaves_what_is_observed_and_beats_the_mean(guide):
    x = with_holes()
    seen = ~np.isnan(x)
    imputer = DLGMImputer(
        3, likelihood="linear", guide=guide, lr=1e-2, max_iter=400, infer_max_iter=300, random_state=0
    )
    filled = imputer.fit(x).transform(x)
    assert np.array_equal(filled[seen], x[seen]) and np.isfinite(filled).all()
    scale = X.std(0)
    error, of_mean = (
        math.sqrt(np.square((guess - X) / scale)[~seen].mean()) for guess in (filled, np.nanmean(x, 0) + 0 * X)
    )
    assert error < 0.8 * of_mean
    assert np.array_equal(imputer.transform(X), X)


def test_what_is_no_real_number_keeps_its_units():
    table = np.column_stack([X[:40, 0], np.arange(40) % 4, np.arange(40) % 3])
    model = DeepLatentGaussian(likelihood="diagonal=0,poisson=1,categorical:3=2", **TINY).fit(table)
    assert model.units_.centre.tolist() == pytest.approx([table[:, 0].mean(), 0, 0])
    assert model.units_.scale.tolist() == pytest.approx([table[:, 0].std(), 1, 1])
    assert set(model.sample(50, random_state=0)[:, 2]) <= {0, 1, 2}
    holes = table.copy()
    holes[::2, 2] = np.nan
    assert set(DLGMImputer(likelihood="diagonal=0,poisson=1,categorical:3=2", **TINY).fit_transform(holes)[:, 2]) <= {
        0,
        1,
        2,
    }
    assert columns_with(["diagonal"], "poisson", 2).tolist() == [False, False]


def test_units_are_those_of_what_is_observed():
    x = np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, 9.0]])
    both, none = np.ones(2, bool), np.zeros(2, bool)
    units = Units.of(x, both, none, 2)
    assert units.centre.tolist() == [2, 7] and units.scale.tolist() == [1, 2]
    assert units.log_jacobian(x).tolist() == pytest.approx([-math.log(2), 0, -math.log(2)])
    one = Units.of(x, both, none, 1)  # one channel of two pixels
    assert one.centre.tolist() == [4.5, 4.5] and np.allclose(one.scale, np.nanstd(x))
    assert np.allclose(units.restore(units.standardize(x)), x, equal_nan=True)
    pair = Units.of(
        np.array([[1.0, 2, 7, 8], [1, 2, 7, 8]]), np.ones(4, bool), np.zeros(4, bool), 2
    )  # two channels of two pixels
    assert pair.centre.tolist() == [1.5, 1.5, 7.5, 7.5]


def test_amounts_have_their_typical_size_as_unit():
    x = np.array([[0.0, 2.0], [100.0, np.nan], [10_000.0, 0.0]])
    units = Units.of(x, np.zeros(2, bool), np.array([True, False]), 2)
    assert units.centre.tolist() == [0, 0] and units.scale.tolist() == pytest.approx([1000, 1])
    assert units.log_jacobian(x).tolist() == pytest.approx([0, -math.log(1000), -math.log(1000)])
    one = Units.of(x, np.zeros(2, bool), np.ones(2, bool), 1)  # one channel of two pixels
    assert one.scale.tolist() == pytest.approx([2e6 ** (1 / 3)] * 2)
    nothing = Units.of(np.zeros((3, 1)), np.zeros(1, bool), np.ones(1, bool), 1)
    assert nothing.scale.tolist() == [1]


def test_amounts_in_other_units_are_the_same_model(recwarn):
    x = np.random.default_rng(0).lognormal(0, 1, (60, 3)).astype(np.float32)
    x[::3, 1] = 0
    how = TINY | {"likelihood": "zero-inflated-log-normal", "guide": "mean-field"}
    factor = np.array([1e4, 1e-3, 1], np.float32)
    plain, other = (DeepLatentGaussian(**how).fit(values) for values in (x, x * factor))
    assert not [w for w in recwarn if "typical size" in str(w.message)]
    shift = (x > 0) @ np.log(factor)
    assert np.allclose(other.score_samples(x * factor), plain.score_samples(x) - shift, atol=1e-3)
    assert np.allclose(other.sample(20, random_state=1), plain.sample(20, random_state=1) * factor, rtol=1e-3)
