r"""Methods of a comparison: each trains and scores a pair; one after the other, or several at a time in processes."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..distributions import draws
from ..evaluate.scores import point_scores
from ..guides.base import adapted
from ..guides.programs.given import conditions, given_globals
from ..latents.asked import prior
from ..points import Points
from ..runs.files import RunError
from ..seeding import forked
from ..training.fit import fit
from . import workers
from .certificates import Certify
from .held_out import HeldOut
from .scoring import infer_silently, scales_at_floor

SETTINGS = ("batch_size", "lr", "row_lr", "schedule", "objective", "transform", "seed", "progress")  # of `fit`


class Made(NamedTuple):
    r"""What a method has made: the records of its training, most of a `Scored`, and the pair for the test points."""

    history: list[dict]
    scored: dict
    pair: tuple


@dataclass(frozen=True, eq=False)
class Method:
    r"""Creates the function that trains and scores a pair; attributes are arguments of `rows`, or go to `fit`."""

    train: Points
    test: Points
    gradients: int
    settings: dict
    num_samples: int
    certify: Certify | None
    val: Tensor | Points | None = None

    @staticmethod
    def of(train: Points, test: Points, arguments: dict) -> "Method":
        r"""Creates it from the arguments of `rows` by name."""
        settings = {name: arguments[name] for name in SETTINGS}
        settings["batch_size"] = settings["batch_size"] and min(settings["batch_size"], len(train))
        others = (arguments[name] for name in ("num_samples", "certify", "x_val"))
        return Method(train, test, arguments["gradients"], settings, *others)

    def __call__(self, model, factory: Callable) -> Made:
        r"""Trains and scores a model, which changes, and the guide that the factory makes for it."""
        guide = self.guide(model, factory)
        return self.scored(model, guide, fit(model, guide, self.train, **self.how(model, guide)).history)

    def guide(self, model, factory: Callable):
        r"""Returns the guide that the factory makes for the model."""
        with forked(self.settings["seed"]):
            return factory(model, len(self.train))

    def how(self, model, guide) -> dict:
        r"""Returns the arguments of `fit` for as many epochs as the budget pays."""
        objective = self.settings["objective"]
        paid = epochs(guide, self.gradients, getattr(objective, "num_particles", 1))
        seen = [] if self.val is None else [HeldOut(model, guide, self.val, paid, objective)]
        return {"epochs": paid, "listeners": seen, **self.settings}

    def scored(self, model, guide, history: list[dict]) -> Made:
        r"""Scores a trained pair."""
        seed, progress = self.settings["seed"], self.settings["progress"]
        return Made(history, *_score(model, guide, self.test, self.num_samples, self.certify, seed, progress))


def in_turn(method: Method, factories: dict[str, Callable], first, frozen: bool) -> Iterator[Made]:
    r"""Yields what each method makes of the first w, or, frozen, of the w that the first method has trained."""
    model = None
    for factory in factories.values():
        model = copy.deepcopy(model).requires_grad_(False) if frozen and model else copy.deepcopy(first)
        yield method(model, factory)


def at_once(method: Method, factories: dict[str, Callable], first, jobs: int) -> Iterator[Made]:
    r"""Yields the same in their order, while ``jobs`` processes, which share the cores, do one method each."""
    tasks, ended = {name: partial(method, first, factory) for name, factory in factories.items()}, {}
    with contextlib.closing(workers.run(list(tasks.values()), jobs, workers.share(jobs))) as ends:
        for name, task in tasks.items():
            while task not in ended:
                ended |= [next(ends)]
            end = ended.pop(task)
            if end.failure:
                raise RunError(f"{name} failed: {end.failure}")
            yield end.value


def epochs(guide, gradients: int, samples: int = 1) -> int:
    r"""How many epochs the budget pays for, at least one, with an objective of that many samples."""
    cost = lambda n: adapted(guide).cost(n) + n * (samples - 1)  # noqa: E731  # q's own, and one for each M-step
    return max((n for n in range(1, gradients + 1) if cost(n) <= gradients), default=1)


def _score(
    model, guide, points: Points, K: int, certify: Certify | None, seed: int, progress: bool
) -> tuple[dict, tuple]:
    r"""Scores a pair on the test points: most of a `Scored`, and the pair with rows for them where it has rows."""
    start = time.perf_counter()
    points = points.numbered()
    q = infer_silently(model, guide, points, seed) if adapted(guide).per_point else guide
    pair = model, q
    model, q = given_globals(model, q)
    own = point_scores(model, q, points, K, seed=seed)
    ended = None if pair[1] is guide else pair[1].convergence
    found = certify and certify(model, q, points, seed, fitted=ended is not None, progress=progress)
    with forked(seed):
        codes = draws(prior(model, points), 1, len(points)).squeeze(0)
    scored = {
        "own": own,
        "certified": found.summary() if found else {},
        "log_px": found.log_px.value if found else None,
        "gaps_asked": certify is not None and certify.gaps,
        "gradients_per_point": 0.0 if ended is None else ended.gradients_per_point,
        "unconverged": 0 if ended is None else int((~ended.converged).sum()),
        "conditions": conditions(model),
        "scales_at_floor": scales_at_floor(model, codes, **points.side),
    }
    return scored | {"seconds": time.perf_counter() - start}, pair
