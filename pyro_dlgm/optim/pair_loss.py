r"""The loss of a pair (model, guide) on a batch, and its backward pass."""

import contextlib

import pyro
import pyro.infer
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..guides.base import check_order
from ..guides.programs.auto_local import AutoLocal
from ..guides.rows import sparse_gradients
from ..latents.call import accepting, as_module
from ..nets.bfloat16 import InBfloat16
from ..objectives.elbo import ELBO
from ..ppca.posterior import unread
from ..program import unregistered
from .checks import check_jacobians, check_objective, check_precision


class PairLoss(pyro.infer.SVI):
    r"""Creates the loss of a pair, the base of `SVI`.

    Arguments:
        model, guide, loss, precision: as of `SVI`.

    Attributes:
        program: the model, which also takes arguments that it does not name.
        objective: the loss.
        precision: the argument.
        rounding: a context manager in which networks compute in that precision.
        sparse: whether tables of rows get sparse gradients.
        reads_late: whether the numbers of a step are read after later ones.
        validated: whether a step has run under Pyro's validation.
        backward_passes: the number of backward passes so far.
    """

    def __init__(self, model, guide, loss, precision: str | None):
        check_order(model, guide)
        if isinstance(guide, AutoLocal):
            guide.check_found()
            model = as_module(model)
        self.model, self.guide, self.program = model, guide, accepting(model)
        self.objective = ELBO() if loss is None else loss
        check_objective(self.objective)
        check_jacobians(self.objective, guide)
        check_precision(precision, guide)
        self.loss, self.precision = self.objective.loss, precision
        # A PyroModule may have random weights, which are sites.
        self.rounding = contextlib.nullcontext() if precision is None else InBfloat16(self._programs(), but=PyroModule)
        self.sparse, self.reads_late, self.validated, self.backward_passes = True, False, False, 0

    def _programs(self) -> list[nn.Module]:
        return [program for program in (self.model, self.guide) if isinstance(program, nn.Module)]

    def modules(self) -> list[nn.Module]:
        r"""Returns all modules of model and guide."""
        return [m for program in self._programs() for m in program.modules()]

    def validation(self):
        r"""Returns a context manager: Pyro's validation is as set at the first step, and off later."""
        return pyro.validation_enabled(False) if self.validated else contextlib.nullcontext()

    def backward(self, only: list[Tensor] | None, factor: float, args: tuple, kwargs: dict) -> Tensor:
        r"""Computes the loss times the factor and its gradients, and returns it.

        Arguments:
            only: the parameters that get a gradient; `None`: all.
            factor: a factor of the loss.
            args, kwargs: the arguments of model and guide.
        """
        with self.rounding, self.validation(), self._lookup(), self._reading(), unregistered():
            loss = factor * self.objective.differentiable_loss(self.program, self.guide, *args, **kwargs)
            self.validated = True
            if loss.requires_grad and only != []:
                loss.backward(inputs=only)
                self.backward_passes += 1
        return loss

    def _lookup(self):
        return sparse_gradients() if self.sparse else contextlib.nullcontext()

    def _reading(self):
        # Then a value that does not exist is NaN, and `check` names the error.
        return unread() if self.reads_late else contextlib.nullcontext()
