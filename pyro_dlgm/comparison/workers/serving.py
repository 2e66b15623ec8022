r"""What a process does: it calls the tasks that arrive, and answers each. A task that fails ends nothing but itself."""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable
from typing import NamedTuple

import joblib
import torch

from ...messages import line

Task = Callable[[], object]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class Outcome(NamedTuple):
    r"""The end of a task.

    Attributes:
        value: what it returned; `None` if it failed.
        failure: why it failed, in one line, or `None`.
        warned: the texts of its warnings.
    """

    value: object
    failure: str | None = None
    warned: tuple[str, ...] = ()


def serve(pipe, threads: int, dtype: torch.dtype) -> None:
    r"""Calls the tasks that arrive, until the pipe or the first process ends, and answers each with its `Outcome`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    _keep_freed_memory()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(outcome(pipe.recv_bytes()))


def _keep_freed_memory() -> None:
    r"""Lets glibc keep arrays of less than 64 MB when they are freed, for the next ones.

    The same arrays come and go at each step. By default the pages of those above 32 MB, and what is free at the end of
    the heap, go back to the system and come again, cleared: about a twentieth of the time of a comparison. Up to 1 GB
    stays with each process instead.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # there is no glibc
        mallopt = ctypes.CDLL(None).mallopt
        # Older ones accept 32 MB at most; a threshold of the other kind alone would make small arrays slower.
        if mallopt(M_MMAP_THRESHOLD, 1 << 26) or mallopt(M_MMAP_THRESHOLD, 1 << 25):
            mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def sent(thing) -> bytes:
    r"""Returns a task or an outcome as bytes; functions and classes of a notebook or a script go by value."""
    return pickle.dumps(joblib.wrap_non_picklable_objects(thing, keep_wrapper=False))


def outcome(received: bytes) -> bytes:
    r"""Calls a task that was sent, and returns its `Outcome` as bytes."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        try:
            value, failure = pickle.loads(received)(), None
        except Exception as error:
            value, failure = None, f"{type(error).__name__}: {line(error)}"
    warned = tuple(dict.fromkeys(str(one.message) for one in seen if issubclass(one.category, UserWarning)))
    try:
        return sent(Outcome(value, failure, warned))
    except Exception as error:
        return sent(Outcome(None, f"what it returned cannot be sent: {type(error).__name__}: {line(error)}", warned))
