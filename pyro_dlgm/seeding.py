r"""Generators forked, seeded and put back: those of the CPU and of every device that is in use.

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
    before = states()
    try:
        if seed is not None:
            _sow(seed)
        yield
    finally:
        restore(before)


def _sow(seed: int) -> None:
    # torch.manual_seed would also seed the CUDA devices that are not in use, and hence not forked.
    torch.default_generator.manual_seed(seed)
    if _cuda_in_use():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _cuda_in_use() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def states() -> dict[str, torch.Tensor]:
    r"""The states of the global generators by device: of the CPU, and of all others in use."""
    found = {"cpu": torch.get_rng_state()}
    if _cuda_in_use():
        found |= {f"cuda:{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(states: dict[str, torch.Tensor]) -> None:
    r"""Restores what `states` returned, but for devices that are not there: another machine may have fewer."""
    setters = {"cpu": lambda state, device: torch.set_rng_state(state)}
    if torch.cuda.is_available():
        numbers = range(torch.cuda.device_count())
        setters |= {f"cuda:{number}": torch.cuda.set_rng_state for number in numbers}
    if torch.backends.mps.is_available():
        setters["mps"] = lambda state, device: torch.mps.set_rng_state(state)
    for device in states.keys() & setters.keys():
        setters[device](states[device], device)


def seeds(num: int, seed: int | None = None) -> list[int]:
    r"""``num`` seeds for what must not share random numbers; they follow from one, or from the global generator."""
    with forked(seed):
        return torch.randint(2**31, (num,), device="cpu").tolist()
