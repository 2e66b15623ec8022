r"""Writing whole files or nothing, and folders that one process writes at a time."""

import contextlib
import os
import tempfile
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path):
    r"""Yields a temporary path in the same folder, which replaces ``path`` once the body has ended well."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems cannot; the file itself is safe
        _flush(path.parent)


def discard_unfinished(path: Path) -> None:
    r"""Removes what a killed process left of its attempts to write ``path`` whole."""
    for left in path.parent.glob(f".{path.stem}-????????{path.suffix}"):
        left.unlink(missing_ok=True)


def lock(folder: Path) -> int:
    r"""A handle that keeps all others from locking the folder, until `os.close` or the end of the process.

    Raises:
        BlockingIOError: if somebody holds it already.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        import fcntl  # not on every system; there, nothing is locked

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except OSError:
        os.close(handle)
        raise
    return handle


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
