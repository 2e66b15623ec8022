r"""Evaluation without side effects: generators, train/eval flags and the parameter store are restored."""

import contextlib

import torch

from ..program import evaluating, unregistered
from ..seeding import forked
from ..shared import store_restored


@contextlib.contextmanager
def quiet(*programs, seed: int | None = None):
    r"""Context manager for evaluation: eval mode, no gradients, generators forked, and seeded if there is a seed.

    Code that needs gradients enables them inside. These states are global, so that another thread waits here
    (`seeding.alone`), or gets an error during a training.
    """
    # Flags are read last, when no other thread is in here.
    with forked(seed), store_restored(*programs), unregistered(), torch.no_grad(), evaluating(*programs):
        yield
