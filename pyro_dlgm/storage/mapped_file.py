r"""A file as a tensor, whose pages the operating system reads and writes."""

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import torch

READ_AHEAD = getattr(mmap, "MADV_WILLNEED", None)  # words of `mmap.madvise`; None where a system has none
LET_GO = getattr(mmap, "MADV_DONTNEED", None)


class MappedFile:
    r"""Creates a view of a file of numbers as a tensor, ``tensor``; what is written into it is in the file.

    What a process has written stays written when the process is killed; a power failure may lose it.

    Arguments:
        path: the file.
        shape: (N, ...).
        dtype: of the numbers.

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
        r"""Says to the operating system what will be done with the rows from ``first`` up to ``last``."""
        start = first * self._row // mmap.PAGESIZE * mmap.PAGESIZE
        if advice is not None:
            self._map.madvise(advice, start, last * self._row - start)


def num_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    r"""The bytes of that many numbers."""
    return math.prod(shape) * dtype.itemsize


def allocate(path: Path, size: int) -> None:
    r"""Makes a file of zeros anew, with room for them on the disk.

    Without room, writing into a mapped page would end the process; here it is an `OSError`. It costs no writing: file
    systems give room that reads as zeros.
    """
    path.unlink(missing_ok=True)  # who has the former file mapped keeps it
    with path.open("xb") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, size) if hasattr(os, "posix_fallocate") else stream.truncate(size)
        except OSError:
            path.unlink()
            raise


def replace(path: Path, content: bytes) -> None:
    r"""Replaces a small file, whole or not at all, as far as a killed process goes."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)
