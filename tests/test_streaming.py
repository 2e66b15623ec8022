r"""PPCA in one pass over a file: the same numbers as in memory, in bounded memory."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pyro_dlgm import PPCA
from pyro_dlgm.ppca.streaming import fit_streamed, mean_log_prob

N, P, D = 301, 12, 4


def points(offset: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((D, P)) * np.linspace(3, 0.5, D)[:, None]
    return rng.standard_normal((N, D)) @ W + 0.4 * rng.standard_normal((N, P)) + rng.standard_normal(P) + offset


def assert_same(ours: PPCA, theirs: PPCA, tol: float) -> None:
    # The sign of an eigenvector is anybody's choice.
    sign = (ours.W * theirs.W).sum(0).sign()
    for a, b in ((ours.W * sign, theirs.W), (ours.mu, theirs.mu), (ours.sigma2, theirs.sigma2)):
        torch.testing.assert_close(a, b, rtol=0, atol=tol)


@pytest.mark.parametrize("chunk", [1, 7, 100, 301, 10_000])
def test_a_fit_in_chunks_is_the_fit_in_memory(chunk):
    X = points()
    in_memory = PPCA.fit(torch.from_numpy(X), D)
    ours = fit_streamed(X, D, chunk=chunk)
    assert_same(ours, in_memory, 1e-9)
    evidence = float(in_memory.log_prob(torch.from_numpy(X)).mean().detach())
    assert mean_log_prob(ours, X, chunk=chunk) == pytest.approx(evidence, abs=1e-9)


def test_a_large_mean_costs_no_digits():
    # Σ x² − N μ² would have none left here: 1e8² · ε is 2.
    offset = 1e8
    X = np.round(points(), 3) + offset  # the same data, as far as float64 holds them beside the offset
    ours, centred = fit_streamed(X, D, chunk=50), fit_streamed(X - offset, D, chunk=50)
    torch.testing.assert_close(ours.sigma2, centred.sigma2, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.W @ ours.W.mT, centred.W @ centred.W.mT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_memory_map_and_parts_of_it_are_read_where_they_are(tmp_path, order):
    X = points()
    np.save(tmp_path / "x.npy", np.asarray(X, order=order))
    for mode in ("r", "r+", "c"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        assert_same(fit_streamed(mapped, D, chunk=64), fit_streamed(X, D, chunk=64), 1e-12)
        assert_same(fit_streamed(mapped[50:250], D, chunk=64), fit_streamed(X[50:250], D), 1e-9)
        assert_same(fit_streamed(np.asarray(mapped)[::2], D, chunk=64), fit_streamed(X[::2], D), 1e-9)
        assert np.array_equal(mapped, X)


def test_what_was_changed_in_a_private_map_is_kept_and_used(tmp_path):
    np.save(tmp_path / "x.npy", points())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    mapped += 5
    for X in (mapped, mapped[:], np.asarray(mapped)):
        assert_same(fit_streamed(X, D, chunk=64), fit_streamed(points() + 5, D), 1e-9)
    assert np.array_equal(mapped, points() + 5)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("f4", torch.float32), ("f8", torch.float64), ("f2", torch.float32), ("u1", torch.float32), ("i8", torch.float32)],
)
def test_the_model_has_the_dtype_of_the_data_where_they_are_real(dtype, expected):
    X = (10 * (points() - points().min())).clip(0, 255).astype(dtype)
    ours = fit_streamed(X, D)
    assert ours.W.dtype == ours.mu.dtype == expected
    exact = PPCA.fit(torch.from_numpy(X.astype("f8")), D)
    torch.testing.assert_close(ours.sigma2.double(), exact.sigma2, rtol=1e-5, atol=0)
    assert mean_log_prob(ours, X) == pytest.approx(
        float(exact.log_prob(torch.from_numpy(X.astype("f8"))).mean().detach()), abs=1e-2
    )


def test_data_of_the_other_byte_order_are_read(tmp_path):
    assert_same(fit_streamed(points().astype(">f8"), D), fit_streamed(points(), D), 1e-5)


# Not ru_maxrss: a process starts with that of the one that started it.
MEASURED = """
import re, sys
from pathlib import Path
import numpy as np, torch
from pyro_dlgm.ppca.streaming import fit_streamed, mean_log_prob
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
torch.set_num_threads(1)
fit_streamed(np.random.default_rng(0).standard_normal((600, 256), dtype=np.float32), 8, chunk=512)  # the libraries
X = np.load(sys.argv[1], mmap_mode="r")
before = peak()
mean_log_prob(fit_streamed(X, 8, chunk=512), X, chunk=512)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory_is_bounded_whatever_the_size_of_the_file(tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype="f4", shape=(200_000, 256))
    rng = np.random.default_rng(0)
    for start in range(0, len(X), 20_000):
        X[start : start + 20_000] = rng.standard_normal((20_000, 256), dtype=np.float32)
    size = X.nbytes
    X.flush()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "x.npy"], capture_output=True, text=True, check=True
    )
    # A chunk is 1 MB in float64; a few copies of it, and what the allocator keeps, came to 10 MB.
    assert size > 200e6 and int(done.stdout) < 40e6


def test_a_bar_goes_to_the_error_stream_and_only_if_asked(capfd):
    fit_streamed(points(), D, chunk=10, progress=True)
    assert capfd.readouterr().out == ""
    fit_streamed(points(), D, chunk=10)
    assert capfd.readouterr() == ("", "")


def spoiled(value: float) -> np.ndarray:
    X = points()
    X[77, 3] = value
    return X


@pytest.mark.parametrize(
    ("X", "settings", "match"),
    [
        (np.ma.masked_array(points(), points() > 5), {}, r"MaskedArray.*hides.*filled\(numpy.nan\)"),
        (np.ma.masked_array(points()), {}, r"MaskedArray.*X.data if nothing is masked"),
        (points() * 1e200, {}, "squares overflow: divide X"),
        (points()[0], {}, r"shape \(12,\); expected \(N, P\)"),
        (points().reshape(N, 3, 4), {}, "reshape"),
        (points()[:1], {}, "N >= 2"),
        (points()[:0], {}, "N >= 2"),
        (points(), {"latent_dim": 0}, "latent_dim is 0"),
        (points(), {"latent_dim": P}, "latent_dim is 12"),
        (points(), {"chunk": 0}, "chunk is 0"),
        (np.zeros((3, 8193)), {}, "8,193 features"),
        (spoiled(np.nan), {"chunk": 50}, r"X\[77, 3\] is nan"),
        (spoiled(np.inf), {"chunk": 50}, r"X\[77, 3\] is inf"),
        (points().astype(complex), {}, "complex128"),
        (points().astype(str), {}, "expected a NumPy array of numbers"),
        (points().tolist(), {}, "X is list"),
        (torch.zeros(5, 3), {}, "X is Tensor"),
        (np.ones((20, P)), {}, "no variance outside"),
        (points()[:D], {}, "no variance outside"),
    ],
)
def test_what_cannot_be_fitted_is_named(X, settings, match):
    with pytest.raises(ValueError, match=match):
        fit_streamed(X, **({"latent_dim": D} | settings))


def test_an_evidence_of_other_data_is_refused():
    ppca = fit_streamed(points(), D)
    with pytest.raises(ValueError, match="this model has 12 features"):
        mean_log_prob(ppca, points()[:, :5])
    with pytest.raises(ValueError, match=r"X\[77, 3\] is nan"):
        mean_log_prob(ppca, spoiled(np.nan))
    with pytest.raises(ValueError, match=r"MaskedArray.*PPCA.log_prob"):
        mean_log_prob(ppca, np.ma.masked_array(points(), points() > 5))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("latents", [1, 2, 5])
def test_a_column_in_other_units_costs_the_others_no_digits(dtype, latents):
    X = points()
    X[:, 3] = 3e6 * np.random.default_rng(1).standard_normal(N)
    X = X.astype(dtype)
    ours, theirs = fit_streamed(X, latents, chunk=50), PCA(latents, svd_solver="full").fit(X.astype("f8"))
    expected = theirs.noise_variance_ * (N - 1) / N  # scikit-learn divides by N − 1
    assert float(ours.sigma2.detach()) == pytest.approx(expected, rel=1e-6)


def test_the_mean_evidence_of_a_coarse_model_is_computed_in_float64():
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((N, 3)) @ rng.standard_normal((3, P)) + 1e-4 * rng.standard_normal((N, P))).astype("f4")
    coarse = fit_streamed(X, 3)
    fine = copy.deepcopy(coarse).double()
    truth = float(fine.log_prob(torch.from_numpy(X).double()).mean().detach())
    assert mean_log_prob(coarse, X, chunk=100) == pytest.approx(truth, abs=1e-6)
