r"""Opens tables of rows in folders: an existing one, or a new one filled block by block."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import row_files
from .folder import Folder
from .journal import Journal
from .mapped_file import LET_GO, MappedFile, allocate, num_bytes
from .row_files import RowFiles

_open = weakref.WeakValueDictionary()


def opened(folder: str | Path, shape: tuple[int, int], dtype: torch.dtype, make: Callable[[int], Tensor]) -> RowFiles:
    r"""Returns the table in a folder, an existing or a new one; in a process, each folder has one object.

    Arguments:
        folder: where the files are or will be.
        shape: (N, width).
        dtype: the dtype of its numbers.
        make: returns n rows (n, width) for a new table; it is called block by block.

    Raises:
        ValueError: if the folder holds another table.
        RuntimeError: if another process has it open.
    """
    path = Path(folder).expanduser().resolve()
    files = _open.get(path)
    if files is None or files.is_gone():
        place = Folder(path)
        if place.header is None:
            _create(place, shape, dtype, make)
        files = _open[path] = RowFiles(place)
    if (files.folder.shape, files.folder.dtype) != (shape, dtype):
        raise ValueError(
            f"{path} holds rows {files.folder.shape} of {files.folder.dtype}; expected {shape} of {dtype}: choose "
            "another folder, or delete it"
        )
    return files


def _create(folder: Folder, shape: Sequence[int], dtype: torch.dtype, make: Callable[[int], Tensor]) -> None:
    allocate(folder.file("weight"), num_bytes(shape, dtype))
    file = MappedFile(folder.file("weight"), shape, dtype)
    for first in range(0, shape[0], row_files.BLOCK):
        last = min(first + row_files.BLOCK, shape[0])
        file.tensor[first:last] = make(last - first)
        file.advise(LET_GO, first, last)
    Journal.create(folder.file("journal"))
    folder.create(shape, dtype)
