r"""Tables of mixed types by name: "diagonal=0-3+7,categorical:5=4,poisson=5-6". This module does not import torch."""

import re

CLASSES = re.compile(r"categorical:([1-9]\d*)")
FORM = "NAME=COLUMNS,NAME=COLUMNS, with columns as 0-3+7: for example diagonal=0-3+7,categorical:5=4,poisson=5-6"


def is_table(name: str) -> bool:
    r"""Returns whether the name describes columns and their likelihoods."""
    return "=" in name


def num_classes(name: str) -> int | None:
    r"""Returns the number K in "categorical:K"; `None` for another name."""
    found = CLASSES.fullmatch(name)
    return int(found[1]) if found else None


def parts(table: str, known) -> list[tuple[list[int], str]]:
    r"""Returns the columns of each group with the name of their likelihood.

    Arguments:
        table: "NAME=COLUMNS,NAME=COLUMNS"; columns are numbers from 0 and ranges with both ends, joined by +.
        known: the names of likelihoods, besides "categorical:K".

    Raises:
        ValueError: if the table cannot be read, a name is unknown, or a column is named twice or left out.
    """
    found = []
    for part in table.split(","):
        name, _, columns = part.strip().partition("=")
        name = name.strip().replace("_", "-")
        if name not in known and num_classes(name) is None:
            raise ValueError(
                f"{name!r} in {table!r} is no likelihood of columns; expected one of {', '.join(known)}, categorical:K"
            )
        found.append((_numbers(columns.strip(), table), name))
    every = sorted(number for numbers, _ in found for number in numbers)
    if every != list(range(len(every))):
        raise ValueError(f"{table!r} names columns {every}; expected each column once, from 0: {FORM}")
    return found


def _numbers(columns: str, table: str) -> list[int]:
    if not re.fullmatch(r"\d+(-\d+)?(\+\d+(-\d+)?)*", columns):
        raise ValueError(f"{columns!r} in {table!r} are no columns; expected {FORM}")
    ends = [span.partition("-") for span in columns.split("+")]
    return [n for first, _, last in ends for n in range(int(first), int(last or first) + 1)]
