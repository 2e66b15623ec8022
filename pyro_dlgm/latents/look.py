r"""Traces a program once, on a few points, to find its latents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from .. import masks
from ..objectives.sites import is_drawn
from ..points import Points, evenly
from ..program import evaluating
from ..seeding import forked, seeds
from . import run
from .call import Call
from .held import Batch
from .layout import Layout
from .sites import found

FEW = 8  # points on which a program is traced
SEEDS = (1, 2)


@dataclass(frozen=True)
class Look:
    r"""The result of tracing a program.

    Attributes:
        layout: the layout of the continuous latents of a point in u.
        discrete: the names of the latents of a point that are summed out.
        globals: draws of the global latents, by name.
        global_events: the numbers of their event axes, by name.
        observed: the name of the only observed site of points, if its value is x, else `None`.
        event_shape: the shape of x in one point.
        loose: the names of a function's parameters, which are in Pyro's store alone.
        plate_size: the number of points that the program itself gives its plate; `None` if it is that of the batch.
        dtype: the dtype of u.
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
    r"""Returns a few points from all over the data, with an index."""
    points = points[evenly(len(points), FEW).to(points.x.device)]
    return points if points.index is not None else points.numbered()


def look(program: Callable, plate: str, points: Points, size: int | None) -> Look:
    r"""Traces a program on a few points; errors are those of `sites.found`."""
    # Parameters created by the first run follow the caller's seed, in a separate stream.
    call = Batch(plate, len(points))(partial(Call(program).of, points, size))
    with evaluating(program), torch.no_grad(), forked(*seeds(1)):
        run.execute(call, {}, 0)
    with forked(), evaluating(program):
        one, two = (run.drawn_apart(call, seed) for seed in SEEDS)
        latents = found(one, two, plate)
        layout = Layout(latents.sites, latents.dim, latents.depth)
        _check_observed(one, plate, layout.names[0])
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


def _check_observed(trace, plate: str, latent: str) -> None:
    r"""Raises a `ValueError` if nothing is observed from the first latent of the points on."""
    names = list(trace.nodes)
    later = (trace.nodes[name] for name in names[names.index(latent) :])
    # One outside of the plate that depends on the points' latents has an error with more to say (`independence`).
    if not any(is_drawn(site) and site["is_observed"] for site in later):
        raise ValueError(
            f"no site in the plate {plate!r} is observed, so that x says nothing about its latents; "
            "expected one that is: pyro.sample(name, distribution, obs=x), or a pyro.factor"
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
    r"""Returns whether a value equals x, in its shape, wherever x is observed."""
    if value.shape != points.x.shape:
        return False
    missing = torch.zeros_like(value, dtype=torch.bool)
    missing = missing if points.mask is None else ~masks.pixelwise(points.mask, value.dim())
    return bool(((value == points.x) | missing).all())
