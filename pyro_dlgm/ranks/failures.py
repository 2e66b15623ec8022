r"""What ended a process of a training, told to the others through the store of torch's process group."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist

from ..messages import line
from ..runs.files import RunError

KEY = "pyro_dlgm/failure/{}"  # in the store, by the number of the process


class LostProcess(RunError):
    r"""Another process has ended, or was silent for too long."""


@contextlib.contextmanager
def told(rank: int) -> Iterator[None]:
    r"""Context manager: tells the other processes the error that ends it, unless that is the loss of one of them."""
    with _reachable():
        _store().delete_key(KEY.format(rank))  # of an earlier training
    try:
        yield
    except LostProcess:
        raise
    except BaseException as error:
        with _reachable():
            _store().set(KEY.format(rank), f"{type(error).__name__}: {line(error)}")
        raise


@contextlib.contextmanager
def connected(rank: int, num: int) -> Iterator[None]:
    r"""Context manager of a message: an error of the connection becomes a `LostProcess` with the error of the other."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:  # of this process; it is a RuntimeError as well
        raise
    except RuntimeError as error:
        raise LostProcess(
            f"process {rank} has lost the others ({line(error)}): {_why(num)}. Go on from the last checkpoint with "
            "resume=True, on as many processes or on others"
        ) from error


def _why(num: int) -> str:
    store, found = _store(), []
    with _reachable():
        for rank in range(num):
            if store.check([KEY.format(rank)]):
                found.append(f"process {rank} ended with {store.get(KEY.format(rank)).decode()}")
    return "; ".join(found) or (
        "one has ended, or was silent for as long as the process group waits; the error of the process that ended "
        "first says why"
    )


def _store():
    return dist.distributed_c10d._get_default_store()  # not imported above: some builds of torch have no processes


def _reachable():
    # The store may be gone with the process that had it, and MPI has none; then the error that is being handled counts.
    return contextlib.suppress(RuntimeError, AttributeError, ValueError)
