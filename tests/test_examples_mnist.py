r"""The examples on MNIST run on small images of their own: tables, areas, resuming, refusals."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from pyro_dlgm import data

EXAMPLES = Path(__file__).parent.parent / "examples"


def small(*_):
    r"""Bits of 6x6 images, of which half the pixels are always 0."""
    x = (torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    x[..., :3] = 0
    return data.Dataset("small", x[:24], x[24:24], x[24:])


def bright(*_):
    r"""Their negatives."""
    dataset = small()
    return data.Dataset("bright", 1 - dataset.train, dataset.val, 1 - dataset.test)


@pytest.fixture
def example(monkeypatch, tmp_path):
    r"""A function that loads an example, with constants of its own and arguments of its command line."""

    def load(name, *arguments, **constants):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for constant, value in {"LATENTS": 2, "BATCH": 8, **constants}.items():
            monkeypatch.setattr(module, constant, value)
        options = ["--data-root", tmp_path, "--out", tmp_path / "out", *arguments]
        monkeypatch.setattr(sys, "argv", [str(a) for a in (name, *options)])
        return module

    return load


@pytest.mark.filterwarnings("ignore")
def test_a_table_grows_row_by_row_and_makes_nothing_twice(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "mnist", small)
    example("monte_carlo_vae", "--epochs", 1, "--rows", "VAE", "--points", 4, "--tol", 5, SHOWN=(1, 2)).main()
    file = tmp_path / "out" / "table.json"
    first = json.loads(file.read_text())["result"]
    assert list(first) == ["VAE | 1"] and first["VAE | 1"]["notes"] == []
    # F(q) is below log p(x): of 36 pixels, where both are some 18 log 2.
    assert 5 < first["VAE | 1"]["nll"] < first["VAE | 1"]["negative_elbo"] + 3 < 40
    rows = "VAE; IWAE, K = 10"
    module = example("monte_carlo_vae", "--epochs", 1, 2, "--rows", rows, "--points", 4, "--tol", 5, SHOWN=(1, 2))
    module.main()
    record = json.loads(file.read_text())
    assert record["result"]["VAE | 1"] == first["VAE | 1"] and len(record["result"]) == 4
    line = next(line for line in module.table(record).splitlines() if line.startswith("VAE  "))
    assert all(f"{first['VAE | 1'][name]:.2f}" in line for name in ("negative_elbo", "nll"))
    assert "95.26 / 91.58 / 89.70" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="expected some of VAE; VAE, full rank"):
        example("monte_carlo_vae", "--rows", "AVE").main()
    with pytest.raises(SystemExit, match="give another --out"):
        example("monte_carlo_vae", "--rows", "VAE", "--points", 5).main()


@pytest.mark.filterwarnings("ignore")
def test_images_of_another_kind_have_the_higher_scores(example, tmp_path):
    module = example("likelihood_regret", "--epochs", 20, "--points", 8, SETS={"small": small, "bright": bright})
    module.main()
    found = json.loads((tmp_path / "out" / "likelihood_regret.json").read_text())["result"]
    for name, other in (("small", "bright"), ("bright", "small")):
        assert found[name]["auroc"]["negative_elbo"] == 1
        assert min(found[name]["scores"][other]["regret"]) > -1 and len(found[name]["scores"][other]["regret"]) == 8
    assert (tmp_path / "out" / "likelihood_regret.png").exists()


def test_the_area_counts_pairs(example):
    area = example("likelihood_regret").area
    assert area([0.0, 1.0], [2.0, 3.0]) == 1 and area([2.0, 3.0], [0.0, 1.0]) == 0
    assert area([0.0, 2.0], [1.0, 2.0]) == (1 + 0 + 1 + 0.5) / 4
