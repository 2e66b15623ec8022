r"""Optimizers of a pair: `adam` creates them, and those of a user are checked."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..guides.base import adapted
from ..guides.programs.auto_local import AutoLocal
from ..guides.rows import Rows, in_files
from ..latents.call import as_module
from .checks import check_program
from .row_adam import RowAdam

SPARSE = (RowAdam, torch.optim.SparseAdam)


def adam(*modules, lr: float = 2e-3, row_lr: float = 0.1, betas=(0.9, 0.999)) -> list[torch.optim.Optimizer]:
    r"""Creates the optimizers of w and q: a fused Adam for dense parameters, a `RowAdam` for tables of rows.

    Arguments:
        modules: model and guide; frozen parameters (``requires_grad=False``) are left out.
        lr: learning rate of models and networks.
        row_lr: learning rate of a guide's parameters for each point. It is larger, since a row is visited once per
            epoch, a network at each step.
        betas: decay rates of Adam's moments.
    """
    if any(isinstance(module, AutoLocal) for module in modules):
        modules = [as_module(module) for module in modules]
    for module in modules:
        check_program("a program", module)
    tables = dict.fromkeys(m.weight for module in modules for m in module.modules() if isinstance(m, Rows))
    groups, rows, seen = [], [table for table in tables if table.requires_grad], set(tables)
    for module in modules:
        dense = [p for p in module.parameters() if p.requires_grad and p not in seen]
        seen.update(dense)
        if dense:
            groups.append({"params": dense, "lr": row_lr if _is_a_table(module) else lr})
    made = [torch.optim.Adam(groups, betas=betas, fused=True)] if groups else []
    return made + ([RowAdam(rows, lr=row_lr, betas=betas)] if rows else [])


def _is_a_table(module) -> bool:
    r"""Returns whether the dense parameters of a module are rows themselves, as in Pyro's autoguides."""
    has_rows = isinstance(module, AutoLocal) or any(isinstance(m, Rows) for m in module.modules())
    return adapted(module).per_point and not has_rows


def load_states(parts: Sequence, states: Sequence[dict]) -> None:
    r"""Restores the states of several modules or optimizers."""
    for part, state in zip(parts, states, strict=True):
        part.load_state_dict(state)


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    r"""Lays moments out in memory as their parameters, which a user may have given another memory format since.

    torch's fused Adam goes through the memory of both, without a look at their strides.
    """
    for p, state in optimizer.state.items():
        for name, v in state.items():
            strided = isinstance(v, Tensor) and v.layout == p.layout == torch.strided
            if strided and v.shape == p.shape and v.stride() != p.stride():
                state[name] = torch.empty_like(p, dtype=v.dtype).copy_(v)


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
