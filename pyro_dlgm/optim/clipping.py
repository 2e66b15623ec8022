r"""The norm of gradients, and clipping by it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def norm(gradients: Sequence[Tensor]) -> Tensor:
    r"""Returns the norm of all gradients as one vector."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))


def clip_(parameters: Iterable[Tensor], bound: float | None) -> tuple[Tensor | None, list[Tensor]]:
    r"""Clips the dense gradients in place, if there is a bound on their norm.

    Returns:
        The norm of the dense gradients before clipping, `None` if there are none; and that of each sparse gradient.
    """
    given = [p for p in parameters if p.grad is not None]
    dense = [p for p in given if not p.grad.is_sparse]
    sparse = [torch.linalg.vector_norm(p.grad._values()) for p in given if p.grad.is_sparse]
    if not dense:
        return None, sparse
    return (_total([p.grad for p in dense]) if bound is None else nn.utils.clip_grad_norm_(dense, bound)), sparse


def _total(gradients: list[Tensor]) -> Tensor:
    # torch >= 2.6; on a GPU it takes few kernels.
    return nn.utils.get_total_norm(gradients) if hasattr(nn.utils, "get_total_norm") else norm(gradients)


def clipped(gradients: Sequence[Tensor], total: Tensor, bound: float | None) -> list[Tensor]:
    r"""Returns the gradients, whose norm is ``total``, scaled to a norm of at most ``bound``, for compiled steps."""
    if bound is None:
        return list(gradients)
    factor = (bound / (total + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    return [g * factor for g in gradients]
