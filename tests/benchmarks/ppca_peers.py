r"""PPCA against scikit-learn's PCA: seconds, memory beyond the data, and errors; each fit in its own process."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import torch
from sklearn.decomposition import PCA, IncrementalPCA
from streamed_ppca import memory, write

from pyro_dlgm import PPCA
from pyro_dlgm.ppca.streaming import CHUNK, fit_streamed

CASES = {"tall": (70_000, 784), "million": (1_000_000, 784), "wide": (500, 50_000)}
SMOKE = {"tall": (900, 40), "million": (2_000, 40), "wide": (40, 900)}
OURS, STREAMED = "PPCA.fit", "fit_streamed, from the file"


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Fits D latents to float32 data of a linear Gaussian model, N x P: tall 70,000 x 784, million "
        "1,000,000 x 784 (3.1 GB, in memory or from the file), wide 500 x 50,000. Errors are against sums and spectra "
        "in float64 by NumPy: the largest relative one of the D leading eigenvalues, that of the noise, and the sine "
        "of the largest angle between the subspaces. Wanted: seconds at most those of the fastest exact peer, with "
        "less memory beyond the data and no larger errors.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which shapes")
    parser.add_argument("--contenders", nargs="+", help="which of them, by name; all of a case if left out")
    parser.add_argument("--latents", type=int, default=32, help="the number D of latents")
    parser.add_argument("--noise", type=float, default=1.0, help="σ of the data")
    parser.add_argument("--repeats", type=int, default=3, help="fits of a contender, in one process; medians")
    parser.add_argument("--threads", type=int, default=1, help="threads of each contender")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data")
    parser.add_argument("--smoke", action="store_true", help="tiny data, to try the script")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the data lie meanwhile")
    parser.add_argument("--out", default="runs/bench", help="folder for ppca_peers.json")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help="one contender, in this process")
    return parser.parse_args()


def _ours(fit):
    def fitted(X: np.ndarray, D: int):
        ppca = fit(X, D)
        W, sigma2 = ppca.W.detach().double().numpy(), float(ppca.sigma2.detach())
        size = np.linalg.norm(W, axis=0)
        return size**2 + sigma2, W / size, sigma2

    return fitted


def _theirs(**settings):
    def fitted(X: np.ndarray, D: int):
        pca = PCA(D, **settings).fit(X)
        return _by_n(pca, *X.shape)

    return fitted


def _incremental(X: np.ndarray, D: int):
    pca = IncrementalPCA(D)
    rows = min(5 * X.shape[1], len(X))  # as many as it takes by itself
    for start in range(0, len(X) - rows + 1, rows):  # the last ones with the block before, since D are needed
        pca.partial_fit(X[start : start + rows] if start + 2 * rows <= len(X) else X[start:])
    return _by_n(pca, *X.shape)


def _by_n(pca, N: int, P: int):
    r"""Eigenvalues, eigenvectors and noise of scikit-learn, whose variances are over N − 1, with noise over all P."""
    others = min(N, P) - len(pca.components_)
    values, noise = (np.float64(v) * (N - 1) / N for v in (pca.explained_variance_, pca.noise_variance_))
    return values, np.float64(pca.components_.T), noise * others / (P - len(pca.components_))


EIGH, FULL, RANDOM = (f"PCA, {solver}" for solver in ("covariance_eigh", "full", "randomized"))
INCREMENTAL = "IncrementalPCA, from the file"
FITS = {
    OURS: _ours(lambda X, D: PPCA.fit(torch.from_numpy(X), D)),
    STREAMED: _ours(lambda X, D: fit_streamed(X, D, chunk=CHUNK)),
    EIGH: _theirs(svd_solver="covariance_eigh"),
    FULL: _theirs(svd_solver="full"),
    RANDOM: _theirs(svd_solver="randomized", random_state=0),
    INCREMENTAL: _incremental,
}
CONTENDERS = {
    "tall": (OURS, STREAMED, EIGH, FULL, RANDOM),
    "million": (OURS, STREAMED, EIGH, RANDOM, INCREMENTAL),
    "wide": (OURS, FULL, RANDOM),  # P x P numbers of covariance_eigh would be 10 GB
}
FROM_FILE = (STREAMED, INCREMENTAL)
EXACT_PEERS = (EIGH, FULL)


def truth(X: np.ndarray, D: int):
    r"""Leading eigenvalues, eigenvectors and noise, over N, from sums and a spectrum in float64."""
    N, P = X.shape
    tall, mu = N > P, sum(np.float64(X[s : s + CHUNK]).sum(0) for s in range(0, N, CHUNK)) / N
    gram = np.zeros((min(N, P),) * 2)
    for s in range(0, max(N, P), CHUNK):
        y = np.float64(X[s : s + CHUNK]) - mu if tall else (np.float64(X[:, s : s + CHUNK]) - mu[s : s + CHUNK]).T
        gram += y.T @ y / N
    values, Q = np.linalg.eigh(gram)
    top, Q = values[::-1][:D], Q[:, ::-1][:, :D]
    noise = values[:-D].sum() / (P - D)
    return top, Q if tall else (X - mu).T @ Q / np.sqrt(N * top), noise


def errors(found, true) -> dict[str, float]:
    r"""Relative errors of eigenvalues and noise, and the sine of the largest angle between the subspaces."""
    (values, U, noise), (expected, V, sigma2) = found, true
    U = np.linalg.qr(U)[0]
    return {
        "eigenvalues": float(np.abs(values / expected - 1).max()),
        "noise": float(abs(noise / sigma2 - 1)),
        "sine": float(np.linalg.norm(V - U @ (U.T @ V), 2)),
    }


def one(name: str, path: str, a: argparse.Namespace) -> None:
    r"""Fits in this process; writes eigenpairs next to the data, and prints seconds and memory as JSON."""
    measure.use_threads(a.threads)
    X = np.load(path, mmap_mode="r" if name in FROM_FILE else None)
    FITS[name](np.random.default_rng(0).standard_normal((200, 50), np.float32), 2)  # loads the libraries
    before, seconds = memory("VmRSS"), []
    for _ in range(a.repeats):
        start = time.perf_counter()
        found = FITS[name](X, a.latents)
        seconds.append(time.perf_counter() - start)
    peak = (memory("VmHWM") - before) / 1e6
    np.savez(Path(path).with_suffix(".found.npz"), *found)
    print(json.dumps({"seconds": seconds, "megabytes": peak}))


def measured(case: str, a: argparse.Namespace) -> dict[str, dict]:
    r"""All contenders of a case, each in its own process."""
    sizes = argparse.Namespace(**vars(a))
    sizes.points, sizes.features = (SMOKE if a.smoke else CASES)[case]
    path = Path(a.folder, f"ppca_peers_{case}.npy")
    if path.exists():
        raise SystemExit(f"{path} exists; this benchmark writes and deletes its file: choose another --folder")
    try:
        write(path, sizes)
        true = truth(np.load(path, mmap_mode="r"), a.latents)
        names = [n for n in CONTENDERS[case] if a.contenders is None or n in a.contenders]
        return {name: _process(name, path, a, true) for name in names}
    finally:
        path.unlink(missing_ok=True)
        path.with_suffix(".found.npz").unlink(missing_ok=True)


def _process(name: str, path: Path, a: argparse.Namespace, true) -> dict:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(a.threads))
    settings = [f"--{key}={getattr(a, key)}" for key in ("latents", "repeats", "threads")]
    ran = subprocess.run(
        [sys.executable, __file__, "--one", name, str(path), *settings],
        env=os.environ | threads,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    with np.load(path.with_suffix(".found.npz")) as file:
        return json.loads(ran.stdout.splitlines()[-1]) | errors([file[key] for key in file.files], true)


def table(found: dict[str, dict]) -> str:
    r"""One line a contender; the ratio is to the fastest exact peer."""
    middle = {name: statistics.median(row["seconds"]) for name, row in found.items()}
    best = min((middle[name] for name in EXACT_PEERS if name in middle), default=float("nan"))
    lines = [f"{'':31}  seconds  ratio   MB beyond  eigenvalues    noise  subspace"]
    for name, row in found.items():
        shown = "  ".join(f"{row[key]:9.1e}" for key in ("eigenvalues", "noise", "sine"))
        lines.append(f"{name:31} {middle[name]:8.3f} {middle[name] / best:6.2f} {row['megabytes']:11.0f}  {shown}")
    return "\n".join(lines)


def main() -> None:
    a = arguments()
    if a.one:
        return one(*a.one, a)
    measure.use_threads(a.threads)
    result = {}
    for case in a.cases:
        result[case] = measured(case, a)
        print(f"{case}, {' x '.join(f'{n:,}' for n in (SMOKE if a.smoke else CASES)[case])}\n{table(result[case])}\n")
    print("written:", measure.save(a.out, "ppca_peers", seed=a.seed, protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
