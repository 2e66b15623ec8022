r"""The base class of guides: Pyro programs that sample t from q."""

import contextlib
import functools
from abc import abstractmethod
from collections.abc import Callable

import pyro
import pyro.distributions as dist
from pyro.nn import pyro_method
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from ..distributions import of_pyro
from ..points import Points, side
from ..program import Program
from ..shared import Shared


def _registering(posterior):
    r"""Wraps `posterior` so that its parameters train even if a plain function calls it under Pyro's SVI."""

    @functools.wraps(posterior)
    def call(self, *args, **kwargs):
        with self._pyro_context if am_i_wrapped() else contextlib.nullcontext():
            return _of_vectors(posterior(self, *args, **kwargs), self)

    return call


def _of_vectors(q, guide):
    r"""Returns q; a `ValueError` unless one draw of it is a vector for each point."""
    of_pyro(q, f"{type(guide).__name__}.posterior")
    if len(q.event_shape) != 1:
        raise ValueError(
            f"{type(guide).__name__}.posterior returned batch shape {tuple(q.batch_shape)} and event shape "
            f"{tuple(q.event_shape)}; expected (B,) and (D,), a vector of latents for each point: of a distribution "
            "of single numbers (B, D) return q.to_event(1)"
        )
    return q


class Guide(Program):
    r"""Creates q(t | x) = ∏_i q_i(t_i) as a Pyro program with the model's signature.

    A subclass defines `posterior`; everything else follows from it. The model ignores ``index``, an amortized guide
    ignores ``index``, a per-point guide ignores ``x``: that is the difference between the methods.

    Arguments:
        latent, plate: names of the model's latent site and plate.
    """

    has_density = True  # whether q has a density, so that F(q) exists
    per_point = False  # whether q has parameters for each point
    analytic_kl = True  # whether to prefer the closed form of KL(q ‖ p) to the sampled one
    moves = False  # whether a call itself updates q, as chains and Newton steps do
    gradients = 0  # gradient evaluations of log p(x, t | w) spent by q itself, such as those of a chain
    convergence = None  # the outcome of `evaluate.infer`, on the guide that it returned
    _model: Shared | None = None  # the model, if q depends on it: shared, outside the module tree

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
        r"""Returns q(t | x), of batch shape (B,) and event shape (D,).

        Arguments:
            x: data (B, ...).
            index: which points these are, (B,).
            mask: boolean, True where observed, of x's shape or (B,).
            given: what the points are conditioned on, (B, C); passed only if there is something.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no posterior(x, index, mask); expected a method that returns q(t | x), such as "
            "pyro.distributions.Normal(mean, scale).to_event(1) with both of shape (B, D)"
        )

    def prepare(self, look: Callable[[], Points]) -> None:
        r"""Prepares q for the scale of x; `fit` calls it once, before the first step. By default it does nothing.

        Arguments:
            look: returns up to 1,000 points of the data, as p and q see them.
        """

    def e_step(self, points: Points) -> None:
        r"""Updates q before it is sampled in training mode, as a chain does. By default it does nothing."""

    def cost(self, visits: int) -> int:
        r"""Returns the gradient evaluations of log p(x, t | w) spent on a point over ``visits`` visits."""
        return visits

    def on(self, model) -> "Guide":
        r"""Returns the guide for another model: itself, unless q depends on the model, as a chain does."""
        if self._model is None:
            return self
        # Modules are not copied: their names are those of their places in a program.
        made = object.__new__(type(self))
        made.__dict__ |= vars(self) | {"_model": Shared((model,))}
        return made

    def start(self, points: Points) -> "Guide":
        r"""Creates the guide with which `evaluate.infer` starts; returns this one if there is nothing to fit."""
        return self

    def settle(self, points: Points, max_steps: int) -> tuple[Tensor, int] | None:
        r"""Runs chains on a block of points until they converge, for `evaluate.infer`.

        Arguments:
            points: B of them, with their index.
            max_steps: the largest number of transitions of each chain.

        Returns:
            Which points converged, booleans (B,), and the number of gradient evaluations of all points together;
            `None` if q has no chains: then its parameters are optimized.
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
        r"""Samples t (B, D) from q in the plate over data; takes the arguments of the model."""
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
        r"""Samples t from q without the plate, for a larger guide with its own plates; its parameters are trained."""
        q = self.posterior(x, index, mask, **side(given))
        return pyro.sample(self.latent, q, infer={"analytic_kl": self.analytic_kl})


# Defaults for guides from outside this package.
DEFAULTS = {"has_density": True, "per_point": False, "moves": False, "gradients": 0, "posterior": None, "start": None}
DEFAULTS |= {"cost": lambda visits: visits, "prepare": lambda look: None, "convergence": None}


class Adapter:
    r"""Wraps any Pyro guide, with defaults for what it lacks: it has a density, no rows and no `posterior`."""

    def __init__(self, guide):
        self._guide = guide

    def __getattr__(self, name: str):
        if name not in DEFAULTS:
            raise AttributeError(f"{name} is not an attribute of a guide; expected one of {', '.join(DEFAULTS)}")
        return getattr(self._guide, name, DEFAULTS[name])


def adapted(guide) -> Guide | Adapter:
    r"""Returns the guide itself if it is a `Guide`, else an `Adapter` around it."""
    return guide if isinstance(guide, Guide) else Adapter(guide)


def check_order(model, guide) -> None:
    r"""Raises a `TypeError` if the guide is a model, or the model a guide: a swapped pair would train silently."""
    guided = isinstance(guide, Program) and not isinstance(guide, Guide)
    if isinstance(model, Guide) or guided:
        what = f"guide is {type(guide).__name__}, a model" if guided else f"model is {type(model).__name__}, a guide"
        raise TypeError(f"{what}; expected the model first and its guide after it: (model, guide)")


def check_start(name: str, guide, otherwise: str) -> None:
    r"""Raises a `TypeError` unless ``guide`` is `None`, or has a q for points without rows.

    Arguments:
        name: of the argument, for the error.
        guide: where something starts.
        otherwise: the start that `None` stands for, for the error.
    """
    if guide is not None and (adapted(guide).posterior is None or adapted(guide).per_point):
        raise TypeError(
            f"{name} is a {type(guide).__name__}, which has no q for new points; expected an Amortized guide, or None "
            f"for {otherwise}"
        )
