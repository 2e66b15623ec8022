r"""A folder of images as a data set."""

from pathlib import Path

import torch
from torch import Tensor

from .dataset import Dataset, split
from .streamed_images import MODES, Files, Streamed
from .transforms import Grid, Transform


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
    r"""The images below a folder, 8 bits a channel.

    Files are taken in the order of their paths. If all of them lie in subfolders, the first subfolder is the label,
    numbered in alphabetical order, as in torchvision's ``ImageFolder``.

    Arguments:
        folder: what holds the images, with or without subfolders.
        size: (H, W), or one number for both. Each image is scaled to cover it and cropped to its middle.
        num_test, num_val: how many images test and validate.
        seed: of the shuffle before the split; `None` keeps the order.
        channels: 3 for colours, 1 for grey.
        transform: `Grid` (the default) or `Dequantize`, of 256 levels.
        num_workers: processes that read.
        streamed: whether the training images stay in their files and are read batch by batch in each epoch, where
            they do not fit into memory; `fit` takes them as they are. Those that validate and test are in memory.
        progress: whether to show a bar.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if size, channels, workers or split make no sense, or a file is no image.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    _check(size, channels, num_workers)
    folder = Path(folder)
    found = paths(folder)
    v = Streamed(Files(found, size, channels), num_workers)
    colours = "grey" if channels == 1 else "colours"
    return split(
        folder.resolve().name,
        v if streamed else v.read(progress),
        _labels(folder, found),
        num_val=num_val,
        num_test=num_test,
        seed=seed,
        transform=transform or Grid(),
        protocol=f"resized to {size[0]}x{size[1]} (bicubic, cropped to the middle), {colours}; ",
    )


def _check(size: tuple[int, ...], channels: int, num_workers: int) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}; expected (H, W) of at least 1, or one number for both")
    if channels not in MODES:
        raise ValueError(f"channels is {channels}; expected 3 for colours or 1 for grey")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; expected 0 (read in this process) or more")


def paths(folder: Path) -> list[Path]:
    r"""The images below a folder, in the order of their paths.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one with images in it")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder} holds no image; expected files that end with {', '.join(IMG_EXTENSIONS)}")
    return found


def _labels(folder: Path, paths: list[Path]) -> Tensor | None:
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(part) == 1 for part in parts):
        return None
    number = {name: i for i, name in enumerate(sorted({part[0] for part in parts}))}
    return torch.tensor([number[part[0]] for part in parts])
