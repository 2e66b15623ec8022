r"""Images in files, read one at a time, or in batches by processes that run ahead of the training."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..progress import Bar
from . import image_file
from .conversion import whole

READ = 64  # images per batch when reading all


class Files(torch.utils.data.Dataset):
    r"""Creates the data set of image files as bytes (C, H, W), each read by `image_file.read`.

    Arguments:
        paths: the files.
        size: (H, W).
        channels: 1 for grey, 3 for colours.
    """

    def __init__(self, paths: list[Path], size: tuple[int, int], channels: int):
        self.paths, self.size, self.channels = paths, size, channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor | str:
        r"""Returns the image, or an error as text: an exception in a worker would carry the worker's traceback."""
        try:
            return image_file.read(self.paths[i], self.size, self.channels)
        except ValueError as error:
            return str(error)

    def part(self, index: Tensor) -> "Files":
        r"""Returns the images of these rows."""
        return Files([self.paths[i] for i in index.tolist()], self.size, self.channels)


class Streamed:
    r"""Creates a tensor-like view (N, C, H, W), in bytes, of images that stay in their files.

    It supports what `Batches` and `fit` need, which is reading by index. The order is drawn outside, and the reading
    processes draw no random numbers, so that training on it is bit for bit the same as on the tensor.

    Arguments:
        files: the images.
        num_workers: the number of reading processes; 0 reads in this one.
        device: the device of the batches.
    """

    dtype = torch.uint8
    extremes = torch.tensor([0, 255], dtype=torch.uint8)  # the range of values, for a transform to check

    def __init__(self, files: Files, num_workers: int = 0, device: str | torch.device = "cpu"):
        self.files, self.device = files, torch.device(device)
        self.num_workers = whole("num_workers", num_workers)
        self.shape = torch.Size((len(files), files.channels, *files.size))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Tensor) -> Tensor:
        return next(self.batches([index]))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        r"""Yields the images of each index (B,) in turn, while the next ones are being read.

        Raises:
            ValueError: if a file is not an image.
        """
        # A separate generator, since a loader draws from the global one even if nothing is shuffled.
        loader = DataLoader(
            self.files,
            batch_sampler=[index.tolist() for index in indices],
            num_workers=min(self.num_workers, len(indices)),
            collate_fn=_together,
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch.to(self.device)

    def part(self, index: Tensor) -> "Streamed":
        r"""Returns the images of these rows, still in their files."""
        return Streamed(self.files.part(index), self.num_workers, self.device)

    def to(self, device: str | torch.device) -> "Streamed":
        r"""Returns the same images, with batches on the device."""
        return Streamed(self.files, self.num_workers, device)

    def dim(self) -> int:
        r"""Returns the number of axes, 4."""
        return len(self.shape)

    def is_floating_point(self) -> bool:
        r"""Returns False: values are bytes."""
        return False

    def nansum(self, dtype: torch.dtype | None = None) -> Tensor:
        r"""Returns the sum of all values, which identifies the data of older runs; reads each image once."""
        sums = [batch.sum(dtype=dtype) for batch in self.batches(self._rows())]
        return torch.stack(sums).sum()

    def identity(self) -> Iterator[bytes]:
        r"""Yields what identifies the data on resume, without reading images.

        For each file, that is its path relative to the common folder, its size in bytes, and the shape of the image."""
        folder = os.path.commonpath([Path(path).absolute().parent for path in self.files.paths])
        for path in self.files.paths:
            place = Path(os.path.relpath(path, folder)).as_posix()
            yield f"{place}\0{os.stat(path).st_size}\0{tuple(self.shape[1:])}\n".encode()

    def read(self, progress: bool = False) -> Tensor:
        r"""Reads all images into memory, (N, C, H, W); ``progress`` shows a bar."""
        v, done, rows = torch.empty(self.shape, dtype=self.dtype, device=self.device), 0, self._rows()
        with Bar(len(rows), shown=progress, name="read images") as bar:
            for batch in self.batches(rows):
                v[done : done + len(batch)] = batch
                done += len(batch)
                bar.tick()
        return v

    def _rows(self) -> list[Tensor]:
        return [torch.arange(i, min(i + READ, len(self))) for i in range(0, len(self), READ)]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise TypeError(
            f"{function.__name__} was called on streamed images, which are read batch by batch and are not a tensor: "
            "read them into memory with streamed=False"
        )


def _together(items: list[Tensor | str]) -> Tensor | str:
    broken = [item for item in items if isinstance(item, str)]
    return broken[0] if broken else torch.stack(items)
