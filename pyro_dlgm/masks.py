r"""Masks of observed pixels.

A mask m is boolean, ``True`` where x is observed, and has x's shape or, for whole points, the shape ``(B,)``. Entries
under ``False`` (NaN, infinity, any number) affect neither values nor gradients: they are replaced *before* the density
is evaluated, because NaN · 0 is NaN, also in the backward pass.
"""

import torch
from torch import Tensor


def pixelwise(mask: Tensor, ndim: int) -> Tensor:
    r"""Returns a mask of whole points ``(B,)`` with trailing axes, ``ndim`` in all; a mask of pixels unchanged."""
    if mask.dim() == 1 < ndim:
        return mask.reshape(-1, *[1] * (ndim - 1))
    return mask


def observed(x: Tensor, mask: Tensor | None) -> Tensor:
    r"""Returns x with 0 for missing entries.

    Arguments:
        x: data of shape (B, ...).
        mask: boolean, of x's shape or (B,); `None` means that everything is observed.

    Raises:
        ValueError: if the mask is not a boolean tensor or has neither shape.
    """
    if mask is None:
        return x
    check(mask, x)
    return torch.where(pixelwise(mask, x.dim()), x, x.new_zeros(()))


def filled(x: Tensor | None, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    r"""Returns x with 0 for missing entries, and the mask in x's shape; (B,) masks whole points along x's first axis.

    Arguments and errors are those of `observed`; without x or mask, both are returned unchanged.
    """
    if x is None or mask is None:
        return x, mask
    return observed(x, mask), pixelwise(mask, x.dim()).expand_as(x)


def check(mask: Tensor, x: Tensor) -> None:
    r"""Raises a `ValueError` unless the mask is boolean and of the shape of x or (B,)."""
    dtype = getattr(mask, "dtype", type(mask).__name__)
    if dtype != torch.bool:
        raise ValueError(f"mask has dtype {dtype}; expected torch.bool, True where x is observed: use mask.bool()")
    if mask.shape not in (x.shape, x.shape[:1]):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; expected x's shape {tuple(x.shape)} (a mask of pixels) "
            f"or {tuple(x.shape[:1])} (a mask of whole points): reshape it, or use ~x.isnan()"
        )
