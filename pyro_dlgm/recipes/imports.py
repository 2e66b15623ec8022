r"""A user's own likelihoods and guides by import path, "module:Name". This module does not import torch.

Importing a module runs it. So a path named in a file is imported only if the caller has named it as well.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable

PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_path(name: str) -> bool:
    r"""Returns whether the name is of the form "package.module:Name"."""
    return PATH.fullmatch(name) is not None


def imported(path: str):
    r"""Returns the class or function at an import path; the working directory is searched as well.

    Raises:
        ValueError: if the module or the name in it does not exist, or is not callable.
    """
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        thing = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(
            f"{path} cannot be imported ({error}); expected module:Name, with a module that is installed or in the "
            "working directory"
        ) from error
    if not callable(thing):
        what = "has no" if thing is None else "holds nothing to call as"
        raise ValueError(f"{module} {what} {name}; expected a class or a function: {path}")
    return thing


def built(path: str, thing: Callable, offered: dict[str, Callable]):
    r"""Calls a class or function with the offered values for which it has parameters of that name.

    Arguments:
        path: its import path, for errors.
        thing: the class or function.
        offered: functions that make the values, by parameter name; only those needed are called.

    Raises:
        ValueError: if it needs other arguments, or does not return a module.
    """
    parameters = inspect.signature(thing).parameters.values()
    empty, rest = inspect.Parameter.empty, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [p.name for p in parameters if p.name not in offered and p.default is empty and p.kind not in rest]
    names = ", ".join(offered)
    if missing:
        raise ValueError(
            f"{path} needs {', '.join(missing)}; expected parameters of the names {names}, or with defaults: write a "
            f"function of those that returns {path.rpartition(':')[2]}(...), and give its path"
        )
    made = thing(**{p.name: offered[p.name]() for p in parameters if p.name in offered})
    if not hasattr(made, "named_parameters"):
        raise ValueError(f"{path} returned a {type(made).__name__}; expected a torch module, made of some of {names}")
    return made


def check_consent(named: dict[str, str], allowed: Iterable[str], whose, way: Callable[[dict[str, str]], str]) -> None:
    r"""Raises a `ValueError` on the import paths in a file that the caller did not name.

    Arguments:
        named: the names or import paths in the file, by kind: "likelihood" or "guide".
        allowed: import paths that the caller has named.
        whose: the file or folder, for the error.
        way: returns how the caller names paths, by kind.
    """
    paths = {kind: name for kind, name in named.items() if is_path(name)}
    asked = {kind: name for kind, name in paths.items() if name not in allowed}
    if asked:
        raise ValueError(
            f"the {' and the '.join(asked)} of {whose} {'is' if len(asked) == 1 else 'are'} code of your own, "
            f"{' and '.join(asked.values())}, which is not imported without your consent; expected that: {way(paths)}"
        )
