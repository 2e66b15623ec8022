r"""An undo journal: the contents before each change, so that changes can be undone.

A record is written before its change is made. A killed process leaves at most the beginning of a record, whose change
was not made; it is cut off. Each record has a checksum of all records up to it, so that a place in the journal,
(position, checksum), identifies one history.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .mapped_file import replace

MAGIC = b"dlgmundo"
START = struct.Struct("<8sQI")  # magic, the place at the file's beginning
HEAD = struct.Struct("<QI")  # bytes of the record's content, checksum after it; then the checksum of these two
SUM = struct.Struct("<I")
OVERHEAD = HEAD.size + SUM.size


class Place(NamedTuple):
    r"""Creates a place in a journal.

    Attributes:
        position: the bytes of all records before it, including forgotten ones.
        checksum: the CRC-32 of their contents.
    """

    position: int
    checksum: int


class Record(NamedTuple):
    r"""Creates the description of a record: the offset of its content in the file, its length, the place after it."""

    offset: int
    length: int
    after: Place


class Journal:
    r"""Creates the handle of an existing journal; cuts off an incomplete record at its end.

    Attributes:
        start, end: the places at its beginning and its end.

    Raises:
        ValueError: if it is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("r+b", buffering=0)
        start = self._file.read(START.size)
        if len(start) < START.size or not start.startswith(MAGIC):
            raise self._damaged(0)
        self.start = Place(*START.unpack(start)[1:])
        self.end = self.start
        for record in self._records():
            self.end = record.after
        self._cut()

    @classmethod
    def create(cls, path: Path, start: Place | None = None) -> "Journal":
        r"""Creates an empty journal in place of an existing one."""
        replace(path, START.pack(MAGIC, *(start or (0, 0))))
        return cls(path)

    def append(self, content: bytes) -> None:
        r"""Adds a record.

        Raises:
            OSError: if there is no space; the journal is left unchanged.
        """
        checksum = zlib.crc32(content, self.end.checksum)
        head = HEAD.pack(len(content), checksum)
        written = memoryview(b"".join((head, SUM.pack(zlib.crc32(head)), content)))
        after = Place(self.end.position + len(written), checksum)
        try:
            self._file.seek(self._size)
            while written:
                written = written[self._file.write(written) :]
            self.end = after
        except BaseException:
            self._cut()
            raise

    def since(self, place: Place) -> list[Record]:
        r"""Returns the records after a place.

        Raises:
            ValueError: if the place is not in this journal.
        """
        records = list(self._records())
        places = [self.start, *(record.after for record in records)]
        if place not in places:
            raise ValueError(f"{self.path} has no way back to position {place.position}: {self._why(place)}")
        return records[places.index(place) :]

    def read(self, record: Record) -> bytearray:
        r"""Returns the content of a record."""
        content = bytearray(record.length)
        self._file.seek(record.offset)
        self._file.readinto(content)
        return content

    def cut(self, place: Place) -> None:
        r"""Removes the records after a place."""
        self.end = place
        self._cut()

    def _why(self, place: Place) -> str:
        if place.position < self.start.position:
            return "the rows were changed since by another training"
        if place.position > self.end.position:
            return "the files of the rows are older than the checkpoint; copy both together"
        return "the rows are those of another copy of this training"

    @property
    def _size(self) -> int:
        return START.size + self.end.position - self.start.position

    def _cut(self) -> None:
        self._file.truncate(self._size)

    def _records(self) -> Iterator[Record]:
        r"""Yields the complete records in order."""
        offset, place, size = START.size, self.start, self.path.stat().st_size
        while size - offset >= OVERHEAD:
            self._file.seek(offset)
            head = self._file.read(OVERHEAD)
            length, checksum = HEAD.unpack_from(head)
            if zlib.crc32(head[: HEAD.size]) != SUM.unpack_from(head, HEAD.size)[0]:
                raise self._damaged(offset)
            if size - offset - OVERHEAD < length:
                return  # incomplete: the process was killed while writing it
            if zlib.crc32(self._file.read(length), place.checksum) != checksum:
                raise self._damaged(offset)
            place = Place(place.position + OVERHEAD + length, checksum)
            yield Record(offset + OVERHEAD, length, place)
            offset += OVERHEAD + length

    def _damaged(self, offset: int) -> ValueError:
        return ValueError(
            f"{self.path} is damaged at byte {offset}, so the rows cannot go back to a checkpoint; restore the folder "
            "from a copy, or delete it and start again"
        )
