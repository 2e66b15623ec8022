r"""The points of each process of a training, and its batches."""

from collections.abc import Iterator
from itertools import chain, islice, pairwise

from torch import Tensor

from ..data.batches import Batches
from ..points import Points
from ..storage.orders import order


def parts(num_points: int, num: int) -> list[range]:
    r"""Returns the points of each of ``num`` processes: neighbours, disjoint, together all N; lengths differ by one."""
    bounds = [num_points * rank // num for rank in range(num + 1)]
    return [range(*pair) for pair in pairwise(bounds)]


class RankBatches(Batches):
    r"""Creates the batches of one process among several, from its part of the points.

    A batch of the training is the union of those of all processes. A pass has ⌈N / batch_size⌉ steps, and each process
    divides its points evenly among them: unions have at most ``batch_size`` points, up to the number of processes.

    Arguments:
        x, batch_size, transform, beside: as of `Batches`; x holds the points of all processes.
        rank, num: the number of this process, from 0, and how many there are.

    Raises:
        ValueError: if a process has fewer points than there are steps in a pass.
    """

    def __init__(self, x, batch_size: int, *, rank: int, num: int, transform=None, **beside: Tensor | None):
        super().__init__(x, batch_size, transform=transform, **beside)
        self.parts = parts(self.num_points, num)
        self.own = self.parts[rank]
        fewest = min(map(len, self.parts))
        if fewest < len(self):
            raise ValueError(
                f"batch_size is {self.batch_size}, which takes {len(self)} steps through {self.num_points} points, and "
                f"one of {num} processes has {fewest} points; expected a point of each process in each batch: a larger "
                "batch_size, or fewer processes"
            )

    def together(self, batch: Points) -> int:
        r"""Returns the number of points in the latest batches of all processes."""
        step = self._position - 1
        return sum(len(own) // len(self) + (step < len(own) % len(self)) for own in self.parts)

    def _left(self) -> Iterator[Tensor]:
        steps, done = len(self), self._position
        size, longer = divmod(len(self.own), steps)  # the first batches have a point more
        own, later = order(len(self.own), self._order, self.block), max(done, longer)
        first = islice(own.batches(size + 1, done), later - done)
        rest = own.batches(size, skipped=later * size + longer)
        return (rows + self.own.start for rows in chain(first, rest))
