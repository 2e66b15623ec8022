r"""Built-in data sets: digits, MNIST, Fashion-MNIST and CIFAR-10."""

import torch
from torch import Tensor

from .conversion import whole
from .dataset import Dataset, divided
from .transforms import Binarize, Dequantize, Grid, Threshold, Transform, seeded

BINARIZATIONS = ("dynamic", "static", "threshold", None)


def digits(dtype: torch.dtype | None = None) -> Dataset:
    r"""Returns the 1,797 handwritten digits of scikit-learn, 8x8, with values 0..16; needs no file.

    The split is stratified (seed 0): 397 test, 200 validation and 1,200 training points. Values are dequantized,
    x = (v + u) / 17, with a new u at each access in training, since w would memorize a fixed one.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    v, label = load_digits(return_X_y=True)
    v, test, label, test_label = train_test_split(v, label, test_size=397, stratify=label, random_state=0)
    train, val, label, _ = train_test_split(v, label, test_size=200, stratify=label, random_state=0)
    dtype = dtype or torch.get_default_dtype()
    parts = (torch.as_tensor(a, dtype=dtype).reshape(-1, 1, 8, 8) for a in (train, val, test))
    labels = torch.as_tensor(label), torch.as_tensor(test_label)
    return divided("digits", parts, labels, Dequantize(levels=17), "stratified, seed 0")


def mnist(
    root: str,
    *,
    num_val: int = 0,
    download: bool = False,
    binarization: str | None = "dynamic",
    transform: Transform | None = None,
) -> Dataset:
    r"""Returns MNIST, 28x28, by default binarized dynamically: x_j ~ Bernoulli(grey value), anew at each access.

    Arguments:
        root: the folder that holds ``MNIST/raw``.
        num_val: the number of validation images, the last of the 60,000 training images.
        download: whether torchvision may download or unpack missing files.
        binarization: "dynamic"; "static", one fixed seeded draw; "threshold", 1 where the grey value is above ½; or
            `None` for 8-bit values v with ``transform``.
        transform: without binarization, `Grid` (the default) or `Dequantize`, with 256 levels.

    Raises:
        FileNotFoundError: if the files are missing.
        ValueError: on an unknown binarization, or too many validation points.
    """
    return _idx("MNIST", "mnist", root, num_val, download, binarization, transform)


def fashion_mnist(
    root: str,
    *,
    num_val: int = 0,
    download: bool = False,
    binarization: str | None = "dynamic",
    transform: Transform | None = None,
) -> Dataset:
    r"""Returns Fashion-MNIST, 28x28 images of clothes. Arguments and errors are those of `mnist`."""
    return _idx("FashionMNIST", "fashion-mnist", root, num_val, download, binarization, transform)


def cifar10(root: str, *, num_val: int = 0, download: bool = False, transform: Transform | None = None) -> Dataset:
    r"""Returns CIFAR-10, 32x32 in three colours, 8 bits.

    The published files are pickles; torchvision checks their md5 before it reads them.

    Arguments:
        root: the folder that holds ``cifar-10-batches-py``.
        num_val: the number of validation images, the last of the 50,000 training images.
        download: whether torchvision may download missing files.
        transform: `Grid` (the default) or `Dequantize`, with 256 levels.

    Raises:
        FileNotFoundError: if the files are missing.
        ValueError: on too many validation points.
    """
    parts = _torchvision("CIFAR10", root, download)
    v = [torch.as_tensor(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
    return _official("cifar10", v, [torch.as_tensor(part.targets) for part in parts], num_val, transform or Grid())


def _idx(folder: str, name: str, root: str, num_val: int, download: bool, binarization, transform) -> Dataset:
    if binarization not in BINARIZATIONS:
        raise ValueError(f"binarization is {binarization!r}; expected one of {', '.join(map(repr, BINARIZATIONS))}")
    if binarization is not None and transform is not None:
        raise ValueError(f"binarization is {binarization!r} and transform is {transform}; give one: binarization=None")
    parts = _torchvision(folder, root, download)
    v, labels = [part.data.unsqueeze(1) for part in parts], [part.targets for part in parts]
    if binarization is None:
        return _official(name, v, labels, num_val, transform or Grid())
    grey = [part / 255 for part in v]
    if binarization == "threshold":
        return _official(name, [Threshold()(part) for part in grey], labels, num_val, None, f"{Threshold()}")
    if binarization == "static":
        # The test set is the same draw as for "dynamic": the two differ only in training.
        kept = [seeded(Binarize(), part, seed) for part, seed in zip(grey, (0, 2), strict=True)]
        return _official(name, kept, labels, num_val, None, "Binarize(), one draw kept")
    return _official(name, grey, labels, num_val, Binarize())


def _torchvision(name: str, root: str, download: bool) -> list:
    r"""Returns the training and the test set of that class."""
    from torchvision import datasets

    try:
        return [getattr(datasets, name)(root, train=train, download=download) for train in (True, False)]
    except RuntimeError as error:
        if download:
            raise
        raise FileNotFoundError(
            f"no {name} under {root} ({error}): give the folder that holds it unpacked, or download=True"
        ) from error


def _official(name: str, v: list[Tensor], labels: list[Tensor], num_val: int, transform, what: str = "") -> Dataset:
    r"""Returns the data set with the official test points, and the last training points for validation."""
    N, num_val = len(v[0]), whole("num_val", num_val)
    if not 0 <= num_val < N:
        raise ValueError(f"num_val is {num_val} of {N} training images; expected 0 <= num_val < {N}")
    train, val = v[0].split([N - num_val, num_val])
    parts, found = (train, val, v[1]), (labels[0][: len(train)], labels[1])
    return divided(name, parts, found, transform, "the official test set", what)
