r"""Tensors of several `SVI`s as slices of stacked ones."""

import torch
from torch import Tensor

from .noise import NotCaptured
from .update import STATE, is_plain, state_of


class Stacks:
    r"""Creates the stacked parameters, buffers and moments of several `SVI`s, each made at its first use.

    Arguments:
        svis: pairs with objectives and optimizers, alike but for the values of their tensors.
    """

    def __init__(self, svis: list):
        self.svis = svis
        self._made: dict[int, Tensor] = {}  # by the identity of the tensor of the first
        self._slices: list[list[Tensor]] = []
        self._places: dict[int, int] = {}
        self._tensors: list[list[Tensor]] = []

    def close(self) -> None:
        r"""Gives each its own tensors again."""
        self._made = {}
        while self._slices:  # one stack after the other is freed
            for tensor in self._slices.pop():
                tensor.data = tensor.data.clone()

    def find(self) -> None:
        r"""Finds the tensors of all; those of one, with the moments that it has by now, are in the same order.

        Raises:
            NotCaptured: if they differ in more than the values of tensors, or share some that are trained.
        """
        states = [[p in o.state for p in _params(o)] for o in self.svis[0].optimizers]
        for svi in self.svis[1:]:
            for optimizer, there in zip(svi.optimizers, states, strict=True):
                for p, needed in zip(_params(optimizer), there, strict=True):
                    if needed and is_plain(optimizer):
                        state_of(optimizer, p)
        self._tensors = [_tensors(svi) for svi in self.svis]
        if len({tuple((v.shape, v.dtype, v.requires_grad) for v in every) for every in self._tensors}) > 1:
            raise NotCaptured("their tensors have other shapes or types, or other ones are trained")
        own = [place for place, alike in enumerate(zip(*self._tensors, strict=True)) if not _shared(alike)]
        shared = {*range(len(self._tensors[0]))} - {*own}
        if any(self._tensors[0][place].requires_grad for place in shared):
            raise NotCaptured("they share parameters that are trained; expected each to have its own")
        self._places = {id(self._tensors[0][place]): place for place in own}

    def like(self, tensor: Tensor, number: int) -> Tensor:
        r"""Returns the tensor that one of them has where the first has this one."""
        return self._tensors[number][self._places[id(tensor)]]

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._places

    def of(self, tensors: list[Tensor]) -> list[Tensor]:
        r"""Returns the stacked tensors (S, ...) of those that the first has; others are constants, as they are."""
        return [self._stack(tensor) if tensor in self else tensor for tensor in tensors]

    def _stack(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._made:
            alike = [self.like(tensor, number) for number in range(len(self.svis))]
            stack = self._made[id(tensor)] = torch.stack([v.detach() for v in alike])
            for v, part in zip(alike, stack, strict=True):
                v.data = part
            self._slices.append(alike)
        return self._made[id(tensor)]


def _shared(alike: tuple[Tensor, ...]) -> bool:
    return len({id(v) for v in alike}) < len(alike)


def _params(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _tensors(svi) -> list[Tensor]:
    r"""Returns the tensors of the modules, plain attributes among them, and the moments of plain Adam."""
    kept = [
        v
        for m in svi.modules()
        for part in (m._parameters, m._buffers, vars(m))
        for v in part.values()
        if isinstance(v, Tensor)
    ]
    plain = [o for o in svi.optimizers if is_plain(o)]
    return kept + [o.state[p][name] for o in plain for p in _params(o) if p in o.state for name in STATE]
