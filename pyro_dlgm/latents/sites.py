r"""Finds the latent sites of a program in its traces: local and global ones, and those that are not supported."""

from dataclasses import dataclass

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame as Frame
from torch import Size
from torch.distributions import Transform, biject_to

from ..objectives.sites import is_drawn
from .support import constant, same


@dataclass(frozen=True)
class Site:
    r"""A latent site of each point.

    Attributes:
        name: the name of the site.
        event_shape: the event shape of its values.
        others: the plates around it other than that of the points, from the left.
        transform: the transform from unconstrained numbers to the support.
    """

    name: str
    event_shape: Size
    others: tuple[Frame, ...]
    transform: Transform

    @property
    def inner_shape(self) -> Size:
        r"""The shape of its unconstrained numbers in one point: axes of other plates, then of the event."""
        return Size(frame.size for frame in self.others) + self.transform.inverse_shape(self.event_shape)

    @property
    def width(self) -> int:
        r"""The number of its unconstrained numbers in one point."""
        return self.inner_shape.numel()


@dataclass(frozen=True)
class Latents:
    r"""The latents of a program.

    Attributes:
        sites: the continuous latents of a point, in the order of the program.
        discrete: the names of the discrete ones, to be summed out.
        globals: the names of the global latents.
        dim: the dimension of the plate over points, negative.
        depth: the number of axes that all plates take.
    """

    sites: tuple[Site, ...]
    discrete: tuple[str, ...]
    globals: tuple[str, ...]
    dim: int
    depth: int


def found(trace, other, plate: str) -> Latents:
    r"""Returns the latents, from two traces of a program on the same points with different seeds.

    Raises:
        ValueError: on an unknown plate, one without latents, a plate that is sequential or subsampled within a point, a
            support that depends on another site or differs between points, a discrete latent that cannot be summed out.
    """
    sites = {name: site for name, site in trace.nodes.items() if is_drawn(site) and not site["is_observed"]}
    local = {name: site for name, site in sites.items() if _frame(site, plate) is not None}
    drawn = [site for site in trace.nodes.values() if is_drawn(site)]
    _check_plate(drawn, local, plate)
    dims = {_frame(site, plate).dim for site in local.values()}
    if len(dims) > 1:
        raise ValueError(f"the plate {plate!r} is at the dimensions {sorted(dims)}; expected one for all its sites")
    discrete = [name for name, site in local.items() if site["fn"].support.is_discrete]
    for name in discrete:
        _check_discrete(name, local[name], plate)
    if len(discrete) == len(local):
        raise ValueError(
            f"the latents of the plate {plate!r} are discrete ({', '.join(map(repr, discrete))}); expected a "
            "continuous one among them: sum them out by TraceEnum_ELBO, without q"
        )
    depth = max(-f.dim for site in drawn for f in site["cond_indep_stack"] if f.vectorized)
    made = tuple(_site(local[n], other.nodes.get(n), plate) for n in local if n not in discrete)
    return Latents(made, tuple(discrete), tuple(n for n in sites if n not in local), dims.pop(), depth)


def _frame(site: dict, plate: str) -> Frame | None:
    return next((f for f in site["cond_indep_stack"] if f.name == plate), None)


def _check_plate(drawn: list[dict], local: dict, plate: str) -> None:
    plates = sorted({f.name for site in drawn for f in site["cond_indep_stack"]})
    if plate not in plates:
        raise ValueError(f"plate is {plate!r}; expected one of the program's: {', '.join(map(repr, plates)) or 'none'}")
    if not local:
        raise ValueError(f"the plate {plate!r} holds no latent; expected the plate over points, which contains latents")
    inside = [site for site in drawn if _frame(site, plate) is not None]
    for site in inside:
        name = site["name"]
        for f in site["cond_indep_stack"]:
            if not f.vectorized:
                raise ValueError(
                    f"{name!r} is in the sequential plate {f.name!r}; expected plates as contexts: with pyro.plate(...)"
                )
            if f.name != plate and f.full_size not in (None, f.size):
                raise ValueError(
                    f"{name!r} is in the plate {f.name!r}, which holds {f.size} of {f.full_size}; expected all of it: "
                    "only the plate over points may be subsampled"
                )


def _check_discrete(name: str, site: dict, plate: str) -> None:
    if not site["fn"].has_enumerate_support or any(f.name != plate for f in site["cond_indep_stack"]):
        raise ValueError(
            f"{name!r} is a discrete latent ({type(site['fn']).__name__}) that cannot be summed out here; expected one "
            f"of finite support in the plate {plate!r} alone: write its sum into the program, or observe it"
        )


def _site(site: dict, other: dict | None, plate: str) -> Site:
    fn, frames = site["fn"], sorted(site["cond_indep_stack"], key=lambda f: f.dim)
    support = constant(fn.support, len(fn.batch_shape))
    again = None if other is None else constant(other["fn"].support, len(other["fn"].batch_shape))
    if support is None or again is None or not same(support, again):
        raise ValueError(
            f"the support of {site['name']!r} differs between points, or depends on another site or a parameter; "
            "expected a constant one: draw it from a constant support, and scale it afterwards"
        )
    transform = biject_to(support)
    with torch.no_grad():
        transform.inverse_shape(fn.event_shape)
    return Site(site["name"], fn.event_shape, tuple(f for f in frames if f.name != plate), transform)
