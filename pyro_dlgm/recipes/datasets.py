r"""Data sets from a source, with their values as the likelihood takes them."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from ..data import array_files, builtin, image_folder
from ..data.dataset import Dataset, split
from ..data.transforms import Binarize, Dequantize, Grid
from .pairs import GAUSSIAN, LIKELIHOODS
from .sources import check_options, stated

VALIDATION = 5000  # training images of MNIST or CIFAR-10 that validate where validation is asked for
# What becomes of 8-bit values at each access: they are dequantized, but for two likelihoods.
BYTES = dict.fromkeys(LIKELIHOODS, Dequantize(256)) | {"bernoulli": Binarize(), "discretized-logistic": Grid(256)}
FITTING = {
    "8-bit values": tuple(LIKELIHOODS),
    "8-bit images": tuple(name for name in LIKELIHOODS if name != "bernoulli"),
    "dequantized grey values": tuple(name for name in LIKELIHOODS if BYTES[name] == Dequantize(256)),
    "zeros and ones": ("bernoulli",),
    "real values in [0, 1]": tuple(name for name in LIKELIHOODS if name != "discretized-logistic"),
    "real values": GAUSSIAN,
}


def dataset(
    name: str, root: str | None, likelihood: str, *, validate: bool = False, download: bool = False, **given
) -> Dataset:
    r"""The data set, with its values as the likelihood takes them.

    8-bit values are binarized for "bernoulli" (by default afresh at each access), put on the grid k/255 for
    "discretized-logistic", and dequantized otherwise. Real values are taken as they are; "bernoulli" binarizes those
    in [0, 1].

    Arguments:
        name, root: of `sources.locate`.
        likelihood: a key of `pairs.LIKELIHOODS`.
        validate: whether points have to validate; digits have 200 in any case.
        download: whether torchvision may fetch or unpack what is not there.
        given: values for some of `sources.OPTIONS`; `None` and `False` count as left out.

    Raises:
        ValueError: if the place is not given, an option does not apply, or the likelihood does not fit the data.
        FileNotFoundError: if the data are not there.
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
    r"""Images with an official test set, which are binarized for "bernoulli" if they are ``binary``."""
    num_val = given.get("num_val", VALIDATION if given["validate"] else 0)
    settings = {"num_val": num_val, "download": given["download"]}
    if binary and likelihood == "bernoulli":
        return read(root, binarization=given.get("binarization", "dynamic"), **settings)
    if "binarization" in given:
        raise ValueError(f"--binarization is for the likelihood bernoulli, and it is {likelihood}; leave it out")
    check_fits(likelihood, "8-bit images", root)
    if binary:
        settings["binarization"] = None
    return read(root, transform=BYTES[likelihood], **settings)


def _file(root, likelihood: str, given: dict) -> Dataset:
    named = (given.get(option) for option in ("key", "layout", "labels", "given"))
    held = array_files.read(root, *named)
    v, beside = held.v, {"given": held.given, "label_names": held.label_names, "protocol": held.said}
    values = kind(v, root)
    check_fits(likelihood, values, f"the values of {root}")
    transform = None
    if values == "8-bit values":
        v, transform = (v / 255 if likelihood == "bernoulli" else v), BYTES[likelihood]
    elif likelihood == "bernoulli" and values != "zeros and ones":
        transform = Binarize()
    return split(Path(root).stem, v, held.labels, transform=transform, **beside, **_parts(len(v), given))


def _folder(root, likelihood: str, given: dict) -> Dataset:
    check_fits(likelihood, "8-bit images", f"the images of {root}")
    if "size" not in given:
        raise ValueError(
            f"the images of {root} have to be of one size: say it with --size, 64 or 64x48 (height x width)"
        )
    height, _, width = given["size"].partition("x")
    settings = {"size": (int(height), int(width or height)), "channels": 1 if given.get("grey") else 3}
    settings |= {"num_workers": given.get("workers", 0), "streamed": "workers" in given}
    settings |= {"progress": sys.stderr.isatty(), "transform": BYTES[likelihood]}
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


def check_fits(likelihood: str, values: str, whose: str) -> None:
    r"""Raises a `ValueError` that names the likelihoods that fit, unless this one does.

    Arguments:
        likelihood: a key of `pairs.LIKELIHOODS`.
        values: a key of `FITTING`.
        whose: what holds them, for the error.
    """
    if likelihood not in FITTING[values]:
        raise ValueError(f"{likelihood} does not fit {whose}, which are {values}; use {', '.join(FITTING[values])}")


def kind(v: Tensor, root) -> str:
    r"""What v holds: a key of `FITTING`.

    Raises:
        ValueError: on missing values, and on whole numbers that are not 8-bit; ``root`` says where they are.
    """
    if v.isnan().any():
        raise ValueError(
            f"{root} has missing values (NaN); here there is no mask for them: use fit(..., mask=) in Python"
        )
    lowest, highest = float(v.min()), float(v.max())
    unit = 0 <= lowest <= highest <= 1
    if unit and bool(((v == 0) | (v == 1)).all()):
        return "zeros and ones"
    if v.is_floating_point():
        return "real values in [0, 1]" if unit else "real values"
    if lowest < 0 or highest > 255:
        raise ValueError(
            f"{root} holds whole numbers from {lowest:g} to {highest:g}; expected 8 bits, 0..255, or real numbers: "
            "save them as float32"
        )
    return "8-bit values"
