r"""Methods of a comparison: each trains and scores a pair."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pyro
from torch import Tensor

from ..guides.base import adapted
from ..guides.programs.given import given_globals
from ..points import Points
from ..seeding import forked
from ..training.fit import fit
from .held_out import HeldOut
from .scorer import OfQ, Scorer

SETTINGS = ("batch_size", "lr", "row_lr", "schedule", "objective", "transform", "seed", "progress")  # of `fit`


class Trained(NamedTuple):
    r"""The end of a training.

    Attributes:
        model, guide: the pair.
        history: the records of the training.
        given: the model given the global latents; the model itself where there are none.
        q: the scores of q, if they were computed with the training, or `None`.
    """

    model: object
    guide: object
    history: list[dict]
    given: object
    q: OfQ | None = None

    @classmethod
    def of(cls, model, guide, history: list[dict]) -> "Trained":
        r"""Creates it from a trained pair."""
        return cls(model, guide, history, given_globals(model, guide)[0])


class Made(NamedTuple):
    r"""What a method has made: the records of its training, most of a `Scored`, and the pair for the test points."""

    history: list[dict]
    scored: dict
    pair: tuple


@dataclass(frozen=True, eq=False)
class Method:
    r"""Creates the functions that train and score a pair; attributes are arguments of `rows`, or go to `fit`.

    Like a `Scorer`, it leaves Pyro's parameter store alone.
    """

    train: Points
    gradients: int
    settings: dict
    scorer: Scorer
    val: Tensor | Points | None = None

    @staticmethod
    def of(train: Points, test: Points, arguments: dict) -> "Method":
        r"""Creates it from the arguments of `rows` by name."""
        settings = {name: arguments[name] for name in SETTINGS}
        settings["batch_size"] = settings["batch_size"] and min(settings["batch_size"], len(train))
        scorer = Scorer(test, *(arguments[name] for name in ("num_samples", "certify", "seed", "progress")))
        return Method(train, arguments["gradients"], settings, scorer, arguments["x_val"])

    @pyro.get_param_store().scope()
    def trained(self, model, factory: Callable) -> Trained:
        r"""Trains a model, which changes, and the guide that the factory makes for it."""
        guide = self.guide(model, factory)
        return Trained.of(model, guide, fit(model, guide, self.train, **self.how(model, guide)).history)

    @pyro.get_param_store().scope()
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

    def scored(self, trained: Trained) -> Made:
        r"""Scores a trained pair."""
        q, w = self.scorer.of_q(trained.model, trained.guide), self.scorer.of_w(trained.given)
        return Made(trained.history, self.scorer.joined(w, q), q.pair)


def epochs(guide, gradients: int, samples: int = 1) -> int:
    r"""How many epochs the budget pays for, at least one, with an objective of that many samples."""
    cost = lambda n: adapted(guide).cost(n) + n * (samples - 1)  # noqa: E731  # q's own, and one for each M-step
    return max((n for n in range(1, gradients + 1) if cost(n) <= gradients), default=1)
