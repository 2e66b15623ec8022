r"""Tests of the uniformity of ranks 0..L: a chi-square test, two directions, and a band for the ECDF.

References:
    Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian inference algorithms with simulation-based
    calibration" (2018). https://arxiv.org/abs/1804.06788
    Säilynoja, Bürkner, Vehtari, "Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison" (2022). https://arxiv.org/abs/2103.10522
"""

import numpy as np
import torch
from torch import Tensor

from ...storage.sums import sums_dtype, widened

BINS, RANKS_PER_BIN = 20, 10
WORDS = (("high", "low"), ("wide", "narrow"))  # for a negative and a positive location, and spread


def chi_square_p(ranks: Tensor, L: int) -> Tensor:
    r"""Returns the p-value of Pearson's chi-square test of uniform ranks: (n, D) integers 0..L -> (D,).

    There are at most 20 bins, with about 10 expected ranks or more in each. The probability of a bin is its share of
    the L + 1 values, so that no bin is favoured if the number of bins does not divide L + 1.
    """
    from scipy import stats  # imported here: it is slow to import

    bins = max(2, min(BINS, L + 1, len(ranks) // RANKS_PER_BIN))
    share = _counts(torch.arange(L + 1).unsqueeze(-1) * bins // (L + 1), bins) / (L + 1)
    found = _counts(ranks.cpu() * bins // (L + 1), bins)
    p = stats.chisquare(found.numpy(), len(ranks) * share.numpy(), axis=-1).pvalue
    return torch.as_tensor(p, device=ranks.device)


def directions(ranks: Tensor, L: int) -> Tensor:
    r"""Returns location and spread of ranks (n, D), as (2, D), each about N(0, 1) if the ranks are uniform.

    Location, the mean minus L/2, is positive if ranks are large (the truth lies above q). Spread, the variance minus
    that of uniform ranks, is positive if they gather at both ends (a U: q is too narrow). It is taken around the mean
    of the ranks: ranks that all gather at one end have little spread.
    """
    grid = torch.arange(L + 1, dtype=sums_dtype(ranks.device), device=ranks.device) - L / 2
    n, variance = len(ranks), grid.square().mean()
    error = (grid.square() - variance).square().mean().sqrt()
    location = (widened(ranks).mean(0) - L / 2) / variance.sqrt()
    return n**0.5 * torch.stack([location, (widened(ranks).var(0) - variance) / error])


def shapes(ranks: Tensor, L: int, alpha: float = 0.01) -> list[str]:
    r"""Returns a word for each column of ranks (n, D): "narrow", "wide", "low", "high", "odd", or "" for uniform.

    "low" means that q lies too low, below the truth. The three tests of all columns together raise a false alarm with a
    probability of at most ``alpha`` (Bonferroni). The more significant of the two directions names the shape; "odd" is
    a departure that only the chi-square test detects.
    """
    from scipy import stats  # imported here: it is slow to import

    z, threshold = directions(ranks, L), alpha / (3 * ranks.shape[1])
    seen = z.abs() > stats.norm.isf(threshold / 2)
    odd = chi_square_p(ranks, L) < threshold
    named = []
    for d, strongest in enumerate(z.abs().argmax(0).tolist()):
        word = WORDS[strongest][int(z[strongest, d] > 0)] if seen[strongest, d] else ""
        named.append(word or ("odd" if odd[d] else ""))
    return named


def inside(pit: Tensor, levels: Tensor) -> Tensor:
    r"""Returns whether central intervals of each level contain the truth, 0 or 1: (n, ...) -> (levels, n, ...)."""
    return widened((2 * widened(pit) - 1).abs() <= levels.view(-1, *[1] * pit.dim()))


def ecdf_difference(ranks: Tensor, L: int) -> Tensor:
    r"""Returns ECDF(z) − z of ranks (n, D) at z = 1/(L+1), ..., L/(L+1): (L, D)."""
    below = _counts(ranks, L + 1).cumsum(-1)[:, :-1]  # (D, L)
    z = widened(torch.arange(1, L + 1, device=ranks.device)) / (L + 1)
    return (below / len(ranks) - z).T


def ecdf_band(n: int, L: int, level: float = 0.95, num_simulations: int = 1000) -> tuple[Tensor, Tensor]:
    r"""Returns the lower and upper end, (L,) each, of a simultaneous band for `ecdf_difference` of n uniform ranks.

    At each z the count below is Bin(n, z). The pointwise level of its quantiles is chosen so that simulated uniform
    ranks stay inside *everywhere* with the probability ``level``.

    Arguments:
        n: the number of ranks.
        L: the largest rank.
        level: the probability that an ECDF is inside.
        num_simulations: the number of simulated data sets, always the same ones.
    """
    from scipy import stats  # imported here: it is slow to import

    binom, z = stats.binom, np.arange(1, L + 1) / (L + 1)
    uniform = np.full(L + 1, 1 / (L + 1))
    below = np.random.default_rng(0).multinomial(n, uniform, num_simulations).cumsum(1)[:, :-1]  # (num_simulations, L)
    tail = np.minimum(binom.cdf(below, n, z), binom.sf(below - 1, n, z)).min(1)
    # An order statistic, slightly lowered: counts are discrete, and rounding must not put ties outside.
    lower = binom.ppf(np.sort(tail)[int((1 - level) * num_simulations)] * (1 - 1e-9), n, z)
    upper = n - lower[::-1]  # n − Bin(n, z) is Bin(n, 1 − z)
    return torch.from_numpy(lower / n - z), torch.from_numpy(upper / n - z)


def _counts(values: Tensor, number: int) -> Tensor:
    r"""Returns how often each of 0..number−1 occurs in each column of (n, D): (D, number)."""
    return widened(torch.stack([torch.bincount(column, minlength=number) for column in values.T]))
