r"""Whether a prior depends on what is given."""

import inspect

from torch import nn


def needs_given(prior: nn.Module) -> bool:
    r"""Whether p(t) depends on what is given, so that there is none without."""
    given = inspect.signature(prior.forward).parameters.get("given")
    return given is not None and given.default is given.empty
