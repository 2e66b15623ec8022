r"""Runs on disk: the only file that writes or reads them.

A run is a folder with ``config.json``, ``metrics.jsonl`` (one record a line) and ``checkpoint.pt`` (tensors and plain
values only: reading it executes nothing). A file is replaced whole or not at all.
"""

import contextlib
import errno
import json
import logging
import math
import os
import pickle
import time
import zipfile
from pathlib import Path

import torch

from .files import discard_unfinished, lock, whole
from .plain import check_plain, differences, line

FORMAT = "pyro_dlgm-run-2"
PLACES = ("data.root",)  # where things lie: a run may go on when they have moved
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write says where there is no room
LOG = logging.getLogger(__name__)


class RunError(Exception):
    r"""A folder that is no run, or a run that cannot be used as asked; one line that says what to do."""


class Run:
    r"""Creates the handle of a run's folder.

    Arguments:
        folder: where the run is or will be.
    """

    def __init__(self, folder: str | Path):
        self.folder, self._lock = Path(folder), None
        self.config_file, self.metrics_file = self.folder / "config.json", self.folder / "metrics.jsonl"
        self.checkpoint_file = self.folder / "checkpoint.pt"

    def begin(self, config: dict, training, *, resume: bool) -> None:
        r"""Locks the folder, and makes a new run there or puts the training to the checkpoint of the old one.

        Raises:
            RunError: if the folder holds a run and ``resume`` is not asked for, if the run has another configuration
                or other networks, if another process writes it, or if it cannot be written.
        """
        self.lock()
        try:
            if resume and self.checkpoint_file.exists():
                self.check_config(config)
                self._restore(training)
                self.truncate(training.step)
            else:
                self.create(config)
        except BaseException:
            self.unlock()
            raise

    def lock(self) -> None:
        r"""Makes the folder, keeps other processes from writing it, and removes what a killed one left unfinished."""
        if self._lock is not None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.folder)
            for file in (self.config_file, self.metrics_file, self.checkpoint_file):
                discard_unfinished(file)
        except BlockingIOError:
            raise RunError(f"another process is writing {self.folder}; wait for it, or choose another folder") from None
        except OSError as error:
            raise self._unwritable(error) from error

    def unlock(self) -> None:
        r"""Lets others write."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def create(self, config: dict) -> None:
        r"""Makes the folder and writes ``config.json``.

        Raises:
            RunError: if there is a run already, or the folder cannot be written.
        """
        if self.checkpoint_file.exists():
            raise RunError(f"{self.folder} holds a run already; continue it with resume, or choose another folder")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole(self.config_file) as path:
                path.write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
            with whole(self.metrics_file):
                pass
        except OSError as error:
            raise self._unwritable(error) from error

    def config(self) -> dict:
        r"""The configuration with which the run was made."""
        try:
            config = json.loads(self.config_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.folder} is not a run: it has no config.json") from None
        except (OSError, ValueError):
            config = None
        if not isinstance(config, dict):
            raise RunError(f"{self.config_file} is not the JSON of a run; restore it, or start another run")
        return config

    @contextlib.contextmanager
    def writing(self):
        r"""Inside, a disk without room is a `RunError`, whoever met it: TensorBoard writes into the folder, too."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise RunError(f"cannot write to {self.folder} ({error.strerror}): make room and resume") from error

    def check_config(self, config: dict) -> None:
        r"""Raises a `RunError` that names each difference, unless the run was made with this configuration."""
        found = differences(self.config(), config, PLACES)
        if found:
            raise RunError(f"{self.folder} was made with another configuration: {'; '.join(found)}")

    def save(self, state: dict) -> None:
        r"""Replaces ``checkpoint.pt``, whole or not at all.

        Raises:
            TypeError: if the state holds more than tensors and plain values, which could not be read again.
            RunError: if it cannot be written, to a full disk, say; the checkpoint before it is kept.
        """
        check_plain(state, "state")
        try:
            with whole(self.checkpoint_file) as path, path.open("wb") as file:
                torch.save(state | {"format": FORMAT}, file)
        except (OSError, RuntimeError) as error:
            kept = "the one before it is kept" if self.checkpoint_file.exists() else "there is none before it"
            raise RunError(
                f"cannot write {self.checkpoint_file} ({line(error)}): make room and resume; {kept}"
            ) from error

    def load(self) -> dict:
        r"""The state in ``checkpoint.pt``, on the CPU.

        Raises:
            RunError: if it is missing, damaged, of another program, or holds more than tensors and plain values.
        """
        name = self.checkpoint_file
        try:
            state = torch.load(name, map_location="cpu", weights_only=True)
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{self.folder} is not a run: it has no checkpoint.pt") from None
        except pickle.UnpicklingError:
            raise RunError(
                f"{name} holds more than tensors and plain values, or is damaged; nothing was executed"
            ) from None
        except Exception as error:  # there is no end of ways in which damaged bytes can be misread
            raise RunError(f"{name} cannot be read ({type(error).__name__}): it is truncated or damaged") from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise RunError(f"{name} is a checkpoint of another program or version; expected format {FORMAT}")
        _check_sums(name)
        return state

    def append(self, record: dict) -> None:
        r"""Adds one line to ``metrics.jsonl``, with the time of day in seconds; what is not finite becomes null."""
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        try:
            with self.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain | {"time": round(time.time(), 3)}, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())  # before the checkpoint that counts on it
        except OSError as error:
            raise RunError(f"cannot write {self.metrics_file} ({error.strerror}): make room and resume") from error

    def truncate(self, step: int) -> None:
        r"""Takes the records behind ``step`` out of ``metrics.jsonl``, and a line that was cut off."""
        there = self.metrics_file.exists()
        lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines() if there else []
        kept = [line for line in lines if _step(line) <= step]
        with whole(self.metrics_file) as path:
            path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _restore(self, training) -> None:
        state = self.load()
        try:
            training.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{self.checkpoint_file} is of another pair or training: {line(error)}") from error

    def _unwritable(self, error: OSError) -> RunError:
        return RunError(f"cannot write to {self.folder} ({error.strerror}); choose another folder")


def _check_sums(file: Path) -> None:
    # torch reads numbers with flipped bits without a word.
    try:
        with zipfile.ZipFile(file) as parts:
            wrong = parts.testzip()
    except Exception as error:  # as in `Run.load`
        wrong = type(error).__name__
    if wrong:
        raise RunError(f"{file} fails its checksums ({wrong}): it is damaged")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
