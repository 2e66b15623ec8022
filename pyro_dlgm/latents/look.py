r"""The first look at a program: what its traces on a few points say of its latents, once and for all."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from .. import masks
from ..points import Points
from ..program import evaluating
from ..seeding import forked, seeds
from . import run
from .call import Call
from .layout import Layout
from .sites import found

FEW = 8  # points on which a program is looked at
SEEDS = (1, 2)


@dataclass(frozen=True)
class Look:
    r"""What is known of a program.

    Attributes:
        layout: how the continuous latents of a point lie in u.
        discrete: the names of the latents of a point that are summed out.
        globals: draws of the latents that belong to no point, by name.
        global_events: how many axes an event of theirs has, by name.
        observed: the name of the one observed site of points, if its value is x, else `None`.
        event_shape: of x in one point.
        loose: the names of parameters that a function has in Pyro's store alone.
        plate_size: the number of points that the program's plate has by itself; `None` if that is the batch's.
        dtype: of u.
    """

    layout: Layout
    discrete: tuple[str, ...]
    globals: dict[str, Tensor]
    global_events: dict[str, int]
    observed: str | None
    event_shape: Size
    loose: tuple[str, ...]
    plate_size: int | None
    dtype: torch.dtype


def few(points: Points) -> Points:
    r"""A few of the points, from all over them, with an index."""
    rows = torch.linspace(0, len(points) - 1, min(FEW, len(points))).long()
    points = points[rows.to(points.x.device)]
    return points if points.index is not None else points.numbered()


def look(program: Callable, plate: str, points: Points, size: int | None) -> Look:
    r"""Looks at a program on a few points; errors as those of `sites.found`."""
    # Parameters that a first run makes follow the caller's seed, in a stream of their own.
    with evaluating(program), torch.no_grad(), forked(*seeds(1)):
        run.execute(partial(Call(program).of, points, size), {}, 0)
    with forked(), evaluating(program):
        one, two = (run.drawn_apart(partial(Call(program).of, points, size), seed) for seed in SEEDS)
        latents = found(one, two, plate)
        layout = Layout(latents.sites, latents.dim, latents.depth)
        params = [name for name, site in one.nodes.items() if site["type"] == "param"]
        return Look(
            layout=layout,
            discrete=latents.discrete,
            globals={name: one.nodes[name]["value"].detach() for name in latents.globals},
            global_events={name: one.nodes[name]["fn"].event_dim for name in latents.globals},
            observed=_observed(one, plate, points),
            event_shape=points.x.shape[1:],
            loose=() if isinstance(program, nn.Module) else tuple(params),
            plate_size=_plate_size(program, plate, points, one, layout.names[0]),
            dtype=layout.vector({name: one.nodes[name]["value"] for name in layout.names}).dtype,
        )


def _plate_size(program: Callable, plate: str, points: Points, trace, name: str) -> int | None:
    if "size" in Call(program).takes:
        return None
    full = _full_size(trace, plate, name)
    if full != len(points) or len(points) < 2:
        return None if full == len(points) else full
    fewer = run.drawn_apart(partial(Call(program).of, points[: len(points) - 1]), SEEDS[0])
    return full if _full_size(fewer, plate, name) == full else None


def _full_size(trace, plate: str, name: str) -> int:
    frame = next(f for f in trace.nodes[name]["cond_indep_stack"] if f.name == plate)
    return frame.full_size or frame.size


def _observed(trace, plate: str, points: Points) -> str | None:
    sites = run.log_probs(trace, plate, -1, lambda name, site: site["is_observed"])
    if len(sites) != 1:
        return None
    site = trace.nodes[next(iter(sites))]
    return site["name"] if _is_x(site["value"], points) and not isinstance(site["fn"], dist.Unit) else None


def _is_x(value: Tensor, points: Points) -> bool:
    r"""Whether a value is x wherever x is observed: neither a function of it, nor x with other axes."""
    if value.shape != points.x.shape:
        return False
    missing = torch.zeros_like(value, dtype=torch.bool)
    missing = missing if points.mask is None else ~masks.pixelwise(points.mask, value.dim())
    return bool(((value == points.x) | missing).all())
