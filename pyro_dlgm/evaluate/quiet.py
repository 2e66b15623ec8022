r"""Evaluation without side effects: generators, train/eval flags and the parameter store stay as they were."""

import contextlib
from collections.abc import Iterator

import pyro
from torch import Tensor, nn

from ..seeding import forked


@contextlib.contextmanager
def quiet(*programs, seed: int | None = None):
    r"""Inside, modules are in eval mode and the generators are forked (and seeded, if there is a seed)."""
    modules = [m for program in programs if isinstance(program, nn.Module) for m in program.modules()]
    flags = [m.training for m in modules]
    store = pyro.get_param_store()
    # A scope that starts from what the store holds, so that tables made inside do not outlive it there.
    with forked(seed), store.scope(store.get_state()):
        try:
            for m in modules:
                m.training = False
            yield
        finally:
            for m, flag in zip(modules, flags, strict=True):
                m.training = flag


def blocks(
    x: Tensor, index: Tensor | None, mask: Tensor | None, num_samples: int, budget: int = 2**19
) -> Iterator[tuple]:
    r"""(x, index, mask, sample counts) block by block: at most about ``budget`` numbers of x · samples at a time."""
    per_point = max(1, x[0].numel())
    samples = max(1, min(num_samples, budget // per_point))
    points = max(1, budget // (per_point * samples))
    counts = [min(samples, num_samples - k) for k in range(0, num_samples, samples)]
    for i in range(0, len(x), points):
        here = slice(i, i + points)
        yield x[here], None if index is None else index[here], None if mask is None else mask[here], counts
