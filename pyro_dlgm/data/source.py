r"""Batches from a source, such as a loader or a generator for each epoch, for data larger than memory."""

import contextlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from ..points import Points
from ..seeding import forked
from .batches import transformed
from .conversion import whole
from .streamed_images import Streamed

UNSOUGHT = (
    "the source cannot be sought: {} batches of this epoch are drawn again and skipped, so the next ones are right "
    "only if the source repeats itself. For an exact resume give a function (epoch, start) that yields the batches of "
    "an epoch from one on, a list of batches, or a DataLoader of a dataset with indices"
)


def is_source(x) -> bool:
    r"""Returns whether x is a source of batches, rather than a tensor or images in files."""
    return not isinstance(x, Tensor | Streamed)


class Source:
    r"""Creates the batches of a source, as `Points`; a pass through it is an epoch.

    An epoch ends after ``len(source)`` batches or, if it has no length, after N points.

    Arguments:
        source: yields `Points`: an iterable with an epoch per pass, such as a DataLoader; an endless iterator; or a
            function that returns an iterator for an epoch, of no argument, of (epoch), from 0, or of (epoch, start), to
            begin with the batch ``start`` of the epoch.
        size: the number N of all points.
        transform: applied to each batch, or `None`.
        device: where to move batches, or `None`.

    Attributes:
        epoch: the number of the pass, counted from 1.
        ended: whether the latest batch was the last one of its pass.
    """

    batch_size = None  # the source's own

    def __init__(self, source: Iterable | Callable, size: int, *, transform=None, device=None):
        self.source, self.num_points = source, whole("size", size)
        self.transform, self._to = transform, device
        self.epoch, self._done, self._seen, self.ended = 0, 0, 0, True
        self.length = _length(source)
        self._state, self._left, self._first = torch.get_rng_state(), None, None
        self.device = self.peek().x.device

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError(
                f"{type(self.source).__name__} has no length, so epochs cannot be counted in advance: give steps="
            )
        return self.length

    def peek(self) -> Points:
        r"""Returns the first batch of a pass, before the transform; an iterator keeps its position."""
        if self._first is None:
            with forked(), _kept(getattr(self.source, "generator", None)):
                batches = self._begin(0, 0)
                self._first = self._checked(next(batches, None))
            if isinstance(self.source, Iterator):
                self.source = itertools.chain([self._first], batches)
        return self._first

    def first(self, num: int) -> Points:
        r"""Returns the first points of a pass (from one batch at most), after one draw of the transform."""
        return transformed(self.spread(num), self.transform)

    def spread(self, num: int) -> Points:
        r"""Returns the first points of a pass (from one batch at most), before the transform."""
        return self.peek()[:num]

    def state_dict(self) -> dict:
        r"""Returns the number of this pass, its progress, and the state of the generator at its beginning."""
        place = {"epoch": self.epoch, "done": self._done, "seen": self._seen, "ended": self.ended}
        return place | {"generator": self._state}

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` saved: the next pass is the rest of that one, if the source can be sought."""
        self.epoch, self._done, self._seen = state["epoch"], state["done"], state["seen"]
        self.ended, self._state, self._left = state["ended"], state["generator"], None

    def __iter__(self) -> Iterator[Points]:
        if self.ended:
            self._state = torch.get_rng_state()
            self.epoch, self._done, self._seen, self.ended = self.epoch + 1, 0, 0, False
            self._left = self._begin(self.epoch - 1, 0)
        elif self._left is None:
            self._left = self._sought()
        while not self.ended:
            batch = self._checked(next(self._left, None))
            self._done, self._seen = self._done + 1, self._seen + len(batch)
            self.ended = self._seen >= self.num_points if self.length is None else self._done == self.length
            yield transformed(batch, self.transform)

    def _begin(self, epoch: int, start: int) -> Iterator[Points]:
        r"""Returns the batches of an epoch, from ``start`` if the source supports that."""
        if not callable(self.source):
            return iter(self.source)
        return iter(self.source(*(epoch, start)[: self._arguments()]))

    def _arguments(self) -> int:
        r"""Returns how many of (epoch, start) the source takes; 0 if it is not a function."""
        if not callable(self.source):
            return 0
        asked = inspect.signature(self.source).parameters.values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return min(2, sum(p.kind in positional and p.default is p.empty for p in asked))

    def _sought(self) -> Iterator[Points]:
        r"""Returns the rest of a pass after a resume."""
        if self._arguments() == 2:
            return self._begin(self.epoch - 1, self._done)
        if isinstance(self.source, Sequence):
            return iter(self.source[self._done :])
        if self._done and not _is_ordered(self.source) and self._arguments() == 0:
            warnings.warn(UNSOUGHT.format(self._done), stacklevel=2)
        # A loader draws its order when a pass begins; with the generator's state of then, it draws the same order.
        with forked():
            torch.set_rng_state(self._state)
            left = self._begin(self.epoch - 1, 0)
            for _ in range(self._done):
                next(left, None)
        return left

    def _checked(self, batch) -> Points:
        if batch is None:
            raise ValueError(
                f"the source ended after {self._done} batches, {self._seen} of size={self.num_points} points; expected "
                "an epoch of size points: correct size=, or give a function that returns a new iterator for each epoch"
            )
        if not isinstance(batch, Points):
            raise TypeError(f"the source yields a {type(batch).__name__}; expected Points(x, index), a batch each")
        batch.check()  # before it is moved to a device, where checks would wait
        batch = batch if self._to is None else batch.to(self._to)
        if self._seen + len(batch) > self.num_points and self.length is None:
            raise ValueError(
                f"the source yields more than size={self.num_points} points in an epoch; expected batches that end "
                "with them: correct size="
            )
        return batch


def _length(source) -> int | None:
    try:
        return len(source)
    except TypeError:  # a loader of a dataset without length raises here
        return None


def _is_ordered(source) -> bool:
    r"""Returns whether torch's generator determines the order of a pass, as for an ordinary DataLoader."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return False
    plain = isinstance(source.sampler, SequentialSampler | RandomSampler) and type(source.batch_sampler) is BatchSampler
    return plain and source.generator is None and getattr(source.sampler, "generator", None) is None


@contextlib.contextmanager
def _kept(generator: torch.Generator | None):
    r"""Context manager: restores the generator, if there is one."""
    state = None if generator is None else generator.get_state()
    try:
        yield
    finally:
        if generator is not None:
            generator.set_state(state)
