r"""The model of single points in a program: log p(x, u | globals, w), with u their unconstrained latents."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pyro
import torch
from torch import Tensor, nn

from .. import messages
from ..points import Points, dealt
from ..program import evaluating
from ..seeding import forked
from ..shared import Shared, store_restored
from . import independence, run
from .call import Call
from .densities import Emission, Joint, Prior, log_joint_each
from .look import FEW, SEEDS, few, look


class LocalModel:
    r"""Creates the model of a point in a program, with its local latents as one vector u: p(x, u | globals, w).

    It replaces a `DLGM` with t = u wherever points are scored separately. The program is traced once.

    Arguments:
        program: a Pyro module or a function of (x, index, *, mask, given, weight, size), or a part of it.
        plate: the name of its plate over points.
        example: some points.
        size: the number N of all points, for a program that takes it.

    Attributes:
        layout: the layout of the sites in u.
        seen: the result of tracing the program, a `Look`.
        latent_dim: the number D of unconstrained latents of a point.
        global_names: the names of the global latents.
        globals: their values, on which densities of points are conditional.
        conditions: a description of them and their values; empty without any.

    Raises:
        ValueError: if the plate is unknown or holds no latent, points depend on each other, a support is not constant,
            or a discrete latent cannot be summed out.
    """

    def __init__(self, program: Callable, plate: str, example: Points, size: int | None = None):
        points = few(example)
        seen = look(program, plate, points, size)
        self._program, self.plate, self.seen, self.layout = Shared((program,)), plate, seen, seen.layout
        self.latent = self.sites[0] if seen.layout.is_one_vector else f"{plate}_latents"
        self.global_names, self.globals, self.conditions = tuple(seen.globals), seen.globals, ""
        with forked(SEEDS[0]), evaluating(program):
            independence.check(self, points)
        self.globals = {}

    @property
    def program(self):
        r"""The program itself."""
        return self._program[0]

    @property
    def _call(self) -> Call:
        return Call(self.program)

    @property
    def takes_size(self) -> bool:
        r"""Whether the program takes the number of all points."""
        return "size" in self._call.takes

    @property
    def latent_dim(self) -> int:
        r"""The number D of unconstrained latents of a point."""
        return self.layout.width

    def at(self, values: dict[str, Tensor], program=None, how: str = "as given") -> "LocalModel":
        r"""Returns the model given values of the global latents, by name; optionally for another program.

        Raises:
            ValueError: unless there is a value for each of them.
        """
        if set(values) != set(self.global_names):
            raise ValueError(f"globals are {sorted(values)}; expected values of {sorted(self.global_names)}")
        made = object.__new__(type(self))
        made.__dict__ |= vars(self) | {"globals": {name: value.detach() for name, value in values.items()}}
        made.conditions = f"{', '.join(self.global_names)} {how}" if self.global_names else ""
        made._program = self._program if program is None else Shared((program,))
        return made

    @contextlib.contextmanager
    def given(self, values: dict[str, Tensor]):
        r"""Context manager: densities of points are conditional on these values of the global latents."""
        before, self.globals = self.globals, self.at(values).globals
        try:
            yield
        finally:
            self.globals = before

    def log_joint(self, points: Points, u: Tensor) -> Tensor:
        r"""Returns log p(x, u | globals, w) of each point, in nats, with log-Jacobians; sums out discrete latents.

        Arguments:
            points: the B points.
            u: unconstrained latents (..., B, D).

        Returns:
            A tensor (..., B), without scales.
        """
        return self._summed(points, u, lambda name, site: True)

    def check_axes(self, points: Points) -> None:
        r"""Raises a `ValueError` unless the program accepts samples along an axis to the left of its plates."""
        few = points[:FEW]
        with torch.no_grad(), forked(0), evaluating(self.program), store_restored(self.program):
            u = torch.randn(2, len(few), self.latent_dim, device=few.x.device, dtype=self.seen.dtype)
            apart = torch.stack([self.log_joint(few, each) for each in u])
            try:
                wrong = None if independence.close(self.log_joint(few, u), apart) else "its densities differ there"
            except Exception as error:
                wrong = f"{type(error).__name__}: {messages.line(error)}"
        if wrong is not None:
            raise ValueError(
                "the program accepts latents of its points, but not samples of them, with an axis to the left of its "
                f"plates ({wrong}); expected a program whose operations broadcast: count axes from the right, and wrap "
                "networks in nets.Net"
            )

    def log_joint_each(self, points: Points, u: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        r"""Returns log p(x, u_k | globals_k, w), (K, B), for samples u (K, B, D), each with its draw of the globals."""
        return self.log_joint(points, u) if not drawn else log_joint_each(self, points, u, drawn)

    def log_prior(self, points: Points, u: Tensor) -> Tensor:
        r"""Returns log p(u | globals, w) of each point, (..., B), in nats: `log_joint` without observed sites."""
        return self._summed(points, u, lambda name, site: name in self.sites or name in self.seen.discrete)

    @property
    def sites(self) -> tuple[str, ...]:
        r"""The names of the continuous latents of a point."""
        return self.layout.names

    def prior_at(self, points: Points) -> Prior:
        r"""Returns p(u | globals, w) of the points, of batch shape (B,) and event shape (D,)."""
        return Prior(self, points, torch.Size((len(points),)))

    def named(self, u: Tensor) -> dict[str, Tensor]:
        r"""Returns constrained values of the latents of points by name, for u (B, D) or (S, B, D)."""
        return self.layout.values(u)[0]

    def draw_prior(self, points: Points, num: int) -> Tensor:
        r"""Draws u from p(u | globals, w), (S, B, D)."""
        with torch.no_grad():
            trace = self._run(points, {}, num=num)
        u = self.layout.vector({name: trace.nodes[name]["value"] for name in self.sites})
        return u.expand(num, len(points), self.latent_dim)

    def emission_at(self, points: Points, u: Tensor):
        r"""Returns p(x | u, globals, w) at u (..., B, D), from the program's site of x.

        Raises:
            ValueError: if x depends on discrete latents, or is not a single site.
        """
        lead, held, _ = self._held(u)
        if self.seen.discrete or self.seen.observed is None:
            raise ValueError(_no_emission(self))
        fn = self._run(points, held).nodes[self.seen.observed]["fn"]
        plates = (1,) * (self.layout.depth + self.layout.dim) + (len(points),) + fn.batch_shape[self.layout.dim :][1:]
        fn = fn.expand(torch.broadcast_shapes(fn.batch_shape, (lead.numel(), *plates) if lead else plates))
        return Emission(fn, torch.Size((*lead, len(points))), self.seen.event_shape)

    def simulated(self, num_points: int, mask: Tensor | None = None, given: Tensor | None = None):
        r"""Draws x and u from the program given the globals; returns points, index 0..M−1, and u (M, D).

        Raises:
            ValueError: if the program cannot be called without x, or observes other sites.
        """
        if not self._call.generates or self.seen.observed is None:
            raise ValueError(_no_simulation(self))
        rows = dealt(given, num_points)
        call = partial(self._call, None, None, size=num_points, given=rows)
        with torch.no_grad():
            trace = run.execute(call, self.globals, self.layout.depth)
        x = trace.nodes[self.seen.observed]["value"]
        if x.shape != (num_points, *self.seen.event_shape):
            raise ValueError(_no_simulation(self))
        u = self.layout.vector({name: trace.nodes[name]["value"] for name in self.sites})
        return Points(x, None, mask, rows).numbered(), u

    def __call__(self, x=None, index=None, *, mask=None, given=None, weight=None, size=None) -> Tensor:
        r"""Samples u in a plate over points, at a site with the density p(x, u | globals, w)."""
        points = Points(x, index, mask, given)
        with pyro.plate(self.plate, len(x), dim=-1):
            return pyro.sample(self.latent, Joint(self, points, torch.Size((len(x),))))

    def modules(self) -> Iterator[nn.Module]:
        r"""Yields the modules of the program, if it has any."""
        yield from self.program.modules() if isinstance(self.program, nn.Module) else ()

    def parameters(self) -> Iterator[Tensor]:
        r"""Yields the parameters w of the program, if it is a module."""
        yield from self.program.parameters() if isinstance(self.program, nn.Module) else ()

    def _summed(self, points: Points, u: Tensor, names) -> Tensor:
        lead, held, jacobians = self._held(u)
        trace = self._run(points, held, enumerated=self.seen.discrete)
        terms = run.log_probs(trace, self.plate, self.layout.dim, names)
        known = {*self.sites, *self.seen.discrete}
        for name in terms:
            if name not in known and not trace.nodes[name]["is_observed"]:
                raise ValueError(
                    f"the program sampled {name!r}, which it did not when it was traced; expected the same sites in "
                    "each run"
                )
        sums = [run.summed(v, self._others(v)) for v in jacobians.values()]
        num = lead.numel() if lead else None
        layout, discrete = self.layout, len(self.seen.discrete)
        joint = run.total([*terms.values(), *sums], layout.depth, layout.dim, len(points), num, discrete)
        return joint.reshape(*lead, len(points))

    def _held(self, u: Tensor):
        lead = u.shape[:-2]
        values, jacobians = self.layout.values(u.reshape(-1, *u.shape[-2:]) if lead else u)
        return lead, values, jacobians

    def _others(self, value: Tensor) -> list[int]:
        return [d for d in range(-min(self.layout.depth, value.dim()), 0) if d != self.layout.dim]

    def _run(self, points: Points, held: dict, **settings):
        missing = [name for name in self.global_names if name not in self.globals]
        if missing:
            raise ValueError(
                f"the program has the global latents {', '.join(map(repr, missing))}, on which the density of a point "
                "depends; expected values: evaluate.given_globals(model, guide), or .at({name: value})"
            )
        points = points if points.index is not None else points.numbered()
        call = partial(self._call.of, replace(points, weight=None))
        return run.execute(call, held | self.globals, self.layout.depth, **settings)


def _no_emission(local: LocalModel) -> str:
    return (
        f"p(x | latents) of the program is not the distribution of one site in {local.plate!r} with the value x; "
        "expected one observed site that is x, and no discrete latent"
    )


def _no_simulation(local: LocalModel) -> str:
    return (
        "the program cannot simulate points; expected one that is called as program(size=n) and then samples x at one "
        f"site in {local.plate!r}: leave out the simulation, num_simulated=0"
    )
