r"""Where the command line's data come from: a name that everybody knows, a file of arrays, a folder of images."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from .. import data
from ..data import array_files
from ..data.dataset import split
from .values import check_fits, kind, of_bytes

VALIDATION = 5000  # training images of MNIST or CIFAR-10 that validate where validation is asked for
PARTS = ("num_test", "num_val", "split_seed")
# The options that a source takes; "file" and "folder" stand for all that have no name of their own.
TAKES = {
    "digits": (),
    "mnist": ("num_val", "binarization"),
    "fashion-mnist": ("num_val", "binarization"),
    "cifar10": ("num_val",),
    "file": ("key", "labels", "layout", *PARTS),
    "folder": ("size", "grey", *PARTS, "workers"),
}
KNOWN = tuple(TAKES)[:4]
OPTIONS = tuple(dict.fromkeys(option for taken in TAKES.values() for option in taken))


def locate(given: str | os.PathLike, root: str | os.PathLike | None) -> tuple[str, str | None]:
    r"""(name, root) of the data that ``given`` names: a known name, or "file" or "folder"; root is where they lie.

    Raises:
        FileNotFoundError: if it is neither a known name nor something that is there.
        ValueError: if a root stands beside a path.
    """
    if given in KNOWN:
        return str(given), None if root is None else str(Path(root).absolute())
    path = Path(given).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(
            f"data is {str(given)!r}, which is not there; expected {', '.join(KNOWN)}, a file of arrays "
            f"({', '.join(array_files.READERS)}), or a folder of images"
        )
    if root is not None:
        raise ValueError(f"{path} says where the data lie; leave out --data-root")
    return "folder" if path.is_dir() else "file", str(path)


def dataset(
    name: str, root: str | None, likelihood: str, *, validate: bool = False, download: bool = False, **given
) -> data.Dataset:
    r"""The data set, with its values as the likelihood takes them.

    8-bit values are binarized for "bernoulli" (by default afresh at each access), put on the grid k/255 for
    "discretized-logistic", and dequantized otherwise. Real values are taken as they are; "bernoulli" binarizes those
    in [0, 1].

    Arguments:
        name, root: of `locate`.
        likelihood: a key of `recipes.LIKELIHOODS`.
        validate: whether points have to validate; digits have 200 in any case.
        download: whether torchvision may fetch or unpack what is not there.
        given: values for some of `OPTIONS`; `None` and `False` count as left out.

    Raises:
        ValueError: if the place is not given, an option does not apply, or the likelihood does not fit the data.
        FileNotFoundError: if the data are not there.
    """
    given = stated(given)
    foreign = [f"--{option.replace('_', '-')}" for option in given if option not in TAKES[name]]
    if foreign:
        raise ValueError(f"{', '.join(foreign)}: not for {_said(name)}; leave it out")
    if name != "digits" and root is None:
        raise ValueError(f"{name} lies in files: say where with --data-root, the folder that holds its raw/ folder")
    found = READERS[name](root, likelihood, validate, download, given)
    if validate and len(found.val) == 0:
        raise ValueError("no points validate: num_val is 0, and --patience needs some; leave one of them out")
    return found


def stated(given: dict) -> dict:
    r"""The options that were not left out."""
    return {option: value for option, value in given.items() if value is not None and value is not False}


def _said(name: str) -> str:
    return {"file": "a file of arrays", "folder": "a folder of images"}.get(name, name)


def _digits(root, likelihood: str, validate: bool, download: bool, given: dict) -> data.Dataset:
    check_fits(likelihood, "dequantized grey values", "digits")
    return data.digits()


def _official(read: Callable, binary: bool) -> Callable:
    r"""The reader of images with an official test set, which are binarized for "bernoulli" if they are ``binary``."""

    def reader(root, likelihood: str, validate: bool, download: bool, given: dict) -> data.Dataset:
        num_val = given.get("num_val", VALIDATION if validate else 0)
        if binary and likelihood == "bernoulli":
            return read(root, num_val=num_val, download=download, binarization=given.get("binarization", "dynamic"))
        if "binarization" in given:
            raise ValueError(f"--binarization is for the likelihood bernoulli, and it is {likelihood}; leave it out")
        check_fits(likelihood, "8-bit images", root)
        kept = {"binarization": None} if binary else {}
        return read(root, num_val=num_val, download=download, transform=of_bytes(likelihood), **kept)

    return reader


def _file(root, likelihood: str, validate: bool, download: bool, given: dict) -> data.Dataset:
    v, labels = array_files.read(root, given.get("key"), given.get("layout"), given.get("labels"))
    values = kind(v, root)
    check_fits(likelihood, values, f"the values of {root}")
    transform = None
    if values == "8-bit values":
        v, transform = (v / 255 if likelihood == "bernoulli" else v), of_bytes(likelihood)
    elif likelihood == "bernoulli" and values != "zeros and ones":
        transform = data.Binarize()
    return split(Path(root).stem, v, labels, transform=transform, **_parts(len(v), validate, given))


def _folder(root, likelihood: str, validate: bool, download: bool, given: dict) -> data.Dataset:
    check_fits(likelihood, "8-bit images", f"the images of {root}")
    if "size" not in given:
        raise ValueError(
            f"the images of {root} have to be of one size: say it with --size, 64 or 64x48 (height x width)"
        )
    height, _, width = given["size"].partition("x")
    settings = {"size": (int(height), int(width or height)), "channels": 1 if given.get("grey") else 3}
    settings |= {"num_workers": given.get("workers", 0), "streamed": "workers" in given}
    settings["progress"] = sys.stderr.isatty()
    N = len(data.image_folder.paths(Path(root)))
    return data.images(root, transform=of_bytes(likelihood), **settings, **_parts(N, validate, given))


READERS = {
    "digits": _digits,
    "mnist": _official(data.mnist, binary=True),
    "fashion-mnist": _official(data.fashion_mnist, binary=True),
    "cifar10": _official(data.cifar10, binary=False),
    "file": _file,
    "folder": _folder,
}


def _parts(N: int, validate: bool, given: dict) -> dict:
    num_test = given.get("num_test", max(1, N // 10))
    seed = given.get("split_seed", 0)
    num_val = given.get("num_val", num_test if validate else 0)
    return {"num_test": num_test, "num_val": num_val, "seed": None if seed == "none" else seed}
