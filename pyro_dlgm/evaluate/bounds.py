r"""Bounds on log p(x | w) from importance weights: log w_k = log p(x, t_k | w) − log q(t_k | x), t_k ~ q.

Everything is per point, unscaled, and signed so that larger is better:

    ELBO = mean_k log w_k  <=  IWAE-K = log mean_k w_k  <=  log p(x | w)   (in expectation).

References:
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016). https://arxiv.org/abs/1509.00519
"""

import math
import warnings

import torch
from torch import Tensor

from ..guides.base import adapted
from . import rounding
from .importance import FEWEST, UNRELIABLE, pareto_k, traced_log_weights
from .points import Points, blocks, check_points
from .quiet import quiet

NEGLIGIBLE = 0.05  # the share of points with heavy tails up to which there is no warning


def log_weights(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 1,
    mask: Tensor | None = None,
    *,
    seed: int | None = None,
) -> Tensor:
    r"""log p(x, t_k | w) − log q(t_k | x) for samples t_k of q, k = 1..K.

    Arguments:
        model: a `DLGM`.
        guide: a guide of this package, or any Pyro guide with the model's signature.
        x: data (B, ...).
        index: which points these are (B,), for guides with a row for each.
        num_samples: the number K of samples.
        mask: boolean, True where observed, of x's shape or (B,).
        seed: seed of the samples. Without one they start at the state of the global generator, which stays as it was.

    Returns:
        A tensor (K, B), in nats, without gradients. Nothing else changes: no parameter, generator or train/eval flag.
        Points where a Gaussian q is too ill-conditioned for its precision are counted in a warning.

    Raises:
        TypeError: if q has no density (a point mass), so that there are no weights.
        ValueError: if x, index, mask or the number of samples makes no sense, or the program has latent sites outside
            the plate, whose weight belongs to no point.
    """
    return _weights(model, guide, Points(x, index, mask), num_samples, seed)


def elbo(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 100,
    mask: Tensor | None = None,
    *,
    seed: int | None = None,
) -> Tensor:
    r"""The ELBO F(q) of each point, (B,), in nats: the mean of K log-weights. Arguments as in `log_weights`."""
    return _weights(model, guide, Points(x, index, mask), num_samples, seed).mean(0)


def iwae(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 1000,
    mask: Tensor | None = None,
    *,
    seed: int | None = None,
) -> Tensor:
    r"""The IWAE-K bound of each point, (B,), in nats: the log-mean-exp of K log-weights. Arguments as in `log_weights`.

    It is a bound in expectation, and loose where the weights are heavy-tailed: read `ess` and `pareto_k` with it.
    From K = 25 on it warns where k̂ > 0.7 at more than a twentieth of the points.
    """
    table = _weights(model, guide, Points(x, index, mask), num_samples, seed)
    heavy = int((pareto_k(table) > UNRELIABLE).sum()) if num_samples >= FEWEST else 0
    if heavy > NEGLIGIBLE * len(x):
        warnings.warn(
            f"IWAE is not to be trusted at {heavy} of {len(x)} points, where Pareto k-hat is above {UNRELIABLE}: "
            "q is too narrow there, and more samples hardly help; use evaluate.ais, or a better q",
            stacklevel=2,
        )
    return log_mean_exp(table)


def log_joint(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 1,
    mask: Tensor | None = None,
    *,
    seed: int | None = None,
) -> Tensor:
    r"""E_q log p(x, t | w) of each point, (B,), in nats: what hard EM climbs. It is no bound on log p(x | w)."""
    return weigh(model, guide, Points(x, index, mask), num_samples, seed, with_q=False)[0].mean(0)


def log_mean_exp(table: Tensor) -> Tensor:
    r"""log (1/K) Σ_k exp table_k over the first axis: (K, B) -> (B,)."""
    return table.logsumexp(0) - math.log(len(table))


def _weights(model, guide, points: Points, num_samples: int, seed: int | None) -> Tensor:
    r"""Computes `log_weights` for the functions that users call, so that a warning names the line of their call."""
    if not adapted(guide).has_density:
        raise TypeError(
            f"{type(guide).__name__} is a point mass, or draws of a chain: it has no density, so there is no F(q). "
            "Ask for evaluate.log_joint, or fit a q with a density to this w: "
            "evaluate.infer(model, guides.FullRank(len(x), D), x)"
        )
    table, off = weigh(model, guide, points, num_samples, seed)
    rounding.report(off, stacklevel=3)
    return table


def weigh(
    model, guide, points: Points, num_samples: int, seed: int | None, with_q: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Returns log-weights (K, B), or log p(x, t_k | w) without q, and the rounding error of log q (B,), in nats."""
    check_points(*points)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1 sample")
    columns, strays = [], []
    with quiet(model, guide, seed=seed):
        for block, counts in blocks(points, num_samples):
            tables, off = zip(*(_weigh_block(model, guide, block, k, with_q) for k in counts), strict=True)
            columns.append(torch.cat(tables))
            strays.append(torch.stack(off).amax(0))
    return torch.cat(columns, 1), torch.cat(strays)


def _weigh_block(model, guide, points: Points, num_samples: int, with_q: bool) -> tuple[Tensor, Tensor]:
    if adapted(guide).posterior is None or not hasattr(model, "log_joint"):
        weights = traced_log_weights(model, guide, points, num_samples, with_q)
    else:
        q = guide.posterior(*points)
        t = q.sample((num_samples,))
        weights = model.log_joint(points.x, t, points.mask)
        if with_q:
            log_q = q.log_prob(t)
            return weights - log_q, rounding.strays(q, log_q)
    return weights, torch.zeros_like(weights[0])
