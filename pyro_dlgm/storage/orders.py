r"""Orders of a pass through many points that need the memory of one block: what they are follows from a seed."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

WHOLE = 2**20  # up to so many points the order of a pass is drawn as one permutation
CHUNK = 2**16  # places that are worked out at a time
ROUNDS = 6
MIX = (-7046029254386353131, -4658895280553007687)  # odd numbers whose product scatters the bits of a whole number


class Order:
    r"""Creates an order of 0..N−1, chunk by chunk.

    Attributes:
        lengths: of the chunks.
    """

    lengths: list[int]

    def chunk(self, number: int) -> Tensor:
        r"""The points in a chunk."""
        raise NotImplementedError

    def batches(self, size: int, first: int = 0) -> Iterator[Tensor]:
        r"""The points of each batch of that size, beginning with batch ``first``; the last one may be shorter."""
        skipped, left = first * size, torch.empty(0, dtype=torch.long)
        for number, length in enumerate(self.lengths):
            if skipped >= length:
                skipped -= length
                continue
            left, skipped = torch.cat([left, self.chunk(number)[skipped:]]), 0
            whole = len(left) // size * size
            yield from (left[i : i + size] for i in range(0, whole, size))
            left = left[whole:]
        if len(left):
            yield left


class Blocked(Order):
    r"""Creates an order that goes through blocks of neighbouring points in shuffled order, shuffled inside.

    Arguments:
        num_points: the number N of points.
        seed: of the order.
        block: points in a block.
    """

    def __init__(self, num_points: int, seed: int, block: int):
        self.seed, self.block = seed, block
        self.blocks = torch.randperm(math.ceil(num_points / block), generator=_generator(seed)).tolist()
        self.lengths = [min(block, num_points - number * block) for number in self.blocks]

    def chunk(self, number: int) -> Tensor:
        r"""The points of a block."""
        inside = torch.randperm(self.lengths[number], generator=_generator(self.seed + 1 + number))
        return inside + self.blocks[number] * self.block


class Scattered(Order):
    r"""Creates an order in which each point may follow each other one, as in a permutation that is drawn.

    A place is split into two halves, which are mixed in turns (a Feistel network): this is one to one on the numbers
    below a power of four. What falls beyond N is mixed again until it does not.

    Arguments:
        num_points: the number N of points.
        seed: of the order.

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
        r"""The points at some places."""
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


def order(num_points: int, seed: int, block: int | None) -> Order:
    r"""The order of a pass, by blocks if they have a size."""
    return Scattered(num_points, seed) if block is None else Blocked(num_points, seed, block)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)
