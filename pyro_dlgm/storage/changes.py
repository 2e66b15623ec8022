r"""The contents of some rows of several tables, as bytes."""

from collections.abc import Sequence

import torch
from torch import Tensor


def packed(rows: Tensor, values: Sequence[Tensor]) -> bytes:
    r"""Returns the bytes of row numbers (B,) and of the contents of these rows in each table, (B, ...)."""
    return b"".join(memoryview(v.contiguous().view(-1).view(torch.uint8).numpy()) for v in (rows, *values))


def put_back(content: bytearray, tables: Sequence[Tensor]) -> None:
    r"""Writes the contents from `packed` back into the tables (N, ...)."""
    B = len(content) // (8 + sum(table[:1].nbytes for table in tables))
    rows, offset = torch.frombuffer(content, dtype=torch.int64, count=B), 8 * B
    for table in tables:
        old = torch.frombuffer(content, dtype=table.dtype, count=B * table[0].numel(), offset=offset)
        table.index_copy_(0, rows, old.view(B, *table.shape[1:]))
        offset += old.nbytes
