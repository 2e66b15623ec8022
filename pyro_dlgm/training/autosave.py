r"""Saving a run while its training goes on; on Ctrl-C, a checkpoint first, then KeyboardInterrupt."""

import signal
import threading
import time

from ..runs.run import Run

EVERY = 10.0  # seconds between checkpoints; when they are taken changes nothing in the training


class Autosave:
    r"""Creates the listener that saves a training on disk.

    Arguments:
        run: the run.
        training: what is saved.
    """

    def __init__(self, run: Run, training):
        self.run, self.training = run, training
        self.interrupted, self._saved = False, time.monotonic()

    def __enter__(self) -> "Autosave":
        self.run.lock()
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            self.run.save(self.training.state_dict())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._give_back()
        self.run.unlock()

    def after(self, step, record: dict | None) -> None:
        r"""Writes the record; saves every few seconds, at the end, and on Ctrl-C, which is raised then.

        Raises:
            FloatingPointError: if a parameter is not finite: the checkpoint before it is kept.
        """
        if record is not None:
            self.run.append(record)
        if self.interrupted or self.training.done or time.monotonic() - self._saved > EVERY:
            self._check_finite(step.step)
            self.run.save(self.training.state_dict())
            self._saved = time.monotonic()
        if self.interrupted and not self.training.done:
            raise KeyboardInterrupt(f"saved at step {step.step}; continue with resume")

    def _interrupt(self, *_) -> None:
        self.interrupted = True
        self._give_back()  # a second Ctrl-C does not wait for the step to end

    def _give_back(self) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before or signal.SIG_DFL)

    def _check_finite(self, step: int) -> None:
        for kind in ("model", "guide"):
            for name, p in getattr(self.training.svi, kind).named_parameters():
                if not p.isfinite().all():
                    raise FloatingPointError(
                        f"{kind}.{name} is not finite at step {step}; lower lr or set clip_norm. "
                        f"{self.run.checkpoint_file} is from before that"
                    )
