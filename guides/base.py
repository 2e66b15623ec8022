r"""The guide: a Pyro program that samples t from q, whatever q is."""

import contextlib
import functools
from abc import abstractmethod
from collections.abc import Callable

import pyro
import pyro.distributions as dist
from pyro.nn import pyro_method
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from ..points import Points, side
from ..program import Program, Shared


def _registering(posterior):
    r"""The method, whose parameters train also where a plain function calls it under Pyro's SVI."""

    @functools.wraps(posterior)
    def call(self, *args, **kwargs):
        with self._pyro_context if am_i_wrapped() else contextlib.nullcontext():
            return _of_vectors(posterior(self, *args, **kwargs), self)

    return call


def _of_vectors(q, guide):
    r"""Returns q; a `ValueError` unless one draw of it is a vector for each point."""
    if len(q.event_shape) != 1:
        raise ValueError(
            f"{type(guide).__name__}.posterior returned batch shape {tuple(q.batch_shape)} and event shape "
            f"{tuple(q.event_shape)}; expected (B,) and (D,), a vector of latents for each point: of a distribution "
            "of single numbers (B, D) return q.to_event(1)"
        )
    return q


class Guide(Program):
    r"""Creates q(t | x) = ∏_i q_i(t_i) as a Pyro program with the model's signature.

    A subclass says `posterior`; everything else follows from it. The model ignores ``index``, an amortized guide
    ignores ``index``, a per-point guide ignores ``x``: this is the difference between the methods.

    Arguments:
        latent, plate: names of the model's latent site and plate.
    """

    has_density = True  # whether q has a density, so that F(q) exists
    per_point = False  # whether q has parameters for each point
    analytic_kl = True  # whether the closed form of KL(q ‖ p) is to be preferred to the sampled one
    moves = False  # whether q moves by itself where it is called, by as many steps as the points need
    gradients = 0  # gradient evaluations of log p(x, t | w) that q has spent by itself, a chain's

    def __init__(self, *, latent: str = "t", plate: str = "data"):
        super().__init__(plate=plate)
        self.latent = latent

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "posterior" in vars(cls):
            cls.posterior = _registering(cls.posterior)

    @abstractmethod
    def posterior(
        self,
        x: Tensor | None = None,
        index: Tensor | None = None,
        mask: Tensor | None = None,
        given: Tensor | None = None,
    ) -> dist.TorchDistribution:
        r"""q(t | x), of batch shape (B,) and event shape (D,).

        Arguments:
            x: data (B, ...).
            index: which points these are, (B,).
            mask: boolean, True where observed, of x's shape or (B,).
            given: what the points are conditioned on, (B, C); handed over only where there is something.
        """
        raise NotImplementedError

    def prepare(self, look: Callable[[], Points]) -> None:
        r"""Called once by `fit`, before the first step; does nothing unless q is made for a scale of x.

        Arguments:
            look: returns up to 1,000 points of the data as p and q see them.
        """

    def e_step(self, points: Points) -> None:
        r"""Updates q before it is sampled, in training mode; does nothing unless q moves by itself, as a chain does."""

    def cost(self, visits: int) -> int:
        r"""Gradient evaluations of log p(x, t | w) spent on a point over ``visits`` visits."""
        return visits

    def on(self, model) -> "Guide":
        r"""Returns the guide as one of another model: the same one, unless q moves by the model, as a chain does."""
        if "_model" not in vars(self):
            return self
        # No copy of modules, whose names are those of their places in a program.
        made = object.__new__(type(self))
        made.__dict__ |= vars(self) | {"_model": Shared((model,))}
        return made

    def start(self, points: Points) -> "Guide":
        r"""Creates the guide with which `evaluate.infer` starts; this one where there is nothing to fit."""
        return self

    def settle(self, points: Points, max_steps: int) -> tuple[Tensor, int] | None:
        r"""Runs chains on a block of points until they converge, for `evaluate.infer`.

        Arguments:
            points: B of them, with their index.
            max_steps: bound on the transitions of each chain.

        Returns:
            Who converged, booleans (B,), and gradient evaluations, all points together; `None` if q does not move by
            itself: then its parameters are climbed.
        """
        return None

    def forward(
        self,
        x: Tensor | None = None,
        index: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        given: Tensor | None = None,
        weight: Tensor | None = None,
        size: int | None = None,
    ) -> Tensor:
        r"""Samples t (B, D) from q in the plate over data; arguments as those of the model."""
        plate = self.data_plate(x, index, size)
        if self.training:
            self.e_step(Points(x, index, mask, given))
        with plate, self.weighted(x, index, size, given=given, weight=weight):
            return self.datum(x, index, mask, **side(given))

    @pyro_method
    def datum(
        self,
        x: Tensor | None = None,
        index: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        given: Tensor | None = None,
    ) -> Tensor:
        r"""Samples t from q without the plate, for a larger guide with its plates; parameters train there."""
        q = self.posterior(x, index, mask, **side(given))
        return pyro.sample(self.latent, q, infer={"analytic_kl": self.analytic_kl})


# What a guide that is not of this package need not say.
DEFAULTS = {"has_density": True, "per_point": False, "moves": False, "gradients": 0, "posterior": None, "start": None}
DEFAULTS |= {"cost": lambda visits: visits, "prepare": lambda look: None}


class Adapter:
    r"""Creates a wrapper of any Pyro guide with defaults for what it lacks: a density, no rows, no `posterior`."""

    def __init__(self, guide):
        self._guide = guide

    def __getattr__(self, name: str):
        if name not in DEFAULTS:
            raise AttributeError(f"{name} is not asked of a guide; expected one of {', '.join(DEFAULTS)}")
        return getattr(self._guide, name, DEFAULTS[name])


def adapted(guide) -> Guide | Adapter:
    r"""Returns the guide itself if it is one of this package, else an `Adapter` of it."""
    return guide if isinstance(guide, Guide) else Adapter(guide)
