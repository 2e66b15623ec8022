r"""A folder of images as a data set."""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..progress import Bar
from .dataset import Dataset, split
from .transforms import Grid, Transform

MODES = {1: "L", 3: "RGB"}


class Files(torch.utils.data.Dataset):
    r"""Creates the images of a folder as bytes (C, H, W), scaled to cover the size and cropped to the middle.

    Arguments:
        paths: the files.
        size: (H, W).
        channels: 1 for grey, 3 for colours.
    """

    def __init__(self, paths: list[Path], size: tuple[int, int], channels: int):
        self.paths, self.size, self.mode = paths, size, MODES[channels]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor | str:
        r"""The image, or why there is none: an error in a worker would arrive with the worker's traceback."""
        from PIL import Image, ImageOps
        from torchvision.transforms.functional import pil_to_tensor

        try:
            with Image.open(self.paths[i]) as image:
                fitted = ImageOps.fit(image.convert(self.mode), self.size[::-1], Image.Resampling.BICUBIC)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{self.paths[i]} cannot be read as an image ({error}): repair or remove it"
        return pil_to_tensor(fitted)


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
    progress: bool = False,
) -> Dataset:
    r"""The images below a folder, in memory, 8 bits a channel.

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
        progress: whether to show a bar.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if size, channels, workers or split make no sense, or a file is no image.
    """
    size = (size, size) if isinstance(size, int) else tuple(size)
    _check(size, channels, num_workers)
    folder = Path(folder)
    paths = _paths(folder)
    v = _read(Files(paths, size, channels), num_workers, progress)
    said = (
        f"resized to {size[0]}x{size[1]} (bicubic, cropped to the middle), {'grey' if channels == 1 else 'colours'}; "
    )
    return split(
        folder.resolve().name,
        v,
        _labels(folder, paths),
        num_val=num_val,
        num_test=num_test,
        seed=seed,
        transform=transform or Grid(),
        protocol=said,
    )


def _check(size: tuple[int, ...], channels: int, num_workers: int) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}; expected (H, W) of at least 1, or one number for both")
    if channels not in MODES:
        raise ValueError(f"channels is {channels}; expected 3 for colours or 1 for grey")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; expected 0 (read in this process) or more")


def _paths(folder: Path) -> list[Path]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one with images in it")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image; expected files that end with {', '.join(IMG_EXTENSIONS)}")
    return paths


def _read(files: Files, num_workers: int, progress: bool) -> Tensor:
    r"""All images, (N, C, H, W) bytes."""
    # A generator of its own: a loader draws from the global one even where nothing is shuffled.
    loader = DataLoader(
        files, batch_size=64, num_workers=num_workers, collate_fn=_together, generator=torch.Generator()
    )
    v, done = None, 0
    with Bar(len(loader), shown=progress, name="read images") as bar:
        for batch in loader:
            if isinstance(batch, str):
                raise ValueError(batch)
            v = batch.new_empty(len(files), *batch.shape[1:]) if v is None else v
            v[done : done + len(batch)] = batch
            done += len(batch)
            bar.tick()
    return v


def _together(items: list[Tensor | str]) -> Tensor | str:
    broken = [item for item in items if isinstance(item, str)]
    return broken[0] if broken else torch.stack(items)


def _labels(folder: Path, paths: list[Path]) -> Tensor | None:
    parts = [path.relative_to(folder).parts for path in paths]
    if any(len(part) == 1 for part in parts):
        return None
    number = {name: i for i, name in enumerate(sorted({part[0] for part in parts}))}
    return torch.tensor([number[part[0]] for part in parts])
