r"""The examples on images of one's own: they run, and write what they say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_dlgm import evaluate
from pyro_dlgm.comparison import scoring

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path):
    r"""A function that runs an example on an array, with constants of its own, and gives the record that it writes."""

    def run(name, array, arguments, **constants):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        np.savez(tmp_path / "v.npz", images=array)
        options = ["--file", tmp_path / "v.npz", "--epochs", 2, "--samples", 25, "--out", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", [str(a) for a in (name, *options, *arguments)])
        module.main()
        return json.loads((tmp_path / "out" / f"{name}.json").read_text())

    return run


SMALL = {"NETWORK": {"widths": (4, 4)}, "LATENTS": 2, "BATCH": 8}


@pytest.mark.filterwarnings("ignore:.*converged")
def test_frey_faces_splits_in_time_and_at_random(example, tmp_path, capsys, monkeypatch):
    # Noise has no posterior that an E-step finds soon.
    short = lambda model, guide, x, seed: evaluate.infer(model, guide, x, seed=seed, max_steps=50)  # noqa: E731
    monkeypatch.setattr(scoring, "infer_silently", short)
    frames = np.random.default_rng(0).integers(0, 256, (40, 28, 20), dtype=np.uint8)
    record = example("frey_faces", frames, ["--random-too"], HELD_OUT=5, **SMALL)
    results = record["results"]
    assert "30 / 5 / 5 points, in their order" in results["time"]["protocol"]
    assert "shuffled with seed 0" in results["random"]["protocol"]
    for result in results.values():
        assert {"elbo", "iwae", "ess", "pareto_k"} <= result["encoder"].keys() & result["e-step"].keys()
        assert result["encoder"]["iwae"]["bits_per_dim"] <= result["encoder"]["elbo"]["bits_per_dim"]
        assert result["e-step"]["elbo"]["mean"] > result["encoder"]["elbo"]["mean"]
        assert result["encoder"]["elbo"]["standard_error"] > 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "frey_faces.json",
        "frey_faces_time.png",
        "frey_faces_random.png",
    }
    assert "bits per dimension" in capsys.readouterr().out


def test_cifar_covariances_stand_side_by_side(example, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    record = example("cifar_covariances", images, ["--rank", 2], VALIDATION=5, TEST=5, **SMALL)
    results, difference = record["results"], record["elbo_difference"]
    assert record["protocol"] == "Dequantize(levels=256); 30 / 5 / 5 points, in their order"
    gain = results["low-rank"]["elbo"]["mean"] - results["diagonal"]["elbo"]["mean"]
    assert difference["mean"] == pytest.approx(gain, abs=1e-2) and difference["standard_error"] > 0
    # Two more heads of three colours on the last layer.
    assert results["low-rank"]["parameters"] - results["diagonal"]["parameters"] == 2 * 3 * (4 * 4 * 4 + 1)
    assert all(result["iwae"]["bits_per_dim"] > 0 for result in results.values())
    assert {"cifar_diagonal.png", "cifar_low-rank.png"} < {file.name for file in (tmp_path / "out").iterdir()}
    assert "low-rank − diagonal" in capsys.readouterr().out
