r"""Loss and gradients as a function of tensors: those of a batch, the rows of its points, and β."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from ...guides.rows import Rows, looked_up
from ...program import unregistered
from .noise import NotCaptured


@dataclass
class Arguments:
    r"""The arguments of a step, split into what changes from batch to batch and what does not.

    Attributes:
        args, kwargs: the arguments of model and guide.
        factor: the factor of the loss.
        tables: the tables of rows with sparse gradients, which are looked up outside the step.
        beta: the objective's β; `None` if it is 1 or there is none.
    """

    args: tuple
    kwargs: dict
    factor: float
    tables: list[Rows]
    beta: float | None

    def __post_init__(self):
        self.values = [*self.args, *self.kwargs.values()]
        self.data = [v for v in self.values if isinstance(v, Tensor)]
        self.index = index_of(self.args, self.kwargs)

    def kind(self) -> tuple:
        r"""Returns what batches of one kind have in common: the shapes of tensors, and all other values."""
        said = [(tuple(v.shape), v.stride(), v.dtype, v.device) if isinstance(v, Tensor) else v for v in self.values]
        return tuple(said), len(self.args), tuple(self.kwargs), self.factor, self.beta is None

    def inputs(self) -> list[Tensor]:
        r"""Returns the data, the rows of each table, and β."""
        with torch.enable_grad():  # tables in files record which rows are about to change
            rows = [table(self.index).detach() for table in self.tables]
        tempered = [] if self.beta is None else [torch.full((), self.beta, device=self.data[0].device)]
        return [*self.data, *rows, *tempered]

    def with_data(self, data: list[Tensor]) -> tuple[tuple, dict]:
        r"""Returns args and kwargs with other tensors."""
        left = iter(data)
        values = [next(left) if isinstance(v, Tensor) else v for v in self.values]
        return tuple(values[: len(self.args)]), dict(zip(self.kwargs, values[len(self.args) :], strict=True))


def index_of(args: tuple, kwargs: dict) -> Tensor | None:
    r"""Returns the index among the arguments of a program."""
    return args[1] if len(args) > 1 else kwargs.get("index")


def gradients(svi, batch: Arguments, targets: list[Tensor]) -> Callable[[list[Tensor]], list[Tensor | None]]:
    r"""Returns a function from `Arguments.inputs` to the loss and its gradient by each target.

    For a table, the gradient is that by the rows of the batch.
    """
    places = {id(table.weight): place for place, table in enumerate(batch.tables)}

    def function(inputs):
        rest = inputs[len(batch.data) :]
        rows = [r.detach().requires_grad_() for r in rest[: len(batch.tables)]]
        args, kwargs = batch.with_data(inputs[: len(batch.data)])
        index = index_of(args, kwargs)

        def lookup(table: Rows, wanted: Tensor) -> Tensor:
            if wanted is not index:
                raise NotCaptured("it looks up other rows than those of the batch's index")
            return rows[places[id(table.weight)]]

        beta = None if batch.beta is None else rest[-1]
        with svi.rounding, _running(svi.objective, beta, lookup if rows else None):
            loss = batch.factor * svi.objective.differentiable_loss(svi.program, svi.guide, *args, **kwargs)
            if not loss.requires_grad:
                raise NotCaptured("its loss has no gradient")
            by = [rows[places[id(p)]] if id(p) in places else p for p in targets]
            return [loss.detach(), *torch.autograd.grad(loss, by, allow_unused=True)]

    return function


@contextlib.contextmanager
def _running(objective, beta: Tensor | None, lookup: Callable | None):
    with torch.enable_grad(), pyro.validation_enabled(False), unregistered(), looked_up(lookup):
        if beta is None:
            yield
            return
        before, objective.beta = objective.beta, beta
        try:
            yield
        finally:
            objective.beta = before
