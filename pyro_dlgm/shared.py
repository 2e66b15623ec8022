r"""Ownership of parameters: modules shared without registration, and names in Pyro's parameter store."""

import contextlib
import sys
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
def store_restored(*programs):
    r"""Context manager: restores Pyro's parameter store afterwards, and lets these programs keep their own parameters.

    It starts with what the store holds, where programs that are functions have their parameters.
    """
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        claim(*programs)
        yield


def claim(*programs, lasting: bool = False) -> None:
    r"""Removes entries of Pyro's parameter store that would overwrite parameters of these programs, with a warning.

    At a call Pyro puts what it holds under the name of a `PyroParam` into the program, even if another module that has
    no name has left it there.

    Arguments:
        lasting: whether the store will not be restored, so that values which it alone holds are not removed.

    Raises:
        ValueError: if ``lasting`` and the store holds such a value, a function's ``pyro.param``.
    """
    if pyro.settings.get("module_local_params"):  # then modules do not read the store
        return
    store = pyro.get_param_store()
    for program in programs:
        state = store.get_state()
        held = state["params"]
        names = dict.fromkeys(name for name, own in named_pyro_params(program) if held.get(name, own) is not own)
        if not names:
            continue
        first, kind = next(iter(names)), type(getattr(program, "program", program)).__name__
        more = f" and of {len(names) - 1} more" if len(names) > 1 else ""
        said = f"Pyro's parameter store has another value of {first!r}{more} than this {kind}"
        advice = f"To use the stored one, call the {kind} before; to avoid the clash, name it: super().__init__('name')"
        if lasting and not all(isinstance(held[name], torch.nn.Parameter) for name in names):
            raise ValueError(f"{said}, and that value is in no module. {advice}")
        warnings.warn(f"{said}, which keeps its own. {advice}", stacklevel=_outside())
        for part in state.values():
            for name in names:
                part.pop(name, None)
        store.clear()
        store.set_state(state)


def named_pyro_params(program) -> Iterator[tuple[str, torch.Tensor]]:
    r"""Yields each `PyroParam` of a program with its name in the store, which Pyro tells from its first call on."""
    for module in program.modules() if hasattr(program, "modules") else ():
        for name in module._pyro_params if isinstance(module, PyroModule) else ():
            full = f"{module._pyro_name}.{name}" if module._pyro_name else name
            yield full, getattr(module, f"{name}_unconstrained")


def _outside() -> int:
    r"""Returns the ``stacklevel``, for the caller, of the first frame outside of the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in (__package__, "contextlib"):
        frame, level = frame.f_back, level + 1
    return level
