r"""Pyro's SVI with torch optimizers.

`pyro.optim` makes one optimizer for each parameter. Here one fused Adam serves all dense parameters, the gradient can
be clipped by its global norm, schedulers of torch apply, and tables of rows get an Adam that updates only the rows of
the batch.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..guides.rows import Rows
from ..seeding import states
from .attempt import Attempt
from .clipping import clip_
from .compiled.compiler import Compiler
from .nan_guard import Watch, bad
from .optimizers import adam, lay_out, listed, takes_sparse
from .pair_loss import PairLoss


class SVI(PairLoss):
    r"""Creates stochastic variational inference with torch optimizers.

    The first step runs with Pyro's validation as it is set, later ones without it, since its checks wait for the device
    at each site.

    Arguments:
        model, guide: Pyro modules with one signature.
        optimizers: one or more torch optimizers of their parameters, such as those of `adam`. Tables of rows need
            `RowAdam` or another optimizer for sparse gradients, or one for dense ones, which moves all rows at each
            step.
        loss: the objective, by default `objectives.ELBO`.
        clip_norm: bound on the global norm of the gradient of all dense parameters (per point if the loss is).
        check_every: the number of steps between two checks that loss and gradients are finite; each waits for the
            device. A step where they are not, and all later ones, are not taken. `None`: no check.
        compile: whether to compile steps, or with which backend of `torch.compile`: see `optim.compiled.compiler`.
        compile_size: the number of points of the batches to compile; `None`: each size.
        precision: "bf16": networks compute in bfloat16, all else in float32: see `nets.bfloat16`. `None`: as the
            parameters are.
        summed: for a training on several processes, ``summed(loss, parameters)`` returns the sum of their losses, and
            adds up the gradients of these parameters, all but the tables of rows, in place.

    Attributes:
        gradient_norm: the global norm of the dense gradients in the last step, before clipping, a scalar tensor; `None`
            if there are none, or neither ``clip_norm`` nor ``check_every`` needs it.

    Raises:
        ValueError: if ``clip_norm`` or ``precision`` is invalid, or bfloat16 would do nothing or make no sense.
        TypeError: if one of the optimizers is not of torch, the loss cannot be differentiated (`RenyiELBO`), model or
            guide is not a module, so that its parameters cannot be found, or they are swapped.
    """

    def __init__(
        self,
        model,
        guide,
        optimizers=None,
        loss=None,
        *,
        clip_norm: float | None = None,
        check_every: int | None = None,
        compile: bool | str = False,
        compile_size: int | None = None,
        precision: str | None = None,
        summed: Callable[[Tensor, list[Tensor]], Tensor] | None = None,
    ):
        super().__init__(model, guide, loss, precision)
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm is {clip_norm}; expected a number > 0, or None for no clipping")
        self.optimizers = adam(self.model, guide) if optimizers is None else listed(optimizers)
        self.sparse = takes_sparse(self.optimizers, self.model, guide)
        self.clip_norm, self.steps, self.gradient_norm = clip_norm, 0, None
        self.watch = None if check_every is None else self._watch(check_every)
        self.compiler = Compiler(self, compile, compile_size) if compile else None
        self.summed, self.tables = summed, {m.weight for m in self.modules() if isinstance(m, Rows)}
        self._strides: list[tuple[int, ...]] = []

    def _watch(self, every: int) -> Watch:
        # An optimizer that cannot skip an update needs the flag to be read before each one.
        masked = all(getattr(o, "_step_supports_amp_scaling", False) for o in self.optimizers)
        self.reads_late = masked and every > 1
        return Watch(every if masked else 1)

    def run(self, *args, **kwargs):
        r"""Raises a `NotImplementedError`: Pyro has deprecated it."""
        raise NotImplementedError("SVI.run is deprecated in Pyro; call step in a loop, or use pyro_dlgm.fit")

    def step(self, *args, factor: float = 1.0, **kwargs) -> Tensor:
        r"""Takes one joint step on w and q; arguments go to model and guide.

        Arguments:
            factor: a factor of the loss, 1/N for a loss per point.

        Returns:
            The loss before the step, a detached scalar tensor in nats: reading its value waits for the device.
        """
        loss = self._step(None, factor, args, kwargs)
        self.steps += 1
        return loss

    def check(self) -> None:
        r"""Raises an error if a loss or gradient was not finite; waits for the device, if there is a ``check_every``.

        Raises:
            FloatingPointError: if the loss or a gradient was not finite in one of the steps; it names step, site, rows
                and parameter. All parameters are as they were before that step.
        """
        if self.watch is not None:
            self.watch.read()

    def e_step(self, *args, factor: float = 1.0, **kwargs) -> Tensor:
        r"""Takes one step on q alone; w gets no gradient. Arguments and result are those of `step`."""
        return self._step(self._of_guide(), factor, args, kwargs)

    def e_step_of(self, blocks: Iterable[tuple[tuple, dict]], factor: float = 1.0) -> None:
        r"""Takes one step on q alone, with a gradient summed over blocks of points, in the memory of one block.

        Arguments:
            blocks: the arguments of model and guide for each block, (args, kwargs).
            factor: a factor of the loss.
        """
        self._begin()
        for args, kwargs in blocks:
            self.backward(self._of_guide(), factor, args, kwargs)
        self._norms()
        self._update()

    def _of_guide(self) -> list[Tensor]:
        return [p for p in self.guide.parameters() if p.requires_grad]

    def _update(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
        self.clear()

    def _begin(self) -> None:
        self.clear()
        strides = [p.stride() for p in self.parameters()]
        if strides != self._strides:
            for optimizer in self.optimizers:
                lay_out(optimizer)
            self._strides = strides

    def _step(self, only, factor, args, kwargs) -> Tensor:
        self._begin()
        attempt = self._attempt(only, factor, args, kwargs)
        loss = None if self.compiler is None else self.compiler.step(attempt, only, factor)
        return self.take(attempt, only) if loss is None else loss

    def take(self, attempt: Attempt, only: list[Tensor] | None = None) -> Tensor:
        r"""Takes a step that has been begun, without compiling it; returns the loss."""
        loss = attempt.backward() if self.watch is None else attempt.run()
        loss = loss if self.summed is None else self._over_processes(loss, only)
        norms = self._norms()
        self.raise_flag(attempt, bad([loss.detach(), *norms]) if self.watch is not None else None)
        self._update()
        return loss.detach()

    def _over_processes(self, loss: Tensor, only: list[Tensor] | None) -> Tensor:
        r"""Returns the loss summed over processes, and sums the dense gradients."""
        rows = [p.grad for p in self.tables if p.grad is not None]
        for values in (g._values() if g.is_sparse else g for g in rows):
            # NaN if a gradient of rows is not finite: then no process takes the step.
            loss = loss.detach() + 0 * torch.linalg.vector_norm(values)
        targets = self.parameters() if only is None else only
        return self.summed(loss, [p for p in targets if p not in self.tables])

    def _attempt(self, only, factor, args, kwargs) -> Attempt:
        name = f"step {self.steps + 1}" if only is None else f"an E-step of step {self.steps + 1}"
        backward = partial(self.backward, only, factor, args, kwargs)
        needed = self.watch is not None or self.compiler is not None
        return Attempt(name, self, backward, args, kwargs, states() if needed else {})

    def raise_flag(self, attempt: Attempt, flag: Tensor | None) -> None:
        r"""Passes the flag, a scalar tensor, to watch and optimizers; raises errors as `check` does."""
        if self.watch is not None:
            skip = self.watch.see(attempt, flag)
            for optimizer in self.optimizers:
                optimizer.found_inf = skip

    def parameters(self) -> Iterator[Tensor]:
        r"""Returns the parameters of all optimizers."""
        return (p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"])

    def clear(self) -> None:
        r"""Clears all gradients."""
        # Before a step, since Pyro's own SVI leaves dense zeros, to which no sparse gradient can be added; after it,
        # since Pyro's own SVI adds to existing gradients.
        for parameter in self.parameters():
            parameter.grad = None

    def _norms(self) -> list[Tensor]:
        r"""Clips the dense gradients, and returns their norm and that of each table's; nothing if no norm is needed."""
        if self.clip_norm is None and self.watch is None:
            return []
        self.gradient_norm, rows = clip_(self.parameters(), self.clip_norm)
        return rows if self.gradient_norm is None else [*rows, self.gradient_norm]
