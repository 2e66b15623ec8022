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
    kept = []

    def count(saved: Tensor) -> Tensor:
        kept.append(saved.numel() * saved.element_size())
        return saved

    # What the backward pass needs is what the forward pass keeps: autograd says it. Weights count, too, which errs
    # on the side of less.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        log_density(t.detach().requires_grad_())
    return max(1, memory * t.shape[1] // (COPIES * max(1, sum(kept))))


def blocks(num_points: int, num_chains: int, rows: int) -> Iterator[tuple[slice, list[int]]]:
    r"""Points block by block, each with the numbers of chains that go together: at most ``rows`` at a time."""
    chains = min(num_chains, rows)
    points = max(1, rows // chains)
    counts = [min(chains, num_chains - c) for c in range(0, num_chains, chains)]
    for i in range(0, num_points, points):
        yield slice(i, min(i + points, num_points)), counts
