r"""Predictions of x through q: reconstructions, and imputations of missing pixels."""

import torch
from torch import Tensor

from ..guides.base import adapted
from ..masks import pixelwise
from .points import Points, blocks, check_points
from .quiet import quiet


def reconstruct(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    num_samples: int | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""The mean of p(x | t, w) at the mean of q, or averaged over samples of q: of x's shape.

    Arguments:
        model: a `DLGM`.
        guide: a guide with a `posterior`.
        x: data (B, ...).
        index: which points these are (B,), for guides with a row for each.
        mask: boolean, True where observed, of x's shape or (B,).
        num_samples: how many samples of q to average over; `None` takes the mean of q alone.
        seed: seed of the samples.

    Raises:
        ValueError: if x, index, mask or the number of samples makes no sense.
        TypeError: if the guide has no `posterior`.
    """
    points = Points(x, index, mask)
    check_points(*points)
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1 sample, or None for the mean of q")
    if adapted(guide).posterior is None:
        raise TypeError(f"{type(guide).__name__} has no posterior(x, index, mask); use a guide of this package")
    K = num_samples or 1
    with quiet(model, guide, seed=seed):
        parts = []
        for block, counts in blocks(points, K):
            q = guide.posterior(*block)
            codes = (q.mean.unsqueeze(0) if num_samples is None else q.sample((k,)) for k in counts)
            parts.append(sum(model.likelihood(t).mean.sum(0) for t in codes) / K)
        made = torch.cat(parts)
    if made.shape != x.shape:
        # A guide that ignores x would not notice.
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected {tuple(made.shape)}, as the model makes it: reshape x"
        )
    return made


def impute(
    model,
    guide,
    x: Tensor,
    mask: Tensor,
    index: Tensor | None = None,
    *,
    num_samples: int | None = 100,
    seed: int | None = None,
) -> Tensor:
    r"""x with the missing pixels replaced by their posterior mean E_q E[x | t]. Arguments as in `reconstruct`."""
    if mask is None:
        raise ValueError("mask is None; expected a boolean mask, True where x is observed: use ~x.isnan()")
    guess = reconstruct(model, guide, x, index, mask, num_samples=num_samples, seed=seed)
    return torch.where(pixelwise(mask, x.dim()), x, guess)
