r"""Whether ranks 0..L are uniform, and how they are not: a chi-square test, two directions, and a band for the ECDF.

References:
    Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian inference algorithms with simulation-based
    calibration" (2018). https://arxiv.org/abs/1804.06788
    Säilynoja, Bürkner, Vehtari, "Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison" (2022). https://arxiv.org/abs/2103.10522
"""

import math

import torch
from torch import Tensor

from ...seeding import forked

BINS, RANKS_PER_BIN = 20, 10
WORDS = (("high", "low"), ("wide", "narrow"))  # for a negative and a positive location, and spread


def chi_square_p(ranks: Tensor, L: int) -> Tensor:
    r"""The p-value of Pearson's chi-square against uniform ranks: (n, D) integers 0..L -> (D,).

    At most 20 bins, with at least about 10 ranks expected in each; a bin's probability is the share of the L + 1
    values that fall into it, so that no bin is favoured where L + 1 does not divide.
    """
    bins = max(2, min(BINS, L + 1, len(ranks) // RANKS_PER_BIN))
    values = torch.arange(L + 1, device=ranks.device) * bins // (L + 1)
    expected = len(ranks) * torch.bincount(values, minlength=bins).double() / (L + 1)
    found = _counts(ranks * bins // (L + 1), bins)
    statistic = ((found - expected).square() / expected).sum(-1)
    return torch.special.gammaincc(torch.full_like(statistic, (bins - 1) / 2), statistic / 2)


def directions(ranks: Tensor, L: int) -> Tensor:
    r"""Location and spread of ranks (n, D), as (2, D), each about N(0, 1) where the ranks are uniform.

    Location, the mean less L/2, is positive where ranks are large (the truth lies above q). Spread, the variance less
    that of uniform ranks, is positive where they gather at both ends (a U: q is too narrow). It is taken around the
    ranks' own mean: ranks that all gather at one end have little of it.
    """
    grid = torch.arange(L + 1, dtype=torch.float64, device=ranks.device) - L / 2
    n, variance = len(ranks), grid.square().mean()
    error = (grid.square() - variance).square().mean().sqrt()
    location = (ranks.double().mean(0) - L / 2) / variance.sqrt()
    return n**0.5 * torch.stack([location, (ranks.double().var(0) - variance) / error])


def shapes(ranks: Tensor, L: int, alpha: float = 0.01) -> list[str]:
    r"""One word for each column of ranks (n, D): "narrow", "wide", "low", "high", "odd", or "" for uniform.

    "low" means that q lies too low, that is, below the truth. The three tests of all columns together raise a false
    alarm with a probability of at most ``alpha`` (Bonferroni). Of the two directions the more significant one names
    the shape; "odd" is what only the chi-square sees.
    """
    z, threshold = directions(ranks, L), alpha / (3 * ranks.shape[1])
    seen = torch.erfc(z.abs() / math.sqrt(2)) < threshold
    odd = chi_square_p(ranks, L) < threshold
    named = []
    for d, strongest in enumerate(z.abs().argmax(0).tolist()):
        word = WORDS[strongest][int(z[strongest, d] > 0)] if seen[strongest, d] else ""
        named.append(word or ("odd" if odd[d] else ""))
    return named


def ecdf_difference(ranks: Tensor, L: int) -> Tensor:
    r"""ECDF(z) − z of ranks (n, D) at z = 1/(L+1), ..., L/(L+1): (L, D)."""
    below = _counts(ranks, L + 1).cumsum(-1)[:, :-1]  # (D, L)
    z = torch.arange(1, L + 1, device=ranks.device).double() / (L + 1)
    return (below / len(ranks) - z).T


def ecdf_band(n: int, L: int, level: float = 0.95, num_simulations: int = 1000) -> tuple[Tensor, Tensor]:
    r"""Lower and upper end, (L,) each, of a simultaneous band for `ecdf_difference` of n uniform ranks.

    At each z the count below is Bin(n, z). The pointwise level of its quantiles is chosen so that simulated uniform
    ranks stay inside *everywhere* with the probability ``level``.

    Arguments:
        n: the number of ranks.
        L: the largest rank.
        level: probability of an ECDF inside.
        num_simulations: data sets simulated, with a seed of their own.
    """
    z = torch.arange(1, L + 1).double() / (L + 1)
    cdf = _binomial_cdf(n, z)
    below = torch.cat([torch.zeros(1, L, dtype=torch.float64), cdf[:-1]])  # P(R < r)
    tail = 2 * torch.minimum(cdf, 1 - below)
    with forked(0):
        ranks = (torch.randint(L + 1, (n,)) for _ in range(num_simulations))
        worst = torch.stack(
            [tail.gather(0, torch.bincount(r, minlength=L + 1).cumsum(0)[None, :-1]).min() for r in ranks]
        )
    # An order statistic, and both ends inclusive: counts are discrete, and ties must not fall outside.
    gamma = worst.sort().values[int((1 - level) * num_simulations)]
    lower, upper = (2 * cdf < gamma).sum(0), (2 * (1 - below) >= gamma).sum(0) - 1
    return lower.double() / n - z, upper.double() / n - z


def _counts(values: Tensor, number: int) -> Tensor:
    r"""How often each of 0..number−1 is in each column of (n, D): (D, number)."""
    return torch.stack([torch.bincount(column, minlength=number) for column in values.T]).double()


def _binomial_cdf(n: int, z: Tensor) -> Tensor:
    r"""P(Bin(n, z) <= r) for r = 0..n: (n + 1, len(z))."""
    r = torch.arange(n + 1).double().unsqueeze(-1)
    log_choose = math.lgamma(n + 1) - torch.lgamma(r + 1) - torch.lgamma(n - r + 1)
    return (log_choose + r * z.log() + (n - r) * torch.log1p(-z)).exp().cumsum(0).clamp_max(1)
