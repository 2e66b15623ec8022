r"""Tables with one row for each point, in memory or in files; their gradients may be sparse."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from pyro.distributions.util import is_validation_enabled
from torch import Tensor, nn

from ..program import held
from ..storage.opening import opened
from ..storage.row_files import BLOCK, RowFiles

_sparse = contextvars.ContextVar("sparse_gradients", default=False)
_lookup = contextvars.ContextVar("lookup", default=None)


def sparse_gradients():
    r"""Context manager: table lookups have sparse gradients, for `RowAdam`; outside, dense ones for any optimizer."""
    return held(_sparse, True)


def are_sparse() -> bool:
    r"""Returns whether table lookups have sparse gradients now."""
    return _sparse.get()


def looked_up(by: Callable[["Rows", Tensor], Tensor]):
    r"""Context manager: ``by(table, index)`` returns the rows, instead of a table's own lookup."""
    return held(_lookup, by)


class Rows(nn.Module):
    r"""Creates a table of N rows; ``rows(index)`` returns the rows ``index`` (B,), as (B, width).

    Arguments:
        start: the initial table, of shape (N, width).

    Attributes:
        part: the points whose rows are here, if the others are in other processes; `None`: all.
    """

    part: range | None = None

    def __init__(self, start: Tensor):
        super().__init__()
        self.weight = nn.Parameter(start)

    def __len__(self) -> int:
        return len(self.weight)

    def forward(self, index: Tensor) -> Tensor:
        by = _lookup.get()
        index = index if self.part is None else self._here(index)
        return self._rows(index) if by is None else by(self, index)

    def keep(self, part: range) -> None:
        r"""Keeps the rows of these points alone, which are still asked for by their numbers among all N."""
        if self.part == part:
            return
        if self.part is not None:
            raise ValueError(f"the rows of {self.part} are here; expected all, to keep those of {part}: load(out)")
        kept = self.weight.detach()[part.start : part.stop].clone()
        self.weight, self.part = nn.Parameter(kept, requires_grad=self.weight.requires_grad), part

    def _here(self, index: Tensor) -> Tensor:
        r"""Returns the places of these points among the rows that are here; checked if Pyro's validation is on."""
        first, last = self.part.start, self.part.stop - 1
        if is_validation_enabled() and len(index) and not first <= int(index.min()) <= int(index.max()) <= last:
            raise ValueError(
                f"index goes from {int(index.min())} to {int(index.max())}, and this process has the rows of points "
                f"{first} to {last}; expected some of these. All rows are in the run: load(out)"
            )
        return index - first

    def _rows(self, index: Tensor) -> Tensor:
        # F.embedding rather than weight[index]: its backward pass is reproducible when a row comes twice.
        return F.embedding(index, self.weight, sparse=_sparse.get())

    @torch.no_grad()
    def overwrite(self, values: Tensor) -> None:
        r"""Overwrites the table with values (N, width)."""
        self.weight.copy_(values)

    @classmethod
    def filled(cls, num_rows: int, width: int, make: Callable[[int], Tensor]) -> "Rows":
        r"""Creates a table whose rows come from ``make(n)`` (n, width), block by block."""
        if num_rows <= BLOCK:
            return cls(make(num_rows))
        first = make(BLOCK)
        table = first.new_empty(num_rows, width)
        table[:BLOCK] = first
        for part in table[BLOCK:].split(BLOCK):
            part.copy_(make(len(part)))
        return cls(table)


class RowsInFiles(Rows):
    r"""Creates a memory-mapped table of N rows in a folder, for tables larger than memory; `RowFiles` has the format.

    If the folder holds such a table already, it is opened. `fit` and `svi.SVI` train it with `RowAdam`, whose own rows
    are in the folder as well. A state dict holds a reference instead of the table. The table stays on the CPU and is
    never copied.

    Arguments:
        folder: where the files are or will be.
        num_rows, width: the shape of the table, of the default dtype.
        make: returns n initial rows (n, width) for a new table.
        block: the number of rows visited together: `fit` shuffles the blocks, and the points within each.
    """

    def __init__(
        self, folder: str | Path, num_rows: int, width: int, make: Callable[[int], Tensor], block: int = BLOCK
    ):
        nn.Module.__init__(self)
        if block < 1:
            raise ValueError(f"block is {block}; expected at least 1 row")
        self.files = opened(folder, (num_rows, width), torch.get_default_dtype(), make)
        self.weight, self.block = nn.Parameter(self.files.weight), block
        self.weight.files = self.files

    def _rows(self, index: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(index):
            self.files.enter(int(index.min()), int(index.max()), self.block)
        return F.embedding(index, self.weight, sparse=True)  # a dense gradient would be as large as the table

    def overwrite(self, values: Tensor) -> None:
        r"""Overwrites the table with values (N, width), block by block."""
        self.files.overwrite(values.detach())

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}files"] = self.files.reference()

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing_keys, unexpected_keys, error_msgs):
        if f"{prefix}files" not in state_dict:
            missing_keys.append(f"{prefix}files")
        else:
            self.files.restore(state_dict[f"{prefix}files"])

    def _apply(self, fn, recurse=True):
        row = self.weight[:1].detach()
        moved = fn(row)
        if (moved.device, moved.dtype) != (row.device, row.dtype):
            raise TypeError(
                f"the rows in {self.files.folder.path} are {row.dtype} on the {row.device}, and cannot become "
                f"{moved.dtype} on {moved.device}; expected rows in memory for that: leave out folder=, or set the "
                "default dtype before making them"
            )
        return self

    def __reduce_ex__(self, protocol):
        raise TypeError(
            f"the rows in {self.files.folder.path} are not copied; expected a guide with another folder, or a copy of "
            "the folder made while no process has it open. guide.state_dict() is a reference to them"
        )


def files_of(weight: Tensor) -> RowFiles | None:
    r"""Returns the files of a table; `None` for a table in memory."""
    return getattr(weight, "files", None)


def in_files(*modules: nn.Module) -> list[RowsInFiles]:
    r"""Returns the tables in files that the modules contain."""
    return [
        m for module in modules if isinstance(module, nn.Module) for m in module.modules() if isinstance(m, RowsInFiles)
    ]


@contextlib.contextmanager
def kept(tables: list[RowsInFiles], *, new: bool) -> Iterator[None]:
    r"""Context manager: changes of tables in files can be undone, for a training with checkpoints.

    Arguments:
        new: whether the training is new, rather than resumed.
    """
    try:
        for table in tables:
            table.files.keep(new=new)
        yield
    finally:
        for table in tables:
            table.files.release()
