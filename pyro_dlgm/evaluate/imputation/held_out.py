r"""Imputations compared with the truth: their errors, and the calibration of their uncertainty.

A hidden value y is ranked among L draws of it. If these are draws of its true distribution given what was observed, the
rank is uniform on 0..L (ties, as for counts and classes, are broken at random), and a central interval of probability c
contains y with the frequency c. The score of a distribution F, in the units of x, is

    CRPS = E|X − y| − ½ E|X − X'|,    X, X' ~ F,

estimated without bias from all pairs of draws. An imputer may have the smallest error and still be miscalibrated.

References:
    Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation" (2007). JASA 102(477).
    Czado, Gneiting, Held, "Predictive model assessment for count data" (2009). Biometrics 65(4).
"""

import torch
from torch import Tensor

from ...guides.programs.given import conditions, given_globals
from ...masks import check, pixelwise
from ...points import Points
from ...storage.sums import widened
from ..blocks import check_points
from ..quiet import quiet
from .predictive import predictive, proposals, warn
from .scored import Imputations
from .summaries import most_frequent


def check_imputations(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 199,
    *,
    mask: Tensor | None = None,
    held_out: Tensor | None = None,
    num_proposals: int | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Imputations:
    r"""Draws values that were hidden from q, and ranks the true values among the draws.

    Arguments:
        model: a `DLGM`.
        guide: a guide with a `posterior`, which sees x under the mask.
        x: data (B, ...), including the true values that are held out, or `Points`.
        index: which points these are (B,), for guides with a row for each.
        num_samples: the number L of draws of each value.
        mask: boolean, True where model and guide see x, of x's shape or (B,).
        held_out: boolean, True where a true value is known and hidden, of x's shape or (B,); by default everything that
            the mask hides.
        num_proposals: the number of weighted proposals, as in `impute`; with 0, draws of q are used unweighted.
        given: what the points are conditioned on, (B, C).
        seed: seed of the draws.

    Returns:
        An `Imputations`: errors, scores, ranks and coverage, with verdicts in words. It judges model and q together: a
        wrong model has wrong intervals even under an exact q.

    Raises:
        ValueError: if there is no mask, nothing is held out, a held-out value is seen or not finite, or as `impute`.
    """
    points = Points.of(x, index, mask=mask, given=given)
    hidden, K = _hidden(points, held_out), proposals(num_proposals, num_samples)
    model, guide = given_globals(model, guide)
    check_points(model, points)
    tables, first, effective = [], 0, []
    with quiet(model, guide, seed=seed):
        for block, made, worth, classes in predictive(model, guide, points, num_samples, K):
            here = slice(first, first + len(block))
            tables.append(_table(points.x[here], made, hidden[here], classes, first))
            effective.append(worth)
            first += len(block)
        columns = [torch.cat(part) for part in zip(*tables, strict=True)]
        pit = (columns[2] + torch.rand(len(columns[2]), device=columns[2].device)) / (num_samples + 1)
        chosen = _one_of_each(columns[0])
    warn(torch.cat(effective), K, stacklevel=2)
    return Imputations(*columns, pit, chosen, torch.cat(effective), num_samples, conditions(model))


def _hidden(points: Points, held_out: Tensor | None) -> Tensor:
    if points.mask is None:
        raise ValueError("mask is None; expected a boolean mask, True where model and guide see x")
    points.check()
    x, seen = points.x, pixelwise(points.mask, points.x.dim()).expand_as(points.x)
    if held_out is None:
        held_out = ~seen
    check(held_out, x)
    hidden = pixelwise(held_out, x.dim()).expand_as(x)
    known = x.isfinite()
    for bad, why in ((hidden & seen, "seen by model and guide"), (hidden & ~known, "not finite")):
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} values of x that are held out are {why}; expected true values that the mask hides: "
                "held_out=, True where one is known and hidden"
            )
    if not bool(hidden.any()):
        raise ValueError("nothing is held out; expected values of x that the mask hides, mask False there")
    return hidden


def _table(x: Tensor, made: Tensor, hidden: Tensor, classes: Tensor, first: int) -> tuple[Tensor, ...]:
    r"""Returns rows, columns, ranks, errors, scores and classes of the hidden values of a block."""
    rows, columns = hidden.reshape(len(x), -1).nonzero().T
    values, truth = widened(made[:, hidden]), widened(x[hidden])  # (L, n), (n,)
    kinds = classes.to(x.device).flatten()[columns]
    ties = (values == truth).sum(0)
    ranks = (values < truth).sum(0) + (torch.rand(len(truth), device=x.device) * (ties + 1)).long()
    wrong = widened(most_frequent(values) != truth)
    errors = torch.where(kinds, wrong, values.mean(0) - truth)
    scores = torch.where(kinds, _brier(values, ties), _crps(values, truth))
    return rows + first, columns, ranks, errors, scores, kinds


def _crps(values: Tensor, truth: Tensor) -> Tensor:
    L = len(values)
    places = 2 * torch.arange(1, L + 1, dtype=values.dtype, device=values.device) - L - 1
    spread = (places.unsqueeze(-1) * values.sort(0).values).sum(0) / max(1, L * (L - 1))  # ½ of the mean |X − X'|
    return (values - truth).abs().mean(0) - spread


def _brier(values: Tensor, ties: Tensor) -> Tensor:
    r"""Returns P(X ≠ y) − ½ P(X ≠ X'), from all pairs of draws."""
    L, ordered = len(values), values.sort(0).values
    number = torch.arange(L, device=values.device).unsqueeze(-1).expand_as(ordered)
    starts = torch.cat([torch.ones_like(ordered[:1], dtype=torch.bool), ordered[1:] != ordered[:-1]])
    equal = widened((number - torch.where(starts, number, 0).cummax(0).values).sum(0))  # pairs
    return 1 - ties / L - 0.5 * (1 - 2 * equal / max(1, L * (L - 1)))


def _one_of_each(rows: Tensor) -> Tensor:
    r"""Returns the place of a random value of each point that has values."""
    order = torch.randperm(len(rows), device=rows.device)
    chosen = torch.full((int(rows.max()) + 1,), -1, device=rows.device)
    chosen[rows[order]] = order
    return chosen[chosen >= 0]
