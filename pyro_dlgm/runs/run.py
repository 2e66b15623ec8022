r"""Runs on disk.

A run is a folder with ``config.json``, ``metrics.jsonl`` (one record per line) and ``checkpoint.pt`` (tensors and plain
values only: reading it executes nothing). Files are replaced atomically.
"""

import contextlib
import errno
import json
import math
import os
import time
from pathlib import Path

from filelock import FileLock, Timeout

from ..messages import line
from . import checkpoint
from .files import RunError, discard_unfinished, finite, whole, write_json, writing
from .fingerprint import differences

PLACES = ("data.root",)  # locations: a run may be resumed after they have moved
PARTS = ("checkpoint-*-of-*.pt", ".checkpoint-*-of-*.pt")  # files of rows, finished or not
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a write without space


class Run:
    r"""Creates the handle of a run's folder.

    Arguments:
        folder: where the run is or will be.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        self._lock = FileLock(self.folder / "lock", thread_local=False)  # an empty file, left in place
        self.config_file, self.metrics_file = self.folder / "config.json", self.folder / "metrics.jsonl"
        self.checkpoint_file = self.folder / "checkpoint.pt"

    @contextlib.contextmanager
    def begun(
        self,
        config: dict,
        training,
        *,
        resume: bool,
        may_differ: tuple[str, ...] = (),
        advice: dict[str, str] | None = None,
    ):
        r"""Context manager: locks the folder, and creates a new run or resumes the training from the checkpoint.

        Inside, a full disk raises a `RunError`, also when TensorBoard writes into the folder.

        Arguments:
            config: the configuration of the training.
            training: the training to resume.
            resume: whether to continue an existing run.
            may_differ: names that may differ from the run's, such as "fit.epochs"; the new values are stored.
            advice: text for the error if the only difference has this name.

        Raises:
            RunError: if the folder holds a run and ``resume`` is false, the run has another configuration or other
                networks, another process is writing it, or it cannot be written.
        """
        self.lock()
        try:
            if resume and self.checkpoint_file.exists():
                self._go_on(config, training, may_differ, advice or {})
            else:
                self.create(config)
            with writing(f"to {self.folder}", ": make room and resume", only=FULL):
                yield
        finally:
            self.unlock()

    def lock(self) -> None:
        r"""Creates and locks the folder, and removes unfinished files of a killed process."""
        with self._writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                said = f"another process is writing {self.folder}; wait for it, or choose another folder"
                raise RunError(said) from None
            except NotImplementedError:
                said = f"{self.folder} is on a file system without locks; choose a folder on another one"
                raise RunError(said) from None
            for file in (self.config_file, self.metrics_file, self.checkpoint_file):
                discard_unfinished(file)

    def unlock(self) -> None:
        r"""Releases the lock."""
        self._lock.release()

    def create(self, config: dict) -> None:
        r"""Creates the folder and writes ``config.json``.

        Raises:
            RunError: if there is a run already, or the folder cannot be written.
        """
        if self.checkpoint_file.exists():
            said = "go on with it with resume=True, or choose another folder"
            raise RunError(f"{self.folder} holds a run already; {said}")
        with self._writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.config_file, config)
            with whole(self.metrics_file):
                pass

    def config(self) -> dict:
        r"""Returns the configuration of the run."""
        try:
            config = json.loads(self.config_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            said = "expected a folder that pyro-dlgm fit --out, or fit(out=) in Python, has made"
            raise RunError(f"{self.folder} is not a run: it has no config.json; {said}") from None
        except (OSError, ValueError):
            config = None
        if not isinstance(config, dict):
            raise RunError(f"{self.config_file} is not the JSON of a run; restore it, or start another run")
        return config

    def save(self, state: dict) -> None:
        r"""Writes ``checkpoint.pt``: see `checkpoint.write`. Files of rows that it does not name are removed."""
        checkpoint.write(self.checkpoint_file, state)
        for pattern in PARTS:
            for file in self.folder.glob(pattern):
                if file.name not in state.get("parts", ()):
                    file.unlink(missing_ok=True)

    def save_part(self, name: str, rows: dict) -> None:
        r"""Writes the rows of one of several processes: see `checkpoint.write`."""
        checkpoint.write(self.folder / name, rows)

    def load(self, points: range | None = None) -> dict:
        r"""Returns the state in ``checkpoint.pt``, on the CPU, with the rows of these points: see `checkpoint.read`."""
        return checkpoint.read(self.checkpoint_file, points)

    def append(self, record: dict) -> None:
        r"""Appends a line to ``metrics.jsonl``, with Unix time in seconds; numbers that are not finite become null."""
        line = json.dumps(finite(record) | {"time": round(time.time(), 3)}, allow_nan=False)
        with (
            writing(self.metrics_file, ": make room and resume"),
            self.metrics_file.open("a", encoding="utf-8") as file,
        ):
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint, which relies on it

    def truncate(self, step: int) -> None:
        r"""Removes the records after ``step`` from ``metrics.jsonl``, and a truncated line."""
        there = self.metrics_file.exists()
        lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines() if there else []
        kept = [line for line in lines if _step(line) <= step]
        with whole(self.metrics_file) as path:
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _go_on(self, config: dict, training, may_differ: tuple[str, ...], advice: dict[str, str]) -> None:
        saved = self.config()
        found = differences(saved, config, (*PLACES, *may_differ))
        if found and by_command(saved) and not by_command(config):
            said = f"go on with it there, pyro-dlgm fit --out {self.folder} --resume, or choose another folder"
            raise RunError(f"{self.folder} was made by the command line: {said}")
        if found:
            more = advice.get(found[0].partition(" ")[0], "") if len(found) == 1 else ""
            raise RunError(f"{self.folder} was made with another configuration: {'; '.join(found)}{more}")
        state = self.load(training.own_rows)
        try:
            training.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{self.checkpoint_file} is of another pair or training: {line(error)}") from error
        self.truncate(training.step)
        for name in may_differ:
            section, _, key = name.partition(".")
            saved[section][key] = config[section][key]
        if may_differ:
            write_json(self.config_file, saved)

    def _writable(self):
        return writing(f"to {self.folder}", "; choose another folder")


def by_command(config: dict) -> bool:
    r"""Returns whether the configuration is of the command line, which alone stores where the data are."""
    data = config.get("data")
    return isinstance(config.get("recipe"), dict) and isinstance(data, dict) and "protocol" in data


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
