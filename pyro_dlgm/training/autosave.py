r"""Saving a run while its training goes on; on Ctrl-C, a checkpoint first, then KeyboardInterrupt."""

import contextlib
import signal
import threading
import time

from ..guides.rows import in_files
from ..optim.nan_guard import bad_parameter
from ..runs.run import Run

EVERY = 10.0  # seconds between checkpoints; when they are taken changes nothing in the training


class Autosave(contextlib.ExitStack):
    r"""Creates the listener that keeps metrics and checkpoints; inside its context, Ctrl-C saves a checkpoint first.

    Arguments:
        run: the run, locked.
        training: what is saved.
    """

    def __init__(self, run: Run, training):
        super().__init__()
        self.run, self.training = run, training
        self.interrupted, self._saved = False, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, self._interrupt)
            self.callback(signal.signal, signal.SIGINT, before or signal.SIG_DFL)

    def after(self, step, record: dict | None) -> None:
        r"""Writes the record; saves every few seconds, at the end, and on Ctrl-C, which is raised then.

        Raises:
            FloatingPointError: if a parameter is not finite: the checkpoint before it is kept.
        """
        if record is not None:
            self.run.append(record)
        if self.interrupted or self.training.done or time.monotonic() - self._saved > EVERY:
            self._save(step.step)
        if self.interrupted and not self.training.done:
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
        self.close()  # a second Ctrl-C does not wait for the step to end


def save(run: Run, training) -> None:
    r"""Saves a checkpoint, which replaces the one before; rows in files need no way back beyond it then."""
    run.save(training.state_dict())
    for table in in_files(training.svi.model, training.svi.guide):
        table.files.forget()
