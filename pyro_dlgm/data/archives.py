r"""Files of arrays: reads only the requested arrays, and never executes anything in a file."""

import contextlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..messages import line

SHOWN = 20  # names that a message lists


def take(path: Path, **keys: str | None) -> list:
    r"""Returns the arrays of these names in a file, in order; `None` stands for the only one.

    Arguments:
        path: of the file.
        keys: a name for each argument, which an error tells.

    Raises:
        FileNotFoundError: if there is no such file.
        MemoryError: if there is not enough memory for an array.
        ValueError: if the file cannot be read without executing it, or does not hold the key.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(
            f"{path} ends with {path.suffix!r}; expected .npy, .npz or .pt: save its numbers with numpy.save"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected one of arrays (.npy, .npz or .pt)")
    with contextlib.ExitStack() as stack:
        with _legible(path):
            held = READERS[suffix](path)
        if isinstance(held, np.lib.npyio.NpzFile):
            stack.enter_context(held)
        return [_pick(path, held, argument, key) for argument, key in keys.items()]


def _numpy(path: Path):
    return np.load(path, allow_pickle=False)


def _torch(path: Path):
    r"""Returns what torch saved; in the current format, tensors are memory-mapped and read on access."""
    settings = {"map_location": "cpu", "weights_only": True}
    if not zipfile.is_zipfile(path):
        return torch.load(path, **settings)
    with zipfile.ZipFile(path) as parts:
        if any(part.compress_type for part in parts.infolist()):
            raise ValueError("it is compressed")
    return torch.load(str(path), mmap=True, **settings)


READERS = {".npy": _numpy, ".npz": _numpy, ".pt": _torch}


@contextlib.contextmanager
def _legible(path: Path):
    r"""Context manager: errors of a reader name the file, in one line."""
    try:
        yield
    except MemoryError as error:
        raise MemoryError(
            f"{path} asks for more memory than there is ({line(error)}): repair it, or read parts of it by "
            "numpy.load(path, mmap_mode='r'), which fit takes"
        ) from error
    except Exception as error:  # readers raise all kinds of errors
        raise ValueError(
            f"{path} cannot be read as arrays alone ({line(error) or type(error).__name__}); expected numbers, no "
            "pickled objects, as a column of strings makes them: number the strings, and save an array of numbers with "
            "numpy.save or numpy.savez, or tensors with torch.save"
        ) from error


def _pick(path: Path, held, argument: str, key: str | None):
    if not isinstance(held, Mapping):
        if key is not None:
            raise ValueError(f"{path} holds one array without a name, not {key!r}: leave the name out")
        return _own(held)
    names = list(held)
    if key is None and len(names) == 1:
        key = names[0]
    if key not in names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        shown = ", ".join(repr(name)[:100] for name in names[:SHOWN])
        raise ValueError(f"{argument} is {key!r}; {path} holds {shown}{more}: give one of them")
    with _legible(path):
        return _own(held[key])


def _own(array):
    r"""Returns a copy of a mapped tensor, since the file may change."""
    return array.clone() if isinstance(array, Tensor) else array
