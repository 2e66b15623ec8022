r"""The processes of a training, and what they say to each other.

Each step on q or on both sends the gradients of its dense parameters and three numbers: 4 bytes for each parameter in
float32. With weights of points, another message sends their sum. Rows and data are never sent.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import seeding
from ..messages import line
from ..optim.nan_guard import interval
from ..points import Points
from ..runs.files import RunError
from ..runs.run import Run
from .part import Part, parts
from .rows import own, parted, places, tables

LONGEST = timedelta(minutes=30)  # to wait for the others: the first process validates and draws pictures alone
LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HOW = "torchrun --nproc-per-node=2 script.py, or torch.distributed.init_process_group before fit"
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class Alone:
    r"""A training on one process, which has all points; the base of `Ranks`.

    Attributes:
        rank, num: the number of this process, from 0, and how many there are.
        device: the device that this process takes of those that the training may use; `None`: as it is.
    """

    rank, num, device = 0, 1, None
    summed = None  # as of `SVI`: there is nothing to add

    @property
    def first(self) -> bool:
        r"""Whether this process writes the run."""
        return self.rank == 0

    def part(self, num_points: int) -> range:
        r"""Returns the points of this process."""
        return parts(num_points, self.num)[self.rank]

    def seed(self, seed: int | None) -> int | None:
        r"""Returns the seed of this process."""
        return seed

    def share(self, *programs: nn.Module, num_points: int) -> None:
        r"""Gives the programs of all processes the dense parameters of the first, and the rows of their own points."""

    def same(self, *programs: nn.Module) -> None:
        r"""Gives the programs of all processes the dense parameters and buffers of the first."""

    def together(self, batches, batch: Points) -> int:
        r"""Returns the number of points in the latest batches of all processes."""
        return len(batch)

    def total(self, value: Tensor) -> Tensor:
        r"""Returns the sum of the value over all processes."""
        return value

    def agreed(self, value):
        r"""Returns the value of the first process, a plain one."""
        return value

    def decided(self, save: bool, stop: bool) -> tuple[bool, bool]:
        r"""Returns whether to save and to stop now, which all processes do after the same step if one asks for it."""
        return save, stop

    def save(self, run: Run, svi, state: dict) -> None:
        r"""Saves the state of the training as the run's checkpoint."""
        run.save(state)

    def own(self, state: dict, svi, num_points: int) -> dict:
        r"""Returns the state of this process from that in a checkpoint, of any number of processes."""
        return own(state, svi, self.part(num_points), num_points, self.rank, self.num)


class Ranks(Alone):
    r"""Creates the view that one process has of several: those of torch's default process group.

    Arguments:
        device: the device of the training.
    """

    def __init__(self, device: torch.device):
        self.rank, self.num, self.device = dist.get_rank(), dist.get_world_size(), device
        self.saves = self._calls = 0
        self._asked, self._told = (False, False), torch.zeros(2)

    def seed(self, seed: int | None) -> int:
        r"""Returns a seed for each process, from that of the training or from the first one's generator."""
        drawn = int(torch.randint(2**31, (), device="cpu")) if seed is None else seed
        return seeding.seeds(self.num, self.agreed(drawn))[self.rank]

    def share(self, *programs: nn.Module, num_points: int) -> None:
        r"""Gives the programs of all processes the dense parameters of the first, and the rows of their own points."""
        for table in tables(*programs):
            table.keep(self.part(num_points))
        self.same(*programs)

    def same(self, *programs: nn.Module) -> None:
        r"""Gives the programs of all processes the dense parameters and buffers of the first."""
        rows = {table.weight for table in tables(*programs)}
        dense = [v.detach() for p in programs for v in (*p.parameters(), *p.buffers()) if v not in rows]
        shapes = [tuple(v.shape) for v in dense]
        if self.agreed(shapes) != shapes:
            raise ValueError(
                f"process {self.rank} has {len(shapes)} parameters and buffers, not those of process 0; expected the "
                "same networks in all processes"
            )
        for mine, first in zip(dense, self.agreed([v.cpu() for v in dense]), strict=True):
            mine.copy_(first)

    def together(self, batches: Part, batch: Points) -> int:
        r"""Returns the number of points in the latest batches of all processes."""
        return batches.together(batch)

    def summed(self, loss: Tensor, dense: list[Tensor]) -> Tensor:
        r"""Returns the sum of the loss over all processes, and adds up the gradients of the parameters in place.

        Each process gives those of its part of a mean, so that the sums are that mean and its gradients.
        """
        for p in dense:
            if p.grad is None:  # it may have one in another process
                p.grad = torch.zeros_like(p)
        asked = [torch.full_like(loss, float(wish)) for wish in self._asked]
        numbers = torch.cat([*(p.grad.flatten() for p in dense), torch.stack([loss.detach(), *asked])])
        *sums, told = self.total(numbers).split([*(p.numel() for p in dense), 3])
        for p, g in zip(dense, sums, strict=True):
            p.grad.copy_(g.view_as(p))
        self._told = told[1:]
        return told[0].to(loss.dtype)

    def total(self, value: Tensor) -> Tensor:
        r"""Returns the sum of the value over all processes, in place."""
        with _connected():
            dist.all_reduce(value)
        return value

    def agreed(self, value):
        r"""Returns the value of the first process, a plain one."""
        held = [value]
        with _connected():
            dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def decided(self, save: bool, stop: bool) -> tuple[bool, bool]:
        r"""Returns whether to save and to stop now: what a process asks for travels with the next step."""
        self._calls += 1
        if self._calls % interval(self.device):  # reading what was told waits for the device
            found = False, False
        else:
            stopping = bool(self._told[1] > 0)
            found = stopping or bool(self._told[0] > 0), stopping
        self._asked = save and not found[0], stop
        return found

    def save(self, run: Run, svi, state: dict) -> None:
        r"""Saves the state of the training as the run's checkpoint: its rows by each process, all else by the first.

        The files of rows have new names, and the former ones stay until the first process has replaced
        ``checkpoint.pt``, which names them: a killed training leaves a whole checkpoint.
        """
        self.saves += 1
        rest, mine = parted(state, places(svi, state))
        names = [f"checkpoint-{self.saves}-{rank}-of-{self.num}.pt" for rank in range(self.num)]
        run.save_part(names[self.rank], mine)
        self._wait()
        if self.first:
            run.save(rest | {"parts": names, "saves": self.saves})
        self._wait()

    def own(self, state: dict, svi, num_points: int) -> dict:
        r"""Returns the state of this process from that in a checkpoint, of any number of processes."""
        self.saves = state.get("saves", 0)
        return super().own(state, svi, num_points)

    def _wait(self) -> None:
        self.total(torch.zeros((), device=self.device)).item()


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
        yield Ranks(_own(device)) if asked and dist.get_world_size() > 1 else Alone()
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


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            f"process {dist.get_rank()} has lost the others ({line(error)}): one has ended, or was silent for as long "
            "as the process group waits. The error of the process that ended first says why; go on from the last "
            "checkpoint with resume=True, on as many processes or on others"
        ) from error
