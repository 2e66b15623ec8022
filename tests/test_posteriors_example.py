"""The picture of the landing page: its curves hold the mass that they say, and the script draws it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def example():
    path = Path(__file__).parent.parent / "examples" / "posteriors.py"
    spec = importlib.util.spec_from_file_location("posteriors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_curve_holds_its_share_of_a_gaussian(example, share):
    t = torch.stack(example.grid(torch.tensor([[-6.0, 6.0], [-6.0, 6.0]]), 241), -1)
    density = (-t.square().sum(-1) / 2).exp()
    # In two dimensions P(|t| < r) = 1 - exp(-r² / 2), and the density at r is exp(-r² / 2).
    assert example.level(density, share) == pytest.approx(1 - share, abs=5e-3)


def test_the_picture_is_drawn(example, tmp_path, monkeypatch):
    for name, value in {"WIDTHS": (4, 4), "STATES": 2, "VISITS": 1}.items():
        monkeypatch.setattr(example, name, value)
    out = tmp_path / "posteriors.png"
    monkeypatch.setattr(sys, "argv", ["posteriors", "--epochs", "1", "--points", "0", "--out", str(out)])
    example.main()
    assert out.read_bytes().startswith(b"\x89PNG")
