r"""Scores of one pair on test points, block by block: what ``pyro-dlgm evaluate`` writes."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..data.transforms import Dequantize
from ..distributions import unwrapped
from ..evaluate.e_step.infer import infer
from ..evaluate.estimates import Mean
from ..evaluate.scores import point_scores
from ..guides.base import adapted
from ..points import Points

BLOCK = {True: 500, False: 100}  # points that are scored together; an E-step costs something for each block
QUANTILES = (0.05, 0.5, 0.95)
NO_DENSITY = "q is a point mass or a chain: it has no density, so no F(q) either; log_joint is no bound on log p(x)"
BOUNDS = ("elbo", "iwae", "log_joint")


def scored_blocks(guide, points: Points) -> list[Points]:
    r"""Splits the points into the blocks that `block_scores` takes."""
    size = BLOCK[adapted(guide).per_point]
    return [points[i : i + size] for i in range(0, len(points), size)]


def infer_silently(model, guide, points: Points, seed: int):
    r"""Runs `evaluate.infer` without its warning, for callers who report themselves which points have not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return infer(model, guide, points, seed=seed)


@torch.no_grad()
def scales_at_floor(model, t: Tensor, **side: Tensor) -> int | None:
    r"""Counts the scales within 1% of the floor: parameters of Σ0, or pixels at the median over codes t (M, D)."""
    floor = getattr(getattr(model, "likelihood", None), "floor", None)
    if floor is None:
        return None
    if hasattr(model.likelihood, "scale"):
        return int((model.likelihood.scale <= 1.01 * floor).sum())
    pixels = unwrapped(model.emission(t, **side))
    return int((pixels.scale.median(0).values <= 1.01 * floor).sum())


def block_scores(
    model, guide, parts: Sequence[Tensor | Points], num_samples: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    r"""Computes `point_scores` block by block, in nats per point.

    A guide with parameters for each point gets rows for the test points first, with w frozen (`evaluate.infer`).

    Arguments:
        model, guide: the pair.
        parts: blocks of points, data (B, ...) or `Points`.
        num_samples: K of IWAE-K.
        seed: block n is scored under seed + n.

    Yields:
        ``elbo``, ``iwae``, ``ess``, ``pareto_k``, each (B,), or ``log_joint`` where q has no density; and, after an
        E-step, ``late``: whether it had not converged.
    """
    for number, part in enumerate(parts, seed):
        points = Points.of(part)
        q = infer_silently(model, guide, points, number) if adapted(guide).per_point else guide
        scores = point_scores(model, q, points.numbered(), num_samples, seed=number)
        if "elbo" in scores and scores["elbo"].isnan().any():
            raise FloatingPointError("log-weights of test points are not numbers: the run has diverged; lower lr")
        if q is not guide:
            scores["late"] = ~q.convergence.converged
        yield {name: values.cpu() for name, values in scores.items()}


def bits_per_dim(likelihood, transform, num_pixels: int) -> Callable[[float], float] | None:
    r"""Bits per dimension as a function of log p(x) in nats per point; `None` where there is no such number.

    It bounds the length of a code for whole numbers v: P values with L levels each. A likelihood that is a mass on the
    levels gives −log p(x) / (P ln 2); a density of dequantized values, x = (v + u) / L, (P ln L − log p(x)) / (P ln 2).
    A density of values that were not dequantized bounds no code, and of binary pixels one reports nats.

    Arguments:
        likelihood: of the model; a mass on the levels has a method ``bits_per_dim``.
        transform: of the data set.
        num_pixels: the number P of values of a point.
    """
    for source in (likelihood, transform if isinstance(transform, Dequantize) else None):
        if hasattr(source, "bits_per_dim"):
            return lambda log_p, source=source: source.bits_per_dim(log_p, num_pixels)
    return None


def summary(parts: list[dict[str, Tensor]], bits: Callable[[float], float] | None = None) -> dict:
    r"""Computes means with standard errors over points, quantiles of the diagnostics, and bits per dimension.

    Arguments:
        parts: of `block_scores`.
        bits: of `bits_per_dim`.
    """
    points = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    result: dict = {"points": len(next(iter(points.values())))}
    for name, values in points.items():
        if name in BOUNDS:
            result[name] = Mean.of(values.double())._asdict()
            if bits is not None and name != "log_joint":
                result[name]["bits_per_dim"] = bits(result[name]["mean"])
        elif name != "late":
            finite = values.double().clamp(-1e300, 1e300)  # between infinities there is no quantile
            found = {str(q): float(finite.quantile(q)) for q in QUANTILES}
            result[name] = {q: v if abs(v) < 1e299 else math.copysign(math.inf, v) for q, v in found.items()}
    if "log_joint" in points:
        result["reasons"] = dict.fromkeys(("elbo", "iwae"), NO_DENSITY)
    if "late" in points:
        result["unconverged"] = int(points["late"].sum())
    return result
