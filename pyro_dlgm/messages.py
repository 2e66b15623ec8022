r"""Parts of messages to users: which rows, and an error in one line."""

from collections.abc import Sequence

MOST = 10  # rows that a message names
LONGEST = 300  # characters of an error that is quoted


def rows(indices: Sequence[int]) -> str:
    r"""Names rows: "rows [1, 4]"; of more than ten, the first ten and how many more there are."""
    more = len(indices) - MOST
    return f"rows {list(indices[:MOST])}" + (f" and {more} more" if more > 0 else "")


def line(error: Exception) -> str:
    r"""The text of an error, in one line."""
    return " ".join(str(error).split())[:LONGEST]
