r"""Bounds on log p(x | w) from importance weights: log w_k = log p(x, t_k | w) − log q(t_k | x), t_k ~ q.

Everything is per point, unscaled, and signed so that larger is better:

    ELBO = mean_k log w_k  <=  IWAE-K = log mean_k w_k  <=  log p(x | w)   (in expectation).

References:
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016). https://arxiv.org/abs/1509.00519
"""

import math
import warnings
from functools import partial

import torch
from torch import Tensor

from ..distributions import draws
from ..guides.base import adapted
from ..guides.programs.auto_local import AutoLocal
from ..guides.programs.given import given_globals
from ..latents.asked import log_joint as joint
from ..latents.asked import posterior
from ..latents.local import LocalModel
from ..points import Points
from . import importance
from .blocks import blocks, check_points
from .importance import FEWEST, UNRELIABLE, pareto_k
from .quiet import quiet
from .traces import Traced

NEGLIGIBLE = 0.05  # no warning up to this share of points with heavy tails


def log_weights(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 1,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""Returns log p(x, t_k | w) − log q(t_k | x) for samples t_k of q, k = 1..K.

    Global latents, such as a Bayesian w, are drawn from the guide once for each k, for all points. The weights are then
    conditional on w_k, and IWAE-K bounds the log-density of x under the mixture of models given by q(w).

    Arguments:
        model: a `DLGM`.
        guide: a guide of this package, or any Pyro guide with the model's signature.
        x: data (B, ...), or `Points`.
        index: which points these are (B,), for guides with a row for each.
        num_samples: the number K of samples.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what the points are conditioned on, (B, C).
        seed: seed of the samples. Without one they start at the state of the global generator, which is left unchanged.

    Returns:
        A tensor (K, B), in nats, without gradients. Nothing else changes: no parameter, generator or train/eval flag. A
        warning names the points at which a Gaussian q is too ill-conditioned for its dtype.

    Raises:
        TypeError: if q has no density (a point mass), so that there are no weights.
        ValueError: if x, index, mask, given or the number of samples is invalid, or a prior draw of a latent would
            silently be used: of one that the guide does not sample, or that is neither t nor outside the plate.
    """
    return _weights(model, guide, Points.of(x, index, mask=mask, given=given), num_samples, seed)


def elbo(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 100,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""Returns the ELBO F(q) of each point, (B,), in nats: the mean of K log-weights.

    Arguments and errors as in `log_weights`.
    """
    return _weights(model, guide, Points.of(x, index, mask=mask, given=given), num_samples, seed).mean(0)


def iwae(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 1000,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""Returns the IWAE-K bound of each point, (B,), in nats: the log-mean-exp of K log-weights.

    Arguments and errors as in `log_weights`. It is a bound in expectation, and loose if the weights are heavy-tailed:
    check `ess` and `pareto_k` as well. From K = 25 on it warns if k̂ > 0.7 at more than a twentieth of the points.
    """
    table = _weights(model, guide, Points.of(x, index, mask=mask, given=given), num_samples, seed)
    heavy = int((pareto_k(table) > UNRELIABLE).sum()) if num_samples >= FEWEST else 0
    if heavy > NEGLIGIBLE * len(x):
        warnings.warn(
            f"IWAE is not to be trusted at {heavy} of {len(x)} points, where Pareto k-hat is above {UNRELIABLE}: "
            "q is too narrow there, and more samples hardly help; use evaluate.ais or a better q",
            stacklevel=2,
        )
    return log_mean_exp(table)


def log_joint(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 1,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""Returns E_q log p(x, t | w) of each point, (B,), in nats: the objective of hard EM, no bound on log p(x | w).

    Arguments and errors as in `log_weights`, except that q may be a point mass or a chain.
    """
    points = Points.of(x, index, mask=mask, given=given)
    _check(model, guide, points)
    return weigh(model, guide, points, num_samples, seed, with_q=False)[0].mean(0)


def log_mean_exp(table: Tensor) -> Tensor:
    r"""Returns log (1/K) Σ_k exp(a_k) over the first axis of a table a: (K, B) -> (B,)."""
    return table.logsumexp(0) - math.log(len(table))


def _check(model, guide, points: Points) -> None:
    check_points(given_globals(model, guide, "draw", seed=0)[0], points)


def _weights(model, guide, points: Points, num_samples: int, seed: int | None) -> Tensor:
    r"""Computes `log_weights` for the public functions, so that a warning names the line of the user's call."""
    if not adapted(guide).has_density:
        raise TypeError(
            f"{type(guide).__name__} is a point mass, or draws of a chain: it has no density, so there is no F(q). "
            "Ask for evaluate.log_joint, or fit a q with a density to this w: "
            "evaluate.infer(model, guides.FullRank(len(x), D), x)"
        )
    _check(model, guide, points)
    table, off = weigh(model, guide, points, num_samples, seed)
    importance.report(off, stacklevel=3)
    return table


def weigh(
    model, guide, points: Points, num_samples: int, seed: int | None, with_q: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Returns log-weights (K, B), or log p(x, t_k | w) without q, and the rounding error of log q (B,), in nats."""
    points.check()
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1 sample")
    columns, strays = [], []
    with quiet(model, guide, seed=seed):
        weighed = _weighed(model, guide, points, num_samples)
        for block, counts in blocks(points, num_samples):
            tables, off, first = [], [], 0
            for k in counts:
                table, strayed = weighed(block, first, k, with_q)
                tables, off, first = [*tables, table], [*off, strayed], first + k
            columns.append(torch.cat(tables))
            strays.append(torch.stack(off).amax(0))
    return torch.cat(columns, 1), torch.cat(strays)


def _weighed(model, guide, points: Points, num_samples: int):
    if isinstance(guide, AutoLocal):
        return _per_draw(model, guide, num_samples)
    if adapted(guide).posterior is None or not hasattr(model, "log_joint"):
        return _traced(model, guide, points, num_samples)
    return _said(model, guide)


def _per_draw(model, guide: AutoLocal, num_samples: int):
    r"""Returns a function like `_said` for the local latents of a program, given a draw of its global ones."""
    drawn = guide.draw_globals(num_samples)

    def weighed(points: Points, first: int, num: int, with_q: bool) -> tuple[Tensor, Tensor]:
        local, q = guide.given_globals(model, {name: value[first] for name, value in drawn.items()})
        if not isinstance(local, LocalModel):
            return _said(local, q)(points, first, num, with_q)
        here = {name: value[first : first + num] for name, value in drawn.items()}
        return _said(local, q, partial(local.log_joint_each, drawn=here))(points, first, num, with_q)

    return weighed


def _said(model, guide, target=None):
    r"""Returns a function (block, first sample, number of samples, with_q) of weights from posterior and log-joint."""
    target = partial(joint, model) if target is None else target

    def weighed(points: Points, first: int, num: int, with_q: bool) -> tuple[Tensor, Tensor]:
        q = posterior(guide, points)
        t = draws(q, num, len(points))
        weights = target(points, t)
        if not with_q:
            return weights, torch.zeros_like(weights[0])
        log_q = q.log_prob(t)
        return weights - log_q, importance.strays(q, log_q)

    return weighed


def _traced(model, guide, points: Points, num_samples: int):
    r"""Returns a function like `_said` from traces of two programs, with global latents drawn once for all points."""
    pair = Traced.of(model, guide, next(blocks(points, num_samples))[0], num_samples)

    def weighed(points: Points, first: int, num: int, with_q: bool) -> tuple[Tensor, Tensor]:
        weights = pair.log_weights(points, slice(first, first + num), with_q)
        return weights, torch.zeros_like(weights[0])

    return weighed
