r"""Data sets from files of arrays: ``.npy``, ``.npz``, ``.pt``."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import messages
from . import conversion
from .archives import take
from .dataset import Dataset, split
from .transforms import Transform

LAYOUTS = ("NP", "NHW", "NCHW", "NHWC")  # a letter for each axis
CHANNELS = (1, 3)
NAMES = "US"  # kinds of NumPy: strings, and byte strings


def arrays(
    path: str | Path,
    key: str | None = None,
    *,
    num_test: int,
    num_val: int = 0,
    seed: int | None = 0,
    layout: str | None = None,
    labels: str | None = None,
    given: str | None = None,
    transform: Transform | None = None,
    name: str | None = None,
) -> Dataset:
    r"""Returns the data set in a file of arrays.

    With a transform, whole numbers in ``train`` stay as they are; without one, they become real numbers. NaN is kept:
    it means missing in `PPCA.fit`, and needs a mask elsewhere. Only the requested arrays are read.

    Arguments:
        path: ``.npy``, ``.npz``, or ``.pt`` with a tensor or a dictionary of tensors; never a pickle. NumPy saves a
            masked array without its mask, except as ``x.toflex()``, whose masked entries become NaN.
        key: the name of the array, if the file holds several.
        num_test, num_val: the numbers of test and validation points.
        seed: the seed of the shuffle before the split; `None` keeps the order.
        layout: axes of the array, "NCHW", "NHWC", "NHW" or "NP"; four axes need it unless exactly one of the second and
            the last has 1 or 3 entries, as channels do.
        labels: the name of the array of labels (N,), if there is one: whole numbers, or names, which are numbered in
            alphabetical order and stored as `Dataset.label_names`.
        given: the name of the array on which the points are conditioned: whole numbers or names (N,), which become
            one-hot rows; or real numbers (N,) or (N, C).
        transform: applied at each access: ``Grid(256)`` or ``Dequantize(256)`` for 8-bit images, ``Dequantize(65536)``
            for 16 bits.
        name: the name of the data set, by default that of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read without executing it, the key, layout or split does not fit, values are
            not numbers, are infinite, lose their content in the default dtype, or do not fit the transform.
    """
    held = read(path, key, layout, labels, given)
    v = held.v if transform is not None else conversion.narrow(held.v, str(path))
    how = {"num_val": num_val, "num_test": num_test, "seed": seed, "transform": transform, "protocol": held.said}
    return split(name or Path(path).stem, v, held.labels, given=held.given, label_names=held.label_names, **how)


@dataclass(frozen=True)
class Contents:
    r"""The contents of a file of arrays.

    Attributes:
        v: the points (N, ...), images with their channels first.
        labels: whole numbers (N,), or `None`.
        label_names: the names of the labels, if the file holds names.
        given: what the points are conditioned on (N, C), or `None`.
        said: text for the protocol.
    """

    v: Tensor
    labels: Tensor | None
    label_names: tuple[str, ...] | None
    given: Tensor | None
    said: str


def read(
    path: str | Path, key: str | None, layout: str | None, labels: str | None = None, given: str | None = None
) -> Contents:
    r"""Returns the points of a file with labels and ``given``, if there are any.

    Arguments and errors are those of `arrays`.
    """
    path = _path(path)
    beside = {name: value for name, value in (("labels", labels), ("given", given)) if value is not None}
    array, *found = take(path, key=key, **beside)
    v, said = _points(path, array)
    v = _images(v, layout)
    y, names = (None, None) if labels is None else _labels(path, found[0], len(v))
    c = None if given is None else _given(path, given, found[-1], len(v))
    said += "" if c is None else f"given {given} ({c.shape[1]} columns); "
    return Contents(v, y, names, c, said)


def _path(path: str | Path) -> Path:
    if not isinstance(path, str | PathLike):
        raise TypeError(
            f"path is a {type(path).__name__}; expected the path of a file: what is in memory goes to fit as a tensor, "
            f"{messages.as_tensor('x', path)}, or into a file by numpy.save"
        )
    return Path(path)


def _points(path: Path, array) -> tuple[Tensor, str]:
    r"""Returns the points, and text for the protocol if real numbers are rounded."""
    before = conversion.plain(array, str(path))
    if before.ndim < 2 or before.size == 0:
        raise ValueError(f"{path} holds shape {before.shape}; expected points (N, ...), at least one of them")
    if before.dtype.kind == "f" and np.isinf(before).any():
        raise ValueError(f"{path} has infinite values; expected finite ones, or NaN for missing")
    v = conversion.tensor(before, str(path))
    rounded = v.is_floating_point() and before.dtype.itemsize > v.element_size()
    return v, f"{before.dtype} as {str(v.dtype).removeprefix('torch.')}; " if rounded else ""


def _images(v: Tensor, layout: str | None) -> Tensor:
    layout = layout or _layout(v)
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected one of {', '.join(map(repr, LAYOUTS))}")
    if v.dim() != len(layout):
        raise ValueError(f"the array has shape {tuple(v.shape)}, {v.dim()} axes; layout {layout!r} has {len(layout)}")
    if layout == "NHW":
        return v.unsqueeze(1)
    return v.movedim(-1, 1).contiguous() if layout == "NHWC" else v


def _layout(v: Tensor) -> str:
    if v.dim() != 4:
        return {2: "NP", 3: "NHW"}.get(v.dim(), "NCHW")
    first, last = v.shape[1] in CHANNELS, v.shape[3] in CHANNELS
    if first == last:
        raise ValueError(
            f"the array has shape {tuple(v.shape)}; say which axis holds channels: layout='NCHW' or 'NHWC'"
        )
    return "NCHW" if first else "NHWC"


def _labels(path: Path, array, N: int) -> tuple[Tensor, tuple[str, ...] | None]:
    r"""Returns the labels (N,), numbered if they are names, and the names."""
    whose = f"the labels in {path}"
    y = conversion.as_array(array, whose)
    if y.shape == (N,) and y.dtype.kind in NAMES:
        names, number = np.unique(np.char.decode(y) if y.dtype.kind == "S" else y, return_inverse=True)
        return torch.from_numpy(number), tuple(names.tolist())
    whole = y.dtype.kind in "biu" or (y.dtype.kind == "f" and bool((y == np.round(y)).all()))
    if y.shape != (N,) or not whole:
        raise ValueError(f"{whose} have shape {y.shape} ({y.dtype}); expected {N} whole numbers, or names")
    return torch.from_numpy(conversion.plain(y, whose).astype(np.int64)), None


def _given(path: Path, key: str, array, N: int) -> Tensor:
    whose = f"{key!r} in {path}"
    c = conversion.as_array(array, whose)
    kinds = "biuf" + (NAMES if c.ndim == 1 else "")
    if c.ndim not in (1, 2) or len(c) != N or c.dtype.kind not in kinds or c.size == 0:
        raise ValueError(
            f"{whose} has shape {c.shape} ({c.dtype}); expected what {N} points are conditioned on: "
            f"whole numbers or names ({N},) as labels, or numbers ({N}, C)"
        )
    if c.ndim == 1 and c.dtype.kind != "f":
        number = torch.from_numpy(np.unique(c, return_inverse=True)[1])
        return torch.nn.functional.one_hot(number).to(torch.get_default_dtype())
    c = conversion.narrow(conversion.plain(c, whose), whose).reshape(N, -1)
    if not bool(c.isfinite().all()):
        raise ValueError(f"{whose} has NaN or infinite values; expected numbers: fill them in")
    return c
