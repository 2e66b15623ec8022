r"""What is said once: rows of messages, a foreign guide's defaults, scores of a pair, a column, a section of scores."""

import copy
import json

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from pyro_dlgm.guides.base import adapted
from pyro_dlgm.guides.chains.empirical import States

from pyro_dlgm import DLGM, PPCA, Points, compare, data, evaluate, guides, likelihoods, messages, nets, priors
from pyro_dlgm.comparison import columns, evaluation, table
from pyro_dlgm.data.dataset import Dataset
from pyro_dlgm.evaluate.diagnostics.aggregate import mean_variance, two_means
from pyro_dlgm.evaluate.estimates import Estimate
from pyro_dlgm.evaluate.scores import SAMPLES, mean_scores, point_scores, rate
from pyro_dlgm.evaluate.snapshot import Snapshot
from pyro_dlgm.training.validation import Validation

N, D, P = 60, 2, 5


@pytest.fixture
def fitted():
    r"""The maximum-likelihood PPCA of some points, with these points."""
    x = torch.randn(N, D, dtype=torch.float64) @ torch.randn(D, P, dtype=torch.float64)
    x += 0.3 * torch.randn(N, P, dtype=torch.float64)
    return PPCA.fit(x, D), x


class Foreign(PyroModule):
    r"""Somebody's guide, which says nothing of itself."""

    def forward(self, x, index=None, *, mask=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("t", dist.Normal(x.new_zeros(len(x), D), 1.0).to_event(1))


@pytest.mark.parametrize(("count", "said"), [(1, "rows [0]"), (10, f"rows {list(range(10))}"), (12, "9] and 2 more")])
def test_rows_are_named_ten_at_most(count, said):
    assert messages.rows(range(count)).endswith(said)


def test_an_error_in_one_line():
    assert messages.line(ValueError("a\n  b" + 400 * "c")) == "a b" + 297 * "c"


def test_a_foreign_guide_has_the_defaults_of_ours():
    guide, ours = adapted(Foreign()), guides.MeanField(3, D)
    assert (guide.has_density, guide.per_point, guide.gradients) == (True, False, 0)
    assert guide.posterior is None and guide.start is None and guide.cost(7) == 7
    assert adapted(ours) is ours
    point = Foreign()
    point.has_density = False
    assert not adapted(point).has_density
    copied = copy.deepcopy(adapted(point))
    assert not copied.has_density and copied.cost(7) == 7 and not hasattr(copied, "nothing_of_that_name")


def test_scores_of_the_exact_posterior_are_the_evidence(fitted):
    model, x = fitted
    scores = point_scores(model, guides.Exact(model), Points(x, torch.arange(N)), 30, seed=0)
    evidence = model.log_prob(x).detach()
    assert torch.allclose(scores["elbo"], evidence) and torch.allclose(scores["iwae"], evidence)
    assert scores["ess"].allclose(torch.tensor(30.0).double()) and scores.keys() == {"elbo", "iwae", "ess", "pareto_k"}
    assert point_scores(model, guides.Exact(model), Points(x), 10, seed=0).keys() == {"elbo", "iwae"}


def test_mean_scores_are_those_of_the_bounds(fitted):
    model, x = fitted
    guide, index = guides.MeanField(N, D, init_scale=0.5).double(), torch.arange(N)
    means = mean_scores(model, guide, Points(x, index), seed=1)
    assert list(means) == ["elbo", f"iwae_{SAMPLES}", "rate", "distortion"]
    assert means["elbo"] == pytest.approx(float(evaluate.elbo(model, guide, x, index, SAMPLES, seed=1).mean()))
    log_weights = evaluate.log_weights(model, guide, x, index, SAMPLES, seed=1)
    assert means["iwae_10"] == pytest.approx(float(evaluate.log_mean_exp(log_weights).mean()))
    q, p = guide.posterior(index=index), model.prior()
    kl = torch.distributions.kl_divergence(q.base_dist, p.base_dist).detach()
    assert means["rate"] == pytest.approx(float(kl.sum(-1).mean()))
    assert means["distortion"] == pytest.approx(-(means["elbo"] + means["rate"]))


def test_a_point_mass_has_a_log_joint_and_a_foreign_guide_no_rate(fitted):
    model, x = fitted
    assert list(mean_scores(model, guides.PointEstimate(N, D).double(), Points(x, torch.arange(N)))) == ["log_joint"]
    assert rate(model, Foreign(), Points(x)) is None


def test_chains_that_know_nothing_of_x_have_no_active_unit():
    r"""States from the prior: each point's mean of M states varies by 1/M, but not its halves together."""
    q = States(torch.randn(8, 4000, D))
    assert q.mean.var(0).min() > 0.1
    assert mean_variance(two_means(q, 10)).abs().max() < 0.02
    q = States(torch.randn(8, 4000, D) + 3 * torch.randn(4000, D))
    assert mean_variance(two_means(q, 10)).min() > 8


def test_two_means_are_the_mean_where_it_is_known():
    q = dist.Normal(torch.randn(5, D), 1.0).to_event(1)
    assert torch.equal(two_means(q, 10), torch.stack([q.mean] * 2))
    unknown = dist.Independent(dist.Laplace(torch.randn(5, D), 1.0), 1)
    a, b = two_means(unknown, 4000)
    assert not torch.equal(a, b) and (a - unknown.mean).abs().max() < 0.2


def test_a_single_state_tells_nothing_of_its_mean():
    assert two_means(States(torch.randn(1, 5, D)), 10).isnan().all()


def test_errors_of_a_difference_and_of_a_mean():
    a, b = Estimate(torch.zeros(4), torch.full((4,), 3.0)), Estimate(torch.zeros(4), torch.full((4,), 4.0))
    assert torch.equal((a - b).stderr, torch.full((4,), 5.0))
    assert Estimate(torch.zeros(4), torch.ones(4)).summary()["monte_carlo_error"] == 0.5


def test_rates_and_validation_see_no_masked_pixel():
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (8,)), 0.5))
    guide, x = guides.Amortized(nets.MLP(P, 8, (8,)), D), torch.randn(N, P)
    mask, index = torch.rand(N, P) > 0.5, torch.arange(N)
    seen = mean_scores(model, guide, Points(x, index, mask), seed=1)
    assert seen["rate"] == float(rate(model, guide, Points(x, index, mask)).mean())
    assert seen["rate"] != float(rate(model, guide, Points(x, index)).mean())
    others = torch.where(mask, x, x + 1)
    assert (
        Validation(model, guide, Points(x, mask=mask)).scores()
        == Validation(model, guide, Points(others, mask=mask)).scores()
    )


def test_a_snapshot_counts_the_active_units_of_a_chain(fitted):
    model, x = fitted
    chain = guides.Chain(model, N, D, num_states=6)
    assert Snapshot(model, chain, x).active() in (0, 1, 2)
    chain.states.copy_(torch.randn(N, 1, D).double().expand_as(chain.states))
    assert Snapshot(model, chain, x).active() == 2


def test_a_column_is_one_object(monkeypatch, fitted):
    values = {"mine": lambda scored: 7 * len(scored.own["elbo"])}
    mine = columns.Column("mine", 6, lambda r: str(r.cells["mine"]), values)
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, mine))
    _, x = fitted
    (made,) = compare(
        lambda: PPCA(D, P).double(), {"mean-field": lambda m, num: guides.MeanField(num, D).double()}, x, x[:4],
        gradients=1, num_samples=25,
    )  # fmt: skip
    assert made.cells["mine"] == made.plain()["mine"] == 28
    assert table.header().endswith(" mine") and table.line(made).endswith(" 28")
    json.dumps(made.plain(), allow_nan=False)


def test_a_row_has_what_its_columns_keep():
    made = columns.Row("mcem", "DLGM")
    made.put({"test_elbo": evaluate_mean(1.5, 0.25), "ess": columns.Reason("none"), "seconds": 2.0})
    assert (made.test_elbo, made.standard_errors, made.reasons) == (1.5, {"test_elbo": 0.25}, {"ess": "none"})
    assert made.seconds == 2.0 and made.ess is None and made.name == "mcem"
    with pytest.raises(AttributeError, match="no 'test_elob'; expected one of test_elbo"):
        made.test_elob  # noqa: B018


def evaluate_mean(mean, error):
    from pyro_dlgm.evaluate.estimates import Mean

    return Mean(mean, error)


def test_sections_as_rows_and_remarks():
    gap = {"mean": 0.5, "standard_error": 0.1, "monte_carlo_error": 0.01}
    section = {"points": 4, "bdmc": {"gap": 0.0614, "standard_error": 0.0731}, "total": gap | {"mean": 2.5}}
    section |= {"approximation": gap, "amortization": gap | {"mean": 2.0}, "unconverged": 1}
    section |= {"notes": ["no BDMC: x", "w is another"], "reasons": {"elbo": "why", "iwae": "why"}}
    assert ("BDMC gap", "0.061", "0.073", "–") in list(evaluation.scores(section))
    said = list(evaluation.remarks(section))
    assert said[:2] == ["No ELBO, IWAE: why.", "The E-step of 1 of 4 points had not converged."]
    assert said[2].startswith("The parameters of q lose most") and said[3:] == ["Note: w is another."]
    lines = evaluation.lines({"train_gaps": section})
    assert lines[0] == "train  4 points, nats per point"
    assert any(line.startswith("train  amortization gap") for line in lines)


def test_numbers_that_are_missing_are_said_to_be():
    none = {"mean": None, "standard_error": None, "monte_carlo_error": None}
    section = {
        "points": 1,
        "elbo": {"mean": 1.0, "standard_error": None},
        "bdmc": {"gap": None, "standard_error": None},
    }
    section |= {"pareto_k": dict.fromkeys(("0.05", "0.5", "0.95"))}
    section |= dict.fromkeys(("total", "approximation", "amortization"), none)
    assert ("BDMC gap", "–", "–", "–") in list(evaluation.scores(section))
    assert list(evaluation.remarks(section)) == ["The gap is not finite: look at the scores of single points."]
    assert evaluation.lines({"test": section})[1] == f"test   {'ELBO':22} {'1.00':>9}"


def test_the_first_training_points_as_a_model_sees_them():
    v = torch.arange(10.0).reshape(5, 2)
    made = Dataset("rows", v, v[:0], v, data.Dequantize(17))
    assert torch.equal(made.seen(3).x, data.seeded(data.Dequantize(17), v[:3], 0))
    assert torch.equal(Dataset("rows", v, v[:0], v).seen(9).x, v)
