r"""Data sets from a source, with values in the form that the likelihood takes."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from ..data import array_files, builtin, image_folder
from ..data.dataset import Dataset, split
from ..data.transforms import Binarize, Dequantize, Grid, Transform
from . import tables
from .imports import is_path
from .pairs import AMOUNTS, COLUMNS, COUNTS, LIKELIHOODS, REAL, names
from .sources import check_options, stated

VALIDATION = 5000  # default number of validation images of MNIST or CIFAR-10
WHOLE = (*COUNTS, "categorical")  # these take whole numbers as they are
# The transform of 8-bit values at each access: they are dequantized, except for some likelihoods.
BYTES = dict.fromkeys(LIKELIHOODS, Dequantize(256)) | {"bernoulli": Binarize(), "discretized-logistic": Grid(256)}
BYTES |= dict.fromkeys((*WHOLE, *AMOUNTS))
GREY = tuple(name for name in LIKELIHOODS if BYTES[name] is not None)
FITTING = {
    "8-bit values": (*GREY, *WHOLE),
    "8-bit images": tuple(name for name in GREY if name != "bernoulli"),
    "dequantized grey values": tuple(name for name in GREY if BYTES[name] == Dequantize(256)),
    "zeros and ones": ("bernoulli", *WHOLE),
    "real values in [0, 1]": (*(name for name in GREY if name != "discretized-logistic"), *AMOUNTS),
    "whole real values": (*REAL, *AMOUNTS, *WHOLE),
    "real values": (*REAL, *AMOUNTS),
    "counts beyond 8 bits": WHOLE,
    "whole numbers": (),
}


def dataset(
    name: str, root: str | None, likelihood: str, *, validate: bool = False, download: bool = False, **given
) -> Dataset:
    r"""Returns the data set, with values in the form that the likelihood takes.

    8-bit values are binarized for "bernoulli" (by default anew at each access), put on the grid k/255 for
    "discretized-logistic", and dequantized otherwise; counts and classes stay as they are. Real values stay as they
    are; "bernoulli" binarizes those in [0, 1]. For a user's own likelihood, images are dequantized, and the values of a
    file stay as they are; so do those of a table with a likelihood for each group of columns.

    Arguments:
        name, root: the result of `sources.locate`.
        likelihood: a name as for `pairs.Recipe`; an import path is not imported.
        validate: whether validation points are needed; digits have 200 in any case.
        download: whether torchvision may download or unpack missing files.
        given: values for some of `sources.OPTIONS`; `None` and `False` count as left out.

    Raises:
        ValueError: if the location is missing, an option does not apply, or the likelihood does not fit the data.
        FileNotFoundError: if the data does not exist.
    """
    given = stated(given)
    check_options(name, root, given)
    found = READERS[name](root, likelihood, given | {"validate": validate, "download": download})
    if validate and len(found.val) == 0:
        raise ValueError("no points validate: num_val is 0, and --patience needs some; leave one of them out")
    return found


def _digits(root, likelihood: str, given: dict) -> Dataset:
    check_fits(likelihood, "dequantized grey values", "digits")
    return builtin.digits()


def _official(read: Callable, binary: bool, root, likelihood: str, given: dict) -> Dataset:
    r"""Returns images with an official test set, binarized for "bernoulli" if they are ``binary``."""
    num_val = given.get("num_val", VALIDATION if given["validate"] else 0)
    settings = {"num_val": num_val, "download": given["download"]}
    if binary and likelihood == "bernoulli":
        return read(root, binarization=given.get("binarization", "dynamic"), **settings)
    if "binarization" in given:
        raise ValueError(f"--binarization is for the likelihood bernoulli, and it is {likelihood}; leave it out")
    check_fits(likelihood, "8-bit images", root)
    if binary:
        settings["binarization"] = None
    return read(root, transform=_of_bytes(likelihood), **settings)


def _file(root, likelihood: str, given: dict) -> Dataset:
    named = (given.get(option) for option in ("key", "layout", "labels", "given"))
    held = array_files.read(root, *named)
    beside = {"given": held.given, "label_names": held.label_names, "protocol": held.said + _missing(held.v)}
    v, transform = _taken(held.v, likelihood, root)
    return split(Path(root).stem, v, held.labels, transform=transform, **beside, **_parts(len(v), given))


def _missing(v: Tensor) -> str:
    r"""Returns text for the protocol if values are missing."""
    share = float(v.isnan().double().mean()) if v.is_floating_point() else 0.0
    return f"{share:.1%} of the values are missing; " if share else ""


def _taken(v: Tensor, likelihood: str, root) -> tuple[Tensor, Transform | None]:
    r"""Returns the values of a file and their transform, after checking that they fit the likelihood."""
    values = kind(v, root)
    if is_path(likelihood):
        return v, None
    if tables.is_table(likelihood):
        _check_columns(v, likelihood, root)
        return v, None
    check_fits(likelihood, values, f"the values of {root}", v)
    if values == "8-bit values":
        return (v / 255 if likelihood == "bernoulli" else v), _of_bytes(likelihood)
    transform = Binarize() if likelihood == "bernoulli" and values != "zeros and ones" else None
    if transform is not None and v.isnan().any():
        raise ValueError(f"{root} has missing values (NaN), which {transform} cannot take; save zeros and ones")
    return v, transform


def _check_columns(v: Tensor, table: str, root) -> None:
    r"""Raises a `ValueError` unless the columns are those that the table names, and each fits its likelihood."""
    groups = tables.parts(table, COLUMNS)
    P = sum(len(numbers) for numbers, _ in groups)
    if tuple(v.shape[1:]) != (P,):
        raise ValueError(
            f"{root} has points of shape {tuple(v.shape[1:])}; --likelihood names {P} columns, all of ({P},)"
        )
    for numbers, name in groups:
        some, whose = v[:, numbers], f"columns {numbers} of {root}"
        values = kind(some, whose)
        # Columns of a table have no transform that would make them zeros and ones, or levels.
        suits = (*REAL, *AMOUNTS) if values in ("8-bit values", "counts beyond 8 bits", "whole numbers") else ()
        suits += ("continuous-bernoulli",) if values == "zeros and ones" else ()
        if name == "bernoulli" and values != "zeros and ones":
            raise ValueError(f"{whose} are {values}; bernoulli expects zeros and ones in the columns of a table")
        if name not in suits:
            check_fits(name, values, whose, some)


def _of_bytes(likelihood: str) -> Transform | None:
    r"""Returns the transform of 8-bit values."""
    return Dequantize(256) if is_path(likelihood) else BYTES[names(likelihood)[0]]


def _folder(root, likelihood: str, given: dict) -> Dataset:
    check_fits(likelihood, "8-bit images", f"the images of {root}")
    if "size" not in given:
        raise ValueError(
            f"the images of {root} have to be of one size: give it with --size, 64 or 64x48 (height x width)"
        )
    height, _, width = given["size"].partition("x")
    settings = {"size": (int(height), int(width or height)), "channels": 1 if given.get("grey") else 3}
    settings |= {"num_workers": given.get("workers", 0), "streamed": "workers" in given}
    settings |= {"progress": sys.stderr.isatty(), "transform": _of_bytes(likelihood)}
    return image_folder.images(root, **settings, **_parts(len(image_folder.paths(Path(root))), given))


READERS = {
    "digits": _digits,
    "mnist": partial(_official, builtin.mnist, True),
    "fashion-mnist": partial(_official, builtin.fashion_mnist, True),
    "cifar10": partial(_official, builtin.cifar10, False),
    "file": _file,
    "folder": _folder,
}


def _parts(N: int, given: dict) -> dict:
    num_test, seed = given.get("num_test", max(1, N // 10)), given.get("split_seed", 0)
    num_val = given.get("num_val", num_test if given["validate"] else 0)
    return {"num_test": num_test, "num_val": num_val, "seed": None if seed == "none" else seed}


def check_fits(likelihood: str, values: str, whose: str, v: Tensor | None = None) -> None:
    r"""Raises a `ValueError` that names fitting likelihoods, unless this one fits or is a user's own.

    Arguments:
        likelihood: its name.
        values: a key of `FITTING`.
        whose: what holds the values, for the error.
        v: the values, if they have been read.
    """
    if is_path(likelihood) or (not tables.is_table(likelihood) and names(likelihood)[0] in FITTING[values]):
        return
    if values in ("counts beyond 8 bits", "whole numbers"):
        raise ValueError(
            f"{likelihood} does not fit {whose}, whole numbers from {v.min():g} to {v.max():g}; expected 8 bits, "
            f"0..255, real numbers, saved as float32, or counts and classes, from 0 on, for {', '.join(COUNTS)}, "
            "categorical:K"
        )
    floats = ", or save amounts as float32" if likelihood in AMOUNTS and values == "8-bit values" else ""
    fitting = ", ".join("categorical:K" if name == "categorical" else name for name in FITTING[values])
    raise ValueError(f"{likelihood} does not fit {whose}, which are {values}; use {fitting}{floats}")


def kind(v: Tensor, root) -> str:
    r"""Returns the kind of the observed values in v, a key of `FITTING`.

    Raises:
        ValueError: if there are none, with their location ``root``.
    """
    v = v[~v.isnan()] if v.is_floating_point() else v
    if v.numel() == 0:
        raise ValueError(f"{root} has missing values alone (NaN); expected some that are observed")
    lowest, highest = float(v.min()), float(v.max())
    unit = 0 <= lowest <= highest <= 1
    if unit and bool(((v == 0) | (v == 1)).all()):
        return "zeros and ones"
    if v.is_floating_point():
        whole = lowest >= 0 and bool((v == v.round()).all())
        return "real values in [0, 1]" if unit else "whole real values" if whole else "real values"
    if lowest < 0:
        return "whole numbers"
    return "8-bit values" if highest <= 255 else "counts beyond 8 bits"
