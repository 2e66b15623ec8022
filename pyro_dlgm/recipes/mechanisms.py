r"""Mechanisms p(m | x) by name, around the Gaussian parts of a likelihood. This module does not import torch."""

from __future__ import annotations

from types import SimpleNamespace

from .imports import is_path

# For each name the mechanism of `Missingness`, and the sign of a known direction.
MECHANISMS = {
    "self_masking": ("self_masking", None),
    "known": ("known", 1),
    "known:low": ("known", -1),
    "agnostic": ("agnostic", None),
}
# Likelihoods of Gaussian values that are independent given t.
INDEPENDENT = ("fixed", "fixed-per-pixel", "diagonal", "factor-analysis", "linear")


def check(missingness: str | None, likelihood: str, names: list[str]) -> None:
    r"""Raises a `ValueError` unless the mechanism is known and fits the likelihood; code of a user's own may fit.

    Arguments:
        missingness: a key of `MECHANISMS`, or `None`.
        likelihood: the likelihood, for the error.
        names: the names of its parts.
    """
    if missingness is None:
        return
    if missingness not in MECHANISMS:
        raise ValueError(f"missingness is {missingness!r}; expected one of {', '.join(MECHANISMS)}")
    if not is_path(likelihood) and not set(names) & set(INDEPENDENT):
        raise ValueError(
            f"missingness is {missingness!r}, which needs Gaussian values that are independent given t, and likelihood "
            f"is {likelihood!r}; expected {', '.join(INDEPENDENT)}, a table with such columns, or no missingness"
        )


def hiding(p: SimpleNamespace, likelihood, missingness: str | None, shape: tuple[int, ...]):
    r"""Returns p(x, m | t, w) for a likelihood p(x | t, w), or the likelihood itself without a mechanism.

    In a table it is that of the Gaussian columns; values of other columns are missing at random.
    """
    if missingness is None:
        return likelihood
    name, sign = MECHANISMS[missingness]
    if not isinstance(likelihood, p.Columns):
        return p.Missingness(likelihood, name, sign=sign, shape=shape)
    gaussian = [isinstance(part, p.FixedNormal | p.DiagonalNormal) for part in likelihood.parts]
    if not any(gaussian):
        kinds = ", ".join(type(part).__name__ for part in likelihood.parts)
        raise ValueError(f"missingness is {missingness!r}, and the table has {kinds}; expected a Gaussian column")
    for k, (numbers, part) in enumerate(zip(likelihood.columns, likelihood.parts, strict=True)):
        if gaussian[k]:
            likelihood.parts[k] = p.Missingness(part, name, sign=sign, shape=(len(numbers),))
    return likelihood
