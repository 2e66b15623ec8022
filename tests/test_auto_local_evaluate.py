r"""What is reached on programs with known answers, and all of `evaluate` on pairs of a program and its guide."""

import functools
import math

import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import ONE, N, T, pair, real
from pyro_dlgm.guides.families import FAMILIES
from test_latents import by_hand
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_dlgm import evaluate, fit, guides, nets
from pyro_dlgm.evaluate import bounds

ROWS = torch.arange(N)


def gaussian(name: str, values: dict):
    r"""Of a Gaussian program: the mean and covariance of x, and the precision of the latents given x."""
    mu = values.get("mu", torch.zeros(()).double())
    if name in ("normal", "fixed"):
        return mu.reshape(1), real(1.25).reshape(1, 1), real(5.0).reshape(1, 1)
    if name == "chain":
        precision = torch.stack([real(1 + 0.64 / 0.25, -0.8 / 0.25), real(-0.8 / 0.25, 1 / 0.25 + 1 / 0.16)])
        return torch.zeros(1).double(), real(0.64 + 0.25 + 0.16).reshape(1, 1), precision
    precision = torch.diag(real(1 + T / 0.36, *[1 / 0.36 + 1 / 0.25] * T))
    precision[0, 1:] = precision[1:, 0] = -1 / 0.36
    return mu.expand(T), torch.ones(T, T).double() + 0.61 * torch.eye(T).double(), precision


def evidence(name: str, x, values: dict):
    mean, covariance, _ = gaussian(name, values)
    return MultivariateNormal(mean, covariance).log_prob(x.reshape(len(x), -1))


def mean_field_gap(name: str) -> float:
    _, _, precision = gaussian(name, {})
    return 0.5 * float(precision.diagonal().log().sum() - precision.logdet())


@functools.cache
def fitted(name: str, kind: str = "rows", family: str = "full_rank"):
    r"""A pair, and the guide that `infer` fits to its points; they are not to be changed."""
    made = pair(name, kind, family)
    return made, evaluate.infer(made.model, made.guide, made.points_of(), window=25, seed=0)


class Itself(nn.Module):
    out_features = 1

    def forward(self, x):
        return x.reshape(-1, 1)


def exact(narrower: float = 1.0):
    r"""`chain` with its posterior as an amortized guide; with ``narrower``, its scales are that many times smaller."""
    x, precision = torch.randn(N).double(), gaussian("chain", {})[2]
    guide = guides.AutoAmortized(programs.chain, Itself(), family="full_rank").setup(x)
    q = MultivariateNormal(torch.zeros(2).double(), precision.inverse() / narrower**2)
    with torch.no_grad():
        guide.inner.head.bias.copy_(FAMILIES["full_rank"].of(q))
        guide.inner.head.weight.zero_()[:2, 0] = precision.inverse()[:, 1] / 0.16
    return guide, x


# Exact answers


@pytest.mark.parametrize(
    ("name", "kind"), [("normal", "rows"), ("chain", "rows"), ("series", "encoder"), ("turned", "rows")]
)
def test_the_best_of_the_gaussians_is_the_posterior_of_a_gaussian_program(name, kind):
    made, best = fitted(name, kind)
    values = made.guide.centre()
    given = evaluate.given_globals(made.model, best, values)
    F = evaluate.elbo(*given, made.x, ROWS, 200, seed=1)
    assert best.convergence.converged.all()
    torch.testing.assert_close(F, evidence(name, made.x, values), atol=1e-2, rtol=0)
    q, (_, _, precision) = best.posterior(made.x, ROWS), gaussian(name, values)
    torch.testing.assert_close(q.covariance_matrix, precision.inverse().expand(N, -1, -1), atol=0.02, rtol=0.05)


@pytest.mark.parametrize("name", ["chain"])
def test_the_best_of_the_factorized_is_as_far_as_it_must_be(name):
    made, best = fitted(name, family="mean_field")
    values = made.guide.centre()
    F = evaluate.elbo(*evaluate.given_globals(made.model, best, values), made.x, ROWS, 4000, seed=1)
    gap = evidence(name, made.x, values) - F
    assert float(gap.mean()) == pytest.approx(mean_field_gap(name), abs=1e-2 + 5e-3)


def closed(name: str, x, values: dict):
    r"""log p(x | globals) in closed form: a negative binomial, a Dirichlet-multinomial, a mixture of Gaussians."""
    if name == "gamma_poisson":
        a, b = 2.0, values["rate"]
        terms = torch.lgamma(a + x) - math.lgamma(a) - torch.lgamma(x + 1)
        return terms + a * (b / (1 + b)).log() - x * (1 + b).log()
    if name == "simplex":
        return dist.DirichletMultinomial(programs.ALPHA, programs.TOTAL).log_prob(x)
    if name == "mixture":
        parts = dist.Normal(programs.PLACES, (1 + 0.09) ** 0.5).log_prob(x.unsqueeze(-1))
        return (programs.SHARES.log() + parts).logsumexp(-1)
    raise KeyError(name)


@pytest.mark.parametrize("name", ["gamma_poisson", "simplex", "mixture"])
def test_quadrature_of_a_program_is_its_closed_form(name):
    made = pair(name)
    model, _ = evaluate.given_globals(made.model, made.guide)
    found = evaluate.quadrature(model, made.x)
    torch.testing.assert_close(found, closed(name, made.x, made.guide.centre()), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("name", "family"), [("gamma_poisson", "full_rank"), ("simplex", "mean_field")])
def test_bounds_are_below_the_evidence_and_annealing_reaches_it(name, family):
    made, best = fitted(name, family=family)
    expected = closed(name, made.x, made.guide.centre())
    given = evaluate.given_globals(made.model, best)
    F = evaluate.elbo(*given, made.x, ROWS, 2000, seed=1)
    error = evaluate.log_weights(*given, made.x, ROWS, 2000, seed=1).std(0) / 2000**0.5
    assert (expected + 4 * error >= F).all() and float((expected - F).mean()) < 0.1
    found = evaluate.ais(*given, made.x, ROWS, 16, 60, seed=2)
    assert ((found.log_px - expected).abs() <= 4 * found.stderr + 1e-3).all()
    by_pair = evaluate.ais(made.model, best, made.x, ROWS, 16, 60, seed=2)
    assert torch.equal(by_pair.log_px, found.log_px)


# Global latents


@pytest.mark.parametrize("name", ["normal", "turned", "gamma_poisson"])
def test_each_sample_has_its_own_draw_of_the_globals(name, monkeypatch):
    made = pair(name)
    seen, draw_globals, draws = {}, made.guide.draw_globals, bounds.draws
    monkeypatch.setattr(
        made.guide, "draw_globals", lambda num: seen.update(globals=draw_globals(num)) or seen["globals"]
    )
    monkeypatch.setattr(bounds, "draws", lambda *args: seen.update(u=draws(*args)) or seen["u"])
    table = evaluate.log_weights(made.model, made.guide, made.x, ROWS, 3, seed=0)
    (site,) = seen["globals"]
    assert len(seen["globals"][site].unique(dim=0)) == 3
    local, case = made.guide.local, made.case
    for k in range(3):
        value = seen["globals"][site][k].reshape(made.guide.centre()[site].shape)
        at = type(case)(**vars(case) | {"globals": {site: value}})
        joint = by_hand(at, local, made.points_of(ROWS), seen["u"][k])
        log_q = made.guide.posterior(made.x, ROWS).log_prob(seen["u"][k])
        torch.testing.assert_close(table[k], (joint - log_q).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["normal", "turned", "gamma_poisson"])
def test_globals_are_held_at_values_of_their_own_shape(name):
    made = pair(name)
    centre = made.guide.centre()
    for at in ("centre", "draw", centre):
        model, _ = evaluate.given_globals(made.model, made.guide, at, seed=3)
        assert {n: v.shape for n, v in model.globals.items()} == {n: v.shape for n, v in centre.items()}
    first, second, third = (
        evaluate.given_globals(made.model, made.guide, "draw", seed=s)[0].globals for s in (3, 3, 4)
    )
    for n in centre:
        assert torch.equal(first[n], second[n]) and not torch.equal(first[n], third[n])
    with pytest.raises(ValueError, match="at is 'mean'; expected one of 'centre', 'draw', or values by name"):
        evaluate.given_globals(made.model, made.guide, "mean")
    with pytest.raises(ValueError, match=r"globals are \['nu'\]"):
        evaluate.given_globals(made.model, made.guide, {"nu": ONE})


def test_what_a_number_is_conditioned_on_is_said():
    made = pair("normal")
    model, _ = evaluate.given_globals(made.model, made.guide, "draw", seed=0)
    assert "mu" in model.conditions


# The others


@pytest.mark.parametrize("name", ["turned", "simplex"])
def test_bdmc_brackets_the_evidence(name):
    made = pair(name)
    found = evaluate.bdmc(made.model, made.guide, 4, 4, 40, seed=0)
    x, values = found.x, made.guide.centre()
    expected = closed(name, x, values) if name == "simplex" else evidence(name, x, values)
    assert abs(found.gap) < 0.3
    torch.testing.assert_close(found.lower, expected, atol=0.3, rtol=0)
    torch.testing.assert_close(found.upper, expected, atol=0.3, rtol=0)


def test_both_directions_are_exact_from_an_exact_encoder():
    guide, x = exact()
    expected = evidence("chain", x, {})
    table = evaluate.log_weights(programs.chain, guide, x, num_samples=5, seed=0)
    torch.testing.assert_close(table, expected.expand(5, -1), rtol=0, atol=1e-9)
    found = evaluate.bdmc(programs.chain, guide, 6, 2, 3, seed=0)
    for bound in (found.lower, found.upper):
        torch.testing.assert_close(bound, evidence("chain", found.x, {}), rtol=0, atol=1e-9)


def test_bdmc_of_a_program_that_cannot_simulate_says_so():
    made = pair("matrix")
    with pytest.raises(ValueError, match="the program cannot simulate points; expected one that is called"):
        evaluate.bdmc(made.model, made.guide, 8, 4, 4)


def test_gaps_of_a_gaussian_program_are_the_known_ones():
    made = pair("chain", "encoder")
    settings = {"num_temperatures": 20, "num_chains": 8, "num_simulated": 0, "seed": 0}
    found = evaluate.gaps(made.model, made.guide, made.x, ROWS, families=("full_rank",), **settings)
    torch.testing.assert_close(found.log_px.value, evidence("chain", made.x, {}), atol=0.03, rtol=0)
    assert float(found.approximation.value.mean()) == pytest.approx(mean_field_gap("chain"), abs=0.05)
    assert float((found.log_px - found.families["full_rank"]).value.mean()) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("kind", ["rows", "encoder"])
@pytest.mark.parametrize("name", ["normal", "chain"])
def test_diagnose_says_the_rate(name, kind):
    made = pair(name, kind)
    found = evaluate.diagnose(made.model, made.guide, made.x, ROWS, 400, num_simulated=0, seed=0)
    model, guide = evaluate.given_globals(made.model, made.guide)
    q = guide.posterior(made.x, ROWS)
    u = q.sample((20000,))
    rate = (q.log_prob(u) - model.log_prior(made.points_of(ROWS), u)).mean()
    assert found.rate == pytest.approx(float(rate), abs=0.05 * max(1.0, float(rate)))
    assert str(found)


def test_calibration_passes_an_exact_q_and_finds_a_narrow_one():
    good, bad = (
        evaluate.check_calibration(programs.chain, exact(narrower)[0], num_points=1000, num_samples=19, seed=0)
        for narrower in (1.0, 2.0)
    )
    assert good.joint_p_value > 1e-3 and (good.p_values > 1e-3).all()
    assert float(bad.p_values.max()) < 1e-6


@pytest.mark.parametrize("name", programs.NAMES)
def test_every_program_is_scored(name):
    made = pair(name)
    points, k = made.points_of(ROWS), 4
    table = evaluate.log_weights(made.model, made.guide, points, num_samples=k, seed=0)
    assert table.shape == (k, N) and table.isfinite().all()
    torch.testing.assert_close(evaluate.elbo(made.model, made.guide, points, num_samples=k, seed=0), table.mean(0))
    assert (evaluate.iwae(made.model, made.guide, points, num_samples=k, seed=0) >= table.mean(0)).all()
    found = evaluate.ais(made.model, made.guide, points, num_chains=2, num_temperatures=4, seed=0)
    assert found.log_px.isfinite().all()
    blocks = [
        evaluate.ais(made.model, made.guide, points[ROWS[i : i + 5]], num_chains=2, num_temperatures=4, seed=0)
        for i in (0,)
    ]
    assert blocks[0].log_px.isfinite().all()


def test_new_points_of_a_program_have_rows_and_the_globals_stay():
    made = pair("normal")
    before = [p.detach().clone() for p in made.guide.parameters()]
    x = torch.randn(3).double()
    best = evaluate.infer(made.model, made.guide, x, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, made.guide.parameters(), strict=True))
    assert best.inner.num_points == 3 and not any(p is q for p in best.parameters() for q in made.guide.parameters())
    assert {n: v.item() for n, v in best.centre().items()} == {n: v.item() for n, v in made.guide.centre().items()}
    trace = pyro.poutine.trace(best).get_trace(x, torch.arange(3))
    assert {"mu", "z"} <= set(trace.nodes)
    with pytest.raises(ValueError, match="index"):
        best(x)


def test_reconstructions_are_means_of_the_program():
    made, best = fitted("chain")
    found = evaluate.reconstruct(made.model, best, made.x, ROWS)
    expected = best.posterior(made.x, ROWS).mean[:, 1]
    torch.testing.assert_close(found, expected.detach())
    made = pair("turned")
    found = evaluate.reconstruct(made.model, made.guide, made.x, ROWS)
    torch.testing.assert_close(found, made.guide.posterior(made.x, ROWS).mean[:, 1:].detach())


def test_training_reaches_what_is_known_of_a_program_with_a_global_latent():
    r"""Mean and deviation of mu given x under the exact posterior, where q(mu) q(z) is factorized."""
    made = pair("normal", family="full_rank")
    torch.manual_seed(1)
    x = 1.5 + torch.randn(40).double() * 1.25**0.5
    guide = guides.AutoPerPoint(programs.normal, 40)
    fit(programs.normal, guide, x, epochs=150, batch_size=10, lr=0.05, seed=0)
    precision = 1 / 4 + 40.0  # of mu given all z: what a factorized q has
    marginal = 1 / 4 + 40 / 1.25
    mean = (x.sum() / 1.25) / marginal
    loc, scale = guide.dense.locs.mu.detach(), guide.dense.scales.mu.detach()
    assert float(loc) == pytest.approx(float(mean), abs=0.03)
    assert float(scale) == pytest.approx(precision**-0.5, rel=0.15)
    q = guide.posterior(index=torch.arange(40))
    assert float(q.variance.mean()) == pytest.approx(0.2, rel=0.1)
    assert float((q.mean.squeeze(-1) - (loc + 4 * x) / 5).square().mean().sqrt()) < 0.1
    assert made


def test_an_encoder_with_chains_is_a_guide_of_a_program():
    torch.manual_seed(0)
    x = 1.5 + torch.randn(12, 1) * 1.25**0.5

    def hybrid(local):
        q = guides.Amortized(nets.MLP(1, 8), local.latent_dim, latent=local.latent, plate=local.plate)
        return guides.Hybrid(local, q)

    def program(x, index=None, *, size=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", size or len(x), subsample=index if size else None):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).to_event(1), obs=x)

    guide = guides.AutoLocal(program, hybrid)
    guide.setup(x, torch.arange(12), size=12)
    before = [p.detach().clone() for p in guide.inner.guide.parameters()]
    fit(program, guide, x, epochs=2, batch_size=6, seed=0)
    after = list(guide.inner.guide.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))  # the encoder trains
