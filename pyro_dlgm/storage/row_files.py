r"""A table of rows in a folder, with the rows of its optimizer, and the way back to a checkpoint.

    rows.json        shape, dtype, and the id of the training whose rows these are
    rows.weight      the table (N, width)
    rows.visits, rows.exp_avg, rows.exp_avg_sq    what `RowAdam` keeps for each row
    rows.journal     what stood in the rows that were changed since the last checkpoint
    rows.lock        empty; one process has them open

A checkpoint holds a reference: the id, and a place in the journal. It is restored by taking back, last first, what was
changed after that place; it costs what was changed, whatever N is.
"""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .changes import packed, put_back
from .folder import Folder
from .journal import Journal, Place
from .mapped_file import LET_GO, READ_AHEAD, MappedFile, allocate, num_bytes

BLOCK = 2**18  # rows that are read, written and shuffled together
MOMENTS = ("visits", "exp_avg", "exp_avg_sq")
_open = weakref.WeakValueDictionary()


def opened(folder: str | Path, shape: tuple[int, int], dtype: torch.dtype, make: Callable[[int], Tensor]) -> "RowFiles":
    r"""The table in a folder: the one that is there, or a new one. In a process, a folder is one object.

    Arguments:
        folder: where the files are or will be.
        shape: (N, width).
        dtype: of its numbers.
        make: returns that many rows (n, width) for a new table; it is asked block by block.

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
    for first in range(0, shape[0], BLOCK):
        last = min(first + BLOCK, shape[0])
        file.tensor[first:last] = make(last - first)
        file.advise(LET_GO, first, last)
    Journal.create(folder.file("journal"))
    folder.create(shape, dtype)


class RowFiles:
    r"""Creates the table in a folder that holds one.

    Attributes:
        folder: where it is. Its id is that of the training whose rows these are: another one for each training that
            does not resume, and after changes that no journal keeps, so that a checkpoint of before is refused.
        weight: the table (N, width).
        finite: whether all that was written in this process is.
        keeps: whether changes can be taken back.
    """

    def __init__(self, folder: Folder):
        self.folder, self.finite, self.keeps = folder, True, False
        self._file = MappedFile(folder.file("weight"), folder.shape, folder.dtype)
        self.weight, self._inode = self._file.tensor, folder.file("weight").stat().st_ino
        self.journal = Journal(folder.file("journal"))
        self._named = True  # a reference to the rows as they are may be somewhere
        self._here, self._moments, self._version = None, {}, self.weight._version

    def is_gone(self) -> bool:
        r"""Whether the folder was deleted, or other files were put there."""
        file = self.folder.file("weight")
        return not file.exists() or file.stat().st_ino != self._inode

    # The rows of the optimizer

    def begin(self, dtype: torch.dtype) -> dict[str, Tensor]:
        r"""Visits (N,) and moments (N, width), all 0, for an optimizer that begins; those of before are deleted.

        Raises:
            OSError: if there is no room for them.
        """
        if not self.keeps:
            self._renew()
        if self.journal.end != self.journal.start:
            said = f"another optimizer moves the rows in {self.folder.path}; expected one for all of a training"
            raise RuntimeError(said)
        self._moments = {}
        self.folder.say_moments(None)
        for name in MOMENTS:
            allocate(self.folder.file(name), num_bytes(self._shape(name), dtype))
        self.folder.say_moments(dtype)
        return self.moments()

    def moments(self) -> dict[str, Tensor]:
        r"""Visits and moments as they are.

        Raises:
            ValueError: if there are none.
        """
        dtype = self.folder.moments
        if dtype is None:
            raise ValueError(f"{self.folder.path} has no rows of an optimizer; expected those of the checkpoint's")
        if not self._moments:
            self._moments = {name: MappedFile(self.folder.file(name), self._shape(name), dtype) for name in MOMENTS}
        return {name: file.tensor for name, file in self._moments.items()}

    # Changes

    def write(self, rows: Tensor, old: dict[str, Tensor], new: dict[str, Tensor]) -> None:
        r"""Overwrites rows (B,) of the table and of the optimizer, after the journal has what stood there.

        Arguments:
            rows: which ones; one that comes twice has the same numbers twice.
            old, new: the numbers of `MOMENTS` and of ``weight``, before and after.

        Raises:
            OSError: if there is no room for the journal; nothing is changed then.
        """
        tables = self._tables()
        self._before_a_change()
        if self.keeps:
            self.journal.append(packed(rows, [old[name] for name in tables]))
        for name, table in tables.items():
            table.index_copy_(0, rows, new[name])
        self._version = self.weight._version
        self.finite = self.finite and bool(new["weight"].isfinite().all())

    def overwrite(self, values: Tensor) -> None:
        r"""Overwrites the whole table with (N, width), block by block, which cannot be taken back."""
        if self.keeps:
            raise RuntimeError(f"a training moves the rows in {self.folder.path}; overwrite them before or after it")
        self._before_a_change()
        for first in range(0, len(values), BLOCK):
            self.weight[first : first + BLOCK] = values[first : first + BLOCK]
            self._file.advise(LET_GO, first, min(first + BLOCK, len(values)))
        self._version = self.weight._version

    # Checkpoints

    def reference(self) -> dict:
        r"""What a checkpoint says of the rows as they are: plain values.

        Raises:
            RuntimeError: if something else than `write` has changed rows whose changes are to be kept.
        """
        self._notice()
        self._named = True
        return {"id": self.folder.header["id"], "shape": list(self.folder.shape), **self.journal.end._asdict()}

    def restore(self, reference: dict) -> None:
        r"""Puts the rows back to what they were when the reference was taken.

        Killed on its way it can be done again: what is put back twice is the same.

        Raises:
            ValueError: if they cannot be.
        """
        mine = self.folder.header["id"]
        if reference["id"] != mine:
            raise ValueError(
                f"the rows in {self.folder.path} are those of another training (id {mine}, expected "
                f"{reference['id']}), or were changed since without a checkpoint; expected the folder of the run"
            )
        place = Place(reference["position"], reference["checksum"])
        if place == self.journal.end:
            return
        tables = list(self._tables().values())
        for record in reversed(self.journal.since(place)):
            put_back(self.journal.read(record), tables)
        self.journal.cut(place)
        self.finite, self._version = True, self.weight._version

    def keep(self, *, new: bool) -> None:
        r"""From here on changes are kept in the journal, until `release`.

        Arguments:
            new: whether the training is a new one, which resumes none.
        """
        if new:
            self._renew()
        self.keeps = True

    def forget(self) -> None:
        r"""Empties the journal: the one checkpoint that there is has a reference to the rows as they are."""
        if self.journal.end != self.journal.start:
            self.journal = Journal.create(self.journal.path, self.journal.end)

    def release(self) -> None:
        r"""Ends what `keep` began; what the journal has is still there for a resume."""
        self.keeps = False

    # Blocks

    def enter(self, first: int, last: int, block: int) -> None:
        r"""Reads the block of rows ahead that holds the rows from ``first`` to ``last``, and lets the one before go."""
        here = first // block
        if here != last // block or here == self._here:
            return
        if self._here is not None:
            self._advise(LET_GO, self._here, block)
        self._advise(READ_AHEAD, here, block)
        self._here = here

    def _advise(self, advice: int | None, number: int, block: int) -> None:
        for file in (self._file, *self._moments.values()):
            file.advise(advice, number * block, min((number + 1) * block, len(self.weight)))

    def _before_a_change(self) -> None:
        # What no journal keeps is another history from here on.
        self._notice()
        if self._named and not self.keeps:
            self._renew()

    def _notice(self) -> None:
        # torch counts what is written into a tensor, by an optimizer of another kind or by hand.
        if self.weight._version == self._version:
            return
        if self.keeps:
            raise RuntimeError(
                f"the rows in {self.folder.path} were changed past their journal, so no checkpoint can go back; "
                "expected RowAdam to move them (svi.adam) and nothing else"
            )
        self._renew()
        self._version = self.weight._version

    def _renew(self) -> None:
        # In this order: under the new id there is no checkpoint that could ask for the former journal.
        self.folder.renew()
        self.journal, self._named = Journal.create(self.journal.path), False

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.folder.shape[:1] if name == "visits" else self.folder.shape

    def _tables(self) -> dict[str, Tensor]:
        return self.moments() | {"weight": self.weight}
