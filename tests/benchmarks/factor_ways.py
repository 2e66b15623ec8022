r"""Ways to fit the factor program: Pyro's AutoNormal, and `AutoPerPoint` with lazy or with dense rows."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from factor_program import FACTORS, FEATURES, plates, program
from pyro.infer.autoguide import AutoNormal, init_to_feasible, init_to_value
from torch import Tensor

from pyro_dlgm import SVI, guides
from pyro_dlgm.optim.svi import adam


@dataclass
class Way:
    r"""Creates a training, as what a benchmark asks of it.

    Attributes:
        step: takes a step on a batch (x, index).
        W: returns the centre of q(W).
        z: returns the means of q(z) of all points, (N, D).
        groups: returns the parameter groups of the optimizers, once a step was taken.
    """

    step: Callable[[Tensor, Tensor], object]
    W: Callable[[], Tensor]
    z: Callable[[], Tensor]
    groups: Callable[[], list[dict]]


def start(seed: int) -> Callable:
    r"""Where all ways start: a W drawn from the prior, z = 0."""
    W = torch.randn(FACTORS, FEATURES, generator=torch.Generator().manual_seed(1_000 + seed))  # not the true one
    return init_to_value(values={"W": W}, fallback=init_to_feasible)


def auto_normal(x: Tensor, lr: float, row_lr: float, seed: int) -> Way:
    r"""Pyro's AutoNormal, SVI and dense Adam, told its plate and where its rows are."""
    pyro.clear_param_store()
    N = len(x)
    guide = AutoNormal(program, init_loc_fn=start(seed), create_plates=plates)
    rates = lambda name: {"lr": lr if name.endswith(".W") else row_lr}  # noqa: E731
    optimizer = pyro.optim.Adam(rates)
    svi = pyro.infer.SVI(program, guide, optimizer, pyro.infer.Trace_ELBO())
    guide(x[:2], torch.arange(2), size=N)
    return Way(
        lambda x, index: svi.step(x, index, size=N),
        lambda: guide.locs.W.detach(),
        lambda: guide.locs.z.detach(),
        lambda: [group for each in optimizer.optim_objs.values() for group in each.param_groups],
    )


def lazy(x: Tensor, lr: float, row_lr: float, seed: int) -> Way:
    r"""`AutoPerPoint` with `RowAdam`: rows that are not in the batch stay."""
    return _per_point(x, lambda guide: adam(guide, lr=lr, row_lr=row_lr), seed)


def dense(x: Tensor, lr: float, row_lr: float, seed: int) -> Way:
    r"""`AutoPerPoint` with a fused Adam over all rows."""
    return _per_point(x, lambda guide: _dense_adam(guide, lr, row_lr), seed)


def _dense_adam(guide, lr: float, row_lr: float) -> torch.optim.Adam:
    groups = [{"params": guide.inner.parameters(), "lr": row_lr}, {"params": guide.dense.parameters(), "lr": lr}]
    return torch.optim.Adam(groups, fused=True)


def _per_point(x: Tensor, optimizers: Callable, seed: int) -> Way:
    N = len(x)
    guide = guides.AutoPerPoint(program, N, init=start(seed)).setup(x, torch.arange(N), size=N)
    svi = SVI(program, guide, optimizers(guide))
    return Way(
        lambda x, index: svi.step(x, index, size=N, factor=1 / N),
        lambda: guide.centre()["W"],
        lambda: guide.inner.rows.weight.detach()[:, :FACTORS],
        lambda: [group for each in svi.optimizers for group in each.param_groups],
    )


WAYS = {"AutoNormal": auto_normal, "lazy": lazy, "dense": dense}
