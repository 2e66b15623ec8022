r"""Atomic writing of files, and JSON. This module does not import torch."""

import contextlib
import json
import math
import os
import secrets
from pathlib import Path

from filelock import FileLock

WAIT = 60.0  # seconds to wait for another process that adds a section


class RunError(Exception):
    r"""The folder is not a run, or the run cannot be used as requested; one line that says what to do."""


@contextlib.contextmanager
def writing(place, advice: str = "", *, verb: str = "write", only: tuple[int, ...] = ()):
    r"""Context manager: turns an error of the disk into a `RunError` with the place, the reason and advice.

    Arguments:
        place: what is written.
        advice: what to do after an error.
        verb: what is done with the place.
        only: the numbers of the errors to turn; by default all.
    """
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise RunError(f"cannot {verb} {place} ({error.strerror or error}){advice}") from error


@contextlib.contextmanager
def whole(path: Path):
    r"""Context manager: yields a temporary path in the same folder, which replaces ``path`` if the body succeeds."""
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # subject to the umask
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not possible on some file systems; the file itself is safe
        _flush(path.parent)


def write_json(file: Path, value) -> None:
    r"""Writes the value to the file, atomically."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    with whole(file) as path:
        path.write_text(text, encoding="utf-8")


def discard_unfinished(path: Path) -> None:
    r"""Removes temporary files of ``path`` that a killed process left behind."""
    for left in path.parent.glob(f".{path.stem}-????????{path.suffix}"):
        left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def plain(value):
    r"""Returns a value in the form of JSON, with numbers and arrays of NumPy and torch, and `None` if not finite."""
    return finite(json.loads(json.dumps(value, default=_as_list)))


def _as_list(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be kept as JSON; expected plain values: {str(value)[:100]}")


def finite(value):
    r"""Returns plain values with `None` for numbers that are not finite, which JSON does not have."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_sections(file: Path) -> dict:
    r"""Reads what `add_section` wrote; returns {} if there is no file.

    Raises:
        RunError: if the file is not a JSON object.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise RunError(f"{file} is not JSON of this program; move it away")
    return found


def add_section(file: Path, section: str, result: dict) -> None:
    r"""Sets one section of a JSON file and keeps the others; the file is replaced atomically.

    Raises:
        RunError: if the file is not a JSON object, or it cannot be written.
    """
    with writing(file), FileLock(file.with_name(f"{file.stem}.lock"), timeout=WAIT):
        sections = {**read_sections(file), section: finite(result)}  # keeps what others have added meanwhile
        write_json(file, sections)
