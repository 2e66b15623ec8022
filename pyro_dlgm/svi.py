r"""Pyro's SVI for torch optimizers.

`pyro.optim` makes one optimizer for each parameter. Here one fused Adam serves all dense parameters, the gradient
may be clipped by its global norm, schedulers of torch apply, and tables of rows get an Adam that touches the rows of
the batch only.
"""

import contextlib

import pyro
import pyro.infer
import torch
from torch import Tensor

from .objectives import ELBO
from .program import unregistered
from .rows import RowAdam, Rows, sparse_gradients


def adam(*modules, lr: float = 1e-3, row_lr: float = 1e-2, betas=(0.9, 0.999)) -> list[torch.optim.Optimizer]:
    r"""Creates the optimizers of w and q: a fused Adam for what is dense, a `RowAdam` for tables of rows.

    Arguments:
        modules: model and guide; what is frozen (``requires_grad=False``) is left out.
        lr: learning rate of models and networks.
        row_lr: learning rate of all that a guide has for each point. A row is visited once an epoch, a network at
            each step: rows want more.
        betas: decay rates of Adam's moments.
    """
    tables = {id(m.weight) for module in modules for m in module.modules() if isinstance(m, Rows)}
    groups, rows, seen = [], [], set()
    for module in modules:
        trainable = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen |= {id(p) for p in trainable}
        rows += [p for p in trainable if id(p) in tables]
        dense = [p for p in trainable if id(p) not in tables]
        if dense:
            groups.append({"params": dense, "lr": row_lr if getattr(module, "per_point", False) else lr})
    made = [torch.optim.Adam(groups, betas=betas, fused=True)] if groups else []
    return made + ([RowAdam(rows, lr=row_lr, betas=betas)] if rows else [])


class SVI(pyro.infer.SVI):
    r"""Creates stochastic variational inference with torch optimizers.

    The first step runs with Pyro's validation as it is set; the later ones without it, since its checks wait for the
    device at each site.

    Arguments:
        model, guide: Pyro modules with one signature.
        optimizers: torch optimizers over their parameters; `adam` makes them.
        loss: the objective, by default `objectives.ELBO`.
        clip_norm: bound on the global norm of the gradient of all dense parameters (per point if the loss is).

    Raises:
        TypeError: if one of the optimizers is Pyro's.
    """

    def __init__(self, model, guide, optimizers=None, loss=None, *, clip_norm: float | None = None):
        optimizers = adam(model, guide) if optimizers is None else optimizers
        for optimizer in optimizers:
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(
                    f"{type(optimizer).__name__} is no torch optimizer; use svi.adam(model, guide), or pyro.infer.SVI"
                )
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm is {clip_norm}; expected a number > 0, or None for no clipping")
        self.model, self.guide, self.optimizers = model, guide, optimizers
        self.objective, self.clip_norm = ELBO() if loss is None else loss, clip_norm
        self.loss = self.objective.loss
        self._validated, self.backward_passes = False, 0

    def run(self, *args, **kwargs):
        r"""Refused: Pyro has deprecated it."""
        raise NotImplementedError("SVI.run is deprecated in Pyro; call step in a loop, or use pyro_dlgm.fit")

    def step(self, *args, weight: float = 1.0, **kwargs) -> Tensor:
        r"""One joint step on w and q; arguments go to model and guide.

        Arguments:
            weight: factor of the loss, 1/N for a loss per point.

        Returns:
            The loss before the step, a detached scalar tensor in nats: reading its value waits for the device.
        """
        return self._step(None, weight, args, kwargs)

    def e_step(self, *args, weight: float = 1.0, **kwargs) -> Tensor:
        r"""One step on q alone; w gets no gradient. Arguments and result as those of `step`."""
        return self._step([p for p in self.guide.parameters() if p.requires_grad], weight, args, kwargs)

    def _step(self, only, weight, args, kwargs) -> Tensor:
        self._clear()
        with self._validation(), sparse_gradients(), unregistered():
            loss = weight * self.objective.differentiable_loss(self.model, self.guide, *args, **kwargs)
            self._validated = True
            if loss.requires_grad and only != []:
                loss.backward(inputs=only)
                self.backward_passes += 1
        self._clip()
        for optimizer in self.optimizers:
            optimizer.step()
        self._clear()
        return loss.detach()

    def _clear(self) -> None:
        # Before a step, since Pyro's own SVI leaves dense zeros, to which no sparse gradient can be added; behind it,
        # since Pyro's own adds to what it finds.
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def _validation(self):
        return pyro.validation_enabled(False) if self._validated else contextlib.nullcontext()

    def _clip(self) -> None:
        if self.clip_norm is not None:
            grads = [p for o in self.optimizers for g in o.param_groups for p in g["params"]]
            dense = [p for p in grads if p.grad is not None and not p.grad.is_sparse]
            torch.nn.utils.clip_grad_norm_(dense, self.clip_norm)
