r"""What the command line certifies of a run and in a comparison."""

import json

import pytest
import torch
from click.testing import CliRunner
from pyro.infer import RenyiELBO, Trace_ELBO

from pyro_dlgm.cli.main import main
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.runs.fingerprint import bound, described, fingerprint

SMALL = ["--certified", "4", "--chains", "4", "--temperatures", "30"]


def call(*arguments: str):
    r"""The command line, run in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    r"""A function from the name of a guide to a run with it."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(guide: str):
        if guide not in made:
            made[guide] = folder / guide
            command = ["fit", "--guide", guide, "--latents", "2", "--epochs", "1", "--out", made[guide]]
            assert call(*command).exit_code == 0
        return made[guide]

    return run


def test_gaps_of_a_run(runs):
    run = runs("amortized")
    said = call("evaluate", run, "--points", "30", "--iwae", "30", "--gaps", *SMALL)
    assert said.exit_code == 0, said.output
    found = json.loads((run / "evaluation.json").read_text())
    for part in ("train", "test"):
        gaps = found[f"{part}_gaps"]
        assert gaps["points"] == 4
        total = gaps["approximation"]["mean"] + gaps["amortization"]["mean"]
        assert total == pytest.approx(gaps["total"]["mean"], abs=1e-4)
        assert f"{part:6} amortization gap" in said.output
    assert "bdmc" in found["test_gaps"] and "bdmc" not in found["train_gaps"]
    page = (run / "report.html").read_text()
    assert "Inference gap" in page and "approximation gap" in page


def test_a_point_mass_has_log_px_but_no_gap(runs):
    run = runs("hard-em")
    said = call("evaluate", run, "--points", "30", "--gaps", *SMALL)
    assert said.exit_code == 0, said.output
    found = json.loads((run / "evaluation.json").read_text())
    assert found["test_ais"]["log_px"]["mean"] < 0 or found["test_ais"]["log_px"]["mean"] > 0
    assert "no F(q)" in found["test_ais"]["reasons"]["gaps"]
    assert "test_gaps" not in found and "No gaps" in said.output


def test_gaps_in_a_comparison(tmp_path):
    command = ["compare", "--guides", "amortized,hard-em", "--latents", "2", "--gradients", "1", "--points", "20"]
    said = call(*command, "--samples", "25", "--gaps", "--w", "frozen", *SMALL, "--out", tmp_path)
    assert said.exit_code == 0, said.output
    assert "approx. gap" in said.output and "One w in all rows" in said.output
    exact, amortized, hard = json.loads((tmp_path / "compare.json").read_text())
    assert exact["certified_points"] == amortized["certified_points"] == hard["certified_points"] == 4
    assert exact["test_log_px"] != exact["test_elbo"]  # over the 4 points of the others, and over all 20
    assert amortized["approximation_gap"] is not None and hard["approximation_gap"] is None
    assert hard["w"] == "amortized"
    assert json.loads((tmp_path / "config.json").read_text())["certify"]["points"] == 4
    assert "Inference gap" in (tmp_path / "report.html").read_text()


def test_what_a_run_was_trained_on():
    assert bound(described(ELBO())) == bound(described(ELBO(3, analytic_kl=False))) == bound(None) == "ELBO"
    assert bound(described(Trace_ELBO())) == "ELBO"
    assert "beta=4" in bound(described(ELBO(beta=4.0)))
    assert "Renyi" in bound(described(RenyiELBO()))


@pytest.mark.parametrize("option", [("--certified", "1"), ("--chains", "0"), ("--temperatures", "0"), ("--w", "mine")])
def test_wrong_values_get_one_line(tmp_path, option):
    said = call("compare", "--out", tmp_path / "out", *option)
    assert said.exit_code == 2
    assert option[0].lstrip("-") in said.output and len(said.output.strip().splitlines()) == 1


def test_data_with_missing_values_are_told_apart():
    one, two = torch.tensor([[1.0, torch.nan]]), torch.tensor([[2.0, torch.nan]])
    assert fingerprint(None, None, {"x": one}) == fingerprint(None, None, {"x": one.clone()})
    assert fingerprint(None, None, {"x": one}) != fingerprint(None, None, {"x": two})
