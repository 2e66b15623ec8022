r"""Checks of what is optimized: programs with parameters, differentiable objectives, and optimizers of torch."""

from collections.abc import Iterable

import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

from ..guides.exact import Exact
from ..guides.laplace import Laplace
from ..guides.rows import Rows, in_files
from ..nets.bfloat16 import BF16
from .row_adam import RowAdam

CLIMBED = "objectives.ELBO, IWAE, DReG, Trace_ELBO or TraceMeanField_ELBO"
SPARSE = (RowAdam, torch.optim.SparseAdam)


def check_program(name: str, program) -> None:
    r"""Raises a `TypeError` unless the program is a module, so that its parameters can be found and saved."""
    if isinstance(program, type) or program is None:
        said = f"the class {program.__name__}" if isinstance(program, type) else "None"
        raise TypeError(f"{name} is {said}; expected an instance: make one first")
    if not isinstance(program, nn.Module):
        said = "a function" if callable(program) else f"a {type(program).__name__}"
        raise TypeError(
            f"{name} is {said}, whose parameters cannot be found; expected a Pyro module: call it, or enter handlers "
            "(poutine.scale), in the forward of a PyroModule that holds them"
        )


def check_precision(precision: str | None, guide) -> None:
    r"""Raises a `ValueError` unless the precision of networks is "bf16" or `None`.

    It is also refused for a q that needs all digits of w: a closed form, or the result of steps that must converge.
    """
    if precision not in (None, BF16):
        raise ValueError(f"precision is {precision!r}; expected {BF16!r}, or None for that of the parameters")
    if precision is not None and isinstance(guide, Exact | Laplace):
        raise ValueError(
            f"precision is {precision!r} and the guide is {type(guide).__name__}, which solves for q with all digits "
            "of w; expected no precision, or another guide"
        )


def check_objective(objective) -> None:
    r"""Raises a `TypeError` unless the objective has a loss that can be differentiated for each batch."""
    kind = type(objective).__name__
    if isinstance(objective, type) or objective is None:
        said = f"the class {objective.__name__}" if isinstance(objective, type) else "None"
        raise TypeError(f"objective is {said}; expected an instance: make one first")
    if kind.startswith("Jit"):
        raise TypeError(
            f"objective is a {kind}, which compiles the program for one batch, with its parameters as constants; "
            f"expected {CLIMBED}"
        )
    if not hasattr(objective, "differentiable_loss"):
        raise TypeError(
            f"objective is a {kind}, which has no differentiable_loss(model, guide, ...); expected {CLIMBED}, or take "
            "pyro.infer.SVI for it"
        )


def check_jacobians(objective, guide) -> None:
    r"""Raises a `ValueError` if the objective leaves out the log-Jacobians of the guide of a program."""
    if isinstance(objective, TraceMeanField_ELBO) and getattr(guide, "has_jacobians", False):
        raise ValueError(
            "objective is a TraceMeanField_ELBO, which leaves out the log-Jacobians of latents that are not real "
            "(Pyro's KL of a Delta forgets its log_density); expected objectives.ELBO or Trace_ELBO"
        )


def listed(optimizers) -> list[torch.optim.Optimizer]:
    r"""Returns the optimizers as a list, also for a single one.

    Raises:
        TypeError: if one of them is not an optimizer of torch.
    """
    if isinstance(optimizers, torch.optim.Optimizer | type) or not isinstance(optimizers, Iterable):
        optimizers = [optimizers]
    found = list(optimizers)
    for optimizer in found:
        if isinstance(optimizer, type):
            raise TypeError(
                f"an optimizer is the class {optimizer.__name__}; expected an instance with its parameters: "
                f"{optimizer.__name__}(model.parameters())"
            )
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"{type(optimizer).__name__} is not a torch optimizer; use svi.adam(model, guide), or pyro.infer.SVI"
            )
    return found


def takes_sparse(optimizers: list[torch.optim.Optimizer], *modules) -> bool:
    r"""Returns whether the tables of the modules get sparse gradients: no optimizer for dense ones has any of them.

    Raises:
        TypeError: if tables are with both kinds of optimizers, or tables in files are not with `RowAdam`, whose changes
            alone can be undone.
    """
    filed = {t.weight: t.files.folder.path for t in in_files(*modules)}
    for optimizer in optimizers:
        folder = next((filed[p] for p in _parameters(optimizer) if p in filed), None)
        if folder is not None and not isinstance(optimizer, RowAdam):
            raise TypeError(
                f"the rows in {folder} are with {type(optimizer).__name__}; expected RowAdam: svi.adam(model, guide)"
            )
    tables = {m.weight for p in modules if isinstance(p, nn.Module) for m in p.modules() if isinstance(m, Rows)}
    kinds = {isinstance(o, SPARSE) for o in optimizers if tables & set(_parameters(o))}
    if len(kinds) > 1:
        raise TypeError(
            "some tables of rows are with an optimizer for sparse gradients, some with one for dense ones; expected "
            "one kind for all: svi.adam(model, guide)"
        )
    return kinds != {False}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
