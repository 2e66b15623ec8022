r"""A table of rows in a folder, with the rows of its optimizer, which can be restored to a checkpoint.

    rows.json        shape, dtype, and the id of the training whose rows these are
    rows.weight      the table (N, width)
    rows.visits, rows.exp_avg, rows.exp_avg_sq    the state of `RowAdam` for each row
    rows.journal     the former contents of rows changed since the last checkpoint
    rows.lock        empty; one process has them open

A checkpoint holds a reference: the id, and a place in the journal. To restore it, the changes after that place are
undone, last first, at a cost that does not depend on N.
"""

import torch
from torch import Tensor

from .changes import packed, put_back
from .folder import Folder
from .journal import Journal, Place
from .mapped_file import LET_GO, READ_AHEAD, MappedFile, allocate, num_bytes

BLOCK = 2**18  # rows to read, write and shuffle together
MOMENTS = ("visits", "exp_avg", "exp_avg_sq")


class RowFiles:
    r"""Creates the handle of an existing table in a folder.

    Attributes:
        folder: the folder. Its id is that of the training of the rows. It changes with each training that does not
            resume, and after changes without a journal, so that earlier checkpoints are refused.
        weight: the table (N, width).
        finite: whether everything written in this process is finite.
        keeps: whether changes are recorded and can be undone.
    """

    def __init__(self, folder: Folder):
        self.folder, self.finite, self.keeps = folder, True, False
        self._file = MappedFile(folder.file("weight"), folder.shape, folder.dtype)
        self.weight, self._inode = self._file.tensor, folder.file("weight").stat().st_ino
        self.journal = Journal(folder.file("journal"))
        self._named = True  # a reference to the current rows may exist
        self._here, self._moments, self._version = None, {}, self.weight._version

    def is_gone(self) -> bool:
        r"""Returns whether the folder was deleted or its files were replaced."""
        file = self.folder.file("weight")
        return not file.exists() or file.stat().st_ino != self._inode

    # The rows of the optimizer

    def begin(self, dtype: torch.dtype) -> dict[str, Tensor]:
        r"""Returns visits (N,) and moments (N, width), all 0, for a new optimizer; deletes earlier ones.

        Raises:
            OSError: if there is no space for them.
        """
        if not self.keeps:
            self._renew()
        if self.journal.end != self.journal.start:
            said = f"another optimizer moves the rows in {self.folder.path}; expected a single one in a training"
            raise RuntimeError(said)
        self._moments = {}
        self.folder.set_moments(None)
        for name in MOMENTS:
            allocate(self.folder.file(name), num_bytes(self._shape(name), dtype))
        self.folder.set_moments(dtype)
        return self.moments()

    def moments(self) -> dict[str, Tensor]:
        r"""Returns the current visits and moments.

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
        r"""Overwrites rows (B,) of the table and of the optimizer, after recording their contents in the journal.

        Arguments:
            rows: the row numbers; a row that occurs twice has the same numbers twice.
            old, new: the numbers of `MOMENTS` and of ``weight``, before and after.

        Raises:
            OSError: if there is no space for the journal; then nothing is changed.
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
        r"""Overwrites the whole table with (N, width), block by block, which cannot be undone."""
        if self.keeps:
            raise RuntimeError(f"a training moves the rows in {self.folder.path}; overwrite them before or after it")
        self._before_a_change()
        for first in range(0, len(values), BLOCK):
            self.weight[first : first + BLOCK] = values[first : first + BLOCK]
            self._file.advise(LET_GO, first, min(first + BLOCK, len(values)))
        self._version = self.weight._version

    # Checkpoints

    def reference(self) -> dict:
        r"""Returns a reference to the current rows for a checkpoint, as plain values.

        Raises:
            RuntimeError: if rows were changed without `write` while changes are recorded.
        """
        self._notice()
        self._named = True
        return {"id": self.folder.header["id"], "shape": list(self.folder.shape), **self.journal.end._asdict()}

    def restore(self, reference: dict) -> None:
        r"""Restores the rows to what they were when the reference was taken.

        If it is killed, it can be repeated, since restoring twice gives the same rows.

        Raises:
            ValueError: if they cannot be restored.
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
        r"""Starts recording changes in the journal, until `release`.

        Arguments:
            new: whether the training is new, rather than resumed.
        """
        if new:
            self._renew()
        self.keeps = True

    def forget(self) -> None:
        r"""Empties the journal, since the only checkpoint has a reference to the current rows."""
        if self.journal.end != self.journal.start:
            self.journal = Journal.create(self.journal.path, self.journal.end)

    def release(self) -> None:
        r"""Stops recording changes; the journal stays for a resume."""
        self.keeps = False

    # Blocks

    def enter(self, first: int, last: int, block: int) -> None:
        r"""Reads ahead the block of the rows from ``first`` to ``last``, and releases the previous block."""
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
        # Changes that are not recorded start another history.
        self._notice()
        if self._named and not self.keeps:
            self._renew()

    def _notice(self) -> None:
        # torch counts writes into a tensor, also those of another optimizer or by hand.
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
        # In this order: no checkpoint with the new id can need the former journal.
        self.folder.renew()
        self.journal, self._named = Journal.create(self.journal.path), False

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.folder.shape[:1] if name == "visits" else self.folder.shape

    def _tables(self) -> dict[str, Tensor]:
        return self.moments() | {"weight": self.weight}
