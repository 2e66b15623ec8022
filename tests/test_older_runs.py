r"""Runs of format 2, made before files moved, load and go on; each was stopped at step 7 of 20."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pyro_dlgm import load
from pyro_dlgm.cli.main import main

RUNS = Path(__file__).parent / "format_2"
# The last records of the same trainings that were never stopped, by the code of that time.
LAST = {
    "mean-field": {"elbo": -45.598, "val_elbo": -43.964},
    "mcem": {"log_joint": -33.790, "val_log_joint": -44.016},
    "auto-normal": {"elbo": -42.515, "val_elbo": -44.717},
}


@pytest.mark.parametrize("name", LAST)
def test_it_loads(name):
    model, guide, config = load(RUNS / name)
    saved = torch.load(RUNS / name / "checkpoint.pt", weights_only=True)
    assert config["recipe"]["guide"] == name and saved["step"] == 7
    for module, state in ((model, saved["model"]), (guide, saved["guide"])):
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", LAST)
def test_it_goes_on_to_where_it_would_have_ended(name, tmp_path):
    shutil.copytree(RUNS / name, tmp_path / "run")
    command = ["fit", "--data", str(RUNS / "rows.npy"), "--out", str(tmp_path / "run"), "--resume"]
    said = CliRunner().invoke(main, command, catch_exceptions=False)
    assert said.exit_code == 0 and "Done: epoch 5, step 20" in said.output, said.output
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    # Other machines and versions of torch round otherwise, and a chain forgets where it was.
    assert {key: record[key] for key in LAST[name]} == pytest.approx(LAST[name], rel=0.02)
