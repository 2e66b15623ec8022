r"""Joining the processes of a training, in torch's process group."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from .failures import told
from .group import Alone, Ranks

LONGEST = timedelta(minutes=30)  # to wait for the others: the first process validates and draws pictures alone
LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HOW = "torchrun --nproc-per-node=2 script.py, or torch.distributed.init_process_group before fit"
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@contextlib.contextmanager
def joined(asked: bool, device: torch.device) -> Iterator[Alone]:
    r"""Context manager: yields the processes of the training.

    Arguments:
        asked: whether it is a training of all processes of torch's default process group. If there is none, it is
            begun as the launcher's environment says, and ended with the context.
        device: that of the training.

    Raises:
        ValueError: if there is neither a process group nor a launcher.
    """
    begins = asked and not (dist.is_available() and dist.is_initialized())
    if begins:
        _begin(device)
    try:
        if not asked or dist.get_world_size() == 1:
            yield Alone()
            return
        with told(dist.get_rank()):
            yield Ranks(_own(device))
    finally:
        if begins:
            dist.destroy_process_group()


def _own(device: torch.device) -> torch.device:
    r"""Returns the device of this process: for "cuda" the one whose number the launcher gives it."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", dist.get_rank() % torch.cuda.device_count())))


def _begin(device: torch.device) -> None:
    missing = [name for name in LAUNCHER if name not in os.environ]
    if missing or not dist.is_available():
        raise ValueError(
            f"ranks is True, and there is neither a process group of torch nor {', '.join(missing)} in the "
            f"environment; expected one of them: {HOW}"
        )
    dist.init_process_group(BACKENDS.get(device.type, "gloo"), timeout=LONGEST)
