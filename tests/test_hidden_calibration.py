"""Values that hide themselves: imputations against numerical integration, and calibrated (ranks are uniform) or not."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import MultivariateNormal

from pyro_dlgm import DLGM, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.predict import simulated

W, B, SIGMA = (1.5, 1.0, -1.0, 0.7), (0.2, -0.1, 0.0, 0.3), 0.7
SLOPE, INTERCEPT = (3.0, -4.0, 0.0, 0.0), (0.3, -0.5, -30.0, -30.0)  # two columns hide, two are always there
P = len(W)


def model_of(slope=SLOPE, intercept=INTERCEPT, sigma=SIGMA) -> DLGM:
    r"""One linear factor; of x, high values hide in the first column, and low ones in the second."""
    likelihood = likelihoods.FixedNormal(nets.Linear(1, P), sigma, floor=0.0)
    with torch.no_grad():
        likelihood.net.body[-1].weight.copy_(torch.tensor(W).unsqueeze(1))
        likelihood.net.body[-1].bias.copy_(torch.tensor(B))
    if slope is not None:
        slope, intercept = (torch.tensor(v).double() for v in (slope, intercept))
        mechanism = likelihoods.SelfMasking((P,), slope=slope, intercept=intercept, learn=False)
        likelihood = likelihoods.Missingness(likelihood, mechanism)
    return DLGM(priors.StandardNormal(1), likelihood).double().eval()


def points(N: int, model: DLGM):
    r"""Complete points of the model, and masks that its mechanism draws."""
    torch.manual_seed(3)
    made, _ = simulated(model, N, torch.ones(N, P).bool(), None)
    return made.x, made.mask


def integrated(x: torch.Tensor, mask: torch.Tensor) -> tuple[float, np.ndarray]:
    r"""log p(x_o, m), and E[x_j | x_o, m] of all j, by Simpson's rule over t and over each missing value."""
    t, z = np.linspace(-6, 6, 1201), np.linspace(-9, 9, 361)
    factors, means = np.exp(stats.norm.logpdf(t)), []
    for v, there, w, b, a, c in zip(x.tolist(), mask.tolist(), W, B, SLOPE, INTERCEPT, strict=True):
        values = (w * t + b)[:, None] + SIGMA * z
        density = stats.norm.pdf(z) * special.expit(a * values + c)
        mass, moment = (integrate.simpson(values**k * density, x=z) for k in (0, 1))
        factors = factors * (stats.norm.pdf(v, w * t + b, SIGMA) * special.expit(-(a * v + c)) if there else mass)
        means.append(np.full_like(t, v) if there else moment / mass)
    total = integrate.simpson(factors, x=t)
    return math.log(total), np.array([integrate.simpson(factors * m, x=t) / total for m in means])


def test_the_likelihood_and_the_mean_imputation_are_those_of_numerical_integration():
    model = model_of()
    x, mask = points(12, model)
    expected = [integrated(*row) for row in zip(x, mask, strict=True)]
    log_px = evaluate.quadrature(model, x, mask=mask)
    assert (log_px - torch.tensor([v for v, _ in expected])).abs().max() < 1e-3
    made = evaluate.impute(model, guides.Laplace(model), x, None, 4000, num_proposals=4000, mask=mask, seed=0)
    off = (made - torch.tensor(np.stack([m for _, m in expected])))[~mask]
    assert len(off) > 8 and off.abs().max() < 0.05
    ignored = model_of(None)
    wrong = evaluate.impute(ignored, guides.Laplace(ignored), x, None, 4000, mask=mask, seed=0)[~mask]
    assert (wrong - made[~mask]).abs().max() > 0.2


def test_where_the_mechanism_says_nothing_draws_are_those_of_the_gaussian_conditional():
    model = model_of((0.0,) * P)
    x, mask = (
        torch.randn(1, P, generator=torch.Generator().manual_seed(0)).double(),
        torch.tensor([[False, False, True, True]]),
    )
    settings = {"by": "draws", "num_proposals": 20_000, "mask": mask, "seed": 0}
    drawn = evaluate.impute(model, guides.Laplace(model), x, None, 20_000, **settings)[:, 0, :2]
    w, b = torch.tensor(W).double(), torch.tensor(B).double()
    S = w.outer(w) + SIGMA**2 * torch.eye(P).double()
    gain = S[:2, 2:] @ torch.linalg.inv(S[2:, 2:])
    exact = MultivariateNormal(b[:2] + gain @ (x[0] - b)[2:], S[:2, :2] - gain @ S[2:, :2])
    assert (drawn.mean(0) - exact.mean).abs().max() < 0.03
    torch.testing.assert_close(drawn.T.cov(), exact.covariance_matrix, atol=0.02, rtol=0.05)


@pytest.fixture(scope="module")
def table():
    model = model_of()
    return model, *points(300, model)


def ranked(model, guide, x, mask, **settings):
    return evaluate.check_imputations(model, guide, x, torch.arange(len(x)), 99, mask=mask, seed=0, **settings)


def test_draws_under_the_known_mechanism_are_calibrated(table):
    model, x, mask = table
    found = ranked(model, guides.Laplace(model), x, mask)
    assert set(found.columns.tolist()) == {0, 1} and len(found.ranks) > 200
    assert all("no departure" in found.verdicts[name] for name in ("ranks", "columns")), str(found)
    for level, (share, stderr) in found.coverage.items():
        assert abs(share - level) < 3 * stderr


@pytest.mark.parametrize("slope", [None, (-3.0, 4.0, 0.0, 0.0)], ids=["ignored", "of the wrong sign"])
def test_without_the_mechanism_or_with_its_sign_reversed_they_are_not(table, slope):
    _, x, mask = table
    wrong = model_of(slope)
    found = ranked(wrong, guides.Laplace(wrong), x, mask)
    assert "shifted" in found.verdicts["columns"], str(found)


@pytest.mark.parametrize(("sigma", "word"), [(0.5 * SIGMA, "too narrow"), (2 * SIGMA, "too wide")])
def test_draws_that_are_too_narrow_or_too_wide_are_seen(table, sigma, word):
    _, x, mask = table
    wrong = model_of(sigma=sigma)
    assert word in ranked(wrong, guides.Laplace(wrong), x, mask).verdicts["ranks"]
