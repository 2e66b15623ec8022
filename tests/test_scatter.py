r"""Sums of products in blocks: as accurate as PPCA in float64 where they are trusted, and not used elsewhere."""

import numpy as np
import pytest
import torch

from pyro_dlgm import PPCA
from pyro_dlgm.ppca import closed_form, scatter, streaming
from pyro_dlgm.ppca.scatter import Scatter
from pyro_dlgm.ppca.streaming import fit_streamed

TALL, WIDE = (700, 40), (40, 700)


def points(shape, noise=0.5, mean=0.0, scale=1.0):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    (N, P), D = shape, 3
    return ((draw(N, D) @ draw(D, P) + noise * draw(N, P) + mean) * scale).float()


def truth(X, D=3):
    r"""W Wᵀ and σ² by the singular values of the centred points, in float64."""
    x = X.double() - X.double().mean(0)
    _, s, Vh = torch.linalg.svd(x, full_matrices=False)
    values, sigma2 = s.square() / len(X), s[D:].square().sum() / len(X) / (X.shape[1] - D)
    return (Vh[:D].mT * (values[:D] - sigma2)) @ Vh[:D], sigma2


def assert_true(ppca, X, tol=1e-5):
    WW, sigma2 = truth(X)
    found = ppca.W.double() @ ppca.W.double().mT
    assert (found - WW).abs().max() < tol * WW.abs().max()
    assert float(ppca.sigma2.detach().double() / sigma2) == pytest.approx(1, abs=tol)


@pytest.fixture
def products(monkeypatch):
    r"""The dtypes of products, in the order in which they were tried."""
    used = []
    add = scatter.add_products

    def noted(upper, x):
        used.extend([x.dtype] if x.dtype not in used else [])
        add(upper, x)

    for module in ("scatter", "leading"):
        monkeypatch.setattr(f"pyro_dlgm.ppca.{module}.add_products", noted)
    return used


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(scatter, "ENTRIES", 2000)
    monkeypatch.setattr(scatter, "PANEL", 7)


@pytest.mark.parametrize("shape", [TALL, WIDE, (40, 40)])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_noise_of_float32_needs_products_of_float32_alone(shape, mean, products, small_blocks):
    X = points(shape, mean=mean)
    assert_true(PPCA.fit(X, 3), X)
    assert products == [torch.float32]


@pytest.mark.parametrize("shape", [TALL, WIDE])
def test_less_noise_needs_products_of_float64(shape, products, small_blocks):
    X = points(shape, noise=1e-3)
    assert_true(PPCA.fit(X, 3), X)
    assert products == [torch.float32, torch.float64]


@pytest.mark.parametrize("shape", [TALL, WIDE])
@pytest.mark.parametrize("scale", [1e-22, 1e-17, 1e25])
def test_squares_that_float32_cannot_hold_are_taken_in_float64(shape, scale, products):
    X = points(shape, scale=scale)
    W, _, sigma2 = closed_form.maximum_likelihood(X, 3)
    assert products == [torch.float32, torch.float64]
    WW, expected = truth(X)
    assert (W @ W.mT / WW.abs().max() - WW / WW.abs().max()).abs().max() < 1e-9
    assert float(sigma2 / expected) == pytest.approx(1, abs=1e-9)


def test_less_noise_still_needs_a_factor(monkeypatch):
    X = points(TALL).double()
    X[:, 0] *= 1e7  # its square is 10¹⁴ times the noise of the others
    monkeypatch.setattr(closed_form, "DIGITS", -10.0)  # sums are trusted
    with pytest.raises(AssertionError):
        assert_true(PPCA.fit(X, 3), X, 1e-7)
    monkeypatch.undo()
    assert_true(PPCA.fit(X, 3), X, 1e-7)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_a_lower_precision_of_products_is_noticed(precision):
    X, before = points(TALL), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert_true(PPCA.fit(X, 3), X)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("bits", [8, 11])
def test_products_of_rounded_entries_are_not_used(bits, products, monkeypatch):
    def rounded(x):
        unit = 2.0 ** (torch.frexp(x).exponent - bits)
        return (x / unit).round() * unit

    plain = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: plain(rounded(a), rounded(b)))
    assert not scatter.keeps_digits("cpu")
    monkeypatch.undo()
    assert scatter.keeps_digits("cpu")


def test_the_scatter_of_blocks_is_that_of_all_points():
    X = points(TALL, mean=5.0).double()
    sums = Scatter(40, torch.float64)
    for x in X.split([1, 99, 7, 593]):
        sums.add(x)
    x = X - X.mean(0)
    assert sums.count == 700
    assert (sums.mean - X.mean(0)).abs().max() < 1e-12
    assert (sums.upper.triu() - (x.mT @ x).triu()).abs().max() < 1e-9


def test_a_file_is_read_a_second_time_only_for_little_noise(monkeypatch):
    read = []
    chunks = streaming._chunks
    monkeypatch.setattr(streaming, "_chunks", lambda *a: read.append(a[-1]) or chunks(*a))
    for noise, passes in ((0.5, 1), (1e-3, 2)):
        X = points(TALL, noise)
        read.clear()
        assert_true(fit_streamed(X.numpy(), 3, chunk=100), X)
        assert len(read) == passes
    read.clear()
    fit_streamed(X.numpy().astype(np.float64), 3)
    assert read == ["mean and scatter, float64"]


def test_the_rounding_of_a_large_mean_is_taken_off():
    X = points(TALL, mean=1e5)
    x, mean = scatter.centred(X)
    assert (mean - X.double().mean(0)).abs().max() < 1e-4  # float32 holds a mean of 100,000 to 4e-3
    assert x.double().mean(0).abs().max() < 1e-4


@pytest.mark.parametrize("entry", [torch.nan, torch.inf, -torch.inf, 1e200, -1e200])
def test_what_is_not_complete_is_noticed(entry):
    X = points(TALL).double()
    assert closed_form.complete(X)
    X[3, 5] = entry
    assert not closed_form.complete(X)
