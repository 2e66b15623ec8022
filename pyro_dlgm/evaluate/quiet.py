r"""Evaluation without side effects: generators, train/eval flags and the parameter store stay as they were."""

import contextlib

import pyro
import torch

from ..program import unregistered
from ..seeding import forked


@contextlib.contextmanager
def quiet(*programs, seed: int | None = None):
    r"""Context manager of evaluation: eval mode, no gradients, generators forked (and seeded, if asked).

    What needs gradients enables them inside. All of it is global, so that another thread that comes here waits
    (`seeding.alone`); beside a training it gets an error.
    """
    modules = [m for program in programs if hasattr(program, "modules") for m in program.modules()]
    store = pyro.get_param_store()
    # A scope that starts from what the store holds, so that tables made inside do not outlive it there.
    with forked(seed), store.scope(store.get_state()), unregistered(), torch.no_grad():
        flags = [m.training for m in modules]  # once no other thread is in here
        try:
            for m in modules:
                m.training = False
            yield
        finally:
            for m, flag in zip(modules, flags, strict=True):
                m.training = flag
