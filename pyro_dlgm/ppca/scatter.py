r"""Mean and scatter of points that come in blocks, summed in float64.

The scatter is S = Σ_i (x_i − μ)(x_i − μ)ᵀ. Those of two sets merge exactly,

    n = n₁ + n₂,    δ = μ₂ − μ₁,    μ = μ₁ + δ n₂/n,    S = S₁ + S₂ + δ δᵀ n₁ n₂/n,

and every sum of squares is taken about the mean of its block. The products of a block may be in float32, which is twice
as fast: their rounding is that of the entries themselves, relative to the spreads of both columns.

References:
    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..storage.sums import sums_dtype, widened

ENTRIES = 2**21  # of a block
PANEL = 128  # columns of a product


class Scatter:
    r"""Creates the mean and the scatter of no points; `add` puts a block of them in.

    Arguments:
        P: the number of columns.
        dtype: that of products.
        device: where the blocks are.

    Attributes:
        count: the number of points.
        mean: μ (P,).
        upper: S (P, P), of which only the upper triangle is right: half of the products.
    """

    def __init__(self, P: int, dtype: torch.dtype, device: str | torch.device = "cpu"):
        self.dtype, self.count = dtype, 0
        self.mean = torch.zeros(P, dtype=sums_dtype(device), device=device)
        self.upper = torch.zeros(P, P, dtype=sums_dtype(device), device=device)

    def add(self, x: Tensor) -> None:
        r"""Adds points x (n, P)."""
        x, mean = centred(x.to(self.dtype))
        delta, n = mean - self.mean, self.count + len(x)
        add_products(self.upper, x)
        self.upper.addr_(delta, delta, alpha=self.count * len(x) / n)
        self.mean += delta * (len(x) / n)
        self.count = n


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns x (n, P) about its mean, and the mean (P,) in the dtype of sums."""
    rough = x.mean(0)
    x = x - rough
    rest = x.mean(0)  # what the rounding of a large mean left
    return x.sub_(rest), widened(rough) + widened(rest)


def add_products(upper: Tensor, x: Tensor) -> None:
    r"""Adds xᵀx to the upper triangle of a matrix (P, P), panel by panel, for x (n, P)."""
    for start in range(0, x.shape[1], PANEL):
        rows = slice(start, start + PANEL)
        upper[rows, start:] += x[:, rows].mT @ x[:, start:]


def blocks(x: Tensor) -> Iterator[Tensor]:
    r"""Yields the rows of a matrix in blocks of about 2 million entries."""
    yield from x.split(max(1, ENTRIES // max(1, x.shape[1])))


def eigenpairs(upper: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the eigenvalues of a symmetric matrix in descending order, and its eigenvectors as columns.

    Arguments:
        upper: the matrix, of which the upper triangle is read. Of one that overflowed all is NaN.
    """
    finite = upper.diagonal().isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, upper, 0.0), UPLO="U")
    return tuple(torch.where(finite, v.flip(-1), torch.nan) for v in (values, vectors))


def keeps_digits(device: str | torch.device) -> bool:
    r"""Returns whether products of float32 are exact but for rounding: torch can be told to use TF32 or bfloat16."""
    # Tried, since the settings that decide it differ between devices and versions.
    entry = 1 + 2**-12  # 1 in either of these formats
    x = torch.full((128, 128), entry, device=device, dtype=torch.float32)
    return bool((x @ x)[0, 0] / 128 > entry)
