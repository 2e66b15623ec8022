r"""Data sets of images or rows, in three parts."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..points import Points
from .conversion import whole
from .streamed_images import Streamed
from .transforms import Transform, real, seeded, seen


@dataclass(frozen=True)
class Dataset:
    r"""A data set in three parts: points for training, validation and testing.

    Attributes:
        name: the name of the data set.
        train: raw values (N, C, H, W) or (N, P), before ``transform``, NaN where missing; `Streamed` if images stay in
            files.
        val, test: values after one seeded draw of ``transform``, the same in every comparison.
        transform: applied at each access in training, or `None`.
        train_labels, test_labels: whole numbers (N,), if there are any.
        train_given, val_given, test_given: what the points are conditioned on, (N, C), if anything.
        protocol: how the values were processed and split, which belongs in every table of log-likelihoods.
        label_names: the names of the labels, by number, if they came as names, such as those of folders.
    """

    name: str
    train: Tensor | Streamed
    val: Tensor
    test: Tensor
    transform: Transform | None = None
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    protocol: str = ""
    train_given: Tensor | None = None
    val_given: Tensor | None = None
    test_given: Tensor | None = None
    label_names: tuple[str, ...] | None = None

    @property
    def train_points(self) -> Points:
        r"""The training points, before the transform, with mask and ``given``."""
        return self._points(self.train, self.train_given)

    @property
    def val_points(self) -> Points:
        r"""The validation points, with mask and ``given``."""
        return self._points(self.val, self.val_given)

    @property
    def test_points(self) -> Points:
        r"""The test points, with mask and ``given``."""
        return self._points(self.test, self.test_given)

    @cached_property
    def has_missing(self) -> bool:
        r"""Whether any value is missing, NaN: then the points of all three parts have masks."""
        parts = [v for v in (self.train, self.val, self.test) if isinstance(v, Tensor) and v.is_floating_point()]
        return any(bool(v.isnan().any()) for v in parts)

    def _points(self, x: Tensor | Streamed, given: Tensor | None) -> Points:
        return Points(x, mask=~x.isnan() if self.has_missing else None, given=given)

    @property
    def given_dim(self) -> int:
        r"""The number C of columns of ``given``; 0 without it."""
        return 0 if self.train_given is None else self.train_given.shape[1]

    @property
    def image_shape(self) -> tuple[int, ...]:
        r"""The shape of a point: (C, H, W) of an image, or (P,)."""
        return tuple(self.train.shape[1:])

    def seen(self, num: int) -> Points:
        r"""Returns the first training points, after one seeded draw of the transform."""
        given = None if self.train_given is None else self.train_given[:num]
        return self._points(seen(self.train, self.transform, num), given)


def split(
    name: str,
    v: Tensor | Streamed,
    labels: Tensor | None = None,
    *,
    given: Tensor | None = None,
    label_names: tuple[str, ...] | None = None,
    num_val: int,
    num_test: int,
    seed: int | None,
    transform: Transform | None,
    protocol: str = "",
) -> Dataset:
    r"""Shuffles v (N, ...) under the seed and splits it into training, validation and test points.

    Arguments:
        name: the name of the data set.
        v: raw values (N, ...); `Streamed` training images stay in their files.
        labels: whole numbers (N,), or `None`.
        given: what the points are conditioned on, (N, C), or `None`.
        label_names: the names of the labels, or `None`.
        num_val, num_test: the numbers of validation and test points; the others are training points.
        seed: the seed of the shuffle; `None` keeps the order, for example of a time series.
        transform: applied at each access, or `None`.
        protocol: how the values were processed before.

    Raises:
        ValueError: if no training or test point is left, or the values do not fit the transform.
    """
    N, num_val, num_test = len(v), whole("num_val", num_val), whole("num_test", num_test)
    seed = None if seed is None else whole("seed", seed)
    num_train = N - num_val - num_test
    if num_val < 0 or num_test < 1 or num_train < 1:
        raise ValueError(
            f"num_val is {num_val} and num_test is {num_test} of {N} points; "
            "expected num_val >= 0, num_test >= 1, and at least one point left to train on"
        )
    if hasattr(transform, "check"):
        transform.check(v.extremes if isinstance(v, Streamed) else v)
    order = torch.arange(N) if seed is None else torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    train, val, test = rows = order.split([num_train, num_val, num_test])
    if isinstance(v, Streamed):
        parts = [v.part(train), v.part(val).read(), v.part(test).read()]
    else:
        parts = [v[i] if transform is not None else real(v[i]) for i in rows]
    how = "in their order" if seed is None else f"shuffled with seed {seed}"
    found = (None, None) if labels is None else (labels[train], labels[test])
    made = divided(name, parts, found, transform, how, f"{protocol}{transform or 'values as they are'}")
    made = replace(made, label_names=label_names)
    if given is None:
        return made
    return replace(made, train_given=given[train], val_given=given[val], test_given=given[test])


def divided(name: str, parts: Iterable[Tensor], labels, transform: Transform | None, how: str, what: str = ""):
    r"""Creates the data set of three parts, with one seeded draw of the transform for validation and test points.

    Arguments:
        name: the name of the data set.
        parts: raw values for training, validation and testing.
        labels: those of training and test points, or (None, None).
        transform: applied at each access, or `None`.
        how: how the points were divided, for the protocol.
        what: how the values were processed, by default the transform.
    """
    train, val, test = parts
    said = f"{what or transform}; {len(train)} / {len(val)} / {len(test)} points, {how}"
    if transform is not None:
        val, test = seeded(transform, val, 1), seeded(transform, test, 2)
    return Dataset(name, train, val, test, transform, *labels, said)
