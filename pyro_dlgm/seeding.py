r"""Forks, seeds and restores random generators: those of the CPU and of every device in use.

Generators, train/eval flags and Pyro's handlers are global, so only one thread at a time may use them: see `alone`.
"""

import contextlib
import os
import threading

import torch

_LOCK = threading.RLock()
_training: list[int] = []  # the thread of the training in progress
LOOK = 0.1  # seconds between two checks whether a training has begun


@contextlib.contextmanager
def alone(*, training: bool = False):
    r"""Context manager: only this thread trains, evaluates or draws under a seed.

    Other threads wait until it is done, unless it is a training: then they get an error.

    Arguments:
        training: whether this is a training.

    Raises:
        RuntimeError: if a training is in progress in another thread.
    """
    while not _LOCK.acquire(timeout=LOOK):
        if _training and _training[0] != threading.get_ident():
            raise RuntimeError(
                "a training is in progress in another thread, and all threads share generators, train/eval flags and "
                "Pyro's handlers; evaluate after it, in one of its listeners (listeners=), or in another process"
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
    # In a forked process only the forking thread continues: locks of other threads have no owner there.
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
    r"""Context manager: forks the global generators, and seeds them if there is a seed; draws leave no trace.

    Other threads wait until it is done: see `alone`.
    """
    with alone(), reseeded(seed):
        yield


@contextlib.contextmanager
def reseeded(seed: int | None = None):
    r"""Context manager: like `forked`, without the lock, inside a training: backward passes have their own threads."""
    before = states()
    try:
        if seed is not None:
            _sow(seed)
        yield
    finally:
        restore(before)


def _sow(seed: int) -> None:
    # torch.manual_seed would also seed CUDA devices that are not in use, and hence not forked.
    torch.default_generator.manual_seed(seed)
    if _cuda_in_use():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def _cuda_in_use() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def states() -> dict[str, torch.Tensor]:
    r"""Returns the states of the global generators by device: the CPU, and all others in use."""
    found = {"cpu": torch.get_rng_state()}
    if _cuda_in_use():
        found |= {f"cuda:{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps.get_rng_state()
    return found


def restore(states: dict[str, torch.Tensor]) -> None:
    r"""Restores what `states` returned, except for devices that this machine does not have."""
    setters = {"cpu": lambda state, device: torch.set_rng_state(state)}
    if torch.cuda.is_available():
        numbers = range(torch.cuda.device_count())
        setters |= {f"cuda:{number}": torch.cuda.set_rng_state for number in numbers}
    if torch.backends.mps.is_available():
        setters["mps"] = lambda state, device: torch.mps.set_rng_state(state)
    for device in states.keys() & setters.keys():
        setters[device](states[device], device)


def seeds(num: int, seed: int | None = None) -> list[int]:
    r"""Returns ``num`` seeds for independent random numbers, derived from ``seed`` or from the global generator."""
    with forked(seed):
        return torch.randint(2**31, (num,), device="cpu").tolist()
