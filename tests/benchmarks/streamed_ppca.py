r"""PPCA of a memory-mapped array larger than one wants in memory: time, and peak memory beyond the start."""

import argparse
import re
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
import torch

from pyro_dlgm.ppca.streaming import fit_streamed, mean_log_prob

ROWS = 10_000


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Writes an array (N, P) of float32 from a linear Gaussian model to a file, fits PPCA to it in one "
        "pass, evaluates its mean evidence in another, and deletes the file. Wanted: memory far below the file's size, "
        "and σ² the one that the data were drawn with.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=1_000_000, help="the number N of points")
    parser.add_argument("--features", type=int, default=784, help="the number P of features")
    parser.add_argument("--latents", type=int, default=32, help="the number D of latents")
    parser.add_argument("--noise", type=float, default=0.5, help="σ of the data")
    parser.add_argument("--chunk", type=int, default=8192, help="points in memory at once")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data")
    parser.add_argument(
        "--file", default=str(Path(tempfile.gettempdir(), "streamed_ppca.npy")), help="where the array goes meanwhile"
    )
    parser.add_argument("--out", default="runs/bench", help="folder for streamed_ppca.json")
    return parser.parse_args()


def write(path: Path, a: argparse.Namespace) -> None:
    r"""x = W t + μ + σ ε, row after row."""
    rng = np.random.default_rng(a.seed)
    W, mu = rng.standard_normal((a.latents, a.features), np.float32), rng.standard_normal(a.features, np.float32)
    X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(a.points, a.features))
    for start in range(0, a.points, ROWS):
        n = min(ROWS, a.points - start)
        noise = np.float32(a.noise) * rng.standard_normal((n, a.features), np.float32)
        X[start : start + n] = rng.standard_normal((n, a.latents), np.float32) @ W + mu + noise
    X.flush()


def memory(what: str) -> int:
    r"""Bytes of this process in memory: "VmRSS" now, "VmHWM" the most at a time (Linux)."""
    # Not ru_maxrss: a process starts with that of the one that started it.
    return 1024 * int(re.search(rf"{what}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    path = Path(a.file)
    if path.exists():
        raise SystemExit(f"{path} exists; this benchmark writes and deletes its file: choose another with --file")
    try:
        # In a process of its own, whose memory does not count here.
        torch.multiprocessing.spawn(_write, args=(path, a))
        result = run(path, a)
    finally:
        path.unlink(missing_ok=True)
    print("\n".join(f"{name}: {value:,.4g}" for name, value in result.items()))
    print("written:", measure.save(a.out, "streamed_ppca", seed=a.seed, protocol=vars(a), result=result))


def _write(_: int, path: Path, a: argparse.Namespace) -> None:
    write(path, a)


def run(path: Path, a: argparse.Namespace) -> dict[str, float]:
    r"""Fits and evaluates, and takes the measures."""
    X = np.load(path, mmap_mode="r")
    torch.linalg.eigh(torch.eye(8, dtype=torch.float64))  # loads the libraries
    before, start = memory("VmRSS"), time.perf_counter()
    ppca = fit_streamed(X, a.latents, chunk=a.chunk, progress=True)
    fitted = time.perf_counter()
    evidence = mean_log_prob(ppca, X, chunk=a.chunk, progress=True)
    return {
        "file_megabytes": X.nbytes / 1e6,
        "fit_seconds": fitted - start,
        "evidence_seconds": time.perf_counter() - fitted,
        "megabytes_before": before / 1e6,
        "additional_peak_megabytes": (memory("VmHWM") - before) / 1e6,
        "sigma2": float(ppca.sigma2.detach()),
        "sigma2_of_the_data": a.noise**2,
        "nats_per_point": evidence,
    }


if __name__ == "__main__":
    main()
