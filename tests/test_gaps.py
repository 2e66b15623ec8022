r"""The inference gap on PPCA, where each part of it is known, and in a comparison."""

import importlib
import json

import cases
import pytest
import torch
from pyro_dlgm.guides import families

from pyro_dlgm import PPCA, compare, evaluate, guides
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.evaluate import inference_gap
from pyro_dlgm.evaluate.e_step import climb as e_step
from pyro_dlgm.plots.gaps import bars, posterior_on_grid, posteriors
from pyro_dlgm.seeding import seeds

POINTS, D, P = 30, 5, 12
QUICK = {"num_chains": 8, "num_temperatures": 60, "num_samples": 2000, "seed": 0}


@pytest.fixture
def model():
    r"""PPCA at a W with correlated posteriors."""
    model = PPCA(D, P, scale=0.5).double()
    with torch.no_grad():
        model.W.copy_(torch.randn(P, D, dtype=torch.float64))
    return model


@pytest.fixture
def x(model):
    return model(size=POINTS).detach()


def precision(model) -> torch.Tensor:
    r"""M / σ², the precision of the posterior."""
    return ((model.W.T @ model.W) / model.sigma2 + torch.eye(D, dtype=torch.float64)).detach()


def best_mean_field(model, x, shift: float = 0.0) -> guides.MeanField:
    r"""The mean-field q closest to the posterior, its means moved by ``shift`` in each dimension."""
    mean = model.posterior(x).mean.detach() + shift
    scale = precision(model).diagonal().rsqrt().expand_as(mean)
    q = torch.distributions.Independent(torch.distributions.Normal(mean, scale), 1)
    return guides.MeanField(len(x), D).double().set_rows(families.mean_field.of(q))


def analytic_gap(model) -> float:
    r"""½ (Σ_j log Λ_jj − log det Λ) with the precision Λ: the approximation gap of every point."""
    Lambda = precision(model)
    return float(0.5 * (Lambda.diagonal().log().sum() - torch.logdet(Lambda)))


def close(estimate, value, floor: float = 0.02) -> bool:
    r"""Whether the mean of an estimate is within 0.02 nats and four standard errors of its value."""
    error = float(estimate.stderr.square().sum().sqrt()) / len(estimate.value)
    return abs(float(estimate.value.mean()) - value) < floor + 4 * error


def test_approximation_gap_of_mean_field(model, x):
    guide, index = best_mean_field(model, x), torch.arange(POINTS)
    found = evaluate.gaps(model, guide, x, index, families=("full_rank",), num_simulated=0, **QUICK)
    assert analytic_gap(model) > 0.3
    assert close(found.log_px, float(model.log_prob(x).mean()))
    assert close(found.approximation, analytic_gap(model))
    assert close(found.amortization, 0.0)
    # The posterior is Gaussian: the best full-rank q has no gap.
    assert close(found.log_px - found.families["full_rank"], 0.0)


def test_rows_that_infer_has_fitted_are_q_star(model, x, monkeypatch):
    q = evaluate.infer(model, guides.MeanField(1, D).double(), x, seed=0)
    q.convergence.converged[7] = False
    monkeypatch.setattr(inference_gap, "_best", lambda *_: pytest.fail("it climbed again"))
    index = torch.tensor([3, 7, 20])
    found = evaluate.gaps(model, q, x[index], index, fitted=True, num_simulated=0, **QUICK)
    assert close(found.approximation, analytic_gap(model))
    assert not found.amortization.value.any() and found.kept.all()
    assert found.late == [1]


def test_rows_that_infer_did_not_return_are_not_taken_for_fitted(model, x):
    with pytest.raises(ValueError, match="fitted is true, but this MeanField has no convergence"):
        evaluate.gaps(model, best_mean_field(model, x[:4]), x[:4], torch.arange(4), fitted=True, **QUICK)


def test_other_families_of_fitted_rows_are_climbed(model, x):
    q = evaluate.infer(model, guides.MeanField(1, D).double(), x, seed=0)
    args = {"families": ("full_rank", "mean_field"), "fitted": True, "num_simulated": 0}
    found = evaluate.gaps(model, q, x, torch.arange(POINTS), **args, **QUICK)
    assert close(found.log_px - found.families["full_rank"], 0.0)
    assert close(found.log_px - found.families["mean_field"], analytic_gap(model))


def test_amortization_gap_of_a_shifted_q(model, x):
    shift = 0.1
    guide, index = best_mean_field(model, x, shift), torch.arange(POINTS)
    found = evaluate.gaps(model, guide, x, index, num_simulated=0, **QUICK)
    assert close(found.amortization, float(0.5 * shift**2 * precision(model).sum()))
    assert close(found.approximation, analytic_gap(model))
    total = found.approximation.value + found.amortization.value
    assert torch.allclose(total, found.total.value)


def test_exact_guide_has_no_gap(model, x):
    found = evaluate.gaps(model, guides.Exact(model), x, num_simulated=16, **QUICK)
    assert found.own == "full_rank"
    assert close(found.total, 0.0, floor=1e-3)
    assert float(found.amortization.value.abs().max()) < 0.05
    assert abs(found.certificate.gap) < 4 * found.certificate.stderr + 1e-3


def test_auto_normal_is_mean_field(model, x):
    model, x = model.float(), x.float()
    guide = guides.auto(model, "AutoNormal", POINTS)
    found = evaluate.gaps(model, guide, x, torch.arange(POINTS), num_simulated=0, **QUICK)
    assert found.own == "mean_field"
    assert close(found.approximation, analytic_gap(model), floor=0.04)
    assert float(found.amortization.value.mean()) > 1  # at its start


def test_nothing_is_touched(model, x):
    guide = best_mean_field(model, x, 0.1)
    before, state = cases.tensors(model, guide), torch.get_rng_state()
    settings = QUICK | {"num_temperatures": 5}
    first = evaluate.gaps(model, guide, x, torch.arange(POINTS), num_simulated=2, **settings)
    again = evaluate.gaps(model, guide, x, torch.arange(POINTS), num_simulated=2, **settings)
    assert cases.same(before, cases.tensors(model, guide))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.total.value, again.total.value)
    assert all(p.requires_grad for p in model.parameters())


def test_missing_pixels(model, x):
    mask = torch.rand(x.shape) > 0.3
    q = model.posterior(x, mask)
    guide = guides.FullRank(POINTS, D).double().set_rows(families.full_rank.of(q).detach())
    found = evaluate.gaps(model, guide, x, torch.arange(POINTS), mask=mask, num_simulated=40, **QUICK)
    assert abs(found.certificate.gap) < 0.05
    assert close(found.log_px, float(model.log_prob(x, mask).mean()))
    assert close(found.total, 0.0)


def test_missing_points(model, x):
    mask = torch.arange(POINTS) % 3 > 0
    guide = guides.MeanField(POINTS, D).double()
    settings = QUICK | {"num_temperatures": 5, "num_samples": 50}
    found = evaluate.gaps(model, guide, x, torch.arange(POINTS), mask=mask, num_simulated=6, **settings)
    # A point of which nothing is seen has p(x) = 1; the simulated points are masked in turn.
    assert found.log_px.value[~mask].abs().max() < 0.1 < found.log_px.value[mask].abs().min()
    unseen = ~mask[:6]
    assert found.certificate.upper[unseen].abs().max() < 0.1 < found.certificate.upper[~unseen].abs().min()


def test_a_judge_makes_one_estimator_of_all_guides(model, x):
    judge = guides.FullRank(POINTS, D).double().set_rows(families.full_rank.of(model.posterior(x)).detach())
    settings = QUICK | {"num_temperatures": 5, "num_simulated": 2}
    alone = evaluate.evidence(model, judge, x, **settings)
    for shift in (0.0, 0.5):
        guide = best_mean_field(model, x, shift)
        found = evaluate.gaps(model, guide, x, torch.arange(POINTS), judge=judge, **settings)
        assert torch.equal(found.log_px.value, alone.log_px.value)
        assert found.certificate.gap == alone.certificate.gap


def test_where_climbing_brings_nothing_q_is_kept(model, x, monkeypatch):
    guide, index = best_mean_field(model, x), torch.arange(POINTS)
    climb = e_step.climb

    def lost(model, guide, points, pace):
        found = climb(model, guide, points, e_step.Pace(max_steps=1, window=1))
        guide.rows.weight.data[:7] += 1.0
        return found

    monkeypatch.setattr(importlib.import_module("pyro_dlgm.evaluate.inference_gap"), "climb", lost)
    found = evaluate.gaps(model, guide, x, index, num_simulated=0, **QUICK | {"num_temperatures": 5})
    assert found.kept[:7].all()
    assert found.amortization.value[found.kept].abs().max() < 1e-9
    assert found.families["mean_field"].value[:7].tolist() == pytest.approx(found.reached.value[:7].tolist())


def test_q_star_is_not_chosen_under_the_noise_that_is_reported(model, x):
    r"""Where q is as good as q*, half of the points have the worse one under other noise; under the same, none has."""
    guide, settings = best_mean_field(model, x), QUICK | {"num_temperatures": 2, "num_samples": 20}
    found = evaluate.gaps(model, guide, x, torch.arange(POINTS), num_simulated=0, **settings)
    moved = ~found.kept
    assert moved.sum() >= 8 and (found.amortization.value[moved] < 0).sum() >= 2


def test_unknown_errors_are_no_numbers_of_json(model, x):
    settings = QUICK | {"num_chains": 1, "num_temperatures": 3, "num_simulated": 0, "num_samples": 2}
    found = evaluate.gaps(model, best_mean_field(model, x[:1]), x[:1], torch.arange(1), **settings).summary()
    json.dumps(found, allow_nan=False)
    assert found["ais"]["monte_carlo_error"] is None and found["reached"]["standard_error"] is None


def test_q_star_starts_at_q_and_a_point_is_late_if_any_family_is(model, x, monkeypatch):
    guide, index, starts = best_mean_field(model, x, 0.3), torch.arange(POINTS), {}

    def stay(model, best, points, pace):
        starts[type(best).__name__] = best.posterior(*points.seen).mean.detach().clone()
        late = torch.arange(POINTS) == (2 if isinstance(best, guides.FullRank) else 5)
        return e_step.Convergence(~late, 0.0)

    monkeypatch.setattr(inference_gap, "climb", stay)
    settings = {"num_chains": 2, "num_temperatures": 1, "num_samples": 20, "num_simulated": 0, "seed": 0}
    found = evaluate.gaps(model, guide, x, index, families=("full_rank",), **settings)
    mean = guide.posterior(index=index).mean.detach()
    assert starts.keys() == {"FullRank", "MeanField"}
    assert all(torch.allclose(start, mean) for start in starts.values())
    assert found.late == [2, 5] and found.kept.all()  # q* is q, and where they are equal q is kept
    summary = found.summary()
    assert (summary["kept"], summary["unconverged"]) == (POINTS, 2)
    for name, bound in found.families.items():
        gap = float((found.log_px.value - bound.value).mean())
        assert summary["gap_of"][name]["mean"] == pytest.approx(gap) and gap > 0


def test_the_family_of_a_fitted_q_is_not_fitted_again_if_it_is_named(model, x, monkeypatch):
    climbed, done = [], e_step.Convergence(torch.ones(POINTS) > 0, 0.0)
    monkeypatch.setattr(inference_gap, "climb", lambda _, best, *__: climbed.append(type(best)) or done)
    settings = {"num_chains": 2, "num_temperatures": 1, "num_samples": 20, "num_simulated": 0, "seed": 0}
    settings |= {"families": ("full_rank", "mean_field"), "fitted": done}
    q = best_mean_field(model, x)
    q.convergence = done
    evaluate.gaps(model, q, x, torch.arange(POINTS), **settings)
    assert climbed == [guides.FullRank]


def test_the_numbers_of_gaps_are_not_those_of_log_px(model, x, monkeypatch):
    used, weigh, best = [], inference_gap.log_weights, inference_gap._best

    def weighed(*args, seed, **more):
        used.append(seed)
        return weigh(*args, seed=seed, **more)

    def climbed(model, q, family, points, seed):
        used.append(seed)
        return best(model, q, family, points, seed)

    monkeypatch.setattr(inference_gap, "log_weights", weighed)
    monkeypatch.setattr(inference_gap, "_best", climbed)
    monkeypatch.setattr(inference_gap, "climb", lambda *_: e_step.Convergence(torch.ones(POINTS) > 0, 0.0))
    settings = {"num_chains": 2, "num_temperatures": 1, "num_samples": 20, "num_simulated": 0, "seed": 0}
    evaluate.gaps(model, best_mean_field(model, x), x, torch.arange(POINTS), **settings)
    assert len(set(used)) == 3 and not set(used) & set(seeds(inference_gap.STREAMS, 0))


def test_another_objective_is_labelled(model, x):
    guide = best_mean_field(model, x)
    settings = QUICK | {"num_temperatures": 5, "num_simulated": 0}
    found = evaluate.gaps(model, guide, x, torch.arange(POINTS), objective="IWAE-50", **settings)
    assert any("IWAE-50" in note and "mixes" in note for note in found.notes)
    assert any("BDMC" in note for note in found.summary()["notes"])


def test_late_points_are_listed(model, x):
    from pyro_dlgm.evaluate.decomposition import Gaps
    from pyro_dlgm.evaluate.estimates import Estimate

    one = Estimate(torch.zeros(3), torch.zeros(3))
    late = torch.tensor([True, False, False])
    parts = {"reached": one, "families": {"mean_field": one}, "amortization": one, "annealed": one, "weighted": one}
    rest = {"own": "mean_field", "num_samples": 1, "certificate": None, "objective": "ELBO"}
    found = Gaps(**parts, **rest, kept=~late, converged=late)
    assert found.late == [1, 2]
    assert "2 of 3 points" in found.notes[0]


def test_refusals(model, x):
    index = torch.arange(POINTS)
    with pytest.raises(TypeError, match="no density"):
        evaluate.gaps(model, guides.PointEstimate(POINTS, D), x, index)
    with pytest.raises(ValueError, match="'flow'"):
        evaluate.gaps(model, best_mean_field(model, x), x, index, families=("flow",))
    with pytest.raises(ValueError, match="30 points and index 4"):
        evaluate.gaps(model, best_mean_field(model, x), x, index[:4])
    for wrong in ({"num_samples": 1}, {"num_simulated": 1}, {"num_temperatures": 0}, {"num_chains": 0}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            evaluate.gaps(model, best_mean_field(model, x), x, index, **wrong)
    with pytest.raises(ValueError, match="no points"):
        evaluate.gaps(model, best_mean_field(model, x), x[:0], index[:0])


def small_comparison(**settings):
    r"""A comparison of two guides with gaps on a small convolutional model."""
    x = torch.rand(40, 1, 5, 7)
    factories = {
        "amortized": lambda model, N: cases.amortized(model),
        "hard-em": lambda model, N: guides.PointEstimate(N, cases.D),
    }
    certify = Certify(gaps=True, points=4, num_chains=2, num_temperatures=5, num_samples=50)
    return compare(
        cases.conv, factories, x, x[:6], gradients=2, num_samples=25, batch_size=20, certify=certify, **settings
    )


@pytest.fixture(scope="module")
def free():
    r"""The comparison in which each row has a w of its own."""
    return small_comparison()


def test_comparison_fills_the_certified_cells(free):
    amortized, hard = free
    assert amortized.test_log_px is not None and amortized.certified_points == 4
    assert amortized.gaps["points"] == 4 and amortized.test_bdmc_gap is not None
    total = amortized.approximation_gap + amortized.amortization_gap
    assert total == pytest.approx(amortized.test_log_px - amortized.gaps["reached"]["mean"], abs=1e-4)
    assert hard.test_log_px is not None and hard.approximation_gap is None
    assert "no F(q)" in hard.reasons["amortization_gap"]
    assert amortized.w == hard.w == "own"


def test_one_w_in_all_rows(free):
    amortized, hard = small_comparison(frozen=True)
    assert cases.same(cases.tensors(amortized.pair[0]), cases.tensors(hard.pair[0]))
    assert hard.w == "amortized" and amortized.w == "own"
    assert len(hard.history) == 2
    # One w, one judge, one number: the row without a density has the log p(x) of the row with one.
    assert hard.test_log_px == amortized.test_log_px and hard.test_bdmc_gap == amortized.test_bdmc_gap
    assert not cases.same(*(cases.tensors(row.pair[0]) for row in free))


def test_posterior_on_a_grid_is_the_posterior():
    model = PPCA(2, 6, scale=0.5).double()
    x = model(size=1).detach()
    (sides_1, sides_2), density = posterior_on_grid(model, x)
    axes = [torch.linspace(float(a), float(b), len(density)).double() for a, b in (sides_1, sides_2)]
    t = torch.cartesian_prod(*axes)
    exact = model.posterior(x).log_prob(t).detach().exp().reshape(density.shape)
    assert torch.allclose(density, exact / exact.max(), atol=1e-6)
    edge = torch.cat([density[0], density[-1], density[:, 0], density[:, -1]])
    assert float(edge.max()) < 0.01


def test_pictures(model, x):
    found = evaluate.gaps(model, best_mean_field(model, x), x, torch.arange(POINTS), **QUICK | {"num_temperatures": 5})
    figure = bars({"mean-field": found.summary(), "again": found.summary()})
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["mean-field", "again"]
    plane = PPCA(2, 6).double()
    points = plane(size=3).detach()
    drawn = posteriors(plane, {"exact": plane.posterior(points)}, points)
    assert len(drawn.axes) == 3
    with pytest.raises(ValueError, match="two latents"):
        posteriors(model, {}, x)
