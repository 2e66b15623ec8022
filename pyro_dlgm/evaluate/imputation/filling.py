r"""Imputations: several draws of the missing values, or one number for each."""

import torch
from torch import Tensor

from ...guides.programs.given import given_globals
from ...latents.asked import completion
from ...masks import pixelwise
from ...points import Points
from ..blocks import check_points
from ..predict import predicted
from ..quiet import quiet
from .predictive import predictive, proposals, warn
from .summaries import BY, summary


def impute(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int | None = 100,
    *,
    by: str = "mean",
    num_proposals: int | None = None,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""Returns x with the missing values replaced: by their mean under q, or by draws of p(x_mis | x_obs, w).

    Draws use importance weights: K proposals of q are weighted by p(x_obs, t | w) / q(t | x), and codes are drawn from
    them. This corrects a q that is too narrow as far as its proposals reach; a warning names points at which few of
    them dominate. Point masses and chains have no density: their draws are used unweighted.

    For values missing not at random (`likelihoods.Missingness`), everything is also conditional on the mask,
    E[x | t, x_o, m].

    Arguments:
        model: a `DLGM`.
        guide: a guide with a `posterior`.
        x: data (B, ...), or `Points`.
        index: which points these are (B,), for guides with a row for each.
        num_samples: the number M of draws; for the mean under q, the number of samples of t, or `None` for q's mean.
        by: "mean", "median" or "mode" of each value, or "draws" for M imputations. For classes, which have no order,
            the first three are the most probable one. The median is one of the draws, so that counts stay whole.
        num_proposals: the number K of weighted proposals. By default 10 M, at least 1,000; for the mean none, which
            makes it E_q E[x | t, x_o]. With 0, draws of q are used unweighted.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what the points are conditioned on, (B, C).
        seed: seed of the samples.

    Returns:
        A tensor of x's shape, or (M, B, ...) with ``by="draws"``.

    Raises:
        ValueError: if there is no mask, ``by`` is unknown, a number is out of range, all weights of a point are 0,
            pixels depend on each other given t in a distribution without ``completed(x, mask)``, or as `reconstruct`.
        TypeError: if the guide has no `posterior`.

    Example:
        >>> from pyro_dlgm import PPCA, guides
        >>> model, x = PPCA(2, 5), torch.full((3, 5), torch.nan)
        >>> impute(model, guides.Exact(model), x, None, 20, by="draws", mask=~x.isnan()).shape
        torch.Size([20, 3, 5])
    """
    points = Points.of(x, index, mask=mask, given=given)
    if points.mask is None:
        raise ValueError("mask is None; expected a boolean mask, True where x is observed: use ~x.isnan()")
    if by not in BY:
        raise ValueError(f"by is {by!r}; expected one of {', '.join(map(repr, BY))}")
    if by == "mean" and num_proposals is None:
        return _filled(points, predicted(model, guide, points, num_samples, seed, completion))
    K = proposals(num_proposals, num_samples)
    model, guide = given_globals(model, guide)
    check_points(model, points)
    with quiet(model, guide, seed=seed):
        blocks = predictive(model, guide, points, num_samples, K)
        parts = [(summary(made, by, classes), effective) for _, made, effective, classes in blocks]
    warn(torch.cat([effective for _, effective in parts]), K, stacklevel=2)
    return _filled(points, torch.cat([made for made, _ in parts], 1 if by == "draws" else 0))


def _filled(points: Points, guess: Tensor) -> Tensor:
    return torch.where(pixelwise(points.mask, points.x.dim()), points.x, guess)
