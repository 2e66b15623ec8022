r"""Data sets from files of arrays: ``.npy``, ``.npz``, ``.pt``. Nothing in a file is ever executed."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, split
from .transforms import Transform

LAYOUTS = ("NP", "NHW", "NCHW", "NHWC")  # a letter for each axis
CHANNELS = (1, 3)
READERS = {
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".npz": lambda path: dict(np.load(path, allow_pickle=False)),
    ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
}


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
    r"""The data set in a file of arrays.

    Whole numbers stay as they are in ``train`` with a transform, and become real numbers without one. NaN stays: it
    counts as missing in `PPCA.fit`, and elsewhere a mask has to say so.

    Arguments:
        path: ``.npy``, ``.npz``, or ``.pt`` with a tensor or a dictionary of tensors; never a pickle.
        key: the name of the array in the file, where it holds several.
        num_test, num_val: how many points test and validate.
        seed: of the shuffle before the split; `None` keeps the order.
        layout: axes of the array, "NCHW", "NHWC", "NHW" or "NP"; four axes need it unless just one of the second and
            the last has the 1 or 3 entries of channels.
        labels: the name of the array of labels (N,), if there is one.
        given: the name of the array of what the points are conditioned on: whole numbers (N,), which become one-hot
            rows; or numbers (N,) or (N, C).
        transform: what happens at each access: ``Grid(256)`` or ``Dequantize(256)`` for 8-bit images.
        name: of the data set, by default the file's.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read without executing it, the key, layout or split does not fit, values are
            no numbers, or infinite, or do not fit the transform.
    """
    v, y, c = read(path, key, layout, labels, given)
    name, how = name or Path(path).stem, {"num_val": num_val, "num_test": num_test, "seed": seed}
    return split(name, v, y, given=c, transform=transform, protocol=said_of(given, c), **how)


def read(
    path: str | Path, key: str | None, layout: str | None, labels: str | None = None, given: str | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    r"""The points (N, ...) of a file, their labels (N,) and what is given (N, C), if there are any.

    Arguments and errors as of `arrays`.
    """
    path = Path(path)
    held = _read(path)
    v = _tensor(path, _pick(path, held, key))
    y = None if labels is None else _labels(path, _pick(path, held, labels), len(v))
    c = None if given is None else _given(path, given, _pick(path, held, given), len(v))
    v = _images(v, layout)
    if bool(v.isinf().any()):
        raise ValueError(f"{path} has infinite values; expected finite ones, or NaN for missing")
    return v, y, c


def said_of(key: str | None, given: Tensor | None) -> str:
    r"""What a protocol says of what is given: its name and its columns."""
    return "" if given is None else f"given {key} ({given.shape[1]} columns); "


def _read(path: Path):
    if path.suffix not in READERS:
        raise ValueError(f"{path} ends with {path.suffix!r}; expected .npy, .npz or .pt: save it with numpy.save")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; expected one of arrays (.npy, .npz or .pt)")
    try:
        return READERS[path.suffix](path)
    except MemoryError:
        raise
    except Exception as error:  # a reader raises whatever its format brings along
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as arrays alone ({reason}); expected numbers, no pickled objects: "
            "save it with numpy.save, numpy.savez or torch.save of tensors"
        ) from error


def _pick(path: Path, held, key: str | None):
    if not isinstance(held, Mapping):
        if key is not None:
            raise ValueError(f"{path} holds one array without a name, and {key!r} was asked for: leave it out")
        return held
    if key is None and len(held) == 1:
        return next(iter(held.values()))
    if key not in held:
        raise ValueError(f"key is {key!r}; {path} holds {', '.join(map(repr, held))}: give one of them")
    return held[key]


def _tensor(path: Path, array) -> Tensor:
    try:
        v = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = getattr(array, "dtype", type(array))
        raise ValueError(f"{path} holds {kind}; expected an array of numbers") from error
    if v.is_complex() or v.is_sparse or v.is_quantized:
        raise ValueError(f"{path} holds {v.dtype} ({v.layout}); expected a dense array of real numbers")
    if v.dim() < 2 or v.numel() == 0:
        raise ValueError(f"{path} holds shape {tuple(v.shape)}; expected points (N, ...), at least one of them")
    return v.to(torch.get_default_dtype()) if v.is_floating_point() or v.dtype == torch.bool else v


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


def _labels(path: Path, array, N: int) -> Tensor:
    y = torch.as_tensor(array)
    if y.shape != (N,) or y.is_floating_point():
        raise ValueError(f"the labels in {path} have shape {tuple(y.shape)} ({y.dtype}); expected {N} whole numbers")
    return y.long()


def _given(path: Path, key: str, array, N: int) -> Tensor:
    c = torch.as_tensor(array)
    if c.dim() not in (1, 2) or len(c) != N or c.is_complex() or c.numel() == 0:
        raise ValueError(
            f"{key!r} in {path} has shape {tuple(c.shape)} ({c.dtype}); expected what {N} points are conditioned on: "
            f"whole numbers ({N},) as labels, or numbers ({N}, C)"
        )
    if c.dim() == 1 and not c.is_floating_point():
        return torch.nn.functional.one_hot(c.unique(return_inverse=True)[1]).to(torch.get_default_dtype())
    c = c.reshape(N, -1).to(torch.get_default_dtype())
    if not bool(c.isfinite().all()):
        raise ValueError(f"{key!r} in {path} has NaN or infinite values; expected numbers: fill them in")
    return c
