r"""Parts of messages to users: rows, code that makes a tensor or reshapes it, and errors in one line."""

import contextlib
import warnings
from collections.abc import Sequence

MOST = 10  # rows that a message names
LONGEST = 300  # characters of an error that is quoted


def rows(indices: Sequence[int]) -> str:
    r"""Names rows: "rows [1, 4]"; if there are more than ten, the first ten and the number of others."""
    more = len(indices) - MOST
    return f"rows {list(indices[:MOST])}" + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def only_warned(what: str, but: tuple[type[Exception], ...] = ()):
    r"""Context manager: turns an error into a warning that ``what`` failed, except for errors of type ``but``."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        said = f"{what} raised {type(error).__name__} ({line(error)}); the training goes on"
        warnings.warn(said, stacklevel=3)


def as_tensor(name: str, value) -> str:
    r"""Returns code that makes a tensor of the argument ``name``: a list, an array, a masked one, or a DataFrame."""
    if hasattr(value, "to_numpy"):
        return f"torch.as_tensor({name}.to_numpy())"
    if type(value).__name__ == "MaskedArray":
        return f"torch.as_tensor({name}.filled(0)), with mask=torch.as_tensor(~numpy.ma.getmaskarray({name}))"
    return f"torch.as_tensor({name})"


def reshaping(name: str, given: Sequence[int], expected: Sequence[int], place: int) -> str:
    r"""Returns how points get the expected shape: channels that are last are moved to ``place``, else by a reshape."""
    given, expected = tuple(given), tuple(expected)
    if len(given) > 1 and given != expected and (given[-1], *given[:-1]) == expected:
        return f"move the channels, which are last, with {name}.movedim(-1, {place})"
    return f"reshape {name}"


def line(error: Exception) -> str:
    r"""Returns the text of an error in one line."""
    return " ".join(str(error).split())[:LONGEST]
