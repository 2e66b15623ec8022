r"""Evaluation without side effects: generators, train/eval flags and the parameter store stay as they were."""

import contextlib

import pyro
import torch

from ..program import evaluating, unregistered
from ..seeding import forked


@contextlib.contextmanager
def quiet(*programs, seed: int | None = None):
    r"""Context manager of evaluation: eval mode, no gradients, generators forked (and seeded, if asked).

    What needs gradients enables them inside. All of it is global, so that another thread that comes here waits
    (`seeding.alone`); beside a training it gets an error.
    """
    store = pyro.get_param_store()
    # A scope that starts from what the store holds, so that tables made inside do not outlive it there.
    # The flags are read last, once no other thread is in here.
    with forked(seed), store.scope(store.get_state()), unregistered(), torch.no_grad(), evaluating(*programs):
        yield
