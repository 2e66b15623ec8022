r"""A test whether a prior depends on ``given``."""

import functools
import inspect

from torch import nn


def needs_given(prior: nn.Module) -> bool:
    r"""Returns whether p(t) depends on ``given``, and cannot be computed without it."""
    return _requires_given(prior.forward) if "forward" in vars(prior) else _of_class(type(prior))


@functools.lru_cache(maxsize=64)  # asked at each call of a model, and slow to find
def _of_class(kind: type[nn.Module]) -> bool:
    return _requires_given(kind.forward)


def _requires_given(forward) -> bool:
    given = inspect.signature(forward).parameters.get("given")
    return given is not None and given.default is given.empty
