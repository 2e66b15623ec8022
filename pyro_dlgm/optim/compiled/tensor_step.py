r"""One step of `SVI` as a function of tensors: loss, gradients, clipping, the guard's flag, and Adam in place.

It is compiled as a whole. Random numbers and rows of tables are inputs; rows are gathered before it, and updated by
their optimizer after it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx

from ..clipping import clipped, norm
from ..nan_guard import bad
from .batch_loss import Arguments, gradients
from .capture import capture
from .program import program
from .update import adam_, is_plain, paces, state_of


class AdamBlock(NamedTuple):
    r"""The parameters of one group of a plain Adam, with the places of their gradients and of themselves."""

    optimizer: torch.optim.Adam
    group: dict
    params: list[Tensor]
    gradients: list[int]
    places: list[int]


class TensorStep:
    r"""Creates the step for batches of one kind.

    Arguments:
        svi: the pair with objective and optimizers.
        batch: a batch of that kind.
        only: the parameters to update; `None`: all.
        backend: the backend of `torch.compile`; `None`: it is not called, but vectorized (`vectorized`).

    Raises:
        NotCaptured: if the loss is not a function of tensors.
    """

    def __init__(self, svi, batch: Arguments, only: list[Tensor] | None = None, backend: str | None = None):
        self.svi, tables = svi, {table.weight: table for table in batch.tables}
        chosen = None if only is None else set(only)
        moved = [p for p in svi.parameters() if p.requires_grad and (chosen is None or p in chosen)]
        targets = [p for p in moved if p not in tables] + [p for p in moved if p in tables]
        self.captured = capture(gradients(svi, batch, targets), batch.inputs(), svi.modules())
        self._targets = dict(enumerate(targets))
        self._used = _returned(self.captured.graph)
        self._rows = {place: tables[p] for place, p in self._targets.items() if p in tables and place in self._used}
        self.dense = [p for p in self._used if p not in self._rows]
        self.blocks = self._blocks()
        inside = {place for block in self.blocks for place in block.gradients}
        self._outside = [place for place in self._used if place not in inside]  # updated by their own optimizers
        self._call = None
        if backend is not None:
            self._call = program(self.whole, self.sections(batch, self.captured.noise()), backend)

    def __call__(self, batch: Arguments, noise: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        r"""Takes the step for the parameters of Adam, and sets the gradients of the others.

        Returns:
            The loss; 1 if it or a gradient is not finite, else 0; the norm of the dense gradients, or `None`.
        """
        with torch.no_grad():
            sections = self.sections(batch, noise)
            loss, flag, total, *rest = self._call(*(v for section in sections for v in section))
        self.put(rest, batch.index)
        return loss, flag, total if self.dense else None

    def put(self, rest: list[Tensor], index: Tensor | None, like: Callable[[Tensor], Tensor] = lambda p: p) -> None:
        r"""Sets the gradients that other optimizers apply.

        Arguments:
            rest: these gradients, as `whole` returns them.
            index: that of the batch.
            like: the parameter to set for one of this step.
        """
        for place, g in zip(self._outside, rest, strict=True):
            p = like(self._targets[place])
            p.grad = _sparse(index, g, p) if place in self._rows else g

    def optimizers(self) -> list[torch.optim.Optimizer]:
        r"""Returns the optimizers that still have to take their steps."""
        inside = {id(block.optimizer) for block in self.blocks}
        return [o for o in self.svi.optimizers if id(o) not in inside]

    def written(self) -> list[Tensor]:
        r"""Returns all tensors that the step may overwrite."""
        return [*self.captured.others(), *(v for section in self._states() for v in section)]

    def _blocks(self) -> list[AdamBlock]:
        others = {id(tensor): place for place, tensor in enumerate(self.captured.others())}
        place_of = {self._targets[place]: place for place in self.dense}
        found = []
        for optimizer in filter(is_plain, self.svi.optimizers):
            for group in optimizer.param_groups:
                params = [p for p in group["params"] if p in place_of and id(p) in others]
                if params:
                    places = [place_of[p] for p in params], [others[id(p)] for p in params]
                    found.append(AdamBlock(optimizer, group, params, *places))
        return found

    def _states(self) -> list[list[Tensor]]:
        return [state_of(block.optimizer, p) for block in self.blocks for p in block.params]

    def flag(self, svi, like: Tensor) -> Tensor:
        r"""Returns the flag of the watch, a scalar tensor, 0 if there is none."""
        flag = None if svi.watch is None else svi.watch.flag
        return like.new_zeros((), dtype=torch.float32) if flag is None else flag

    def sections(self, batch: Arguments, noise: list[Tensor]) -> list[list[Tensor]]:
        r"""Returns the arguments of `whole`: inputs, noise, those of `kept`, flag."""
        inputs = batch.inputs()
        return [inputs, noise, *self.kept(), [self.flag(self.svi, inputs[0])]]

    def kept(self) -> list[list[Tensor]]:
        r"""Returns what no batch brings along: tensors read, moments, lengths of steps."""
        states = self._states()
        steps, speeds = iter([state[0] for state in states]), []
        for block in self.blocks:
            speeds += paces(block.group, [next(steps) for _ in block.params])
        return [self.captured.others(), [v for state in states for v in state], speeds]

    def whole(self, inputs, noise, others, states, speeds, flags) -> list[Tensor]:
        r"""Changes parameters and moments; returns loss, flag, norm of dense gradients, and gradients for others."""
        loss, *every = self.captured.graph(*inputs, *noise, *others)
        total, numbers = loss.new_zeros(()), [loss, *(torch.linalg.vector_norm(every[p]) for p in self._rows)]
        if self.dense:
            total = norm([every[p] for p in self.dense])
            shorter = clipped([every[p] for p in self.dense], total, self.svi.clip_norm)
            every = {**dict(enumerate(every)), **dict(zip(self.dense, shorter, strict=True))}
        flag = bad([*numbers, total])
        skip = flags[0] if self.svi.watch is None else torch.maximum(flags[0], flag)
        states, speeds = iter(states), iter(speeds)
        for block in self.blocks:
            lengths, roots = next(speeds), next(speeds)
            for k, (g, place) in enumerate(zip(block.gradients, block.places, strict=True)):
                state = [next(states) for _ in range(3)]
                adam_(others[place], every[g], state, (lengths[k], roots[k]), block.group, skip)
        return [loss, flag, total, *(every[place] for place in self._outside)]


def _returned(graph: fx.GraphModule) -> list[int]:
    r"""Returns the places of the gradients that exist."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return [place for place, value in enumerate(output.args[0][1:]) if value is not None]


def _sparse(index: Tensor, rows: Tensor, table: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(index.long().unsqueeze(0), rows, table.shape, check_invariants=False)
