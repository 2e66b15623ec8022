r"""Bounds on log p(x | w) from one currency: the log-weights log p(x, t_k | w) − log q(t_k | x), t_k ~ q.

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
from .checks import check_points
from .importance import FEWEST, UNRELIABLE, pareto_k, traced_log_weights
from .quiet import blocks, quiet

NEGLIGIBLE = 0.05  # the share of points with heavy tails of which nobody is warned


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
    return _weights(model, guide, x, index, num_samples, mask, seed)


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
    return _weights(model, guide, x, index, num_samples, mask, seed).mean(0)


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

    It is a bound in expectation, and loose where the weights are heavy-tailed: read `ess` and `pareto_k` beside it.
    From K = 25 on it warns where k̂ > 0.7 at more than a twentieth of the points.
    """
    table = _weights(model, guide, x, index, num_samples, mask, seed)
    if num_samples >= FEWEST:
        _warn_of_heavy_tails(pareto_k(table))
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
    return _table(model, guide, x, index, num_samples, mask, seed, with_q=False).mean(0)


def log_mean_exp(table: Tensor) -> Tensor:
    r"""log (1/K) Σ_k exp table_k over the first axis: (K, B) -> (B,)."""
    return table.logsumexp(0) - math.log(len(table))


def _weights(model, guide, x, index, num_samples, mask, seed) -> Tensor:
    r"""What `log_weights` returns, for those who are called as it is: a warning names their caller."""
    if not adapted(guide).has_density:
        raise TypeError(
            f"{type(guide).__name__} is a point mass, or draws of a chain: it has no density, so there is no F(q). "
            "Ask for evaluate.log_joint, or fit a q with a density to this w: "
            "evaluate.infer(model, guides.FullRank(len(x), D), x)"
        )
    table, off = _watched(model, guide, x, index, num_samples, mask, seed, with_q=True)
    rounding.report(off, stacklevel=3)
    return table


def _warn_of_heavy_tails(k: Tensor) -> None:
    heavy = int((k > UNRELIABLE).sum())
    if heavy > NEGLIGIBLE * len(k):
        warnings.warn(
            f"IWAE is not to be trusted at {heavy} of {len(k)} points, where Pareto k-hat is above {UNRELIABLE}: "
            "q is too narrow there, and more samples hardly help; use evaluate.ais, or a better q",
            stacklevel=3,
        )


def _table(model, guide, x, index, num_samples, mask, seed, with_q: bool = True) -> Tensor:
    return _watched(model, guide, x, index, num_samples, mask, seed, with_q)[0]


@torch.no_grad()
def _watched(model, guide, x, index, num_samples, mask, seed, with_q: bool) -> tuple[Tensor, Tensor]:
    r"""Log-weights (K, B), and how far log q strays at each point, (B,)."""
    check_points(x, index, mask)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1 sample")
    says = adapted(guide).posterior is not None and hasattr(model, "log_joint")
    weigh = _from_posterior if says else _from_traces
    columns, strays = [], []
    with quiet(model, guide, seed=seed):
        for x_b, i_b, m_b, counts in blocks(x, index, mask, num_samples):
            parts = [weigh(model, guide, x_b, i_b, k, m_b, with_q) for k in counts]
            columns.append(torch.cat([weights for weights, _ in parts]))
            strays.append(torch.stack([off for _, off in parts]).amax(0))
    return torch.cat(columns, 1), torch.cat(strays)


def _from_posterior(model, guide, x, index, num_samples, mask, with_q) -> tuple[Tensor, Tensor]:
    q = guide.posterior(x, index, mask)
    t = q.sample((num_samples,))
    weights = model.log_joint(x, t, mask)
    if not with_q:
        return weights, torch.zeros_like(weights[0])
    log_q = q.log_prob(t)
    return weights - log_q, rounding.strays(q, log_q)


def _from_traces(*args) -> tuple[Tensor, Tensor]:
    weights = traced_log_weights(*args)
    return weights, torch.zeros_like(weights[0])
