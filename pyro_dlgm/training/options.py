r"""The options of `fit`, each said once: name, type and default in its signature, meaning in its docstring, check here.

The command line, ``config.json`` and the table in the docs are made from them. This module imports no torch.
"""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..optim.schedules import SCHEDULES


@dataclass(frozen=True)
class Whole:
    r"""Creates the check that a value is a whole number, at least ``least``."""

    least: int = 1

    def __call__(self, value) -> bool:
        return isinstance(value, int) and value >= self.least

    def __str__(self) -> str:
        return f"a whole number, at least {self.least}" if self.least else "a whole number >= 0"


@dataclass(frozen=True)
class Positive:
    r"""Creates the check that a value is a finite number above 0."""

    def __call__(self, value) -> bool:
        return isinstance(value, float | int) and value > 0 and math.isfinite(value)

    def __str__(self) -> str:
        return "a finite number > 0"


@dataclass(frozen=True)
class OneOf:
    r"""Creates the check that a value is one of the names, or a function."""

    names: tuple[str, ...]

    def __call__(self, value) -> bool:
        return callable(value) or value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.names))}, or a function"


CHECKS = {
    "epochs": Whole(),
    "steps": Whole(),
    "batch_size": Whole(),
    "lr": Positive(),
    "row_lr": Positive(),
    "schedule": OneOf(tuple(SCHEDULES)),
    "e_steps": Whole(),
    "clip_norm": Positive(),
    "warmup": Whole(0),
    "patience": Whole(),
    "seed": Whole(0),
}


def check(values: dict) -> None:
    r"""Raises a `ValueError` that names the first value which its check refuses; `None` stands for a default."""
    for name, fits in CHECKS.items():
        if values[name] is not None and not fits(values[name]):
            raise ValueError(f"{name} is {values[name]!r}; expected {fits}")


@dataclass(frozen=True)
class Option:
    r"""An option of a function, as its signature and its docstring say it.

    Attributes:
        name: of the parameter.
        default: its default.
        meaning: its entry under "Arguments", as plain text.
    """

    name: str
    default: object
    meaning: str


def options_of(function: Callable) -> dict[str, Option]:
    r"""Reads the options of a function that have a check, in the order of `CHECKS`."""
    parameters, entries = inspect.signature(function).parameters, _entries(inspect.getdoc(function) or "")
    return {
        name: Option(name, parameters[name].default, entries.get(name, "")) for name in CHECKS if name in parameters
    }


def _entries(doc: str) -> dict[str, str]:
    r"""The entries of a docstring under "Arguments", by name."""
    section = re.search(r"^Arguments:\n((?:    .*\n|\n)*)", doc + "\n", re.MULTILINE)
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: _plain(text) for name, text in found}


def _plain(text: str) -> str:
    r"""The text in one line, without marks, as a sentence."""
    words = " ".join(text.replace("`", "").split())
    return words[:1].upper() + words[1:]
