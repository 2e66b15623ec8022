r"""Memory-mapped files as tensors."""

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import torch

READ_AHEAD = getattr(mmap, "MADV_WILLNEED", None)  # advice of `mmap.madvise`; None if the system has none
LET_GO = getattr(mmap, "MADV_DONTNEED", None)


class MappedFile:
    r"""Creates a view of a file of numbers as a tensor, ``tensor``; writing into it writes the file.

    What a process has written survives if the process is killed, but not necessarily a power failure.

    Arguments:
        path: the file.
        shape: (N, ...).
        dtype: the dtype of the numbers.

    Raises:
        ValueError: if the file has another size.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: torch.dtype):
        size, there = num_bytes(shape, dtype), path.stat().st_size
        if there != size:
            raise ValueError(
                f"{path} has {there} bytes; expected {size}, numbers {tuple(shape)} of {dtype}: it was cut off or is "
                "of another table, restore it from a copy"
            )
        with path.open("r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), 0)
        self.tensor = torch.frombuffer(self._map, dtype=dtype).view(*shape)
        self._row = size // shape[0]

    def advise(self, advice: int | None, first: int, last: int) -> None:
        r"""Tells the operating system how the rows from ``first`` up to ``last`` will be used."""
        start = first * self._row // mmap.PAGESIZE * mmap.PAGESIZE
        if advice is not None:
            self._map.madvise(advice, start, last * self._row - start)


def num_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    r"""Returns the number of bytes of an array of that shape."""
    return math.prod(shape) * dtype.itemsize


def allocate(path: Path, size: int) -> None:
    r"""Creates a new file of zeros, with space for them reserved on the disk.

    Without space, writing into a mapped page would end the process; here it raises an `OSError`. Nothing is written:
    reserved space reads as zeros.
    """
    path.unlink(missing_ok=True)  # mappings of the former file stay valid
    with path.open("xb") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, size) if hasattr(os, "posix_fallocate") else stream.truncate(size)
        except OSError:
            path.unlink()
            raise


def replace(path: Path, content: bytes) -> None:
    r"""Replaces a small file atomically, even if the process is killed."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)
