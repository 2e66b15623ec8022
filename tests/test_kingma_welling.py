r"""The example with three latents: what it keeps, that it goes on where it was, and its figure."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from pyro_dlgm import data

FILE = Path(__file__).parent.parent / "examples" / "kingma_welling.py"


@pytest.fixture
def run(monkeypatch, tmp_path):
    r"""A function that runs it on small random images with these options and gives the record that it writes."""
    spec = importlib.util.spec_from_file_location("kingma_welling", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = {"SHAPE": (1, 4, 4), "LATENTS": 2, "HIDDEN": 4, "BATCH": 10, "TRIAL": 200}
    for constant, value in small.items():
        monkeypatch.setattr(module, constant, value)
    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)).lt(0.3).float()
    images = type("Images", (), {"train": x[:40], "test": x[40:]})
    monkeypatch.setattr(data, "mnist", lambda root, binarization: images)

    def run(*options):
        out = ["--data-root", ".", "--sizes", 20, "--points", 5, "--out", tmp_path, "--rates", 1e-9, 1e-2]
        monkeypatch.setattr(sys, "argv", ["x", *map(str, [*out, *options])])
        module.main()
        return json.loads((tmp_path / "kingma_welling.json").read_text())

    return run


def test_it_goes_on_where_it_was(run, tmp_path):
    whole = run("--gradients", 400, 800)["curves"]["20"]
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {"kingma_welling.png", "mcem_20.pt", "mean-field_20.pt"} <= kept.keys()
    for file in tmp_path.iterdir():
        file.unlink()
    run("--gradients", 400)
    parts = run("--gradients", 400, 800)["curves"]["20"]
    assert whole.keys() == parts.keys() == {"amortized", "mcem", "mcem-encoder", "mean-field"}
    for name, known in whole.items():
        assert known["lr"] == 1e-2  # with the other rate nothing moves
        assert [look["gradients"] for look in known["looks"]] == pytest.approx([400, 800], abs=120)
        for first, again in zip(known["looks"], parts[name]["looks"], strict=True):
            assert first | {"seconds": 0} == again | {"seconds": 0}
    assert run("--gradients", 400, 800)["curves"]["20"] == parts  # all is there: nothing is done again
    for other in (("--seed", 1), ("--rates", 1e-3)):
        with pytest.raises(SystemExit, match="another --out"):
            run(*other)


def test_a_visit_of_a_chain_costs_its_leapfrog_steps(run):
    curves = run("--gradients", 500)["curves"]["20"]
    for name, cost in (("amortized", 1), ("mean-field", 1), ("mcem", 12), ("mcem-encoder", 12)):
        look = curves[name]["looks"][0]
        assert look["gradients"] == cost * look["samples"]
        # An encoder has a density, and F(q) stays below log p(x).
        assert ("elbo" in look["test"]) == (name in ("amortized", "mcem-encoder"))
        if "elbo" in look["test"]:
            assert look["test"]["elbo"]["mean"] < look["test"]["log_px"]["mean"]
