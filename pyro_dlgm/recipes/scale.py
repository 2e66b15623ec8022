r"""The scale of x: a note where values are far from what the built-in networks are made for."""

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from ..masks import pixelwise
from ..points import Points, evenly

FAR = 10.0  # of |mean| + standard deviation of a value over the points
SOME = 1000  # points that are looked at, from all over the data
LEVELS = (
    "values of x are whole numbers from {:g} to {:g}, and {} is a density of real numbers: it can rise without end at "
    "whole ones, and a network learns slowly so far from 0 ± 1. For grey levels give transform=data.Dequantize(256), "
    "with the number of your levels (on the command line: a file of whole numbers, uint8); for counts take "
    "likelihoods.Poisson; else standardize them"
)
SCALE = (
    "{} lie far from 0 ± 1 (mean and standard deviation up to {:.3g}), which a network learns slowly: standardize them "
    "(subtract means, divide by standard deviations); log p(x) then rises by the logarithms of the divisors"
)
TYPICAL = (
    "{} are amounts whose typical size, the geometric mean of those above 0, is up to a factor of {:.3g} away from 1, "
    "where a network starts: divide each column by its typical size; the log-density of an amount then rises by the "
    "logarithm of the divisor"
)


def note_scale(points: Points, densities: Iterable[tuple[list[int] | None, str, bool]]) -> None:
    r"""Warns about raw grey levels and other values of large scale, where the likelihood is a density of real numbers.

    Arguments:
        points: as the model sees them, without a transform.
        densities: of `DLGM.densities`: columns, the name of their likelihood, and whether it takes numbers below 0.
    """
    some = points[evenly(len(points), SOME).to(points.x.device)]
    for columns, name, real in densities:
        v = _values(some, columns)
        if real:
            _note(v, columns, name)
        else:
            _note_amounts(v, columns)


def _values(points: Points, columns: list[int] | None) -> Tensor:
    r"""Returns the values (N, ...) of some columns, or of all; NaN where missing."""
    x, mask = points.x, points.mask
    v = x if mask is None else torch.where(pixelwise(mask, x.dim()), x, torch.nan)
    return v if columns is None else v[..., columns]


def _note(v: Tensor, columns: list[int] | None, name: str) -> None:
    mean = v.nanmean(0)
    far = (mean.abs() + (v - mean).square().nanmean(0).sqrt()).nan_to_num(nan=0.0).max()
    if not far > FAR:
        return
    seen = v[~v.isnan()]
    levels = columns is None and seen.min() >= 0 and seen.max() <= 255 and bool((seen == seen.round()).all())
    said = LEVELS.format(seen.min(), seen.max(), name) if levels else SCALE.format(_whose(columns), far)
    warnings.warn(said, stacklevel=2)


def _note_amounts(v: Tensor, columns: list[int] | None) -> None:
    typical = v.where(v > 0, torch.nan).log().nanmean(0)
    far = typical.abs().nan_to_num(nan=0.0).max().exp()
    if far > FAR:
        warnings.warn(TYPICAL.format(_whose(columns), far), stacklevel=2)


def _whose(columns: list[int] | None) -> str:
    return "values of x" if columns is None else f"columns {columns} of x"
