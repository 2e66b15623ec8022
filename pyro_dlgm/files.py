r"""Writing whole files or nothing: a new name first, then one rename."""

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
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
