r"""Evaluation without side effects: generators, train/eval flags and the parameter store are restored."""

import contextlib

import pyro
import torch

from ..program import evaluating, unregistered
from ..seeding import forked


@contextlib.contextmanager
def quiet(*programs, seed: int | None = None):
    r"""Context manager for evaluation: eval mode, no gradients, generators forked, and seeded if there is a seed.

    Code that needs gradients enables them inside. These states are global, so that another thread waits here
    (`seeding.alone`), or gets an error during a training.
    """
    store = pyro.get_param_store()
    # The scope starts from the store's content, and drops tables made inside. Flags are read last, when no other thread
    # is in here.
    with forked(seed), store.scope(store.get_state()), unregistered(), torch.no_grad(), evaluating(*programs):
        yield
