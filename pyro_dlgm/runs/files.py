r"""Files that are written whole or not at all, and JSON. It imports no torch."""

import contextlib
import json
import math
import os
import secrets
from pathlib import Path

from filelock import FileLock

WAIT = 60.0  # seconds for another process that adds a section


class RunError(Exception):
    r"""A folder that is no run, or a run that cannot be used as asked; one line that says what to do."""


@contextlib.contextmanager
def writing(place, advice: str = "", *, verb: str = "write", only: tuple[int, ...] = ()):
    r"""Inside, an error of the disk is a `RunError` that says what cannot be written, why, and the advice.

    Arguments:
        place: what cannot be written.
        advice: what to do then.
        verb: what cannot be done with it.
        only: of the errors with these numbers, if there are any; the others pass.
    """
    try:
        yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        raise RunError(f"cannot {verb} {place} ({error.strerror or error}){advice}") from error


@contextlib.contextmanager
def whole(path: Path):
    r"""Yields a temporary path in the same folder, which replaces ``path`` once the body has ended well."""
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # as far as the umask lets it
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems cannot; the file itself is safe
        _flush(path.parent)


def write_json(file: Path, value) -> None:
    r"""Replaces the file by one with the value, whole or not at all."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    with whole(file) as path:
        path.write_text(text, encoding="utf-8")


def discard_unfinished(path: Path) -> None:
    r"""Removes what a killed process left of its attempts to write ``path`` whole."""
    for left in path.parent.glob(f".{path.stem}-????????{path.suffix}"):
        left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def plain(value):
    r"""What JSON says of a value: numbers and arrays of NumPy and torch as such, `None` for what is not finite."""
    return finite(json.loads(json.dumps(value, default=_as_list)))


def _as_list(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be kept as JSON; expected plain values: {str(value)[:100]}")


def finite(value):
    r"""Plain values with `None` in place of each number that is not finite: JSON has no word for those."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_sections(file: Path) -> dict:
    r"""Reads what `add_section` wrote; nothing where there is no file.

    Raises:
        RunError: if what is there is no JSON object.
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
    r"""Puts one section into a JSON file and leaves the others; the file is replaced whole or not at all.

    Raises:
        RunError: if what is there is no JSON object, or it cannot be written.
    """
    with writing(file), FileLock(file.with_name(f"{file.stem}.lock"), timeout=WAIT):
        sections = {**read_sections(file), section: finite(result)}  # what others have added meanwhile stays
        write_json(file, sections)
