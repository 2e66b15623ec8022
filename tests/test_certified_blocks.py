r"""The example that certifies many points block by block: right, and resumed after a kill."""

import importlib.util
from pathlib import Path

import pytest
import torch

from pyro_dlgm import PPCA

PATH = Path(__file__).parents[1] / "examples" / "certified_mnist.py"
SETTINGS = {"block": 4, "tol": 0.1, "simulated": 8, "seed": 0}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("certified_mnist", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_blocks_are_certified_and_resumed(example, tmp_path, monkeypatch):
    ppca = PPCA(2, 5, 0.5).double()
    ppca.set(torch.randn(5, 2).double(), torch.randn(5).double(), ppca.sigma2.detach())
    x = ppca(size=10).detach()
    found = example.certified(ppca, x, tmp_path, **SETTINGS)
    assert found["log_px"] == pytest.approx(float(ppca.log_prob(x).detach().mean()), abs=1e-8)
    assert abs(found["bdmc"]["gap"]) < 1e-8 and found["uncertain"] == 0 and found["notes"] == []
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["block_000000.pt", "block_000004.pt", "block_000008.pt", "first.pt"]
    (tmp_path / "block_000008.pt").unlink()  # killed before it
    made, plain = [], example.plain
    monkeypatch.setattr(example, "plain", lambda *a: made.append(len(a[1])) or plain(*a))
    again = example.certified(ppca, x, tmp_path, **SETTINGS)
    assert made == [2]
    assert again | {"seconds": 0} == found | {"seconds": 0}
    for path in tmp_path.glob("block_*.pt"):
        path.unlink()
    at_once = example.certified(ppca, x, tmp_path, **SETTINGS, jobs=2)
    assert at_once["log_px"] == pytest.approx(found["log_px"], abs=1e-10)
    with pytest.raises(SystemExit, match="of another model"):
        example.certified(ppca, x + 1, tmp_path, **SETTINGS)
