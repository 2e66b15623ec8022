r"""Scores of a trained pair on test points, in two halves that may be computed at the same time: of w, and of q."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import pyro

from ..distributions import draws
from ..evaluate.marginal.estimate import Evidence
from ..evaluate.scores import point_scores
from ..guides.base import adapted
from ..guides.programs.given import conditions, given_globals
from ..latents.asked import prior
from ..points import Points
from ..seeding import forked
from .certificates import Certify, with_bounds
from .scoring import infer_silently, scales_at_floor


class OfW(NamedTuple):
    r"""Scores of w alone.

    Attributes:
        evidence: of the first test points; `None` if it was not asked for.
        scores: fields of a `Scored`.
        seconds: wall time.
    """

    evidence: Evidence | None
    scores: dict
    seconds: float


class OfQ(NamedTuple):
    r"""Scores of q.

    Attributes:
        bounds: of `Certify.bounds`.
        scores: fields of a `Scored`.
        pair: model and guide, with rows for the test points where the guide has rows.
        seconds: wall time.
    """

    bounds: dict | None
    scores: dict
    pair: tuple
    seconds: float


@dataclass(frozen=True, eq=False)
class Scorer:
    r"""Creates the functions that score a pair; attributes are arguments of `rows`, and the test points.

    Pyro's parameter store is empty in each call, and afterwards as before: it may hold another pair's parameters under
    the same names.
    """

    test: Points
    num_samples: int
    certify: Certify | None
    seed: int
    progress: bool

    @pyro.get_param_store().scope()
    def of_w(self, model) -> OfW:
        r"""Estimates log p(x | w) for a model whose global latents are given, if there are some."""
        start, points = time.perf_counter(), self.test.numbered()
        found = self.certify and self.certify.evidence(model, points, self.seed, progress=self.progress)
        with forked(self.seed):
            codes = draws(prior(model, points), 1, len(points)).squeeze(0)
        scores = {"conditions": conditions(model), "scales_at_floor": scales_at_floor(model, codes, **points.side)}
        return OfW(found, scores, time.perf_counter() - start)

    @pyro.get_param_store().scope()
    def of_q(self, model, guide) -> OfQ:
        r"""Scores q at the test points, after an E-step there if the guide has rows."""
        start, points = time.perf_counter(), self.test.numbered()
        q = infer_silently(model, guide, points, self.seed) if adapted(guide).per_point else guide
        pair = model, q
        model, q = given_globals(model, q)
        ended = None if pair[1] is guide else pair[1].convergence
        bounds = self.certify and self.certify.bounds(model, q, points, self.seed, fitted=ended is not None)
        scores = {
            "own": point_scores(model, q, points, self.num_samples, seed=self.seed),
            "gradients_per_point": 0.0 if ended is None else ended.gradients_per_point,
            "unconverged": 0 if ended is None else int((~ended.converged).sum()),
        }
        return OfQ(bounds, scores, pair, time.perf_counter() - start)

    def joined(self, w: OfW, q: OfQ) -> dict:
        r"""Returns most of a `Scored`."""
        found = w.evidence and with_bounds(w.evidence, q.bounds)
        return {
            **w.scores,
            **q.scores,
            "certified": found.summary() if found else {},
            "log_px": found.log_px.value if found else None,
            "gaps_asked": self.certify is not None and self.certify.gaps,
            "seconds": w.seconds + q.seconds,
        }
