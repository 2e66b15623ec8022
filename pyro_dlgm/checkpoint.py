r"""Runs on disk: the only file that writes or reads them.

A run is a folder with ``config.json``, ``metrics.jsonl`` (one record a line) and ``checkpoint.pt`` (tensors and plain
values only: reading it executes nothing). A file is replaced whole or not at all.
"""

import json
import math
import pickle
import signal
import threading
import time
from pathlib import Path

import torch

from .files import whole

FORMAT = "pyro_dlgm-run-1"
EVERY = 10.0  # seconds between checkpoints; when they are taken changes nothing in the training


class RunError(Exception):
    r"""A folder that is no run, or a run that cannot be used as asked; one line that says what to do."""


class Run:
    r"""Creates the handle of a run's folder.

    Arguments:
        folder: where the run is or will be.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config_file, self.metrics_file = self.folder / "config.json", self.folder / "metrics.jsonl"
        self.checkpoint_file = self.folder / "checkpoint.pt"

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
                path.write_text(json.dumps(config, indent=1, ensure_ascii=False))
            self.metrics_file.write_text("")
        except OSError as error:
            raise RunError(f"cannot write to {self.folder} ({error.strerror}); choose another folder") from error

    def config(self) -> dict:
        r"""The configuration with which the run was made."""
        try:
            return json.loads(self.config_file.read_text())
        except FileNotFoundError:
            raise RunError(f"{self.folder} is not a run: it has no config.json") from None
        except ValueError:
            raise RunError(f"{self.config_file} is not JSON; restore it, or start another run") from None

    def check_config(self, config: dict) -> None:
        r"""Raises a `RunError` that names each difference, unless the run was made with this configuration."""
        saved, given = _flat(self.config()), _flat(json.loads(json.dumps(config)))
        differences = [
            f"{key} was {saved.get(key)!r}, now {given.get(key)!r}"
            for key in sorted(saved.keys() | given.keys())
            if saved.get(key) != given.get(key)
        ]
        if differences:
            raise RunError(f"{self.folder} was made with another configuration: {'; '.join(differences)}")

    def save(self, state: dict) -> None:
        r"""Replaces ``checkpoint.pt``, whole or not at all."""
        with whole(self.checkpoint_file) as path:
            torch.save(state | {"format": FORMAT}, path)

    def load(self) -> dict:
        r"""The state in ``checkpoint.pt``, on the CPU.

        Raises:
            RunError: if it is missing, damaged, of another program, or holds more than tensors and plain values.
        """
        name = self.checkpoint_file
        try:
            state = torch.load(name, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise RunError(f"{self.folder} is not a run: it has no checkpoint.pt") from None
        except pickle.UnpicklingError:
            raise RunError(
                f"{name} holds more than tensors and plain values, or is damaged; nothing was executed"
            ) from None
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            raise RunError(f"{name} cannot be read ({type(error).__name__}): it is truncated or damaged") from None
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise RunError(f"{name} is a checkpoint of another program or version; expected format {FORMAT}")
        return state

    def append(self, record: dict) -> None:
        r"""Adds one line to ``metrics.jsonl``."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def truncate(self, step: int) -> None:
        r"""Takes the records behind ``step`` out of ``metrics.jsonl``, and a line that was cut off."""
        lines = self.metrics_file.read_text().splitlines() if self.metrics_file.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        with whole(self.metrics_file) as path:
            path.write_text("".join(f"{line}\n" for line in kept))


class Keeper:
    r"""Creates the listener that keeps a training on disk, and saves before it gives way to Ctrl-C.

    Arguments:
        run: the run.
        training: what is kept.
    """

    def __init__(self, run: Run, training):
        self.run, self.training = run, training
        self.interrupted, self._saved = False, time.monotonic()

    def __enter__(self) -> "Keeper":
        self.run.save(self.training.state_dict())
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, *_) -> None:
        self.interrupted = True

    def after(self, step, record: dict | None) -> None:
        r"""Writes the record; saves every few seconds, at the end, and on Ctrl-C, which is raised then."""
        if record is not None:
            self.run.append(record)
        if self.interrupted or self.training.done or time.monotonic() - self._saved > EVERY:
            self.run.save(self.training.state_dict())
            self._saved = time.monotonic()
        if self.interrupted and not self.training.done:
            raise KeyboardInterrupt(f"saved at step {step.step}; continue with resume")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _flat(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
