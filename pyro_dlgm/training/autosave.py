r"""Saves a run during its training; on Ctrl-C, saves a checkpoint, then raises KeyboardInterrupt."""

import contextlib
import signal
import threading
import time

from ..guides.rows import in_files
from ..optim.attempt import bad_parameter
from ..runs.run import Run

EVERY = 10.0  # seconds between checkpoints; their timing does not affect the training


class Autosave(contextlib.ExitStack):
    r"""Creates the listener that writes metrics and checkpoints; inside its context, Ctrl-C saves a checkpoint first.

    Arguments:
        run: the run, locked.
        training: the training to save.
    """

    def __init__(self, run: Run, training):
        super().__init__()
        self.run, self.training = run, training
        self.interrupted, self._saved = False, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, self._interrupt)
            self.callback(signal.signal, signal.SIGINT, before or signal.SIG_DFL)

    def after(self, step, record: dict | None) -> None:
        r"""Writes the record; saves every few seconds, at the end, and on Ctrl-C, then raises KeyboardInterrupt.

        Raises:
            FloatingPointError: if a parameter is not finite; the previous checkpoint is kept.
        """
        if record is not None and self.training.ranks.first:
            self.run.append(record)
        asks = self.interrupted or time.monotonic() - self._saved > EVERY
        saves, stops = self.training.ranks.decided(asks, self.interrupted)
        if saves or self.training.done:
            self._save(step.step)
        if stops and not self.training.done:
            raise KeyboardInterrupt(f"saved at step {step.step}; continue with resume")

    def _save(self, step: int) -> None:
        bad = bad_parameter(self.training.svi)
        if bad:
            raise FloatingPointError(
                f"{bad} is not finite at step {step}; lower lr or set clip_norm. "
                f"{self.run.checkpoint_file} is from before that"
            )
        save(self.run, self.training)
        self._saved = time.monotonic()

    def _interrupt(self, *_) -> None:
        self.interrupted = True
        self.close()  # a second Ctrl-C does not wait for the end of the step


def save(run: Run, training) -> None:
    r"""Saves a checkpoint in place of the previous one, and drops the journals of rows in files up to it."""
    training.ranks.save(run, training.svi, training.state_dict())
    for table in in_files(training.svi.model, training.svi.guide):
        table.files.forget()
