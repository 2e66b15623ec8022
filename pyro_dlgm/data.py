r"""Data sets in memory, what is drawn afresh at each access, and batches.

References:
    Theis, van den Oord, Bethge, "A note on the evaluation of generative models" (2016), on dequantization.
    https://arxiv.org/abs/1511.01844
    Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks" (2008), on binarization.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import masks


@dataclass(frozen=True)
class Dequantize:
    r"""Creates the map v -> (v + u) / levels with u ~ U(0, 1), for whole numbers v in 0..levels−1.

    A density of x then bounds a probability of v; bits per dimension follow by `bits_per_dim`.
    """

    levels: int

    def __call__(self, v: Tensor) -> Tensor:
        return (v + torch.rand_like(v)) / self.levels

    def bits_per_dim(self, log_p: float, num_pixels: int) -> float:
        r"""(P ln levels − log p(x)) / (P ln 2), for log p(x) in nats per point."""
        return (num_pixels * math.log(self.levels) - log_p) / (num_pixels * math.log(2))


@dataclass(frozen=True)
class Binarize:
    r"""Creates the map x -> 1 with probability x, else 0, for x in [0, 1]."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.bernoulli(x)


@dataclass(frozen=True)
class Dataset:
    r"""Images in three parts.

    Attributes:
        name: what it is.
        train: raw values (N, C, H, W), before ``transform``.
        val, test: values with one seeded draw of ``transform`` behind them, the same for all who compare.
        transform: what is drawn afresh at each access in training, or `None`.
    """

    name: str
    train: Tensor
    val: Tensor
    test: Tensor
    transform: Callable[[Tensor], Tensor] | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        r"""The shape (C, H, W) of one image."""
        return tuple(self.train.shape[1:])


def seeded(transform: Callable[[Tensor], Tensor], x: Tensor, seed: int) -> Tensor:
    r"""One draw of ``transform`` under a seed, with the global generator left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(x)


def digits(dtype: torch.dtype | None = None) -> Dataset:
    r"""The 1,797 handwritten digits of scikit-learn, 8x8, with values 0..16: needs no file.

    Stratified split (seed 0): 397 to test, 200 of the others to validate, 1,200 to train. The values are dequantized,
    x = (v + u) / 17; u is fresh at each access in training, or w would memorize it.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    v, label = load_digits(return_X_y=True)
    v, test, label, _ = train_test_split(v, label, test_size=397, stratify=label, random_state=0)
    train, val = train_test_split(v, test_size=200, stratify=label, random_state=0)
    dtype = dtype or torch.get_default_dtype()
    train, val, test = (torch.as_tensor(a, dtype=dtype).reshape(-1, 1, 8, 8) for a in (train, val, test))
    noise = Dequantize(levels=17)
    return Dataset("digits", train, seeded(noise, val, 1), seeded(noise, test, 2), noise)


def mnist(root: str, *, num_val: int = 0, download: bool = False) -> Dataset:
    r"""MNIST, 28x28, binarized dynamically: x_j ~ Bernoulli(grey value), afresh at each access in training.

    Arguments:
        root: the folder that holds ``MNIST/raw``.
        num_val: how many of the 60,000 training images, the last ones, validate instead.
        download: whether torchvision may fetch what is not there.
    """
    from torchvision.datasets import MNIST

    grey = [MNIST(root, train=train, download=download).data.unsqueeze(1) / 255 for train in (True, False)]
    train, val = grey[0][: len(grey[0]) - num_val], grey[0][len(grey[0]) - num_val :]
    return Dataset("mnist", train, seeded(Binarize(), val, 1), seeded(Binarize(), grey[1], 2), Binarize())


class Batches:
    r"""Creates the batches (x, index, mask) of data in memory, shuffled anew at each pass.

    A batch is one indexed tensor, no collection of items. Generators are torch's global ones.

    Arguments:
        x: data (N, ...).
        batch_size: points in a batch; the last one may be shorter.
        transform: drawn afresh on each batch, or `None`.
        mask: boolean, of x's shape or (N,), or `None`.
    """

    def __init__(self, x: Tensor, batch_size: int, *, transform=None, mask: Tensor | None = None):
        if len(x) == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: there are no points")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        if mask is not None:
            masks.check(mask, x)
        self.x, self.mask, self.transform = x, mask, transform
        self.batch_size, self.num_points = min(batch_size, len(x)), len(x)

    def __len__(self) -> int:
        return math.ceil(self.num_points / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        order = torch.randperm(self.num_points).to(self.x.device)
        for index in order.split(self.batch_size):
            x = self.x[index]
            yield (
                x if self.transform is None else self.transform(x),
                index,
                None if self.mask is None else self.mask[index],
            )
