r"""Blocks of points on their way from q to the posterior and back, in bounded memory."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from ...program import unregistered
from ...progress import Bar
from .. import rounding
from ..checks import FIT_ONE, check_density
from ..quiet import quiet
from .chunks import blocks, rows_that_fit
from .path import TUNING, Path, Walk, schedule


@dataclass(frozen=True)
class Settings:
    r"""How to anneal; the arguments of `ais` of the same names.

    Raises:
        ValueError: on numbers that make no sense.
    """

    num_chains: int
    num_temperatures: int
    num_leapfrog: int
    target_acceptance: float
    memory: int

    def __post_init__(self):
        for name in ("num_chains", "num_temperatures", "num_leapfrog", "memory"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 < self.target_acceptance < 1:
            raise ValueError(f"target_acceptance is {self.target_acceptance}; expected a probability between 0 and 1")

    @property
    def tuning(self) -> int:
        r"""Temperatures of the sweep that tunes the step sizes."""
        return max(1, self.num_temperatures // TUNING)

    def transitions(self, sweeps: int, groups: int = 1) -> int:
        r"""HMC transitions of a block whose chains go in so many groups, each with so many sweeps."""
        return self.tuning + groups * sweeps * (self.num_temperatures - 1)

    def gradients(self, sweeps: int) -> int:
        r"""Gradient evaluations of log p(x, t) per point."""
        return self.num_chains * (self.transitions(sweeps) * self.num_leapfrog + sweeps + 1)


class Annealer:
    r"""Creates what walks between q and the posterior for a block of B points.

    Arguments:
        path: between the two.
        q: of batch shape (B,).
        counts: how many chains go together, group by group.
        settings: how to anneal.
    """

    def __init__(self, path: Path, q, counts: list[int], settings: Settings):
        self.path, self.q, self.counts = path, q, counts
        self.betas = schedule(settings.num_temperatures)
        self.num_points = len(path.scale)
        t = self._draws(counts[0])
        self.strays = rounding.strays(q, q.log_prob(t))
        self.steps = path.tune(t, settings.tuning)

    def upwards(self) -> list[Walk]:
        r"""Walks from draws of q, group by group."""
        return [self.path.sweep(self._draws(n), self.betas, self.steps) for n in self.counts]

    def downwards(self, t: Tensor) -> list[Walk]:
        r"""Walks from t (B, D), a draw of the posterior, group by group."""
        betas = self.betas.flip(0)
        return [self.path.sweep(t.expand(n, *t.shape), betas, self.steps) for n in self.counts]

    def _draws(self, num: int) -> Tensor:
        with torch.no_grad():
            return self.q.sample((num,))


def annealers(
    model, guide, x: Tensor, index, mask, settings: Settings, *, sweeps: int = 1, progress: bool = False
) -> Iterator[Annealer]:
    r"""The annealers of all points x (N, ...), block by block, behind a bar if one is wanted.

    At the end it warns of the points where q is too ill-conditioned for its precision.
    """
    t = model.prior().sample((1, 1))
    rows = rows_that_fit(lambda t: model.log_joint(x[:1], t, _at(mask, slice(1))), t, settings.memory)
    todo = list(blocks(len(x), settings.num_chains, rows))
    total, strays = sum(settings.transitions(sweeps, len(counts)) for _, counts in todo), []
    with Bar(total, shown=progress, name="anneal") as bar:
        for here, counts in todo:
            q = start_of(model, guide, x[here], _at(index, here), _at(mask, here))
            path = Path(
                (q.log_prob, _log_joint(model, x[here], _at(mask, here))),
                q.stddev,
                settings.num_leapfrog,
                settings.target_acceptance,
                bar.tick,
            )
            annealer = Annealer(path, q, counts, settings)
            strays.append(annealer.strays)
            yield annealer
    rounding.report(torch.cat(strays), stacklevel=3)


def start_of(model, guide, x: Tensor, index: Tensor | None, mask: Tensor | None):
    r"""Where the walks of the points x (B, ...) start: the guide's q, or the prior if there is no guide."""
    with torch.no_grad():
        return model.prior().expand((len(x),)) if guide is None else guide.posterior(x, index, mask)


@contextlib.contextmanager
def annealing(model, guide, *, seed: int | None):
    r"""Inside, nothing is touched, nothing is validated, and gradients are taken where they are asked for."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("annealing needs gradients and was called under torch.inference_mode(); leave it first")
    with quiet(model, guide, seed=seed), pyro.validation_enabled(False), unregistered(), torch.no_grad():
        yield


def _log_joint(model, x: Tensor, mask: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda t: model.log_joint(x, t, mask)


def _at(values: Tensor | None, here: slice) -> Tensor | None:
    return None if values is None else values[here]


PRIOR_OR_FIT = f"anneal from the prior with guide=None, or {FIT_ONE}"


def check_start(guide) -> None:
    r"""Raises a `TypeError` unless walks can start from q, or from the prior, which `None` stands for."""
    if guide is not None:
        check_density(guide, PRIOR_OR_FIT)
