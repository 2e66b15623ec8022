r"""The folder of a table of rows: file names, header, and the lock of the process that has it open."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from .mapped_file import replace

FORMAT = "pyro_dlgm-rows-1"


class Folder:
    r"""Creates the handle of a folder, which is created if it is missing, and locked.

    Attributes:
        header: the content of ``rows.json``: format, id, shape, dtype, and the dtype of the optimizer's rows, if any.
            The file is written last: without it there is no table.

    Raises:
        RuntimeError: if another process has it open.
        ValueError: if the header is not one of a table.
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(path)
        self.header = self._read() if self.file("json").exists() else None

    def file(self, name: str) -> Path:
        r"""Returns the path of the file of that name."""
        return self.path / f"rows.{name}"

    @property
    def shape(self) -> tuple[int, int]:
        r"""(N, width) of the table."""
        return tuple(self.header["shape"])

    @property
    def dtype(self) -> torch.dtype:
        r"""The dtype of the table."""
        return getattr(torch, self.header["dtype"])

    @property
    def moments(self) -> torch.dtype | None:
        r"""The dtype of the optimizer's rows; `None` without them."""
        said = self.header["moments"]
        return None if said is None else getattr(torch, said)

    def create(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        r"""Writes the header of a new table."""
        self.header = {"format": FORMAT, "shape": list(shape), "dtype": _name(dtype), "moments": None}
        self.renew()

    def renew(self) -> None:
        r"""Writes a new id."""
        self._write({"id": secrets.token_hex(8)})

    def set_moments(self, dtype: torch.dtype | None) -> None:
        r"""Writes the dtype of the optimizer's rows."""
        self._write({"moments": None if dtype is None else _name(dtype)})

    def _write(self, changes: dict) -> None:
        header = self.header | changes
        replace(self.file("json"), json.dumps(header, indent=1).encode())
        self.header = header

    def _read(self) -> dict:
        file = self.file("json")
        try:
            header = json.loads(file.read_bytes())
            names = (header["dtype"], header["moments"] or "float32")
            fine = header["format"] == FORMAT and all(isinstance(getattr(torch, n), torch.dtype) for n in names)
        except (ValueError, KeyError, TypeError, AttributeError):
            fine = False
        if not fine:
            raise ValueError(f"{file} is not that of a table of rows ({FORMAT}); choose another folder")
        return header


def _locked(path: Path) -> FileLock:
    lock = FileLock(path / "rows.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        said = f"another process has the rows in {path} open; wait for it, or choose another folder"
        raise RuntimeError(said) from None
    return lock


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
