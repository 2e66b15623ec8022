r"""Listeners, which are called after each step of a training."""

from typing import Protocol

import torch

from ...messages import only_warned
from ...runs.files import RunError
from ...seeding import forked
from .steps import Step


class Listener(Protocol):
    r"""The protocol of listeners, which `fit` calls after each step."""

    def after(self, step: Step, record: dict | None) -> None:
        r"""Called after each joint step; ``record`` is that of the history at the end of an epoch (or the training)."""


class Guarded:
    r"""Creates the listener that calls another one so that it cannot change the training.

    Errors become warnings, except for a `RunError`, which ends the training; random draws leave no trace.
    """

    def __init__(self, listener: Listener):
        self.listener = listener

    def after(self, step: Step, record: dict | None) -> None:
        r"""Calls the listener."""
        with only_warned(f"{type(self.listener).__name__}.after", but=(RunError,)), forked(), torch.enable_grad():
            self.listener.after(step, record)
