r"""`Points`: the data of points with index, mask, ``given`` and weight, sliced together as one value."""

from dataclasses import dataclass, replace

import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor

from . import masks, messages

NUMBERS = 2**22  # values of x to compute at a time


@dataclass(frozen=True, eq=False)
class Points:
    r"""Creates points: data, and the index, mask, side information and weight of each.

    ``len(points)`` is their number B, and ``points[rows]`` selects some of them, with all that belongs to them.

    Attributes:
        x: data (B, ...).
        index: which points these are (B,), for guides with a row for each.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what p and q are conditioned on, labels, covariates or times: (B, C).
        weight: factors (B,) >= 0 of the points' terms in the objective; evaluation, which is per point, ignores them.
    """

    x: Tensor
    index: Tensor | None = None
    mask: Tensor | None = None
    given: Tensor | None = None
    weight: Tensor | None = None

    @classmethod
    def of(cls, x, index=None, *, mask=None, given=None, weight=None) -> "Points":
        r"""Returns x if it is `Points`, else creates them.

        Raises:
            ValueError: if x is `Points` and other arguments are given as well.
        """
        if not isinstance(x, Points):
            return cls(x, index, mask, given, weight)
        beside = {"index": index, "mask": mask, "given": given, "weight": weight}
        said = [name for name, value in beside.items() if value is not None]
        if said:
            raise ValueError(
                f"x is Points and {', '.join(said)} came with it; expected one or the other: Points(x, "
                f"{', '.join(f'{name}=' for name in said)}), or a tensor with keywords"
            )
        return x

    __iter__ = None  # select points by rows, points[:5], and their parts by name

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | slice) -> "Points":
        if isinstance(rows, int):
            raise TypeError(f"points[{rows}] would not be a batch; expected rows, points[{rows}:{rows + 1}]")
        return self._each(lambda part: part[rows])

    def to(self, *args, **kwargs) -> "Points":
        r"""Returns the points converted as by `Tensor.to`, with its arguments; a dtype applies to real parts only."""
        device = torch.empty(0, device=self.x.device).to(*args, **kwargs).device
        return self._each(lambda part: part.to(*args, **kwargs) if part.is_floating_point() else part.to(device))

    def _each(self, change) -> "Points":
        return Points(*(None if part is None else change(part) for part in vars(self).values()))

    @property
    def seen(self) -> tuple:
        r"""(x, index, mask), the arguments of a posterior: ``guide.posterior(*points.seen, **points.side)``."""
        return self.x, self.index, self.mask

    @property
    def side(self) -> dict:
        r"""``given`` as a keyword, if there is one: else ``prior``, ``likelihood`` and ``posterior`` do not get it."""
        return side(self.given)

    @property
    def keywords(self) -> dict:
        r"""The keyword arguments of a program: ``program(points.x, points.index, **points.keywords)``."""
        return {"mask": self.mask} | self.side | ({} if self.weight is None else {"weight": self.weight})

    def numbered(self) -> "Points":
        r"""Returns the points with the index 0..B−1, for a guide with rows for just these points."""
        return replace(self, index=torch.arange(len(self.x), device=self.x.device))

    def observed(self) -> Tensor:
        r"""Returns x with 0 for missing entries."""
        return masks.observed(self.x, self.mask)

    def dealt(self, x: Tensor) -> "Points":
        r"""Returns simulated points x with the masks and the ``given`` of these points, repeated."""
        return Points(x, None, dealt(self.mask, len(x)), dealt(self.given, len(x))).numbered()

    def check(self) -> None:
        r"""Raises a `ValueError` unless x holds points, and index, mask, ``given`` and weight are left out or fit them.

        Blocks slice all parts of the points: a part of another length would go wrong silently.
        """
        x = self.x
        if not isinstance(x, Tensor):
            raise ValueError(f"x is a {type(x).__name__}; expected a tensor (B, ...): use {messages.as_tensor('x', x)}")
        if x.dim() == 0 or len(x) == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: there are no points; expected (B, ...) with B >= 1")
        check_index(self.index)
        if self.index is not None and len(self.index) != len(x):
            raise ValueError(
                f"x has {len(x)} points and index {len(self.index)}; expected one index for each point of x"
            )
        if self.mask is not None:
            masks.check(self.mask, x)
        check_given(self.given, len(x))
        if self.given is not None and x.is_floating_point() and self.given.dtype != x.dtype:
            raise ValueError(f"given has dtype {self.given.dtype} and x {x.dtype}; expected one: use given.to(x.dtype)")
        check_weight(self.weight, len(x))


def index_blocks(points: Points, copies: int) -> tuple[Tensor, ...]:
    r"""Returns the numbers 0..B-1 in blocks of as many points as have at most 2²² values of x in ``copies``, or one."""
    rows = max(1, NUMBERS // max(1, copies * points.x[0].numel()))
    return torch.arange(len(points), device=points.x.device).split(rows)


def side(given: Tensor | None) -> dict:
    r"""Returns ``given`` as a keyword, or no keyword if it is `None`."""
    return {} if given is None else {"given": given}


def dealt(part: Tensor | None, num: int) -> Tensor | None:
    r"""Returns masks or ``given`` for ``num`` simulated points: those of B points (B, ...), repeated in turn."""
    return None if part is None else part[torch.arange(num, device=part.device) % len(part)]


def evenly(num_points: int, num: int) -> Tensor:
    r"""Returns up to ``num`` numbers of points from all over 0..``num_points`` - 1, whole numbers (n,)."""
    # In double: float32 rounds N - 1 up to N from 2²⁴ on.
    return torch.linspace(0, num_points - 1, min(num, num_points), dtype=torch.double).long()


def joined(first: Tensor, second: Tensor) -> Tensor:
    r"""Returns [first | second], (..., A) and (..., B) -> (..., A + B); leading axes broadcast."""
    lead = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([v.expand(*lead, v.shape[-1]) for v in (first, second)], -1)


def check_index(index: Tensor | None) -> None:
    r"""Raises a `ValueError` unless ``index`` is a vector of whole numbers, or left out."""
    dtype = getattr(index, "dtype", type(index).__name__)
    if index is not None and dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"index has dtype {dtype}; expected torch.int64, one row for each point: use torch.as_tensor(index).long()"
        )
    if index is not None and index.dim() != 1:
        raise ValueError(f"index has shape {tuple(index.shape)}; expected (B,), one row per point: use index.flatten()")


def check_given(given: Tensor | None, num: int) -> None:
    r"""Raises a `ValueError` unless ``given`` is left out or (num, C) real numbers, finite where Pyro validates."""
    if given is None:
        return
    what = f"{tuple(given.shape)} of {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
    if not isinstance(given, Tensor) or given.dim() != 2 or len(given) != num or not given.is_floating_point():
        raise ValueError(
            f"given is {what}; expected real numbers ({num}, C), a row for each point: one-hot labels are "
            "torch.nn.functional.one_hot(labels).float(), one number a point is v.unsqueeze(1)"
        )
    if is_validation_enabled() and not bool(given.isfinite().all()):
        raise ValueError("given has NaN or infinite values; expected numbers: fill them in, or drop the points")


def check_weight(weight: Tensor | None, num: int) -> None:
    r"""Raises a `ValueError` unless ``weight`` is left out or holds (num,) numbers, >= 0 where Pyro validates."""
    if weight is None:
        return
    if not isinstance(weight, Tensor) or weight.shape != (num,) or not weight.is_floating_point():
        what = f"{tuple(weight.shape)} of {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(
            f"weight is {what}; expected real numbers ({num},), one factor for each point; for a factor of the whole "
            "loss use SVI.step(factor=)"
        )
    if is_validation_enabled() and not bool(((weight >= 0) & weight.isfinite()).all()):
        raise ValueError(f"weight goes from {weight.min():g} to {weight.max():g}; expected finite numbers >= 0")
