r"""Draws of missing values given the observed ones: x_mis ~ ∫ p(x_mis | t, x_obs, w) p(t | x_obs, w) dt.

K proposals t_k of q have the self-normalized weights w̃_k ∝ p(x_obs, t_k | w) / q(t_k | x). Codes are drawn from them
with these probabilities, and each code gives one draw of the missing values. Point masses and chains have no density:
their draws are used unweighted.

References:
    Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets" (2019).
    https://arxiv.org/abs/1812.02633
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ... import messages
from ...distributions import draws, unwrapped
from ...guides.base import adapted
from ...latents.asked import completion, log_joint, posterior
from ...latents.densities import Emission
from ...masks import pixelwise
from ...points import Points
from ..blocks import blocks
from ..importance import ess

PROPOSALS = 1000  # at least; ten for each draw
LOW = 50  # a warning names points with fewer effective proposals than this, or than a tenth of all


def proposals(asked: int | None, num_samples: int) -> int:
    r"""Returns the number K of proposals: the requested number, or ten per draw, at least 1,000.

    Raises:
        ValueError: if a number is out of range.
    """
    if num_samples is None or num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1 draw")
    if asked is not None and asked < 0:
        raise ValueError(f"num_proposals is {asked}; expected a number >= 0: 0 takes draws of q as they are")
    return max(PROPOSALS, 10 * num_samples) if asked is None else asked


def predictive(
    model, guide, points: Points, num_samples: int, num_proposals: int
) -> Iterator[tuple[Points, Tensor, Tensor, Tensor]]:
    r"""Draws completed points block by block, without gradients, inside `quiet`.

    Yields:
        The points of the block; their M draws (M, b, ...), with observed values unchanged; the effective number of
        proposals (b,), NaN for unweighted draws of q; and which numbers of a point are classes, booleans of a point's
        shape.
    """
    points = replace(points, x=points.observed())
    for block, counts in blocks(points, max(num_samples, num_proposals)):
        t, effective = _codes(model, guide, block, num_samples, num_proposals, counts)
        parts = [completion(model, block, some) for some in t.split(counts[0])]
        made = torch.cat([completed(p, block) for p in parts])
        yield block, made, effective, classes(parts[0])


def _codes(model, guide, points: Points, num: int, K: int, counts: list[int]) -> tuple[Tensor, Tensor]:
    r"""Returns M codes (M, b, D) of p(t | x), and the effective number of proposals (b,), NaN without weights."""
    q = posterior(guide, points)
    if K == 0 or not adapted(guide).has_density:
        return draws(q, num, len(points)), torch.full((len(points),), torch.nan, device=points.x.device)
    parts = [draws(q, k, len(points)) for k in _counts(K, counts[0])]
    table = torch.cat([log_joint(model, points, t) - q.log_prob(t) for t in parts])
    effective = ess(table)
    _check(effective)
    rows = torch.multinomial(table.softmax(0).T, num, replacement=True).T  # (M, b)
    t = torch.cat(parts)
    return t.gather(0, rows.unsqueeze(-1).expand(*rows.shape, t.shape[-1])), effective


def _counts(K: int, size: int) -> list[int]:
    return [min(size, K - k) for k in range(0, K, size)]


def _check(effective: Tensor) -> None:
    bad = (~(effective > 0)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"all weights are 0 or not finite at {len(bad)} points of a block, {messages.rows(bad)}; expected a q near "
            "the posterior: evaluate.infer(model, guides.FullRank(len(x), D), x, mask=mask)"
        )


def warn(effective: Tensor, num_proposals: int, stacklevel: int) -> None:
    r"""Warns about points with few effective proposals (B,), whose draws repeat a few codes."""
    low = effective < min(LOW, num_proposals / 10)
    if num_proposals and bool(low.any()):
        rows = low.nonzero().flatten().tolist()
        warnings.warn(
            f"the weights of {num_proposals} proposals have an effective number as low as "
            f"{float(effective.min()):.3g} at {len(rows)} of {len(low)} points ({messages.rows(rows)}): their draws "
            "repeat few codes; raise num_proposals, or fit a better q: evaluate.infer(model, guides.FullRank(len(x), "
            "D), x, mask=mask)",
            stacklevel=stacklevel + 1,
        )


def _pixels(p):
    return unwrapped(p.fn if isinstance(p, Emission) else p)


def completed(p, points: Points) -> Tensor:
    r"""Draws x (M, b, ...) from p(x | t, x_o, m); observed values stay as they are."""
    made = getattr(p, "sample", p)(torch.Size())
    made = made.to(points.x.dtype) if not points.x.is_floating_point() else made
    return torch.where(pixelwise(points.mask, points.x.dim()), points.x, made)


def classes(p) -> Tensor:
    r"""Returns which numbers of a point are classes, which have no order: booleans of a point's shape."""
    own = _pixels(p)
    if not hasattr(own, "parts"):
        return torch.full(p.event_shape, hasattr(own, "guess"))
    found = torch.zeros(p.event_shape, dtype=torch.bool)
    for numbers, part, _ in own.parts:
        found[numbers] = hasattr(_pixels(part), "guess")
    return found
