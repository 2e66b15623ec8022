r"""The processes of a training, and their messages to each other.

Each step on q or on both sends the gradients of its dense parameters, 4 bytes for each parameter in float32, and a few
numbers: the loss, two wishes, and for each tensor whether it has a gradient. With weights of points, another message
sends their sum. Rows and data are never sent.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import seeding
from ..optim.nan_guard import interval
from ..points import Points
from ..runs.run import Run
from .batches import RankBatches, parts
from .failures import connected
from .rows import own, parted, places, tables


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
        r"""Copies the dense parameters of the first process to all, and keeps the rows of this process's points."""

    def same(self, *programs: nn.Module) -> None:
        r"""Copies the dense parameters and buffers of the first process to all."""

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
        self._wishes, self._told, self._kept = (False, False), torch.zeros(2), {}

    def seed(self, seed: int | None) -> int:
        r"""Returns a seed for each process, from that of the training or from the first one's generator."""
        drawn = int(torch.randint(2**31, (), device="cpu")) if seed is None else seed
        return seeding.seeds(self.num, self.agreed(drawn))[self.rank]

    def share(self, *programs: nn.Module, num_points: int) -> None:
        r"""Copies the dense parameters of the first process to all, and keeps the rows of this process's points."""
        for table in tables(*programs):
            table.keep(self.part(num_points))
        self.same(*programs)

    def same(self, *programs: nn.Module) -> None:
        r"""Copies the dense parameters and buffers of the first process to all."""
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

    def together(self, batches: RankBatches, batch: Points) -> int:
        r"""Returns the number of points in the latest batches of all processes."""
        return batches.together(batch)

    def summed(self, loss: Tensor, dense: list[Tensor]) -> Tensor:
        r"""Returns the sum of the loss over all processes, and adds up the gradients of the parameters in place.

        Each process gives those of its part of a mean, so that the sums are that mean and its gradients. A gradient
        that exists in no process stays `None`.
        """
        mine = tuple(p.grad is not None for p in dense)
        given = [torch.zeros_like(p) if p.grad is None else p.grad for p in dense]
        wishes = [torch.full_like(loss, float(wish)) for wish in self._wishes]
        numbers = [*(g.flatten() for g in given), torch.stack([loss.detach(), *wishes]), self._flags(mine, loss)]
        *sums, told, flags = self.total(torch.cat(numbers)).split([n.numel() for n in numbers])
        # Reading the flags waits for the device; a process that has all gradients need not.
        exist = mine if all(mine) else flags.tolist()
        for p, g, exists in zip(dense, sums, exist, strict=True):
            if exists:
                p.grad = torch.empty_like(p) if p.grad is None else p.grad
                p.grad.copy_(g.view_as(p))
        self._told = told[1:]
        return told[0].to(loss.dtype)

    def _flags(self, flags: tuple[bool, ...], like: Tensor) -> Tensor:
        # Kept, since a copy to the device waits for it.
        if flags not in self._kept:
            self._kept[flags] = torch.tensor(flags, dtype=like.dtype, device=like.device)
        return self._kept[flags]

    def total(self, value: Tensor) -> Tensor:
        r"""Returns the sum of the value over all processes, in place."""
        with connected(self.rank, self.num):
            dist.all_reduce(value)
        return value

    def agreed(self, value):
        r"""Returns the value of the first process, a plain one."""
        held = [value]
        with connected(self.rank, self.num):
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
        self._wishes = save and not found[0], stop
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
