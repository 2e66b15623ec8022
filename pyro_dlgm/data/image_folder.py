r"""A folder of images as a data set."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .conversion import whole
from .dataset import Dataset, split
from .image_file import MODES, SAID, SUFFIXES
from .streamed_images import Files, Streamed
from .transforms import Grid, Transform

SYSTEM = ("__MACOSX", "@eaDir")  # folders that archives and file servers leave behind
# Image formats that are not supported; files that are not images are skipped, and the protocol counts them.
FOREIGN = (".heic", ".heif", ".hif", ".jxl", ".exr", ".pfm", ".dcm")
FOREIGN += (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
MOST = 5  # kinds of skipped files that a protocol lists


def images(
    folder: str | Path,
    *,
    size: int | tuple[int, int],
    num_test: int,
    num_val: int = 0,
    seed: int | None = 0,
    channels: int = 3,
    transform: Transform | None = None,
    num_workers: int = 0,
    streamed: bool = False,
    progress: bool = False,
) -> Dataset:
    r"""Returns the data set of the images in a folder and its subfolders, with 8 bits per channel.

    Files are in the natural order of their paths: frame2 before frame10. If all of them are in subfolders, the first
    subfolder is the label, numbered in alphabetical order, as in torchvision's ``ImageFolder``, with its name in
    `Dataset.label_names`. Links to folders are followed. Hidden files and folders, and those of the system
    (``__MACOSX``), are ignored; the protocol counts the other files that are skipped.

    A warning says so if only some of them are in subfolders: then there are no labels.

    Images are rotated by their EXIF orientation, and put over white where they are transparent. Grey values of 16 bits
    are scaled to 8; to keep 16, save the images as an array for `arrays`, with ``Dequantize(65536)``. Only the first
    frame is read.

    Arguments:
        folder: the folder of the images, with or without subfolders.
        size: (H, W), or one number for both. Each image is scaled to cover it and cropped to the middle.
        num_test, num_val: the numbers of test and validation images.
        seed: the seed of the shuffle before the split; `None` keeps the order.
        channels: 3 for colours, 1 for grey.
        transform: `Grid` (the default) or `Dequantize`, with 256 levels.
        num_workers: the number of processes that read images.
        streamed: whether training images stay in their files and are read batch by batch in each epoch, for data that
            does not fit into memory; `fit` takes them like a tensor. Validation and test images are in memory.
        progress: whether to show a bar.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if size, channels, workers or split are invalid, or a file is not an image, or one that is not
            supported: of 32 bits or real numbers, of a format unknown to Pillow, or of more than 2**26 pixels (except
            JPEG).
    """
    size = _size(size)
    channels, num_workers = whole("channels", channels), whole("num_workers", num_workers)
    _check(size, channels, num_workers)
    folder = Path(folder)
    found, others = _found(folder)
    labels, names = _labels(folder, found)
    v = Streamed(Files(found, size, channels), num_workers)
    colours = "grey" if channels == 1 else "colours"
    return split(
        folder.resolve().name,
        v if streamed else v.read(progress),
        labels,
        label_names=names,
        num_val=num_val,
        num_test=num_test,
        seed=seed,
        transform=transform or Grid(),
        protocol=f"files in natural order, {SAID}, resized to {size[0]}x{size[1]} (bicubic, cropped to the middle), "
        f"{colours}; {_said(others)}",
    )


def _size(size) -> tuple[int, ...]:
    try:
        return tuple(whole("size", side) for side in size)
    except TypeError:
        return (whole("size", size),) * 2


def _check(size: tuple[int, ...], channels: int, num_workers: int) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}; expected (H, W) of at least 1, or one number for both")
    if channels not in MODES:
        raise ValueError(f"channels is {channels}; expected 3 for colours or 1 for grey")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; expected 0 (read in this process) or more")


def paths(folder: Path) -> list[Path]:
    r"""Returns the images in a folder and its subfolders, in the natural order of their paths.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if there is an image of an unsupported format, a broken link, or a link that leads back.
    """
    return _found(folder)[0]


def _found(folder: Path) -> tuple[list[Path], Counter]:
    r"""Returns the images, and the number of other files by suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one with images in it")
    found, others = [], Counter()
    for path in _walk(folder, ()):
        suffix = path.suffix.lower()
        if suffix in FOREIGN:
            raise ValueError(f"{path} is an image of a format that is not read: save it as PNG, or remove it")
        if suffix not in SUFFIXES:
            others[suffix or "no suffix"] += 1
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"{path} is not a file, or a broken link: repair or remove it")
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no image; expected files that end with {', '.join(SUFFIXES)} ({_said(others) or 'empty'})"
        )
    return sorted(found, key=lambda path: _natural(path.relative_to(folder))), others


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    r"""Yields the files in a folder and its subfolders, except hidden ones and those of the system; follows links."""
    above = (*above, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in SYSTEM:
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() in above:
            raise ValueError(f"{path} is a link that leads back to a folder above it: remove it")
        else:
            yield from _walk(path, above)


def _natural(path: Path) -> tuple:
    r"""Returns a sorting key by which frame2 comes before frame10: letters and numbers are compared in turn."""
    cut = [re.split(r"([0-9]+)", part) for part in path.parts]
    return [[int(s) if i % 2 else s for i, s in enumerate(part)] for part in cut], path.parts


def _said(others: Counter) -> str:
    r"""Returns the text of a protocol on skipped files."""
    kinds = [f"{count} {suffix}" for suffix, count in sorted(others.items())]
    more = f" and {len(kinds) - MOST} more kinds" if len(kinds) > MOST else ""
    return f"left out: {', '.join(kinds[:MOST])}{more}; " if kinds else ""


def _labels(folder: Path, paths: list[Path]) -> tuple[Tensor | None, tuple[str, ...] | None]:
    parts = [path.relative_to(folder).parts for path in paths]
    loose = [part[0] for part in parts if len(part) == 1]
    if loose:
        _warn_mixed(folder, loose, len(parts))
        return None, None
    names = tuple(sorted({part[0] for part in parts}))
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[part[0]] for part in parts]), names


def _warn_mixed(folder: Path, loose: list[str], num: int) -> None:
    if len(loose) < num:
        warnings.warn(
            f"{folder} has no labels, since {len(loose)} of its {num} images lie in no subfolder, such as {loose[0]}; "
            "expected all of them or none in subfolders: move these into one for labels",
            stacklevel=4,
        )
