r"""Whose parameters are whose: modules that another one owns, and names in Pyro's parameter store."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import pyro
import torch
from pyro.nn import PyroModule


class Shared(Sequence):
    r"""Holds a module (or `None`) as its only item, without registering it in the module tree.

    If both are deep-copied together, in any order and any container, the copy holds the copied module; if only the
    holder is copied, the copy shares the module. Which case it is can be told only when the copying is over, so it is
    decided at the first use.
    """

    def __init__(self, module: tuple):
        (self._module,), self._copies = module, None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place):
        if self._copies is not None:
            self._module, self._copies = self._copies.get(id(self._module), self._module), None
        return (self._module,)[place]

    def __deepcopy__(self, memo):
        copied = Shared((self[0],))
        copied._copies = memo
        return copied

    def __reduce__(self):
        return Shared, ((self[0],),)


@contextlib.contextmanager
def untouched(*programs):
    r"""Context manager: Pyro's parameter store is as before afterwards, and these programs have their own parameters.

    It starts with what the store holds: programs that are functions have their parameters there.
    """
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        claim(*programs, stacklevel=6)
        yield


def claim(*programs, stacklevel: int) -> None:
    r"""Removes from Pyro's parameter store what it holds of others under the names of these programs' parameters.

    At a call Pyro puts what it holds under the name of a `PyroParam` into the program, be it left there by another
    module without a name of its own. A warning at ``stacklevel`` says so.
    """
    store = pyro.get_param_store()
    held = store.get_state()["params"]
    for program in programs:
        names = [name for name, own in _own(program) if held.get(name, own) is not own]
        for name in names:
            del store[name]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            warnings.warn(
                f"Pyro's parameter store holds {names[0]!r}{more} of another module, or of a file, under the names of "
                f"this {type(program).__name__}: its own are used. To take those of the store, call it once before; to "
                "be rid of them, pyro.clear_param_store(), or a name for each, PyroModule.__init__(self, name)",
                stacklevel=stacklevel,
            )


def _own(program) -> Iterator[tuple[str, torch.Tensor]]:
    r"""Yields each `PyroParam` of a program with its full name, also before its first call, when Pyro refuses it."""
    for module in program.modules() if hasattr(program, "modules") else ():
        for name in module._pyro_params if isinstance(module, PyroModule) else ():
            full = f"{module._pyro_name}.{name}" if module._pyro_name else name
            yield full, getattr(module, f"{name}_unconstrained")
