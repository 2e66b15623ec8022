r"""`compare`: several guides on one generative model, one table.

Every row starts from the same w and spends the same number of gradient evaluations per training point. Guides with a
row for each point score the test set after an E-step there (`evaluate.infer`).
"""

import copy
import functools
import inspect
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec

import torch
from torch import Tensor

from ..data.batches import transformed
from ..distributions import draws
from ..evaluate.estimates import Mean
from ..evaluate.scores import point_scores
from ..guides.base import adapted
from ..guides.programs.given import conditions, given_globals
from ..latents.asked import prior
from ..masks import pixelwise
from ..objectives.elbo import ELBO
from ..points import Points
from ..ppca.model import PPCA
from ..seeding import forked
from ..training.fit import fit
from .certificates import Certify
from .columns import Row
from .scored import Reason, Scored
from .scoring import infer_silently, scales_at_floor

P = ParamSpec("P")


def rows(
    model_factory: Callable,
    guide_factories: dict[str, Callable],
    x_train: Tensor | Points,
    x_test: Tensor | Points,
    *,
    gradients: int = 100,
    batch_size: int | None = None,
    lr: float = 2e-3,
    row_lr: float = 1e-1,
    schedule: str | Callable[[float], float] = "cosine",
    objective: ELBO | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    num_samples: int = 1000,
    ppca: int | None = None,
    model_name: str = "DLGM",
    certify: Certify | None = None,
    frozen: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[Row]:
    r"""Trains and scores one method after the other.

    Arguments:
        model_factory: ``model_factory()`` returns a `DLGM`. The first one's w is where every row starts.
        guide_factories: for each name a function ``(model, N)`` that returns a guide for N training points.
        x_train: data (N, ...) to train on, before ``transform``, or `Points`.
        x_test: data (M, ...) to test on, after one draw of it, or `Points`.
        gradients: the budget of every row, in gradient evaluations of log p(x, t) per training point.
        batch_size: as in `fit`; all training points if there are fewer.
        lr, row_lr, schedule, objective, transform: as in `fit`; K samples cost K gradient evaluations of the budget.
        num_samples: K of IWAE-K.
        ppca: with D latents, PPCA comes first: a linear baseline, and another model.
        model_name: what the column "model" says of the rows that are no reference.
        certify: how log p(x) is certified and the inference gaps are taken apart on the first test points; `None` does
            neither.
        frozen: whether the first row's w serves all rows, which then train q alone, so that F(q) and the gaps compare
            what the guides can do at one w. Otherwise each method trains its w.
        seed: of w, of each training and of each scoring.
        progress: whether each training, and annealing, shows a bar.

    Yields:
        A `Row` as soon as it is there, its pair (model, guide for the test points) in ``row.pair``.
    """
    train, test = Points.of(x_train), Points.of(x_test)
    if ppca is not None:
        yield _linear(train, test, ppca, transform, seed, certify)
    with forked(seed):
        model = first = model_factory()
    size = batch_size and min(batch_size, len(train))
    settings = {"batch_size": size, "lr": lr, "row_lr": row_lr, "schedule": schedule}
    settings |= {"objective": objective, "transform": transform, "seed": seed, "progress": progress}
    reference, samples = None, getattr(objective, "num_particles", 1)
    for name, factory in guide_factories.items():
        # Frozen: the w that the first row has trained, which no training moves any more.
        model = copy.deepcopy(model).requires_grad_(False) if frozen and reference else copy.deepcopy(first)
        with forked(seed):
            guide = factory(model, len(train))
        row = Row(name, model_name, reference[0] if frozen and reference else "own")
        row.history = fit(model, guide, train, epochs=epochs(guide, gradients, samples), **settings).history
        scored, row.pair = _score(model, guide, test, num_samples, certify, seed, progress)
        reference = reference or (name, scored["log_px"])
        row.fill(Scored(**scored, training=row.history[-1], reference=reference))
        yield row


def _listed(function: Callable[P, Iterator[Row]]) -> Callable[P, list[Row]]:
    r"""The function with the same signature that returns a list."""

    @functools.wraps(function)
    def compare(*args: P.args, **settings: P.kwargs) -> list[Row]:
        return list(function(*args, **settings))

    compare.__name__ = compare.__qualname__ = "compare"
    compare.__signature__ = inspect.signature(function).replace(return_annotation=list[Row])
    doc = function.__doc__.replace("one method after the other", "all methods, and returns their rows", 1)
    compare.__doc__ = doc.replace("Yields:", "Returns:", 1).replace("as soon as it is there", "for each method", 1)
    return compare


compare = _listed(rows)


def epochs(guide, gradients: int, samples: int = 1) -> int:
    r"""How many epochs the budget pays for, at least one, with an objective of that many samples."""
    cost = lambda n: adapted(guide).cost(n) + n * (samples - 1)  # noqa: E731  # q's own, and one for each M-step
    return max((n for n in range(1, gradients + 1) if cost(n) <= gradients), default=1)


def _linear(train: Points, test: Points, D: int, transform, seed: int, certify: Certify | None) -> Row:
    r"""The row of PPCA: exact, on the points of the other rows; log p(x) on those that are certified there."""
    start = time.perf_counter()
    with forked(seed):
        train = transformed(train, transform)
    X, mask = _flat(train)
    model = PPCA.fit(X, D, mask=mask)
    with torch.no_grad():
        log_px = model.log_prob(*_flat(test))
    exact, certified = Mean.of(log_px), Mean.of(log_px[: certify.points if certify else None])
    row = Row("Exact", f"PPCA-{D}", reference=True, pair=(model, None))
    exactly, equal = "log p(x) is exact", "the weights are constant"
    row.put(dict.fromkeys(("test_elbo", "test_iwae"), exact.mean) | {"test_log_px": certified})
    row.put(dict.fromkeys(("approximation_gap", "amortization_gap", "gradients_per_point", "test_seconds"), 0.0))
    row.put({"test_gradients_per_point": 0.0, "scales_at_floor": 0, "test_unconverged": 0, "not_certified": ""})
    row.put({"uncertain": 0})
    row.put({"conditions": ""})
    row.put({"difference": Reason("another model"), "seconds": time.perf_counter() - start})
    row.put({"certified_points": len(log_px[: certify.points]) if certify else Reason(exactly)})
    row.put(dict.fromkeys(("test_bdmc_gap", "gaps", "certifying_gradients_per_point"), Reason(exactly)))
    row.put(dict.fromkeys(("ess", "pareto_k"), Reason(equal)))
    return row


def _flat(points: Points) -> tuple[Tensor, Tensor | None]:
    r"""x and its mask as rows (N, P), in float64."""
    mask = None if points.mask is None else pixelwise(points.mask, points.x.dim()).expand(points.x.shape).flatten(1)
    return points.x.flatten(1).double(), mask


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
    found = certify and certify(model, q, points, seed, fitted=ended, progress=progress)
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
