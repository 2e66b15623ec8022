r"""`compare`: several guides on one generative model, one table.

Every row starts from the same w and spends the same number of gradient evaluations per training point. Guides with a
row for each point score the test set after an E-step of their own there (`evaluate.infer`).
"""

import copy
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .. import evaluate
from ..guides.per_point import FullRank
from ..ppca.model import PPCA
from ..seeding import forked
from ..training.fit import fit
from .certify import CERTIFIED, Certify
from .pair import e_step, full_rank, standard_error
from .table import Row

NO_DENSITY = "a point mass or a chain has no density, so F(q) does not exist"
NOT_ASKED = "only AIS bracketed by BDMC is called log p(x), and nobody asked for it"


def compare(
    model_factory: Callable, guide_factories: dict[str, Callable], x_train: Tensor, x_test: Tensor, **settings
) -> list[Row]:
    r"""The rows of `rows`, all of them: see there for the arguments."""
    return list(rows(model_factory, guide_factories, x_train, x_test, **settings))


def rows(
    model_factory: Callable,
    guide_factories: dict[str, Callable],
    x_train: Tensor,
    x_test: Tensor,
    *,
    gradients: int = 100,
    batch_size: int = 100,
    lr: float = 2e-3,
    row_lr: float = 1e-1,
    schedule: str = "cosine",
    transform=None,
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
        x_train: training points (N, ...), before ``transform``.
        x_test: test points (M, ...), behind one draw of it.
        gradients: the budget of every row, in gradient evaluations of log p(x, t) per training point.
        batch_size: points in a batch; all of them if there are fewer.
        lr, row_lr, schedule, transform: as in `fit`.
        num_samples: K of IWAE-K.
        ppca: with D latents, PPCA comes first: a linear baseline, and another model.
        model_name: what the column "model" says.
        certify: how log p(x) is certified and the inference gaps are taken apart on the first test points; `None` does
            neither.
        frozen: whether the first row's w serves all rows, which then train q alone, so that F(q) and the gaps compare
            what the guides can do at one w. Otherwise each method trains a w of its own.
        seed: of w, of each training and of each scoring.
        progress: whether each training, and annealing, shows a bar.

    Yields:
        A `Row` as soon as it is there, its pair (model, guide for the test points) in ``row.pair``.
    """
    reference, scores = None, {}
    if ppca is not None:
        yield _linear(x_train, x_test, ppca, transform, seed)
    with forked(seed):
        model = first = model_factory()
    settings = {"batch_size": min(batch_size, len(x_train)), "lr": lr, "row_lr": row_lr, "schedule": schedule}
    settings |= {"transform": transform, "seed": seed, "progress": progress}
    for name, factory in guide_factories.items():
        model = _frozen(model) if frozen and reference else copy.deepcopy(first)
        with forked(seed):
            guide = factory(model, len(x_train))
        row = Row(name, model_name, w=reference if frozen and reference else "own")
        result = fit(model, guide, x_train, epochs=epochs(guide, gradients), **settings)
        row.history, row.seconds = result.history, result.history[-1]["seconds"]
        row.gradients_per_point = result.history[-1]["gradients_per_point"]
        scores[name] = _score(row, model, guide, x_test, num_samples, certify, seed, progress)
        reference = reference or name
        row.difference = _paired(scores[name], scores[reference]) | {"to": reference}
        yield row


def epochs(guide, gradients: int) -> int:
    r"""How many epochs the budget pays for, at least one."""
    cost = getattr(guide, "cost", lambda visits: visits)
    return max((n for n in range(1, gradients + 1) if cost(n) <= gradients), default=1)


def _frozen(model):
    r"""A copy of the model whose w no training moves."""
    return copy.deepcopy(model).requires_grad_(False)


def _linear(x_train: Tensor, x_test: Tensor, D: int, transform, seed: int) -> Row:
    start = time.perf_counter()
    with forked(seed):
        x = x_train if transform is None else transform(x_train)
    model = PPCA.fit(x.flatten(1).double(), D)
    with torch.no_grad():
        exact = model.log_prob(x_test.flatten(1).double())
    row = Row("Exact", f"PPCA-{D}", seconds=time.perf_counter() - start)
    row.test_elbo = row.test_iwae = row.test_iwae_full_rank = row.test_log_px = float(exact.mean())
    row.standard_errors = {"test_log_px": standard_error(exact)}
    row.approximation_gap = row.amortization_gap = 0.0
    row.scales_at_floor = 0
    row.reasons = {
        "difference": "another model",
        **dict.fromkeys(("test_bdmc_gap", "certified_points", "gaps"), "log p(x) is exact at all points"),
        **dict.fromkeys(("ess", "pareto_k", "ess_full_rank", "pareto_k_full_rank"), "the weights are constant"),
    }
    row.pair = (model, None)
    return row


def _score(row: Row, model, guide, x: Tensor, K: int, certify: Certify | None, seed: int, progress: bool) -> Tensor:
    r"""Fills the row's scores on the test points; returns those of w, (M,), for paired differences."""
    start = time.perf_counter()
    index, late = torch.arange(len(x), device=x.device), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    q = guide
    if getattr(guide, "per_point", False):
        q = e_step(model, guide, x, seed)
        late |= ~q.convergence.converged
        row.test_gradients_per_point = q.convergence.gradients_per_point
    if getattr(q, "has_density", True):
        table = evaluate.log_weights(model, q, x, index, K, seed=seed)
        row.test_elbo, row.standard_errors["test_elbo"] = _mean_and_error(table.mean(0))
        row.test_iwae, row.standard_errors["test_iwae"] = _mean_and_error(evaluate.log_mean_exp(table))
        row.ess, row.pareto_k = _medians(table)
    else:
        row.reasons |= dict.fromkeys(("test_elbo", "test_iwae", "ess", "pareto_k"), NO_DENSITY)
    judge = q if isinstance(q, FullRank) else full_rank(model, x, seed)
    late |= ~judge.convergence.converged
    table = evaluate.log_weights(model, judge, x, index, K, seed=seed)
    score = evaluate.log_mean_exp(table)
    row.test_iwae_full_rank, row.standard_errors["test_iwae_full_rank"] = _mean_and_error(score)
    row.ess_full_rank, row.pareto_k_full_rank = _medians(table)
    row.scales_at_floor = _scales_at_floor(model, judge.posterior(index=index).mean)
    if certify is None:
        row.reasons |= dict.fromkeys(CERTIFIED, NOT_ASKED)
    else:
        row.reasons |= certify(row, model, q, judge, x, seed, progress=progress)
    row.test_unconverged, row.pair = int(late.sum()), (model, q)
    row.test_seconds = time.perf_counter() - start
    return score


def _medians(table: Tensor) -> tuple[float, float]:
    return float(evaluate.ess(table).median()), float(evaluate.pareto_k(table).median())


def _mean_and_error(values: Tensor) -> tuple[float, float | None]:
    return float(values.mean()), standard_error(values)


def _paired(score: Tensor, reference: Tensor) -> dict[str, float | None]:
    return {"mean": float((score - reference).mean()), "standard_error": standard_error(score - reference)}


@torch.no_grad()
def _scales_at_floor(model, t: Tensor) -> int | None:
    r"""How many scales are within 1% of the floor: parameters of Σ0, or pixels at the median over t."""
    floor = getattr(model.likelihood, "floor", None)
    if floor is None:
        return None
    if hasattr(model.likelihood, "scale"):
        return int((model.likelihood.scale <= 1.01 * floor).sum())
    pixels = model.likelihood(t)
    while hasattr(pixels, "base_dist"):
        pixels = pixels.base_dist
    return int((pixels.scale.median(0).values <= 1.01 * floor).sum())
