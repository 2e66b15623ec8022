r"""Event files of TensorBoard in a run's folder: truncated on resume, and in order; a configuration as a table."""

import time
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from .files import whole
from .fingerprint import flat


def cut(folder: Path, step: int) -> None:
    r"""Removes the events after that step from the files: if ``purge_step`` only hides them, TensorBoard warns."""
    for file in folder.glob("events.out.tfevents.*"):
        records = list(RawEventFileLoader(str(file)).Load())
        kept = [record for record in records if Event.FromString(record).step <= step]
        if len(kept) < len(records):
            with whole(file) as path, path.open("wb") as stream:
                writer = RecordWriter(stream)
                for record in kept:
                    writer.write(record)
                writer.flush()


def wait_for_a_new_second(folder: Path) -> None:
    r"""Waits until a new event file comes after those in the folder."""
    # Event files are read in the order of their names, which begin with the second in which they were made.
    while list(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)


def table(config: dict) -> str:
    r"""Returns the configuration as a table in Markdown, by full names such as "fit.lr"."""
    said = {name: str(value).replace("|", "\\|") for name, value in flat(config).items() if value is not None}
    return "\n".join(
        ["| option | value |", "| --- | --- |", *(f"| `{name}` | {text} |" for name, text in said.items())]
    )
