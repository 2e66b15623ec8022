r"""The example that compares Monte Carlo EM with other guides: budgets, what it keeps, and its paired differences."""

import functools
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from pyro_dlgm import evaluate
from pyro_dlgm.comparison import scoring

FILE = Path(__file__).parent.parent / "examples" / "monte_carlo_em.py"
SMALL = {"SIMULATED": 4, "VALIDATION": 4, "WIDTHS": (4, 4), "LATENTS": 2, "IMAGES": 30, "BATCH": 10}
SMALL["ANNEALED"] = {"num_chains": 2, "num_temperatures": 5, "num_leapfrog": 2}


VISIT = {"mcem": 5, "mcem-encoder": 3}


@pytest.fixture
def module(monkeypatch):
    r"""The example with constants that make it quick, and E-steps of few steps."""
    spec = importlib.util.spec_from_file_location("monte_carlo_em", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for constant, value in SMALL.items():
        monkeypatch.setattr(module, constant, value)
    short = functools.partial(evaluate.infer, max_steps=5, window=5)
    monkeypatch.setattr(scoring, "infer_silently", lambda model, guide, x, seed: short(model, guide, x, seed=seed))
    monkeypatch.setattr(sys.modules["pyro_dlgm.evaluate.marginal.annealing.bdmc"], "infer", short)
    return module


@pytest.fixture
def run(module, monkeypatch, tmp_path):
    r"""A function that runs it with these options and gives the record that it writes."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["x", "--points", "6", "--out", str(tmp_path), *map(str, options)])
        module.main()
        return json.loads((tmp_path / "monte_carlo_em_digits.json").read_text())

    return run


@pytest.mark.filterwarnings("ignore:.*converged")
def test_all_rows_spend_the_budget_and_what_is_there_stays(module, run, capsys, monkeypatch):
    record = run("--budgets", 25, "--seeds", 0, "--lr", 2e-3)
    assert record["tried"] == {}  # there was nothing to choose
    assert record["result"].keys() == {f"25/{name}/0.002/0" for name in module.GUIDES}
    for key, found in record["result"].items():
        # A visit of a chain costs several gradients: the rest of the budget may not pay for one more.
        visit = VISIT.get(key.split("/")[1], 1)
        assert 25 - visit < found["gradients_per_point"] <= 25 and len(found["log_px"]) == 6
    shown = capsys.readouterr().out
    monkeypatch.setattr(module, "fit", None)  # a second run trains nothing
    assert run("--budgets", 25, "--seeds", 0, "--lr", 2e-3) == record
    assert capsys.readouterr().out == shown
    with pytest.raises(SystemExit, match="other values of points"):
        run("--points", 7)


@pytest.mark.filterwarnings("ignore:.*converged")
def test_each_row_takes_the_rate_that_is_best_on_validation_points(run):
    # With the first rate nothing moves; with the last, training diverges.
    rates = ["--lr", 1e-12, 1e-2, 1e30]
    record = run("--budgets", 20, "--seeds", 0, "--guides", "hard-em", *rates)
    tried = [record["tried"][f"20/hard-em/{lr}"] for lr in (1e-12, 1e-2, 1e30)]
    assert tried[0] < tried[1] and tried[2] is None
    assert record["result"].keys() == {"20/hard-em/0.01/0"}


def test_differences_are_paired_and_errors_over_seeds(module):
    first = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    made = lambda log_px: [PAID | {"log_px": each.tolist()} for each in log_px]  # noqa: E731
    lines = module.table({"hard-em": made(first), "mcem": made(first + torch.tensor([[0.5], [1.5]]))}).splitlines()
    assert lines[0].startswith("hard-em       2.00 ± 0.00")
    # Constant over the points of a seed: no error there. Over seeds: mean 1, standard deviation √½, √2 of them.
    assert " ".join(lines[2].split()) == "− hard-em 1.00 ± 0.50 (0.50 ± 0.00, 1.50 ± 0.00)"


PAID = {"lr": 0.1, "gradients_per_point": 3, "seconds": 1.0, "bdmc_gap": 0.0}
