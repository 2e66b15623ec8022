r"""The base of models and guides as Pyro programs: unique names, and the plate over data."""

import contextlib
import contextvars
import itertools

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor

_numbers = itertools.count(1)
_registers = contextvars.ContextVar("registers", default=True)


@contextlib.contextmanager
def held(variable: contextvars.ContextVar, value):
    r"""Context manager: the variable has that value inside."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def unregistered():
    r"""Context manager: reading a network of a `Program` does not register its parameters in Pyro's parameter store.

    Pyro registers all of them at each access, for its own optimizers; torch optimizers have no use for it.
    """
    return held(_registers, False)


def _rename(module: PyroModule, name: str) -> None:
    # As PyroModule names its children, but allowed on modules that have run: a copy of a trained model is one.
    module._pyro_name = name
    for key, child in module.named_children():
        if isinstance(child, PyroModule):
            _rename(child, f"{name}.{key}")


def check_index(index: Tensor | None) -> None:
    r"""Raises a `ValueError` unless ``index`` is a vector of whole numbers, or left out."""
    dtype = getattr(index, "dtype", type(index).__name__)
    if index is not None and dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"index has dtype {dtype}; expected torch.int64, one row for each point: use torch.as_tensor(index).long()"
        )
    if index is not None and index.dim() != 1:
        raise ValueError(f"index has shape {tuple(index.shape)}; expected (B,), one row a point: use index.flatten()")


class Program(PyroModule):
    r"""A root of Pyro parameters with the plate over data.

    Each instance takes a unique name ("DLGM_1", "MeanField_2", ...), and so does each copy. In Pyro's default mode
    two unnamed modules of one class share their entries of the parameter store: the second one silently trains the
    first one's parameters, or none.

    Arguments:
        plate: name of the plate over data.
    """

    def __init__(self, *, plate: str = "data"):
        super().__init__(self._unique_name())
        self.plate = plate

    def _unique_name(self) -> str:
        return f"{type(self).__name__}_{next(_numbers)}"

    def __setstate__(self, state):
        super().__setstate__(state)
        _rename(self, self._unique_name())

    def __getattr__(self, name: str):
        child = None if _registers.get() else self.__dict__["_modules"].get(name)
        # A PyroModule keeps Pyro's way: it may hold PyroSamples, which are sites.
        if child is None or isinstance(child, PyroModule):
            return super().__getattr__(name)
        return child

    def data_plate(self, x: Tensor | None, index: Tensor | None, size: int | None):
        r"""The plate over the points of a batch, at dimension −1.

        Without ``size`` it has the batch's length B and scale 1. With ``size=N`` it has N points of which ``index``
        are here, and scale N/B; then ``index`` may be left out for any B points (only their number counts).

        Raises:
            ValueError: if neither x nor ``index`` nor ``size`` says how many points there are, or if x and
                ``index`` disagree about it.
        """
        batch = self._batch_length(x, index, size)
        if size is None or (index is None and batch == size):
            return pyro.plate(self.plate, batch, dim=-1)
        if batch > size:
            raise ValueError(
                f"a batch of {batch} points does not fit into size={size}; size is the number of all points"
            )
        if index is None:
            index = torch.arange(batch, device=x.device)
        return pyro.plate(self.plate, size, subsample=index, dim=-1)

    def _batch_length(self, x, index, size) -> int:
        check_index(index)
        lengths = {len(v) for v in (x, index) if v is not None} or {size}
        if lengths == {None}:
            raise ValueError(
                f"{type(self).__name__} was called without x, index or size; expected one of them, "
                "which says how many points: give x, or size=n to generate"
            )
        if len(lengths) > 1:
            raise ValueError(f"x has {len(x)} points and index {len(index)}; expected one index for each point of x")
        length = lengths.pop()
        if not (length >= 1 and length == int(length)):
            raise ValueError(f"{type(self).__name__} got {length} points; expected a whole number, at least 1")
        return length
