r"""A section of measurements in a process of its own, with a deadline: what it has found by then is kept."""

import json
import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

GRACE = 5.0  # seconds after its time, when a section is stopped


@dataclass
class Asked:
    r"""What a section is asked for.

    Attributes:
        device: where to work.
        smoke: whether sizes are tiny.
        seconds: for all of it.
        file: where its record goes.
        began: when it did, in seconds of the monotonic clock.
        record: what it has found: ``rows`` of a table, and ``notes``.
    """

    device: str
    smoke: bool
    seconds: float
    file: str
    began: float = field(default_factory=time.monotonic)
    record: dict = field(default_factory=lambda: {"rows": [], "notes": []})

    @property
    def left(self) -> float:
        r"""The seconds that are left."""
        return self.seconds - (time.monotonic() - self.began)

    @property
    def on_gpu(self) -> bool:
        r"""Whether the device is one of CUDA."""
        return torch.device(self.device).type == "cuda"

    def wait(self) -> None:
        r"""Waits until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def row(self, **columns) -> None:
        r"""Keeps a row of the table."""
        self.record["rows"].append(columns)
        self.keep()

    def note(self, text: str) -> None:
        r"""Keeps a line of text."""
        self.record["notes"].append(text)
        self.keep()

    def keep(self, **more) -> None:
        r"""Writes the record, with the most memory so far."""
        self.record |= {"seconds": time.monotonic() - self.began, "peak_gb": self._peak(), **more}
        path = Path(self.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.record) + "\n")
        part.replace(path)

    def _peak(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.on_gpu else None


def run(section: Callable[[Asked], None], asked: Asked) -> dict:
    r"""Runs a section in a process, and returns its record, with ``error`` if it failed or was stopped.

    The process is forked, so that libraries are imported once; this one never touches the device.
    """
    Path(asked.file).unlink(missing_ok=True)
    asked.began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_work, args=(section, asked))
    process.start()
    process.join(asked.seconds + GRACE)
    late = process.is_alive()
    if late:
        process.kill()
        process.join()
    path = Path(asked.file)
    record = json.loads(path.read_text()) if path.exists() else {"rows": [], "notes": []}
    if late:
        record["error"] = f"stopped after {asked.seconds + GRACE:.0f} s"
    elif process.exitcode:
        record["error"] = f"its process ended with {process.exitcode}"
    return {"seconds": time.monotonic() - asked.began, "budget": asked.seconds} | record


def _work(section: Callable[[Asked], None], asked: Asked) -> None:
    try:
        section(asked)
        asked.keep()
    except Exception as error:
        traceback.print_exc()
        asked.keep(error=said(error))


def said(error: BaseException) -> str:
    r"""An error in one line, with the innermost line of this repository that it came from."""
    root = str(Path(__file__).resolve().parents[2])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(root)]
    where = f" at {frames[-1].filename.removeprefix(root)[1:]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"
