r"""Checkpoints: files of tensors and plain values only, so that reading one executes nothing."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

from ..messages import line
from .files import RunError, whole

FORMAT = "pyro_dlgm-run-2"
PLAIN = (torch.Tensor, torch.nn.Parameter, bool, int, float, str)


def check_plain(value, name: str) -> None:
    r"""Raises a `TypeError` that names the first value that is neither a tensor nor plain."""
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            check_plain(key, f"a key of {name}")
            check_plain(inner, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, inner in enumerate(value):
            check_plain(inner, f"{name}[{i}]")
    elif value is not None and type(value) not in PLAIN:
        raise TypeError(f"{name} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def write(file: Path, state: dict) -> None:
    r"""Writes the state to the file, atomically.

    Raises:
        TypeError: if the state holds other values than tensors and plain ones, which could not be read again.
        RunError: if it cannot be written, as on a full disk; the previous checkpoint is kept.
    """
    check_plain(state, "state")
    try:
        with whole(file) as path, path.open("wb") as stream:
            torch.save(state | {"format": FORMAT}, stream)
    except (OSError, RuntimeError) as error:
        kept = "the one before it is kept" if file.exists() else "there is none before it"
        raise RunError(f"cannot write {file} ({line(error)}): make room and resume; {kept}") from error


def read(file: Path, points: range | None = None) -> dict:
    r"""Reads the state, to the CPU.

    The rows of a training on several processes are in a file for each, and are joined.

    Arguments:
        file: the checkpoint.
        points: those whose rows are read from these files, which are then mapped into memory; `None`: all.

    Raises:
        RunError: if it is missing, damaged, of another program, or holds other values than tensors and plain ones.
    """
    state = _read(file, points is not None)
    return _joined(state, [_part(file, name, points) for name in state["parts"]], points) if "parts" in state else state


def _part(file: Path, name: str, points: range | None) -> dict:
    part = file.with_name(Path(name).name)
    if not part.exists():
        raise RunError(f"{part} is not there, which {file} needs; copy the whole folder of the run")
    return _read(part, points is not None)


def _joined(state: dict, parts: list[dict], points: range | None) -> dict:
    r"""Returns the state with the rows of all parts, by the places that they name, and what else each process had."""
    for place in parts[0]["rows"]:
        inner = state
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = _rows([part["rows"][place] for part in parts], points)
    ranks = [{name: value for name, value in part.items() if name not in ("rows", "format")} for part in parts]
    return state | ranks[0] | {"ranks": ranks}


def _rows(tables: list[torch.Tensor], points: range | None) -> torch.Tensor:
    if points is None:
        return torch.cat(tables)
    found, first = [], 0
    for table in tables:
        found.append(table[max(0, points.start - first) : max(0, points.stop - first)])
        first += len(table)
    return torch.cat(found)


def _read(file: Path, mapped: bool) -> dict:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{file.parent} is not a run: it has no checkpoint.pt") from None
    except pickle.UnpicklingError:
        raise RunError(
            f"{file} holds more than tensors and plain values, or is damaged; nothing was executed"
        ) from None
    except Exception as error:  # damaged bytes can raise any error
        raise RunError(f"{file} cannot be read ({type(error).__name__}): it is truncated or damaged") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"{file} is a checkpoint of another program or version; expected format {FORMAT}")
    _check_sums(file)
    return state


def _check_sums(file: Path) -> None:
    # torch reads numbers with flipped bits without an error.
    try:
        with zipfile.ZipFile(file) as parts:
            wrong = parts.testzip()
    except Exception as error:  # as in `read`
        wrong = type(error).__name__
    if wrong:
        raise RunError(f"{file} fails its checksums ({wrong}): it is damaged")
