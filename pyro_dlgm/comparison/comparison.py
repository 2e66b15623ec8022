r"""`compare`: several guides on one generative model, one table.

Every row starts from the same w and spends the same number of gradient evaluations per training point. Guides with a
row for each point score the test set after an E-step there (`evaluate.infer`).
"""

import functools
import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec

import torch
from torch import Tensor, nn

from ..data.batches import transformed
from ..evaluate.estimates import Mean
from ..masks import pixelwise
from ..objectives.elbo import ELBO
from ..points import Points
from ..ppca.model import PPCA
from ..seeding import forked
from .certificates import Certify
from .columns import Row
from .method import Made, Method
from .scored import Reason, Scored
from .workers import pool
from .workers.tasks import Tasks, in_turn

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
    x_val: Tensor | Points | None = None,
    num_samples: int = 1000,
    ppca: int | None = None,
    model_name: str = "DLGM",
    certify: Certify | None = None,
    frozen: bool = False,
    seed: int = 0,
    jobs: int | None = None,
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
        x_val: validation points (M, ...), after one draw of ``transform``, or `Points`: the bound on them is in five
            records of each history, beside the budget and the seconds of the training.
        num_samples: K of IWAE-K.
        ppca: with D latents, PPCA comes first: a linear baseline, and another model.
        model_name: what the column "model" says of the rows that are no reference.
        certify: how log p(x) is certified and the inference gaps are taken apart on the first test points; `None` does
            neither.
        frozen: whether the first row's w serves all rows, which then train q alone, so that F(q) and the gaps compare
            what the guides can do at one w. Otherwise each method trains its w.
        seed: of w, of each training and of each scoring.
        jobs: in how many spawned processes, which share the cores, methods are trained and scored: a script then calls
            this function under ``if __name__ == "__main__":``. By default they are done here, one after the other, with
            all threads. Numbers differ by the rounding of one thread against several.
        progress: whether each training, and annealing, shows a bar.

    Yields:
        A `Row` as soon as it is there, its pair (model, guide for the test points) in ``row.pair``.

    Raises:
        TypeError: if a model or a guide is given instead of a function that makes one.
        ValueError: if ``jobs`` is below 1.
        RunError: with ``jobs``, if a method failed.
    """
    arguments = dict(locals())
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}; expected at least 1")
    _check_factories(model_factory, guide_factories)
    train, test = Points.of(x_train), Points.of(x_test)
    if ppca is not None:
        yield _linear(train, test, ppca, transform, seed, certify)
    with forked(seed):
        first = model_factory()
    method = Method.of(train, test, arguments | {"progress": progress and jobs is None})
    run = in_turn if jobs is None else functools.partial(pool.run, jobs=jobs, threads=pool.share(jobs))
    made = Tasks(method, guide_factories, first, frozen).made(run)
    yield from filled(guide_factories, made, model_name, frozen)


def filled(names: Iterable[str], made: Iterable[Made], model_name: str, frozen: bool) -> Iterator[Row]:
    r"""Yields the rows of these names from what the methods have made."""
    reference = None
    for name, (history, scored, pair) in zip(names, made, strict=True):
        row = Row(name, model_name, reference[0] if frozen and reference else "own", history=history, pair=pair)
        reference = reference or (name, scored["log_px"])
        row.fill(Scored(**scored, training=history[-1], reference=reference))
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


def _check_factories(model_factory, guide_factories: dict) -> None:
    r"""Raises a `TypeError` if a model or a guide is given where a function that makes one is expected."""
    made = {"model_factory": ("", model_factory)}
    made |= {f"guide_factories[{name!r}]": (" model, N", factory) for name, factory in guide_factories.items()}
    for name, (arguments, factory) in made.items():
        if isinstance(factory, nn.Module):
            what = type(factory).__name__
            raise TypeError(
                f"{name} is a {what}; expected a function that makes one for each row: lambda{arguments}: {what}(...)"
            )


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
