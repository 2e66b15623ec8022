r"""Every verdict on log p(x) is drawn from the certificate first: in `gaps`, table, report and command line."""

import pytest
import torch
from torch import nn

from pyro_dlgm import DLGM, data, evaluate, guides, likelihoods, priors
from pyro_dlgm.comparison import columns, evaluation, table
from pyro_dlgm.report import sections

P, POINTS = 100, 12
NOT = "log p(x) is not certified here"


class Mirror(nn.Module):
    r"""Creates logits a (t² − 1): each x has two posterior modes, at t and −t."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(3 * torch.randn(P, generator=torch.Generator().manual_seed(1)))

    def forward(self, t):
        return (t.square() - 1) * self.a


@pytest.fixture(scope="module")
def mirrored():
    r"""The gaps of a Gaussian q that knows one of two mirror modes."""
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(1), likelihoods.Bernoulli(Mirror()))
    x = model(size=POINTS).detach()
    q = evaluate.infer(model, guides.FullRank(1, 1), x, seed=0)
    settings = {"num_chains": 4, "num_temperatures": 20, "num_samples": 500, "num_simulated": 64, "seed": 0}
    found = evaluate.gaps(model, q, x, torch.arange(POINTS), **settings)
    return found, evaluate.quadrature(model, x)


def mean(value, monte_carlo=0.0):
    return {"mean": value, "standard_error": 0.1, "monte_carlo_error": monte_carlo}


def section(total=0.05, family=0.04, parameters=0.01, bdmc=None, monte_carlo=0.0):
    parts = {"log_px": mean(-9.0, monte_carlo), "reached": mean(-9.0 - total), "total": mean(total, monte_carlo)}
    parts |= {"approximation": mean(family), "amortization": mean(parameters), "points": 6, "own_family": "mean_field"}
    return parts | ({} if bdmc is None else {"bdmc": {"gap": bdmc[0], "standard_error": bdmc[1]}})


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_two_mirror_modes_are_no_posterior_of_one(mirrored):
    found, exact = mirrored
    # The median, since at a point whose modes almost touch the walks from one of them may reach the other.
    assert (exact - found.log_px.value).mean() > 0.4 > 0.1 > found.total.value.median()
    assert found.certificate.gap > 10
    assert found.verdicts[0].startswith(NOT)
    assert any(note.startswith(NOT) for note in found.notes) and found.summary()["notes"] == found.notes
    said = list(evaluation.remarks(found.summary()))
    assert sum(NOT in line for line in said) == 1 and not any("is the posterior" in line for line in said)


@pytest.mark.parametrize(
    ("given", "certified"),
    [
        (section(bdmc=(0.02, 0.01)), True),
        (section(bdmc=(0.02, 0.05)), False),  # within two standard errors it may be 0.12
        (section(bdmc=(-0.2, 0.0)), False),
        (section(total=0.5, bdmc=(0.3, 0.05), monte_carlo=0.3), True),  # "0 within 0.6"
        (section(), False),
        (section(bdmc=(float("nan"), 0.0)), False),
        (section(bdmc=(None, None)), False),  # of a file, where there is no number
        (section(2.5, 2.0, 0.5, bdmc=(1.0, 0.2)), True),
        (section(2.5, 0.5, 2.0, bdmc=(1.0, 0.3)), False),  # the family may lose 2.1
        (section(2.1, 1.0, 1.1, bdmc=(0.1, 0.04)), True),
        (section(2.1, 1.0, 1.1, bdmc=(0.1, 0.06)), False),
    ],
)
def test_a_verdict_speaks_of_more_than_the_certificate_allows(given, certified):
    verdict, *_ = evaluation.remarks(given)
    assert verdict.startswith(NOT) is not certified


def test_what_log_px_itself_says_is_certified_as_well():
    evidence = {"points": 6, "log_px": mean(-9.0)}
    assert not list(evaluation.remarks(evidence | {"bdmc": {"gap": 0.03, "standard_error": 0.02}}))
    (said,) = evaluation.remarks(evidence | {"bdmc": {"gap": 12.0, "standard_error": 3.0}})
    assert said.startswith(NOT) and "18.00" in said and "12.00 ± 3.00" in said
    (said,) = evaluation.remarks(evidence)
    assert said.startswith(NOT)


def test_training_points_have_the_certificate_of_the_test_points():
    found = {"train_gaps": section(), "test_gaps": section(bdmc=(0.02, 0.01))}
    assert not any(NOT in line for line in evaluation.lines(found))
    found["test_gaps"] = section(bdmc=(17.6, 12.3))
    assert sum(NOT in line for line in evaluation.lines(found)) == 2


def test_the_report_says_so(tmp_path):
    found = {"train_gaps": section(), "test_gaps": section(bdmc=(17.6, 12.3))}
    shown = sections.scores(found, tmp_path, 1)
    assert [NOT in note for note in shown.notes] == [True, True]
    notes = {"notes": [f"{NOT}: why"]}
    (shown,) = sections.gaps({"mine": section(bdmc=(17.6, 12.3)) | notes})
    assert shown.notes == (f"mine: {NOT}: why.",)


def row(bdmc, **more):
    certified = section(bdmc=bdmc) | {"unconverged": 0} | more
    scores = {name: torch.zeros(6) for name in ("elbo", "iwae", "ess", "pareto_k")}
    training = {"gradients_per_point": 1.0, "seconds": 1.0}
    counts = {"gradients_per_point": 0.0, "unconverged": 0, "scales_at_floor": None, "seconds": 1.0}
    row = columns.Row(f"q{bdmc[0]}", "model")
    row.fill(
        columns.Scored(
            training=training,
            own=scores,
            log_px=None,
            certified=certified,
            gaps_asked="total" in certified,
            reference=("q", None),
            **counts,
        )
    )
    return row


def test_the_table_names_the_rows_that_are_not_certified():
    x = torch.zeros(4, 1, 2, 2)
    shown = data.Dataset("squares", x, x, x)
    good, bad = row((0.02, 0.01)), row((17.6, 12.3))
    assert good.standard_errors["test_bdmc_gap"] == 0.01
    said = [note for note in table.footnotes([good, bad], shown, 25) if NOT in note]
    assert len(said) == 1 and "q17.6 (BDMC 17.60 ± 12.30)" in said[0] and "q0.02" not in said[0]
    assert not [note for note in table.footnotes([good], shown, 25) if NOT in note]
    without_gaps = row((17.6, 12.3))
    without_gaps.cells["gaps"] = None
    assert [note for note in table.footnotes([without_gaps], shown, 25) if NOT in note]
