r"""Calls a program with (x, index, *, mask, given, weight, size), or those of them that it takes."""

import inspect
import traceback
from collections.abc import Callable

from pyro import poutine
from torch import nn

from .. import masks, messages
from ..points import Points

KEYWORDS = ("mask", "given", "weight", "size")
# What to do where a program needs an argument that was not handed over.
ABSENT = {
    "given": "given= with the points, or a program that runs without it",
    "size": "a program that runs without size, as evaluate calls it: pyro.plate(name, size or len(x), subsample=index)",
}
# Texts of errors of Python, torch and Pyro that `None` causes; an assertion may have no text.
OF_NONE = ("None", "missing", "arguments must all be instances of")


class Call:
    r"""Calls a program with the parts of a batch of points that it takes; other parts must be absent.

    Its first argument is x, whatever its name. The second one is the index, if it has that name or no default; the
    keywords go by name.

    Arguments:
        program: a Pyro module or a function.

    Attributes:
        takes: the names among x, index, mask, given, weight and size that the program takes.
        generates: whether it can be called without x, for a number of points: ``program(size=n)``.

    Raises:
        TypeError: if the program needs further arguments.
    """

    def __init__(self, program: Callable):
        self.program = program
        inner = poutine.unwrap(program)
        parameters = inspect.signature(getattr(inner, "forward", inner)).parameters.values()
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        places = [p for p in places if p.name not in KEYWORDS]
        if len(places) > 1 and places[1].name != "index" and places[1].default is not places[1].empty:
            places = places[:1]  # another option of the program, which keeps its default
        self._named = known = {p.name for p in parameters if p.name in KEYWORDS}
        self.num_places = 2 if any(p.kind == p.VAR_POSITIONAL for p in parameters) else min(2, len(places))
        if any(p.kind == p.VAR_KEYWORD for p in parameters):
            known = set(KEYWORDS)
        self.takes = known | set(("x", "index")[: self.num_places])
        self.generates = "size" in known and all(p.default is not p.empty for p in places)
        _check_others(inner, [*places[2:], *(p for p in parameters if p.kind == p.KEYWORD_ONLY)])

    def __call__(self, *args, **kwargs):
        r"""Calls the program with those of the arguments, which are those of a model, that it takes.

        Raises:
            ValueError: if there is a mask, ``given`` or a weight that the program does not take, or the program needs
                ``given`` or ``size`` and it is `None`.
        """
        for name in ("mask", "given", "weight"):
            if kwargs.get(name) is not None and name not in self.takes:
                raise ValueError(
                    f"{name} was given, and {_name(self.program)} takes no {name}; expected a program with the keyword "
                    f"{name}=, or points without it"
                )
        kept = {name: value for name, value in kwargs.items() if name not in KEYWORDS or name in self.takes}
        if args and args[0] is not None:  # missing values become 0 before the program sees them
            args = (masks.observed(args[0], kwargs.get("mask")), *args[1:])
        try:
            return self.program(*args[: self.num_places], **kept)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            self._explain(error, kept)
            raise

    def _explain(self, error: Exception, kept: dict) -> None:
        r"""Raises a `ValueError` if an error of the program may come from an argument that was not handed over."""
        names = ("size",) if _in_plate(error) else ABSENT
        absent = [name for name in names if name in self._named and kept.get(name) is None]
        if absent and (not str(error) or any(text in str(error) for text in OF_NONE)):
            said = f"{type(error).__name__}: {messages.line(error)}".removesuffix(": ")
            raise ValueError(
                f"{_name(self.program)} was called with {' and '.join(f'{name}=None' for name in absent)}, and failed "
                f"({said}); expected {', and '.join(ABSENT[name] for name in absent)}"
            ) from error

    def of(self, points: Points, size: int | None = None):
        r"""Calls the program on points."""
        return self(points.x, points.index, **points.keywords, **({} if size is None else {"size": size}))


def accepting(program: Callable) -> Callable:
    r"""Returns the program itself if it has a ``log_joint``, since then it takes all arguments, else its `Call`."""
    return program if hasattr(program, "log_joint") else Call(program)


def as_module(program: Callable) -> nn.Module:
    r"""Returns the program, or for a function a module without parameters, which can be saved."""
    return program if isinstance(program, nn.Module) else Function(program)


class Function(nn.Module):
    r"""Creates a module without parameters from a function, as a program that can be trained and saved."""

    def __init__(self, function: Callable):
        super().__init__()
        self.forward, self.__name__ = function, _name(function)


def _check_others(program, others) -> None:
    wanted = [p.name for p in others if p.default is p.empty and p.name not in KEYWORDS]
    if wanted:
        raise TypeError(
            f"{_name(program)} needs {', '.join(map(repr, wanted))} as well; expected a program of (x, index, *, mask, "
            f"given, weight, size) or a part of it: bind the rest, functools.partial(program, {wanted[0]}=...)"
        )


def _in_plate(error: Exception) -> bool:
    r"""Returns whether Pyro raised the error while it made a plate, where only ``size`` can be `None`."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__") == "pyro.poutine.subsample_messenger"


def _name(program) -> str:
    return getattr(program, "__name__", type(program).__name__)
