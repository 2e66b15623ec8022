r"""Samples of points, each of which is given its own draw of the global latents."""

import torch
from torch import Tensor

from ..points import Points
from . import independence
from .look import FEW


def log_joint(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    r"""log p(x, u_k | globals_k, w), (K, B): all at once, where the program says of few points what it says one by one.

    Globals with an axis to the left of the plates do not fit each program: z @ W would have one more.

    Arguments:
        local: a `LocalModel`.
        points: B of them.
        u: samples (K, B, D).
        drawn: draws of the globals by name, (K, *shape).
    """
    two = {name: value[:2] for name, value in drawn.items()}
    if _broadcasts(local, points[:FEW], u[:2, :FEW], two):
        return _stacked(local, points, u, drawn)
    return _one_by_one(local, points, u, drawn)


def _broadcasts(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> bool:
    try:
        return independence.close(_stacked(local, points, u, drawn), _one_by_one(local, points, u, drawn))
    except (ValueError, RuntimeError, IndexError):  # shapes that do not go together
        return False


def _one_by_one(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    values = ({name: value[k] for name, value in drawn.items()} for k in range(len(u)))
    return torch.stack([local.at(each).log_joint(points, one) for each, one in zip(values, u, strict=True)])


def _stacked(local, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    values = {}
    for name, stack in drawn.items():
        missing = local.layout.depth + 1 + local.seen.global_events[name] - stack.dim()
        values[name] = stack.reshape(len(u), *(1,) * missing, *stack.shape[1:])
    return local.at(values).log_joint(points, u)
