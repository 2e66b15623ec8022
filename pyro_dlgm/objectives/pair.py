r"""A model and a guide with their arguments, and the traces from which log-weights are computed."""

import contextlib
import warnings
from collections.abc import Iterator

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from ..seeding import reseeded
from .log_weights import log_weights
from .once import outside, samples
from .sites import (
    check_broadcast,
    check_latents,
    check_plates,
    check_reparametrized,
    depth_of,
    is_drawn,
    plate_of,
    point_frame,
)


class Pair:
    r"""Creates the pair with its arguments.

    Arguments:
        model, guide: Pyro programs.
        args, kwargs: the arguments of both.
        plate: the name of the plate over data; `None`: that of the programs.
        depth: the least number of dimensions that plates take.

    Attributes:
        shares: the normalized weights (K, B), once all log-weights are known.
        numbers: the size of x.

    Raises:
        TypeError: if the guide has no density.
    """

    def __init__(self, model, guide, args: tuple, kwargs: dict, plate: str | None, depth: int):
        program, q = poutine.unwrap(model), poutine.unwrap(guide)
        if not getattr(q, "has_density", True):
            raise TypeError(
                f"{type(q).__name__} is a point mass, or draws of a chain: it has no density, so there are no weights; "
                "expected a guide that has one, or objectives.ELBO, which climbs log p(x, t)"
            )
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.plate = plate or plate_of(program, q)
        self.depth = max(depth, depth_of(q))
        self.numbers = max((a.numel() for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), default=1)
        self.shares, self._values = None, {}

    def draw_outside(self) -> None:
        r"""Draws the global latents, for all chunks of samples."""
        with self._samples(1):
            self._values = outside(poutine.trace(self.guide).get_trace(*self.args, **self.kwargs), self.plate)

    def traces(self, rows: slice, args: tuple, kwargs: dict) -> tuple:
        r"""Returns the traces of model and guide for the samples ``rows`` of K; the arguments are those of the pair."""
        with self._samples(rows.stop - rows.start):
            guide_trace = poutine.trace(self.guide).get_trace(*args, **kwargs)
            return poutine.trace(poutine.replay(self.model, guide_trace)).get_trace(*args, **kwargs), guide_trace

    def _samples(self, num: int):
        return samples(num, self.depth, self.plate, self._values)

    def check(self, num: int) -> None:
        r"""Raises an error if model and guide do not match, or a factor outside the plate depends on samples.

        Arguments:
            num: the number of samples with which to run them.
        """
        with reseeded(), torch.enable_grad(), self._samples(num):
            guide_trace = poutine.trace(self.guide).get_trace(*self.args, **self.kwargs)
            held = _with_values(guide_trace, self.plate, lambda site, frame: site["value"].detach().requires_grad_())
            replayed = poutine.replay(self.model, held)
            model_trace = poutine.trace(replayed).get_trace(*self.args, **self.kwargs)
            check_latents(model_trace, guide_trace)
            check_plates(model_trace, guide_trace, self.plate)
            check_broadcast(model_trace)
            check_reparametrized(guide_trace)
            _check_outside(log_weights(model_trace, held, self.plate, num).outside, held, self.plate)


class Doubly(Pair):
    r"""Creates the pair for `DReG`: log q has fixed parameters, and gradients of the samples are multiplied by w̃."""

    def traces(self, rows: slice, args: tuple, kwargs: dict) -> tuple:
        r"""Returns the traces of model and guide, with the values of those of `Pair` and other gradients."""
        # With one seed, both calls of the guide have the same dropout.
        seed = int(torch.randint(2**31, (), device="cpu"))
        with self._samples(rows.stop - rows.start):
            with reseeded(seed):
                drawn = poutine.trace(self.guide).get_trace(*args, **kwargs)
            held = _with_values(drawn, self.plate, lambda site, frame: self._weighted(site, frame, rows))
            model_trace = poutine.trace(poutine.replay(self.model, held)).get_trace(*args, **kwargs)
            with reseeded(seed), _frozen(_parameters(self.guide, drawn)):
                again = poutine.replay(self.guide, _detached_outside(held, self.plate))
                guide_trace = poutine.trace(again).get_trace(*args, **kwargs)
        for name, site in _outer(drawn, self.plate):
            guide_trace.nodes[name] = site
        return model_trace, guide_trace

    def _weighted(self, site: dict, frame, rows: slice) -> Tensor:
        r"""Returns the value, whose gradient gets multiplied by w̃ of its sample and point."""
        value, axes = site["value"], -1 - frame.dim + len(site["fn"].event_shape)
        if not value.requires_grad:
            return value

        def times_share(gradient: Tensor) -> Tensor:
            shares = self.shares[rows].reshape(-1, *[1] * (self.depth + frame.dim), frame.size, *[1] * axes)
            return gradient * shares.reshape(shares.shape[max(0, shares.dim() - gradient.dim()) :])

        weighted = value.view_as(value)
        weighted.register_hook(times_share)
        return weighted


def _outer(trace, plate: str | None) -> Iterator[tuple[str, dict]]:
    for name, site in trace.nodes.items():
        if is_drawn(site) and point_frame(site, plate) is None:
            yield name, site


def _with_values(trace, plate: str | None, change):
    r"""Returns a copy of a guide's trace in which latents of points have the values ``change(site, frame)``."""
    made = trace.copy()
    for name, site in trace.nodes.items():
        frame = point_frame(site, plate) if is_drawn(site) else None
        if frame is not None and not site["is_observed"] and site["value"].is_floating_point():
            made.nodes[name] = site | {"value": change(site, frame)}
    return made


def _detached_outside(trace, plate: str | None):
    made = trace.copy()
    for name, site in _outer(trace, plate):
        made.nodes[name] = site | {"value": site["value"].detach()}
    return made


def _check_outside(total, held, plate: str | None) -> None:
    names = [name for name, site in held.nodes.items() if is_drawn(site) and point_frame(site, plate) is not None]
    names = [name for name in names if held.nodes[name]["value"].requires_grad]
    if not names or not isinstance(total, Tensor) or not total.requires_grad:
        return
    found = torch.autograd.grad(total, [held.nodes[name]["value"] for name in names], allow_unused=True)
    moved = [name for name, gradient in zip(names, found, strict=True) if gradient is not None]
    if moved:
        raise ValueError(
            f"a factor outside of the plate over data depends on {moved[0]!r}, which has K samples for each point; "
            "expected it in the plate, one number for each point, as part of the weights"
        )


def _parameters(guide, trace) -> list[Tensor]:
    r"""Returns the leaves that q depends on: the parameters of a module, and those of the trace in Pyro's store."""
    program = poutine.unwrap(guide)
    leaves = list(program.parameters()) if isinstance(program, nn.Module) else []
    stored = dict(pyro.get_param_store().named_parameters())
    named = (name for name, site in trace.nodes.items() if site["type"] == "param")
    return [*leaves, *(stored[name] for name in named if name in stored)]


@contextlib.contextmanager
def _frozen(leaves: list[Tensor]):
    r"""Context manager: freezes these parameters."""
    leaves = [p for p in dict.fromkeys(leaves) if p.requires_grad]
    try:
        for p in leaves:
            p.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*was not registered in the param store")  # the first call has done so
            yield
    finally:
        for p in leaves:
            p.requires_grad_(True)
