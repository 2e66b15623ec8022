r"""Generators forked, seeded and put back: those of the CPU and of every CUDA device that is in use.

They are global, as are train/eval flags and Pyro's handlers, so one thread at a time has them: see `alone`.
"""

import contextlib
import os
import threading

import torch

_LOCK = threading.RLock()
_training: list[int] = []  # the thread of the training that goes on
LOOK = 0.1  # seconds between two looks whether one has begun


@contextlib.contextmanager
def alone(*, training: bool = False):
    r"""Context manager: this is the only thread that trains, evaluates or draws under a seed.

    Others wait until it is over, but no one waits for a training.

    Arguments:
        training: whether this is a training.

    Raises:
        RuntimeError: if a training goes on in another thread.
    """
    while not _LOCK.acquire(timeout=LOOK):
        if _training and _training[0] != threading.get_ident():
            raise RuntimeError(
                "a training goes on in another thread, and generators, train/eval flags and Pyro's handlers are one "
                "for all threads; evaluate after it, in a listener of it (listeners=), or in another process"
            )
    try:
        if training:
            _training.append(threading.get_ident())
        yield
    finally:
        if training:
            _training.pop()
        _LOCK.release()


def _free() -> None:
    # Of a forked process only the thread goes on that forked it; what others held there is held by no one.
    global _LOCK
    if not _LOCK.acquire(blocking=False):
        _LOCK = threading.RLock()
        _training.clear()
    else:
        _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)


@contextlib.contextmanager
def forked(seed: int | None = None):
    r"""Context manager: the global generators are forked, and seeded if there is a seed; draws leave no trace.

    Other threads wait meanwhile: `alone`.
    """
    with alone(), reseeded(seed):
        yield


@contextlib.contextmanager
def reseeded(seed: int | None = None):
    r"""Context manager: as `forked`, for what is a part of a training: backward passes have threads of their own."""
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else []):
        if seed is not None:
            # torch.manual_seed would also seed the CUDA devices that are not in use, and hence not forked.
            torch.default_generator.manual_seed(seed)
            if in_use:
                torch.cuda.manual_seed_all(seed)
        yield


def seeds(num: int, seed: int | None = None) -> list[int]:
    r"""``num`` seeds for what must not share random numbers; they follow from one, or from the global generator."""
    with forked(seed):
        return torch.randint(2**31, (num,), device="cpu").tolist()
