r"""A test whether a prior depends on ``given``."""

import inspect

from torch import nn


def needs_given(prior: nn.Module) -> bool:
    r"""Returns whether p(t) depends on ``given``, and cannot be computed without it."""
    given = inspect.signature(prior.forward).parameters.get("given")
    return given is not None and given.default is given.empty
