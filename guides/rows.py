r"""Tables with one row for each point, whose gradients may be sparse."""

import contextvars

import torch.nn.functional as F
from torch import Tensor, nn

from ..program import held

_sparse = contextvars.ContextVar("sparse_gradients", default=False)


def sparse_gradients():
    r"""Context manager: table lookups have sparse gradients, for `RowAdam`; outside, dense ones for any optimizer."""
    return held(_sparse, True)


def are_sparse() -> bool:
    r"""Whether table lookups have sparse gradients now."""
    return _sparse.get()


class Rows(nn.Module):
    r"""Creates a table of N rows; ``rows(index)`` looks up the rows ``index`` (B,) and returns (B, width).

    Arguments:
        start: the table at the start, of shape (N, width).
    """

    def __init__(self, start: Tensor):
        super().__init__()
        self.weight = nn.Parameter(start)

    def __len__(self) -> int:
        return len(self.weight)

    def forward(self, index: Tensor) -> Tensor:
        # F.embedding rather than weight[index]: its backward pass is reproducible when a row comes twice.
        return F.embedding(index, self.weight, sparse=_sparse.get())
