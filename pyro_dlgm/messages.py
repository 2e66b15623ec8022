r"""Parts of messages to users: which rows, and an error in one line."""

import contextlib
import warnings
from collections.abc import Sequence

MOST = 10  # rows that a message names
LONGEST = 300  # characters of an error that is quoted


def rows(indices: Sequence[int]) -> str:
    r"""Names rows: "rows [1, 4]"; of more than ten, the first ten and how many more there are."""
    more = len(indices) - MOST
    return f"rows {list(indices[:MOST])}" + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def only_warned(what: str, but: tuple[type[Exception], ...] = ()):
    r"""Context manager: an error becomes a warning that ``what`` failed, except for those of the types in ``but``."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        said = f"{what} raised {type(error).__name__} ({line(error)}); the training goes on"
        warnings.warn(said, stacklevel=3)


def line(error: Exception) -> str:
    r"""The text of an error, in one line."""
    return " ".join(str(error).split())[:LONGEST]
