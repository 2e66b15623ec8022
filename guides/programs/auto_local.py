r"""The guide of any program: a guide of this package for the latents of points, an autoguide of Pyro for the others."""

import contextlib
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from ...latents.call import Call
from ...latents.local import LocalModel
from ...latents.look import few
from ...points import Points, side
from ...shared import Shared
from ..base import Guide
from .auxiliary import Auxiliary
from .dense import dense
from .initial import start_rows
from .outer import Outer
from .spread import spread


class AutoLocal(Outer):
    r"""Creates the guide q(globals) ∏_i q_i(u_i) of a Pyro program, u_i the latents of point i as one vector.

    The program is traced at the first call, with the points at hand, or by `setup`. Its latents in the plate over
    points become one unconstrained vector u per point (`latents.local`), for which a guide of this package is the q;
    the latents outside the plate get one of Pyro's autoguides.

    Arguments:
        model: the program, a `PyroModule` or a function of (x, index, *, mask, given, weight, size) or a part of these;
            held outside the module tree.
        make: ``make(local)`` returns the guide of u: with ``local.latent_dim`` latents, and ``latent=local.latent,
            plate=local.plate``; `Chain` takes ``local`` for its model.
        plate: the name of the program's plate over points.
        globals: the q of all other latents: the name of one of Pyro's autoguides, "delta" for point estimates, or a
            class or function that is called like them.
        init: the initial values of the latents, one of Pyro's ``init_to_...`` functions.

    Raises:
        TypeError: if the program needs further arguments.
        ValueError: at the first call or in `setup`, as `LocalModel`, or if Pyro has no autoguide ``globals``.

    Attributes:
        local: the `LocalModel` of the program, once it was traced.
        inner: the guide of u.
        dense: the autoguide of the globals, or `None` if there are none.
    """

    def __init__(
        self, model, make: Callable, *, plate: str = "data", globals="AutoNormal", init: Callable | None = None
    ):
        super().__init__(latent=f"{plate}_latents", plate=plate)
        Call(model)  # refuses what cannot be called
        self._model, self._make = Shared((model,)), make
        self._globals, self._init = globals, init
        self.dense = None
        self._dense = Shared((None,))

    @property
    def is_set_up(self) -> bool:
        r"""Whether the program has been traced, so that parameters exist."""
        return self.inner is not None

    def check_found(self) -> None:
        r"""Raises an error unless all parameters exist and optimizers of torch can find those of the program."""
        if self._made().local.seen.loose:
            name = self.local.seen.loose[0]
            raise TypeError(
                f"the program is a function with pyro.param({name!r}, ...), which no optimizer of torch finds; "
                "expected a PyroModule with a PyroParam, or pyro.infer.SVI"
            )

    def setup(
        self, x: Tensor | Points, index: Tensor | None = None, *, size: int | None = None, **parts
    ) -> "AutoLocal":
        r"""Traces the program on some points, creates all parameters and returns the guide. Later calls do nothing.

        Arguments:
            x: data (B, ...), or `Points`.
            index: which points these are (B,).
            size: the number N of all points, for a program that has this argument.
            parts: ``mask`` and ``given`` of the points.
        """
        if self.is_set_up:
            return self
        points = Points.of(x, index, **parts)
        local = LocalModel(self._model[0], self.plate, points, size)
        inner = self._make(local).to(device=points.x.device, dtype=local.seen.dtype)
        if self._init is not None:
            start_rows(inner, local, points, self._init)
        inner.latent, inner.plate = local.latent, local.plate
        self.latent, self.plate_dim = local.latent, local.layout.dim
        if local.global_names:
            call = partial(Call(self._model[0]).of, few(points), size)
            self.dense = dense(self._globals, call, local.global_names, self._init)
            self._dense = Shared((self.dense,))
        self.local, self.inner = local, inner
        return self

    def __call__(self, *args, **kwargs):
        if not self.is_set_up:
            parts = ("x", "index", "mask", "given")
            points = Points(*(args or (None,)), **{k: v for k, v in kwargs.items() if k in parts[len(args) and 1 :]})
            if points.x is None:
                raise ValueError(
                    f"{type(self).__name__} traces the program at its first call and got no x: call it with data"
                )
            self.setup(points, size=kwargs.get("size"))
        return super().__call__(*args, **kwargs)

    def posterior(self, x=None, index=None, mask=None, given=None) -> dist.TorchDistribution:
        r"""Returns q(u | x), a distribution of unconstrained numbers, of batch shape (B,) and event shape (D,)."""
        with self._made()._held():
            return self.inner.posterior(x, index, mask, **side(given))

    def named(self, u: Tensor) -> dict[str, Tensor]:
        r"""Returns the values of the local latents by name, in their supports, for u (B, D) or (S, B, D)."""
        return self._made().local.named(u)

    def forward(self, x=None, index=None, *, mask=None, given=None, weight=None, size=None) -> dict[str, Tensor]:
        r"""Samples all latents of the program and returns them by name; takes the arguments of the program."""
        points = Points(x, index, mask, given)
        size = self._size(points, size)
        plate = self.data_plate(x, index, size)
        others = {f.name: f for site in self.local.layout.sites for f in site.others}
        plates = {plate.name: plate} | {n: pyro.plate(n, f.size, dim=f.dim) for n, f in others.items()}
        if self._dense[0] is not None:
            self._dense[0].create_plates.open = plates
        values = self.sample_globals()
        if self.training:
            with self._held():
                self.inner.e_step(points)
        with plate, self.weighted(x, index, size, given=given, weight=weight):
            return values | self._sample(points, plates)

    def _size(self, points: Points, size: int | None) -> int | None:
        r"""Returns the number of all points in the program's plate."""
        if self.local.takes_size:
            return size
        own, B = self.local.seen.plate_size, len(points.x if points.index is None else points.index)
        if own is None and size not in (None, B):
            raise ValueError(
                f"the program takes no size, so that its plate {self.plate!r} counts {B} of {size} points as if "
                f"they were all; expected a program of (x, index, *, size=None) with pyro.plate({self.plate!r}, "
                "size or len(x), subsample=index), or one batch of all points"
            )
        return own

    def sample_globals(self) -> dict[str, Tensor]:
        r"""Samples the global latents from their q, and returns them by name."""
        guide = self._dense[0]
        return {} if guide is None else guide()

    def draw_globals(self, num: int) -> dict[str, Tensor]:
        r"""Returns ``num`` draws of the global latents from their q by name, each (num, *shape)."""
        self._made()
        with torch.no_grad(), poutine.block():
            drawn = [self.sample_globals() for _ in range(num)]
        return {name: torch.stack([each[name] for each in drawn]) for name in drawn[0]}

    def centre(self) -> dict[str, Tensor]:
        r"""Returns the global latents at the centre of their q: the mean in unconstrained numbers (Pyro's median)."""
        guide = self._made()._dense[0]
        if guide is None:
            return {}
        with torch.no_grad(), poutine.block():  # the median of a point estimate samples its sites
            try:
                return {name: value.detach() for name, value in guide.median().items()}
            except NotImplementedError:
                raise ValueError(
                    f"{type(guide).__name__} has no median at which to hold the global latents; expected a draw, "
                    "evaluate.given_globals(model, guide, 'draw'), or another q, globals='AutoNormal'"
                ) from None

    def given_globals(self, model, values: dict[str, Tensor], how: str = "as given") -> tuple:
        r"""Returns the pair (model of u, guide of u) given values of the global latents, for scoring points.

        Arguments:
            model: the program, or another one of the same kind.
            values: the values of the global latents, by name.
            how: a description of these values.
        """
        local = self._made().local.at(values, model, how)
        if local.layout.is_one_vector and not local.global_names and hasattr(model, "log_joint"):
            return model, self.inner
        return local, self.inner.on(local)

    def start(self, points: Points) -> "AutoLocal":
        r"""Creates a guide with fresh rows for the points and the same q of the globals, which it does not train."""
        inner = self._made().inner.start(points)
        return self if inner is self.inner else self.with_inner(inner)

    def with_inner(self, inner: Guide) -> "AutoLocal":
        r"""Creates the guide with another q of u; it shares the q of the globals without training it."""
        made = AutoLocal(self._model[0], self._make, plate=self.plate, globals=self._globals)
        inner.latent = self.latent
        made.latent, made.plate_dim, made.local, made.inner = self.latent, self.plate_dim, self.local, inner
        made._dense = self._dense
        return made

    def owning(self) -> "AutoLocal":
        r"""Returns the guide, with the q of the globals made trainable again."""
        return self.share_globals(self)

    def share_globals(self, other: "AutoLocal") -> "AutoLocal":
        r"""Takes over the q of the globals from another guide of the program, to train it, and returns the guide."""
        self._dense = Shared((other._dense[0],))
        if self._dense[0] is not None:
            self._dense[0]._pyro_context.used = False  # it has run in the other guide; this one adopts it as well
            self.dense = self._dense[0]
        return self

    def data_plate(self, x, index, size):
        r"""Returns the plate over points at the program's dimension; a q with rows checks that they are its points."""
        if self.inner.per_point:
            self.inner.check_index(index)
            self.inner.check_size(size)
        return super().data_plate(x, index, size)

    def _made(self) -> "AutoLocal":
        if not self.is_set_up:
            raise ValueError(
                f"{type(self).__name__} has not traced the program, and has no parameters yet; expected a call with "
                "data first: guide.setup(x)"
            )
        return self

    def _held(self):
        r"""Context manager: for a q that depends on the model, such as a chain, holds the globals at their centre."""
        return self.local.given(self.centre()) if self.inner._model is not None else contextlib.nullcontext()

    def _sample(self, points: Points, plates: dict) -> dict[str, Tensor]:
        layout = self.local.layout
        if layout.is_one_vector:
            with self._held():
                return {self.latent: self.inner.datum(*points.seen, **points.side)}
        with self._held(), Auxiliary(-1 - layout.dim):
            u = self.inner.datum(*points.seen, **points.side)
        return spread(layout, u, plates)
