r"""The options of `fit`, each defined once: name, type, default in the signature, meaning in the docstring, check here.

The command line, ``config.json`` and the table in the docs are generated from them. This module does not import torch.
"""

import inspect
import math
import re
from collections.abc import Callable
from numbers import Integral, Real
from typing import NamedTuple

BATCH = 100  # points in a batch, if there are as many

# Factors of the learning rates as functions of the fraction of the training done so far.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}


class Check(NamedTuple):
    r"""Creates the check of an option.

    Attributes:
        expected: the valid values, in words.
        fits: whether a value is valid.
    """

    expected: str
    fits: Callable[[object], bool]


CONVERGED = "converged"
COUNT = Check("a whole number, at least 1", lambda value: isinstance(value, Integral) and value >= 1)
WHOLE = Check("a whole number >= 0", lambda value: isinstance(value, Integral) and value >= 0)
POSITIVE = Check("a finite number > 0", lambda value: isinstance(value, Real) and 0 < value < math.inf)
NOT_NEGATIVE = Check("a finite number >= 0", lambda value: isinstance(value, Real) and 0 <= value < math.inf)
E_STEPS = Check(f"a whole number, at least 1, or {CONVERGED!r}", lambda value: value == CONVERGED or COUNT.fits(value))
SCHEDULE = Check(
    f"one of {', '.join(map(repr, SCHEDULES))}, or a function",
    lambda value: callable(value) or value in list(SCHEDULES),
)
COMPILE = Check(
    "True, False, or the name of a backend of torch.compile",
    lambda value: isinstance(value, bool) or (isinstance(value, str) and value != ""),
)
PRECISION = Check("'bf16'", lambda value: value == "bf16")
CHECKS = {
    "epochs": COUNT,
    "steps": COUNT,
    "batch_size": COUNT,
    "lr": POSITIVE,
    "row_lr": POSITIVE,
    "schedule": SCHEDULE,
    "e_steps": E_STEPS,
    "clip_norm": POSITIVE,
    "compile": COMPILE,
    "precision": PRECISION,
    "warmup": NOT_NEGATIVE,
    "patience": COUNT,
    "seed": WHOLE,
}
# Options with a default other than `None`, for which `None` is invalid.
NEEDED = ("lr", "row_lr", "schedule", "e_steps", "compile", "warmup")


def check(values: dict) -> None:
    r"""Raises a `ValueError` that names the first invalid value."""
    for name, (expected, fits) in CHECKS.items():
        if (values[name] is not None or name in NEEDED) and not fits(values[name]):
            raise ValueError(f"{name} is {values[name]!r}; expected {expected}")


class Option(NamedTuple):
    r"""An option of a function, from its signature and docstring.

    Attributes:
        name: the name of the parameter.
        default: its default.
        meaning: its entry under "Arguments", as plain text.
    """

    name: str
    default: object
    meaning: str


def options_of(function: Callable) -> dict[str, Option]:
    r"""Returns the options of a function that have a check, in the order of `CHECKS`."""
    parameters, entries = inspect.signature(function).parameters, _entries(inspect.getdoc(function) or "")
    named = [name for name in CHECKS if name in parameters]
    return {name: Option(name, parameters[name].default, entries.get(name, "")) for name in named}


def _entries(doc: str) -> dict[str, str]:
    r"""Returns the entries of a docstring under "Arguments", by name."""
    section = re.search(r"^Arguments:\n((?:    .*\n|\n)*)", doc + "\n", re.MULTILINE)
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: _plain(text) for name, text in found}


def _plain(text: str) -> str:
    r"""Returns the text in one line, without markup, as a sentence."""
    words = " ".join(text.replace("`", "").split())
    return words[:1].upper() + words[1:]
