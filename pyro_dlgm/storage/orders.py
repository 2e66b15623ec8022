r"""Orders of a pass through many points, computed from a seed in the memory of one block."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

WHOLE = 2**20  # up to this number of points, the order of a pass is drawn as one permutation
CHUNK = 2**16  # places to compute at a time
ROUNDS = 6
MIX = (-7046029254386353131, -4658895280553007687)  # odd factors that scatter the bits of a whole number


class Order:
    r"""The base of orders of 0..N−1, computed chunk by chunk.

    Attributes:
        lengths: the lengths of the chunks.
    """

    lengths: list[int]

    def chunk(self, number: int) -> Tensor:
        r"""Returns the points in a chunk."""
        raise NotImplementedError

    def batches(self, size: int, first: int = 0, *, skipped: int = 0) -> Iterator[Tensor]:
        r"""Yields the points of each batch of that size, from batch ``first`` on; the last one may be shorter.

        Arguments:
            size: the number of points in a batch.
            first: the number of batches to leave out.
            skipped: the number of points to leave out before these.
        """
        skipped, left = skipped + first * size, torch.empty(0, dtype=torch.long)
        for number, length in enumerate(self.lengths):
            if skipped >= length:
                skipped -= length
                continue
            chunk = self.chunk(number)[skipped:]
            left, skipped = torch.cat([left.to(chunk.device), chunk]), 0
            whole = len(left) // size * size
            yield from (left[i : i + size] for i in range(0, whole, size))
            left = left[whole:]
        if len(left):
            yield left


class Permutation(Order):
    r"""Creates the order that a tensor (N,) holds."""

    def __init__(self, points: Tensor):
        self.points, self.lengths = points, [len(points)]

    def chunk(self, number: int) -> Tensor:
        r"""Returns all points."""
        return self.points


class Blocked(Order):
    r"""Creates an order of shuffled blocks of neighbouring points, with the points of each block shuffled.

    Arguments:
        num_points: the number N of points.
        seed: the seed of the order.
        block: the number of points in a block.
    """

    def __init__(self, num_points: int, seed: int, block: int):
        self.seed, self.block = seed, block
        self.blocks = torch.randperm(math.ceil(num_points / block), generator=_generator(seed)).tolist()
        self.lengths = [min(block, num_points - number * block) for number in self.blocks]

    def chunk(self, number: int) -> Tensor:
        r"""Returns the points of a block."""
        inside = torch.randperm(self.lengths[number], generator=_generator(self.seed + 1 + number))
        return inside + self.blocks[number] * self.block


class Scattered(Order):
    r"""Creates an order in which any point can follow any other, as in a random permutation.

    The bits of a place are split into two halves, which are mixed in turns (a Feistel network): this is a bijection on
    the numbers below a power of four. Results beyond N are mixed again until they are not.

    Arguments:
        num_points: the number N of points.
        seed: the seed of the order.

    References:
        Black, Rogaway, "Ciphers with arbitrary finite domains" (2002), section 5 on cycle walking.
        https://doi.org/10.1007/3-540-45760-7_9
    """

    def __init__(self, num_points: int, seed: int):
        self.num_points, self.half = num_points, max(1, math.ceil((num_points - 1).bit_length() / 2))
        self.keys = torch.randint(2**62, (ROUNDS,), generator=_generator(seed)).tolist()
        starts = range(0, num_points, CHUNK)
        self.lengths = [min(CHUNK, num_points - start) for start in starts]

    def chunk(self, number: int) -> Tensor:
        r"""Returns the points at some places."""
        v = self._mixed(torch.arange(self.lengths[number]) + number * CHUNK)
        beyond = (v >= self.num_points).nonzero().flatten()
        while len(beyond):
            v[beyond] = self._mixed(v[beyond])
            beyond = beyond[v[beyond] >= self.num_points]
        return v

    def _mixed(self, v: Tensor) -> Tensor:
        mask = 2**self.half - 1
        left, right = v >> self.half, v & mask
        for key in self.keys:
            u = (right + key) * MIX[0]
            u = (u ^ (u >> 32)) * MIX[1]
            left, right = right, left ^ ((u ^ (u >> 29)) & mask)
        return (left << self.half) | right


def order(num_points: int, seed: int | Tensor, block: int | None) -> Order:
    r"""Returns the order of a pass: the points that a tensor holds, or from a seed, in blocks if ``block`` is given."""
    if isinstance(seed, Tensor):
        return Permutation(seed)
    return Scattered(num_points, seed) if block is None else Blocked(num_points, seed, block)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)
