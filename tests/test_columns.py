r"""Columns and remarks: which scores a cell is filled from, why one is empty, what is said of gaps."""

import re

import pytest
import torch

from pyro_dlgm import DLGM, PPCA, Points, compare, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.comparison import certificates, columns, evaluation, scorer, table
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.comparison.scored import NO_GAP, NO_GAPS, NO_LOG_PX
from pyro_dlgm.data.dataset import Dataset
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.evaluate.marginal.estimate import Evidence
from pyro_dlgm.evaluate.scores import point_scores

M, D, P = 6, 2, 5


def scored(**more):
    own = {name: torch.full((M,), value) for name, value in (("elbo", -3.0), ("iwae", -2.0), ("ess", 7.0))}
    own["pareto_k"] = torch.full((M,), 0.5)
    training = {"gradients_per_point": 3.0, "seconds": 1.0}
    rest = {"gradients_per_point": 0.0, "unconverged": 0, "scales_at_floor": None, "seconds": 1.0}
    rest |= {"reference": ("first", None), "log_px": None, "certified": {}, "gaps_asked": False}
    return columns.Scored(**({"training": training, "own": own} | rest | more))


def test_cells_are_from_their_own_scores():
    row, log_px = columns.Row("mine", "model"), torch.arange(6.0)
    row.fill(scored(log_px=log_px, reference=("first", torch.zeros(M))))
    assert (row.test_elbo, row.test_iwae, row.ess, row.pareto_k) == (-3.0, -2.0, 7.0, 0.5)
    assert row.difference == {"mean": 2.5, "standard_error": pytest.approx(float(log_px.std() / M**0.5)), "to": "first"}


def test_weights_are_diagnosed_by_their_medians():
    row, rest = columns.Row("mine", "model"), scored().own
    row.fill(scored(own=rest | {"ess": torch.tensor([1.0, 4.0, 90.0]), "pareto_k": torch.tensor([0.1, 0.2, 5.0])}))
    assert (row.ess, row.pareto_k) == (4.0, pytest.approx(0.2))


def test_cells_say_their_numbers():
    row, shown = columns.Row("mine", "model"), {column.title: column for column in columns.COLUMNS}
    training = {"gradients_per_point": 3.0, "seconds": 1.0}
    row.fill(scored(training=training, gradients_per_point=40.0, seconds=2.0))
    assert shown["Δ log p(x)"].text(row) == columns.EMPTY
    row.put({"difference": {"mean": -1.5, "standard_error": 0.25, "to": "first"}, "test_bdmc_gap": Mean(0.5, 0.125)})
    row.put({"approximation_gap": Mean(1.0, 0.5), "amortization_gap": Mean(2.0, 0.75)})
    said = {title: column.text(row) for title, column in shown.items() if title}
    assert said["ESS / k-hat"] == "7 / 0.50" and (said["grads"], said["seconds"]) == ("3 + 40", "1 + 2")
    assert said["Δ log p(x)"] == "-1.50 ± 0.25" and said["BDMC"] == "0.50 ± 0.12" and said["IWAE"] == "-2.00"
    assert (said["approx. gap"], said["amort. gap"]) == ("1.00 ± 0.50", "2.00 ± 0.75")


def test_zero_has_no_sign():
    said = [columns.number(value, 0.1) for value in (-0.004, 0.0, -0.006, None)]
    assert said == ["0.00 ± 0.10", "0.00 ± 0.10", "-0.01 ± 0.10", columns.EMPTY]


def test_without_log_px_there_is_no_difference():
    row = columns.Row("mine", "model")
    row.fill(scored())
    assert row.difference is None and row.reasons["difference"] == NO_LOG_PX


def test_an_empty_certificate_has_its_reason():
    log_px = {"log_px": {"mean": -1.0, "standard_error": 0.1}}
    assert scored().certificate("total") == NO_LOG_PX
    assert scored(certified=log_px).certificate("total") == NO_GAPS
    assert scored(certified=log_px, gaps_asked=True).certificate("total") == NO_GAP
    assert scored(certified=log_px).certificate("log_px") == (-1.0, 0.1)


@pytest.mark.parametrize(("gap", "doubted"), [(0.01, False), (-0.01, False), (5.0, True), (-5.0, True)])
def test_bdmc_decides_whether_a_row_is_doubted(gap, doubted):
    log_px = {"mean": -1.0, "standard_error": 0.1, "monte_carlo_error": 0.0}
    found = scored(certified={"log_px": log_px, "bdmc": {"gap": gap, "standard_error": 0.02}})
    assert found.bdmc_gap() == (gap, 0.02) and bool(found.not_certified()) == doubted


def gaps(total, monte_carlo, family, parameters):
    def mean(value):
        return {"mean": value, "standard_error": 0.1, "monte_carlo_error": monte_carlo}

    parts = {"total": mean(total), "approximation": mean(family), "amortization": mean(parameters)}
    return {"points": M, "own_family": "Normal", "bdmc": {"gap": 0.01, "standard_error": 0.01}} | parts


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (gaps(0.5, 0.3, 0.4, 0.1), "q is the posterior"),
        (gaps(0.09, 0.0, 0.08, 0.01), "q is the posterior"),
        (gaps(0.5, 0.2, 0.45, 0.05), "The family (Normal) loses most"),
        (gaps(2.15, 0.0, 1.0, 1.15), "Family and parameters lose about the same"),
        (gaps(2.5, 0.0, 0.5, 2.0), "The parameters of q lose most"),
    ],
)
def test_the_larger_part_is_named_if_the_errors_allow(section, words):
    (said,) = evaluation.remarks(section)
    assert said.startswith(words)


@pytest.mark.parametrize(("highest", "count"), [(0.8, 1), (0.6, 0)])
def test_the_tail_of_the_points_decides_whether_the_iwae_is_doubted(highest, count):
    quantiles = {"0.05": 0.1, "0.5": 0.75 if count == 0 else 0.3, "0.95": highest}
    assert len(list(evaluation.remarks({"points": M, "pareto_k": quantiles}))) == count


@pytest.fixture
def x():
    return torch.randn(40, P, generator=torch.Generator().manual_seed(0))


def compared(x, **settings):
    def model():
        return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (8,)), 0.5))

    return compare(model, {"mean-field": lambda _, n: guides.MeanField(n, D)}, x, x[:M], gradients=2, **settings)


def test_the_linear_baseline_is_fitted_to_transformed_points(x):
    baseline, _ = compared(x, ppca=D, transform=lambda v: 2 * v, num_samples=25)
    expected = PPCA.fit(2 * x.double(), D).log_prob(x[:M].double()).mean()
    assert baseline.test_elbo == pytest.approx(float(expected))


def test_a_row_counts_the_test_points_whose_e_step_had_not_converged(x, monkeypatch):
    plain = scorer.infer_silently

    def short(model, guide, points, seed):
        q = plain(model, guide, points, seed)
        q.convergence.converged[:] = True
        q.convergence.converged[0] = False
        return q

    monkeypatch.setattr(scorer, "infer_silently", short)
    (row,) = compared(x, num_samples=25)
    assert row.test_unconverged == 1 and not row.pair[1].convergence.converged[0]


TINY = {"points": 3, "num_chains": 2, "num_temperatures": 2, "num_samples": 25, "num_simulated": 2}


def linear():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.Linear(D, P), 0.5))


def test_a_batch_is_at_most_all_points(x):
    factories = {"amortized": lambda *_: guides.Amortized(nets.Linear(P, 2 * D), D)}
    (row,) = compare(linear, factories, x, x[:M], gradients=3, batch_size=100, num_samples=25)
    assert row.gradients_per_point == 3 and [record["step"] for record in row.history] == [1, 2, 3]


class Found:
    r"""What stands for the result of `evaluate.gaps`."""

    num_temperatures = 9

    def summary(self):
        return {}


@pytest.fixture
def told(monkeypatch):
    r"""What `evaluate.gaps` is called with."""
    calls = []
    stand_in = lambda model, q, points, **how: calls.append((q, points, how)) or Found()  # noqa: E731
    monkeypatch.setattr(certificates.inference_gap, "gaps", stand_in)
    return calls


def test_certify_computes_the_gaps_in_two_halves(x):
    model, q = linear(), guides.MeanField(M, D)
    asked = Certify(gaps=True, **TINY)
    found, whole = (
        asked(model, q, x, 7),
        evaluate.gaps(model, q, x[:3], index=torch.arange(3), **asked.numbers(), seed=7),
    )
    assert found.summary() == whole.summary() and found.converged.shape == (3,)
    half = asked.evidence(model, x, 7)
    assert (
        type(half) is Evidence
        and half.summary() == evaluate.evidence(model, None, x[:3], **asked.numbers(), seed=7).summary()
    )
    q = evaluate.infer(model, q, x[:M], seed=0)
    assert (asked(model, q, x, 7, fitted=True).amortization.value == 0).all()


def test_gaps_of_a_run_are_at_as_many_training_points_with_the_same_walks(x, told, monkeypatch):
    model, guide, q = linear(), guides.MeanField(30, D), guides.MeanField(3, D)
    q.convergence, asked = object(), []
    monkeypatch.setattr(certificates, "infer_silently", lambda *given: asked.append(given[2:]) or q)
    data = Dataset("rows", train=x[:30], val=x[:0], test=x[30:])
    certify = Certify(gaps=True, **TINY | {"num_temperatures": None, "num_simulated": 20})
    found = certificates.sections(model, guide, data, certify, 7, objective="IWAE-5", progress=False)
    (on_test, points, test), (on_train, seen, train) = told
    assert on_test is q and test["fitted"] is True and torch.equal(points.x, x[30:33])
    assert on_train is guide and train.get("fitted") is None and torch.equal(seen.x, x[:3])
    assert (test["num_temperatures"], test["num_simulated"]) == (None, 20)
    assert (train["num_temperatures"], train["num_simulated"]) == (9, 0)
    assert {how["objective"] for how in (test, train)} == {"IWAE-5"} and {how["seed"] for how in (test, train)} == {7}
    assert asked[0][1] == 7 and torch.equal(asked[0][0].x, x[30:33])
    assert list(found) == ["train_gaps", "test_gaps"] and found["test_gaps"]["seed"] == 7


def test_a_run_whose_q_is_not_gaussian_has_log_px_and_the_reason_for_no_gap(x, told):
    data = Dataset("rows", train=x[:30], val=x[:0], test=x[30:])
    guide = guides.Flow(nets.Linear(P, 4), D)
    found = certificates.sections(linear(), guide, data, Certify(gaps=True, **TINY), 7, progress=False)
    assert list(found) == ["test_ais"] and found["test_ais"]["reasons"] == {"gaps": NO_GAP} and not told


def test_fewer_than_two_points_are_not_certified():
    assert Certify(**TINY | {"points": 2}).points == 2
    with pytest.raises(ValueError, match="points is 1; expected at least 2"):
        Certify(**TINY | {"points": 1})


def test_columns_are_those_that_were_asked_for_in_groups():
    def titles(*asked):
        return [(name, [c.title for c in of]) for name, of in columns.groups(columns.columns(*asked))]

    first, spent = ("", ["method", "model"]), ("spent", ["grads", "seconds"])
    bounds = ["ELBO", "IWAE", "ESS / k-hat"]
    assert titles() == [first, ("q of the row", bounds), spent]
    alone = ("w alone", ["log p(x)", "Δ log p(x)", "BDMC"])
    assert titles("log_px") == [first, ("q of the row", bounds), alone, spent]
    gaps = ("gaps of q", ["approx. gap", "amort. gap"])
    assert titles("log_px", "gaps") == [first, ("q of the row", bounds), gaps, alone, spent]
    counted = [name for name, _ in columns.groups(columns.columns("log_px", "gaps"), 64)]
    assert counted == ["", "q of the row", "gaps of q, 64 points", "w alone, 64 points", "spent"]


def test_each_group_is_over_its_columns():
    shown = columns.columns("log_px", "gaps")
    over, titles = table.header(shown, 64).splitlines()
    spans = [found.span() for found in re.finditer("─+ [^─]+ ─+", over)]
    titled = [("ELBO", "ESS / k-hat"), ("approx. gap", "amort. gap"), ("log p(x)", "BDMC"), ("grads", "seconds")]
    for (start, end), (first, last) in zip(spans, titled, strict=True):
        assert start <= titles.index(first) and end == titles.index(last) + len(last)


def test_weights_are_diagnosed_from_25_samples_on(x):
    model = PPCA.fit(x.double(), D)
    assert "ess" in point_scores(
        model, guides.MeanField(40, D).double(), Points(x.double(), torch.arange(40)), 25, seed=0
    )
    assert "ess" not in point_scores(
        model, guides.MeanField(40, D).double(), Points(x.double(), torch.arange(40)), 24, seed=0
    )
