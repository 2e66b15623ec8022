r"""Markov chains in bounded memory: how many fit at a time, and which points and chains go together."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

COPIES = 3  # of what autograd keeps: the pass itself, its gradients, and what is freed late


def rows_that_fit(log_density: Callable[[Tensor], Tensor], t: Tensor, memory: int) -> int:
    r"""How many positions may be evaluated at a time.

    Arguments:
        log_density: (1, B, D) -> (1, B), for the B points of t.
        t: one position of each, (1, B, D).
        memory: bytes.
    """
    one, two = (_kept(log_density, t.expand(n, *t.shape[1:])) for n in (1, 2))
    # What a second chain adds: weights of a network are kept once, for all rows.
    return max(1, memory * t.shape[1] // (COPIES * max(1, two - one)))


def _kept(log_density: Callable[[Tensor], Tensor], t: Tensor) -> int:
    r"""Bytes that the backward pass needs: autograd says what the forward pass keeps for it."""
    kept = []

    def count(saved: Tensor) -> Tensor:
        kept.append(saved.numel() * saved.element_size())
        return saved

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        log_density(t.detach().requires_grad_())
    return sum(kept)


def blocks(num_points: int, num_chains: int, rows: int) -> Iterator[tuple[slice, list[int]]]:
    r"""Points block by block, each with the numbers of chains that go together: at most ``rows`` at a time."""
    chains = min(num_chains, rows)
    points = max(1, rows // chains)
    counts = [min(chains, num_chains - c) for c in range(0, num_chains, chains)]
    for i in range(0, num_points, points):
        yield slice(i, min(i + points, num_points)), counts
