r"""Moves the random draws of a program outside: each draw is recorded once, repeated outside, and passed in.

Drawn in the same order from the same generator, they are the numbers that the program itself would have drawn.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class NotCaptured(Exception):
    r"""The reason why a step is not a function of tensors."""


@dataclass(frozen=True)
class Draw:
    r"""A draw from a fixed distribution; calling it draws again.

    Attributes:
        function: the operation of torch, such as ``normal_``.
        args, kwargs: its arguments, without the tensor that it fills.
        empty: creates the tensor that it fills; `None` if the operation creates it.
    """

    function: Callable
    args: tuple
    kwargs: dict
    empty: Callable[[], Tensor] | None

    @staticmethod
    def of(function: Callable, args: tuple, kwargs: dict) -> "Draw":
        r"""Creates the draw from a call.

        Raises:
            NotCaptured: if the distribution depends on the values of a tensor.
        """
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        filled = _fills(function)
        if len(tensors) > filled or (filled and not (args and isinstance(args[0], Tensor))):
            raise NotCaptured(f"it draws by {function}, from a distribution that depends on parameters or data")
        if not filled:
            return Draw(function, args, kwargs, None)
        return Draw(function, args[1:], kwargs, _like(args[0]))

    def __call__(self) -> Tensor:
        if self.empty is None:
            return self.function(*self.args, **self.kwargs)
        return self.function(self.empty(), *self.args, **self.kwargs)


def _fills(function: Callable) -> bool:
    r"""Returns whether the first tensor is only filled, or gives the shape."""
    return function._schema.is_mutable or function._schema.name.endswith("_like")


def _like(tensor: Tensor) -> Callable[[], Tensor]:
    size, stride, kind = tuple(tensor.shape), tensor.stride(), {"dtype": tensor.dtype, "device": tensor.device}
    return lambda: torch.empty_strided(size, stride, **kind)


class Watched(TorchDispatchMode):
    r"""Creates the mode that passes random operations to `random`, and refuses those that read values of tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self.random(func, args, kwargs)
        if WAITS & set(func.tags) and not _by_numbers(func, args):
            raise NotCaptured(
                f"it reads numbers of a tensor while it runs ({func}), as .item(), bool() or nonzero() do"
            )
        return func(*args, **kwargs)

    def random(self, func, args: tuple, kwargs: dict) -> Tensor:
        r"""Returns the result of the random operation."""
        raise NotImplementedError


def _by_numbers(func, args: tuple) -> bool:
    r"""Returns whether it indexes by whole numbers, which gives a known shape; booleans do not."""
    if func._schema.name not in INDEXING:
        return False
    return not any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])


class Recorded(Watched):
    r"""Creates the mode that records each draw in ``draws``."""

    def __init__(self):
        super().__init__()
        self.draws: list[Draw] = []

    def random(self, func, args, kwargs):
        self.draws.append(Draw.of(func, args, kwargs))
        return func(*args, **kwargs)


class Replayed(Watched):
    r"""Creates the mode in which each draw returns the next of ``noise``."""

    def __init__(self, noise: list[Tensor]):
        super().__init__()
        self.noise: Iterator[Tensor] = iter(noise)

    def random(self, func, args, kwargs):
        noise = next(self.noise, None)
        if noise is None:
            raise NotCaptured("it draws more numbers than at the previous call")
        return args[0].copy_(noise) if func._schema.is_mutable else noise
