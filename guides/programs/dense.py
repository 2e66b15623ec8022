r"""The dense part of the guide of a program: one of Pyro's autoguides, for the global latents."""

from collections.abc import Callable

import pyro
import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.infer.autoguide.initialization import init_to_median

SHORT = {"delta": "AutoDelta"}
FLOWS = (autoguide.AutoIAFNormal, autoguide.AutoNormalizingFlow)


class Plates:
    r"""Creates the function that returns the plates of a call, ``open`` by name, which both parts of a guide enter.

    It does not hold the guide: guides that share the dense part would otherwise hold each other's rows.
    """

    def __init__(self):
        self.open: dict = {}

    def __call__(self, *args, **kwargs) -> list:
        return list(self.open.values())


def dense(kind, call: Callable, names: tuple[str, ...], init: Callable | None):
    r"""Creates the autoguide of the latents ``names``, including its parameters.

    Arguments:
        kind: the name of one of Pyro's autoguides, "delta" for `AutoDelta`, or a class or function that makes one.
        call: runs the program.
        names: the names of the latents.
        init: their initial values, one of Pyro's ``init_to_...``; by default the prior's median.

    Returns:
        The autoguide; its ``create_plates`` is a `Plates`.

    Raises:
        ValueError: if Pyro has no autoguide of that name.
    """
    make = _class(kind) if isinstance(kind, str) else kind
    # A flow has no initial values.
    start = {} if make in FLOWS else {"init_loc_fn": init or init_to_median}
    made = make(poutine.block(call, expose=list(names)), **start)
    made.create_plates = Plates()
    # A scope leaves the global parameter store as it was.
    with torch.no_grad(), poutine.block(), pyro.get_param_store().scope():
        made()
    made._pyro_context.used = False  # that run used no name that matters: a larger module may adopt it
    return made


def _class(name: str):
    found = vars(autoguide).get(SHORT.get(name, name))
    if not (isinstance(found, type) and issubclass(found, autoguide.AutoGuide)):
        raise ValueError(
            f"globals is {name!r}; expected the name of one of Pyro's autoguides, 'AutoNormal', or 'delta'"
        )
    return found
