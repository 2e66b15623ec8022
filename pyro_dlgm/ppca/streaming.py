r"""Probabilistic PCA of arrays larger than memory: one pass, chunk by chunk.

The closed form needs only the mean and the scatter, which `Scatter` sums chunk by chunk.
"""

import mmap
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..progress import Bar
from ..seeding import forked
from .closed_form import check_range, complete, dtypes, solution, trusted
from .leading import of_factor, of_scatter
from .model import PPCA
from .posterior import Posterior
from .scatter import Scatter, eigenpairs

LARGEST = 8192  # features: a scatter of half a gigabyte
CHUNK = 8192  # points


@torch.no_grad()
def fit_streamed(X: np.ndarray, latent_dim: int, *, chunk: int = CHUNK, progress: bool = False) -> PPCA:
    r"""Creates the maximum-likelihood PPCA of X in one pass or two, with memory O(chunk · P + P²) for any N.

    Up to rounding, the result is that of `PPCA.fit`. Sums and spectrum are in float64. Products of float32 data are in
    float32 at first; a second pass, with products in float64, follows only if the noise is too small a part of the
    variance (about 1 %) for five of its digits to be right.

    Arguments:
        X: complete data (N, P), whole or real numbers: an array that NumPy slices, such as ``numpy.load(...,
            mmap_mode="r")`` or ``numpy.memmap``. Pages read from a memory map are released chunk by chunk.
        latent_dim: the number of latents D, 1 <= D < P.
        chunk: the number of points in memory at once.
        progress: whether to show a bar.

    Returns:
        A `PPCA` in the dtype of X if that is float32 or float64, else in the default dtype.

    Raises:
        ValueError: if X is not a matrix of numbers with at least two points, P is above 8,192, D is not in 1..P−1, the
            chunk is below 1, an entry is NaN or infinite, or X has no variance outside the leading D directions.
    """
    _check(X, latent_dim, chunk)
    with forked():
        names = {"f4": torch.float32, "f8": torch.float64}  # of either byte order
        ppca = PPCA(latent_dim, X.shape[1]).to(names.get(X.dtype.str[1:], torch.get_default_dtype()))
    ppca.set(*_maximum_likelihood(X, latent_dim, chunk, progress))
    return ppca


def _maximum_likelihood(X: np.ndarray, latent_dim: int, chunk: int, progress: bool) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns W, μ and σ² from the sums of the fastest products that are accurate enough for the noise of X."""
    eps = float(np.finfo(X.dtype if X.dtype.kind == "f" else float).eps)
    for dtype in dtypes(_tensor(X[:1]).dtype):
        sums = Scatter(X.shape[1], dtype)
        for _, x in _chunks(X, chunk, progress, f"mean and scatter, {str(dtype).removeprefix('torch.')}"):
            sums.add(x)
        top = of_scatter(sums, latent_dim)
        if trusted(top, dtype, eps):
            return solution(top, latent_dim, eps)
    return solution(of_factor(_factor(sums.upper), len(X), latent_dim, sums.mean), latent_dim, eps)


@torch.no_grad()
def mean_log_prob(ppca: PPCA, X: np.ndarray, *, chunk: int = CHUNK, progress: bool = False) -> float:
    r"""Returns the mean of log p(x | w) over the rows of X, in nats per point, with memory O(chunk · P).

    Arguments:
        ppca: a `PPCA`; the evaluation is in float64, whatever its dtype is.
        X: complete data (N, P), as for `fit_streamed`.
        chunk: the number of points in memory at once.
        progress: whether to show a bar.

    Raises:
        ValueError: if X is not a matrix of numbers, does not have the model's number of columns, the chunk is below 1,
            or an entry is NaN or infinite.
    """
    N, P = _check(X, 1, chunk)
    if (own := len(ppca.mu)) != P:
        raise ValueError(f"X has shape {tuple(X.shape)}; this model has {own} features, so expected (N, {own})")
    total = 0.0
    for _, x in _chunks(X, chunk, progress, "log p(x)"):
        total += float(Posterior(ppca.W, ppca.mu, ppca.likelihood.u, x.to(ppca.mu.device)).log_prob().sum())
    return total / N


def _factor(S: Tensor) -> Tensor:
    r"""Returns F (P, P) with FᵀF = S, from the correlations: each column is accurate to rounding in its own units."""
    size = S.diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)
    values, Q = eigenpairs(S / size / size.unsqueeze(1))
    return values.clamp_min(0).sqrt().unsqueeze(1) * Q.mT * size


def _chunks(X: np.ndarray, chunk: int, progress: bool, name: str) -> Iterator[tuple[int, Tensor]]:
    r"""Yields the number of points so far, and the next ones, copied and checked."""
    with Bar(-(-len(X) // chunk), shown=progress, name=name) as bar:
        for start in range(0, len(X), chunk):
            x = _tensor(X[start : start + chunk])
            _forget(X)
            if not complete(x):
                _refuse(x, start)
            yield start, x
            bar.tick()


def _refuse(x: Tensor, start: int) -> None:
    r"""Raises the `ValueError` of points that are not complete and finite, the first of which is X[start]."""
    if not bool(x.isfinite().all()):
        row, column = (~x.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"X[{start + row}, {column}] is {float(x[row, column])}; expected complete, finite data: PPCA.fit "
            "takes missing entries, in memory"
        )
    check_range(x)


def _tensor(x: np.ndarray) -> Tensor:
    r"""Returns a copy, in float32 if x has it, else in float64."""
    return torch.from_numpy(np.array(x, dtype=np.float32 if x.dtype.str[1:] == "f4" else np.float64))


def _forget(X: np.ndarray) -> None:
    r"""Releases the pages read from a memory map, which would count as ours until memory is short."""
    modes, base = set(), X
    while isinstance(base, np.ndarray):
        modes.add(getattr(base, "mode", None))
        base = base.base
    # Not for private maps ("c"), whose changes exist in memory alone.
    if modes & {"r", "r+", "w+"} and isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def _check(X, latent_dim: int, chunk: int) -> tuple[int, int]:
    if isinstance(X, np.ma.MaskedArray):
        raise ValueError(
            "X is a numpy.ma.MaskedArray, and the entries that its mask hides would be read; expected complete data: "
            "X.data if nothing is masked, else PPCA.fit(torch.from_numpy(X.filled(numpy.nan)), latent_dim) and "
            "PPCA.log_prob with a mask, in memory"
        )
    if not isinstance(X, np.ndarray) or X.dtype.kind not in "fiu":
        what = X.dtype if isinstance(X, np.ndarray) else type(X).__name__
        raise ValueError(f"X is {what}; expected a NumPy array of numbers, such as numpy.load(path, mmap_mode='r')")
    if X.ndim != 2 or len(X) < 2:
        raise ValueError(f"X has shape {X.shape}; expected (N, P) with N >= 2: use X.reshape(len(X), -1) on images")
    if X.shape[1] > LARGEST:
        raise ValueError(
            f"X has P = {X.shape[1]:,} features; expected at most {LARGEST:,}, since P x P numbers are in memory"
        )
    if not 1 <= latent_dim < X.shape[1]:
        raise ValueError(f"latent_dim is {latent_dim}; expected 1 <= latent_dim < P = {X.shape[1]}")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1 point")
    return X.shape
