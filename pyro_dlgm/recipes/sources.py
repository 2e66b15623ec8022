r"""Sources of data by name or path, and the options that each takes. This module does not import torch."""

import os
from pathlib import Path

PARTS = ("num_test", "num_val", "split_seed")
# "file" and "folder" stand for data given by a path.
TAKES = {
    "digits": (),
    "mnist": ("num_val", "binarization"),
    "fashion-mnist": ("num_val", "binarization"),
    "cifar10": ("num_val",),
    "file": ("key", "labels", "given", "layout", *PARTS),
    "folder": ("size", "grey", *PARTS, "workers"),
}
KNOWN = tuple(TAKES)[:4]
OPTIONS = tuple(dict.fromkeys(option for taken in TAKES.values() for option in taken))
SUFFIXES = (".npy", ".npz", ".pt")


def locate(given: str | os.PathLike, root: str | os.PathLike | None) -> tuple[str, str | None]:
    r"""Returns (name, root) of the data: a known name, or "file" or "folder", and its location.

    Raises:
        FileNotFoundError: if ``given`` is neither a known name nor an existing path.
        ValueError: if a root is given as well as a path.
    """
    if given in KNOWN:
        return str(given), None if root is None else str(Path(root).absolute())
    path = Path(given).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(
            f"data is {str(given)!r}, which is not there; expected {', '.join(KNOWN)}, a file of arrays "
            f"({', '.join(SUFFIXES)}), or a folder of images"
        )
    if root is not None:
        raise ValueError(f"{path} is where the data is; leave out --data-root")
    return "folder" if path.is_dir() else "file", str(path)


def stated(given: dict) -> dict:
    r"""Returns the options that were not left out."""
    return {option: value for option, value in given.items() if value is not None and value is not False}


def check_options(name: str, root: str | None, given: dict) -> None:
    r"""Raises a `ValueError` that names options not for this source, or if the location is missing."""
    foreign = [f"--{option.replace('_', '-')}" for option in given if option not in TAKES[name]]
    if foreign:
        said = {"file": "a file of arrays", "folder": "a folder of images"}.get(name, name)
        raise ValueError(f"{', '.join(foreign)}: not for {said}; leave it out")
    if name != "digits" and root is None:
        raise ValueError(f"{name} is in files: give --data-root, the folder that holds its raw/ folder")
