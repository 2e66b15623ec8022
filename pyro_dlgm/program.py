r"""The base of models and guides as Pyro programs: unique names, and the plate over data."""

import contextlib
import contextvars
import itertools

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from .points import check_given, check_index, check_weight

# Pyro's plates of draws, not of points.
PARTICLES = ("num_particles_vectorized", "_num_predictive_samples")
_numbers = itertools.count(1)
_registers = contextvars.ContextVar("registers", default=True)


@contextlib.contextmanager
def held(variable: contextvars.ContextVar, value):
    r"""Context manager: gives the variable this value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def unregistered():
    r"""Context manager: reading a network of a `Program` does not register its parameters in Pyro's parameter store.

    Pyro registers all of them at each access, for its own optimizers; torch optimizers do not need that.
    """
    return held(_registers, False)


@contextlib.contextmanager
def evaluating(*programs):
    r"""Context manager: puts the modules of programs in eval mode, and restores their flags afterwards."""
    modules = [m for program in programs if hasattr(program, "modules") for m in program.modules()]
    flags = [m.training for m in modules]
    try:
        for m in modules:
            m.training = False
        yield
    finally:
        for m, flag in zip(modules, flags, strict=True):
            m.training = flag


class Weighted(Messenger):
    r"""Creates the handler that scales the log-density of each site of a point by its weight (B,), 0 included."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg) -> None:
        msg["scale"] = msg["scale"] * self.weight


class Relative(Messenger):
    r"""Creates the handler that takes the unique name of a program off the names of its sample sites.

    A `PyroSample` is named after its root, "DLGM_5.likelihood.net.bias". The number serves the parameter store; in the
    name of a site, it would give a copy different sites, and posterior samples would not fit them.

    Arguments:
        root: the unique name.
        place: the replacement: the place of the program in a larger one, such as "decoder.", or nothing.
    """

    def __init__(self, root: str, place: str):
        super().__init__()
        self.root, self.place, self.drawing = f"{root}.", place, True

    def _pyro_sample(self, msg) -> None:
        if msg["name"].startswith(self.root):
            msg["name"] = self.place + msg["name"].removeprefix(self.root)

    def _pyro_post_sample(self, msg) -> None:
        plates = [f.name for f in msg["cond_indep_stack"] if f.dim == -1 and f.name not in PARTICLES]
        if plates and self.drawing:
            raise ValueError(
                f"{msg['name']!r} would be drawn for each point of the plate {plates[0]!r}; expected one draw for all: "
                "enter model.global_latents() before the plate"
            )


class Program(PyroModule):
    r"""The base of models and guides: a root of Pyro parameters, with the plate over data.

    Each instance takes a unique name ("DLGM_1", "MeanField_2", ...), and so does each copy. In Pyro's default mode
    two unnamed modules of one class share their entries of the parameter store: the second one silently trains the
    first one's parameters, or none.

    Arguments:
        plate: name of the plate over data.
    """

    plate_dim = -1

    def __init__(self, *, plate: str = "data"):
        super().__init__(self._unique_name())
        self.plate, self._place = plate, ""

    def _unique_name(self) -> str:
        self._root = f"{type(self).__name__}_{next(_numbers)}"
        return self._root

    def __setstate__(self, state):
        super().__setstate__(state)
        if self._pyro_name != self._root:  # inside a larger program, whose sites keep their names
            self._place = f"{self._pyro_name}."
        self._link(self._unique_name())

    def _link(self, root: str) -> None:
        r"""Names each `PyroModule` below after its place, also those inside plain modules, which Pyro does not reach.

        Pyro names children in the same way, but only if they have not run; a copy of a trained model has.
        """
        for path, module in self.named_modules():
            if isinstance(module, PyroModule):
                module._pyro_name = f"{root}.{path}" if path else root
                module._pyro_context = self._pyro_context

    def __getattr__(self, name: str):
        child = self.__dict__["_modules"].get(name)
        # A PyroModule is left to Pyro: it may hold PyroSamples, which are sites.
        if child is None or isinstance(child, PyroModule):
            return super().__getattr__(name)
        if _registers.get() and self._pyro_context.active:
            return super().__getattr__(name)
        if _registers.get() and am_i_wrapped() and not pyro.settings.get("module_local_params"):
            # ``model.likelihood(t)`` in a plain function under Pyro's SVI trains as it does inside the program.
            pyro.module(f"{self._pyro_name}.{name}", child)
        return child

    def __call__(self, *args, **kwargs):
        with self.global_latents():
            return super().__call__(*args, **kwargs)

    @contextlib.contextmanager
    def global_latents(self):
        r"""Context manager: draws each `PyroSample` of the program once, with its own shape and at scale 1.

        `forward` does so before it opens its plate. A larger program with plates enters this context first: inside it,
        `datum` uses these values (a bare ``model.likelihood(t)`` outside makes new draws). Two programs with such
        latents should be children of one `PyroModule`, which tells their sites apart.

        Raises:
            ValueError: if a plate over points is open already.
        """
        with self._pyro_context:
            cache = self._pyro_context.cache  # Pyro empties it when the outermost call ends
            samples = () if self in cache else [(m, name) for m in self._pyro_modules() for name in m._pyro_samples]
            cache[self] = True
            if not samples:
                yield
                return
            self._link(self._pyro_name)
            with Relative(self._root, self._place) as relative:
                for module, name in samples:
                    getattr(module, name)
                relative.drawing = False
                yield

    def _pyro_modules(self) -> list[PyroModule]:
        found = [self]
        for module in found:  # the list grows: as `modules`, but without names, since this runs at each call
            found.extend(child for child in module._modules.values() if child is not None)
        return [module for module in found if isinstance(module, PyroModule)]

    def data_plate(self, x: Tensor | None, index: Tensor | None, size: int | None):
        r"""Returns the plate over the points of a batch, at dimension −1 (``plate_dim``).

        Without ``size`` it has the batch's length B and scale 1. With ``size=N`` it has N points, subsampled at
        ``index``, and scale N/B; then ``index`` may be left out, since only the number of points matters.

        Raises:
            ValueError: if the number of points does not follow from x, ``index`` or ``size``, or x and ``index``
                disagree.
        """
        batch = self._batch_length(x, index, size)
        if size is None or (index is None and batch == size):
            return pyro.plate(self.plate, batch, dim=self.plate_dim)
        if batch > size:
            raise ValueError(
                f"a batch of {batch} points does not fit into size={size}; size is the number of all points"
            )
        if index is None:
            index = torch.arange(batch, device=x.device)
        return pyro.plate(self.plate, size, subsample=index, dim=self.plate_dim)

    def weighted(self, x: Tensor | None, index: Tensor | None, size: int | None, *, given=None, weight=None):
        r"""Context manager: scales log-densities by the weights (B,) of the points, if there are any.

        Raises:
            ValueError: if ``given`` or ``weight`` does not fit the points.
        """
        if given is None and weight is None:
            return contextlib.nullcontext()
        B = self._batch_length(x, index, size)
        check_given(given, B)
        check_weight(weight, B)
        if weight is None:
            return contextlib.nullcontext()
        return Weighted(weight.reshape(-1, *[1] * (-1 - self.plate_dim)))

    def _batch_length(self, x, index, size) -> int:
        check_index(index)
        if isinstance(x, int | float):
            raise TypeError(f"x is {x}; expected a tensor (B, ...), or no x to generate: size={x}")
        lengths = {len(v) for v in (x, index) if v is not None} or {size}
        if lengths == {None}:
            raise ValueError(
                f"{type(self).__name__} was called without x, index or size; expected one of them, "
                "which says how many points: give x, or size=n to generate"
            )
        if len(lengths) > 1:
            raise ValueError(f"x has {len(x)} points and index {len(index)}; expected one index for each point of x")
        length = lengths.pop()
        if not (length >= 1 and length == int(length)):
            raise ValueError(f"{type(self).__name__} got {length} points; expected a whole number, at least 1")
        return length
