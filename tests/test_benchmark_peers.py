r"""Other libraries in the benchmarks: their losses are those of the hand-written loop; errors of PPCA are seen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("case", ["mlp", "conv"])
@pytest.mark.parametrize("name", ["NumPyro, svi.update", "NumPyro, lax.scan", "Pythae, its trainer"])
def test_a_peer_has_the_same_loss_and_learns_as_fast(name, case, monkeypatch):
    import peers
    import step_price

    if importlib.util.find_spec(library := peers.WAYS[name][0]) is None:
        pytest.skip(f"{library} is not installed: pip install 'pyro_dlgm[bench]'")
    monkeypatch.setattr(peers, "WAYS", {name: peers.WAYS[name]})
    (peer,) = peers.started(case, seed=0, threads=1).values()
    peer.seconds(20)
    peer.end()
    torch.manual_seed(0)
    model, guide, data = step_price.pair(case)
    hand = step_price.HandWritten(model, guide)
    losses = [float(hand.step(x)) for x, _ in data[:20]]
    assert abs(peer.said["off"]) < peers.CLOSE
    # Pythae gives the mean over its steps.
    expected = losses[-1] if "NumPyro" in name else sum(losses) / len(losses)
    assert peer.loss == pytest.approx(expected, rel=0.01) and losses[-1] < 0.9 * losses[0]


def test_a_loss_that_differs_is_refused():
    import peers

    assert peers.check(543.2101, 543.21) < peers.CLOSE
    for found in (543.22, float("nan")):
        with pytest.raises(ValueError, match="as written by hand"):
            peers.check(found, 543.21)


def test_what_is_not_installed_is_left_out_with_the_reason(monkeypatch, capsys):
    import peers

    monkeypatch.setattr(peers, "find_spec", lambda library: None)
    assert peers.started("mlp", 0, 1) == {}
    assert capsys.readouterr().out.count("is not installed: pip install 'pyro_dlgm[bench]'") == 3


@pytest.mark.parametrize("shape", [(300, 20), (20, 300)])
def test_errors_of_pca_are_against_the_truth(shape):
    import ppca_peers

    X = np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.linspace(1, 3, shape[1], dtype="f4")
    x = np.float64(X) - np.float64(X).mean(0)
    _, s, Vh = np.linalg.svd(x, full_matrices=False)
    values, U, noise = true = ppca_peers.truth(X, 3)
    assert np.allclose(values, s[:3] ** 2 / len(X)) and np.allclose(np.abs((U * Vh[:3].T).sum(0)), 1)
    assert noise == pytest.approx((s[3:] ** 2).sum() / len(X) / (shape[1] - 3))
    for name in ppca_peers.CONTENDERS["tall" if shape[0] > shape[1] else "wide"][:-1]:
        assert max(ppca_peers.errors(ppca_peers.FITS[name](X, 3), true).values()) < 1e-4, name
    turned = U @ np.array([[1, 0, 0], [0, np.cos(0.1), 0], [0, np.sin(0.1), 0]])
    turned[:, 2] = np.linalg.svd(x)[2][7]
    wrong = ppca_peers.errors((values * 1.01, turned, noise * 0.9), true)
    assert wrong["eigenvalues"] == pytest.approx(0.01) and wrong["noise"] == pytest.approx(0.1)
    assert wrong["sine"] > 0.99
