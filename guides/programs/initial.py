r"""Initial values of rows, by one of Pyro's ``init_to_...`` functions."""

from collections.abc import Callable
from functools import partial

import torch
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor

from ...latents import run
from ...latents.call import Call
from ...latents.local import LocalModel
from ...points import Points
from ...program import evaluating
from ..base import Guide
from ..per_point import PerPoint


def start_rows(inner: Guide, local: LocalModel, points: Points, init: Callable) -> None:
    r"""Sets the means of rows to the values that ``init`` gives the latents of the N points; does nothing without rows.

    The program runs once for all N, on the points at hand, repeated: its prior does not depend on x.
    """
    if not isinstance(inner, PerPoint):
        return
    rows = torch.arange(inner.num_points, device=points.x.device)
    turns = Points(*(None if part is None else part[rows % len(points)] for part in vars(points).values()))
    u = _initial(local, Points(turns.x, rows, turns.mask, turns.given), init)
    raw = inner.rows.weight.detach().clone()
    raw[:, : u.shape[1]] = u
    inner.set_rows(raw)


def _initial(local: LocalModel, points: Points, init: Callable) -> Tensor:
    with torch.no_grad(), evaluating(local.program):
        around = InitMessenger(lambda site: site["fn"]() if site["name"] in local.seen.discrete else init(site))
        trace = run.execute(partial(Call(local.program).of, points), {}, 0, around=around)
    u = local.layout.vector({name: trace.nodes[name]["value"] for name in local.sites})
    return u.expand(len(points), local.latent_dim)
