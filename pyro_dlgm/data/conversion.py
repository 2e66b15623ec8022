r"""Converts numbers of any byte order and width to tensors, and refuses those that the default dtype would damage."""

import operator
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

WIDER = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}  # torch does not compute with the former
LOSS = 0.01  # largest root mean square change by rounding, relative to a column's standard deviation
ROUNDED = 1e-13  # for values up to 1, a smaller standard deviation is rounding that is in the file already
BLOCK = 2**22  # values to compare at a time
MOST = 10  # columns that a message names


def whole(name: str, value) -> int:
    r"""Returns the argument ``name`` as an `int`: from one of Python or NumPy, or a tensor with one number.

    Raises:
        ValueError: if it is not a whole number.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; expected a whole number") from None


def tensor(array, whose: str) -> Tensor:
    r"""Returns the array as a tensor: of whole numbers, or of real ones in the default dtype if that keeps the content.

    Arguments:
        array: an array of NumPy, a tensor or a list; entries under a mask of NumPy become NaN.
        whose: what holds it, for an error.

    Raises:
        ValueError: if it does not hold real numbers, or they do not fit the dtype.
    """
    v = plain(array, whose)
    if v.dtype.kind in "iu":
        return torch.from_numpy(v)
    return narrow(v, whose)


def plain(array, whose: str) -> np.ndarray:
    r"""Returns the real numbers of an array, in native byte order and a width that torch computes with.

    Arguments and errors are those of `tensor`.
    """
    v = _unmasked(as_array(array, whose))
    if v.dtype.kind not in "biuf":
        raise ValueError(
            f"{whose} holds {str(v.dtype)[:100]}; expected an array of numbers: number names and classes before saving"
        )
    v = v.astype(v.dtype.newbyteorder("="), copy=False)
    wider = WIDER.get(v.dtype.name, v.dtype)
    if v.dtype == np.uint64 and v.size and v.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{whose} holds whole numbers up to {v.max()}; expected less than 2**63: save them as float64")
    return v.astype(wider, copy=False)


def narrow(v: Tensor | np.ndarray, whose: str) -> Tensor:
    r"""Returns numbers (N, ...) in the default dtype.

    Raises:
        ValueError: if a column would lose its content: its spread is below the resolution of the dtype at its values,
            as for seconds since 1970, or it exceeds the largest number.
    """
    v, dtype = np.asarray(v), torch.get_default_dtype()
    exact = v.astype(np.float64) if v.dtype == np.longdouble else v
    after = torch.from_numpy(exact).to(dtype)
    rounded = dtype == torch.bfloat16 or not np.can_cast(v.dtype, str(dtype).removeprefix("torch."))
    if rounded and v.dtype != bool and v.ndim and v.size:
        for first, before, kept in _columns(v, after):
            _check(first, before, kept, f"{whose} in {dtype}")
    return after


def as_array(array, whose: str) -> np.ndarray:
    r"""Returns a tensor, a list or an array as an array of NumPy.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(array, Tensor):
        if array.is_complex() or array.layout != torch.strided or array.is_quantized:
            raise ValueError(f"{whose} holds {array.dtype} ({array.layout}); expected a dense array of real numbers")
        odd = array.is_floating_point() and array.dtype not in (torch.float16, torch.float32, torch.float64)
        return (array.float() if odd else array).detach().cpu().numpy()
    try:
        return np.asanyarray(array)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{whose} holds a {type(array).__name__} ({error}); expected an array of numbers") from error


def _unmasked(v: np.ndarray) -> np.ndarray:
    r"""Returns the array with NaN for masked entries; NumPy saves a mask in the form of ``MaskedArray.toflex``."""
    if v.dtype.names == ("_data", "_mask"):
        v = np.ma.masked_array(v["_data"], v["_mask"])
    if not np.ma.isMaskedArray(v):
        return v
    hidden = np.ma.getmaskarray(v)
    real = v.data if v.dtype.kind not in "biu" or not hidden.any() else v.data.astype(np.float64)
    return np.where(hidden, np.asarray(np.nan, real.dtype), real) if hidden.any() else real


def _columns(v: np.ndarray, after: Tensor) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    r"""Yields the numbers before and after, some columns at a time, with the index of the first column."""
    v, after = v.reshape(len(v), -1), after.reshape(len(v), -1)
    size = max(1, BLOCK // len(v))
    for first in range(0, v.shape[1], size):
        some, wide = slice(first, first + size), np.result_type(v.dtype, np.float64)
        yield first, v[:, some].astype(wide), after[:, some].double().numpy()


def _check(first: int, before: np.ndarray, after: np.ndarray, where: str) -> None:
    known = np.isfinite(before)
    before, after = np.where(known, before, 0), np.where(known, after, 0)
    top = np.abs(before).max(0)
    if not np.isfinite(after).all():
        raise ValueError(f"{where} would be infinite: values go up to {top.max():.3g}; divide them before saving")
    n, unit = known.sum(0).clip(1), np.where(top > 0, top, 1)
    mean = (before / unit).sum(0) / n
    spread = np.sqrt((np.where(known, before / unit - mean, 0) ** 2).sum(0) / n)
    change = np.sqrt((((after - before) / unit) ** 2).sum(0) / n)
    lost = np.flatnonzero((change > LOSS * spread) & (spread > ROUNDED))
    if len(lost) == 0:
        return
    j = lost[0]
    kept = after[known[:, j], j].std()
    more = f" and {len(lost) - MOST} more" if len(lost) > MOST else ""
    raise ValueError(
        f"{where} would lose columns {(lost[:MOST] + first).tolist()}{more}: the standard deviation "
        f"{spread[j] * unit[j]:.3g} of column {j + first} becomes {kept:.3g}; subtract its mean before saving "
        "(log p(x) stays the same), or call torch.set_default_dtype(torch.float64) before reading"
    )
