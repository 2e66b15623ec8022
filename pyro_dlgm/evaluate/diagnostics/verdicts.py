r"""Verdicts in words on the numbers of `diagnose` and `check_calibration`.

A departure is reported if a test detects it, with a family-wise error of at most 1% over the dimensions; where there is
no test, if it is large enough to matter.

Each verdict names what it is about, since a q(t | x) may be too narrow in one dimension, too wide in another and as a
whole, while q(t), its average over the points, is narrower than the prior: none of these contradicts another.
"""

import math

import torch
from torch import Tensor

from .uniformity import shapes

ALPHA = 0.01
CEILING = 0.5  # nats: an estimate of I(x; t) this close to log N counts as cut off
MATTERS = 0.1  # nats, or prior standard deviations, worth reporting
ERRORS = 4  # standard errors

RANKS = {
    "narrow": "too narrow (ranks gather at both ends, a U), or misplaced differently from point to point,",
    "wide": "too wide (ranks gather in the middle, a hump)",
    "low": "shifted, too low (ranks gather at the upper end)",
    "high": "shifted, too high (ranks gather at the lower end)",
    "odd": "not uniform in another way",
}
JOINT = {
    "low": "the truth is more probable under p(x, t) than samples of q: over all dimensions together q(t | x) is too "
    "wide, misplaced, or blind to x",
    "high": "samples of q are more probable under p(x, t) than the truth: over all dimensions together q(t | x) is too "
    "narrow",
}
COVERAGE = {  # by whether intervals of some level hold the truth too rarely, and of some level too often
    (True, False): "too low (q too narrow, or misplaced)",
    (False, True): "too high (q too wide)",
    (True, True): "too low at some levels and too high at others (q of another shape than the posterior)",
}


def listed(lines: dict[str, str]) -> str:
    r"""Returns one line per verdict, with its name in front."""
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def dimensions(chosen: Tensor) -> str:
    r"""Names dimensions, booleans (D,): "all 16 dimensions", "dimensions 0, 4"; "the dimensions together" for none."""
    D, where = len(chosen), chosen.nonzero().flatten().tolist()
    if not where:
        return "the dimensions together"
    if len(where) == D:
        return f"all {D} dimensions" if D > 1 else "the one dimension"
    shown = ", ".join(map(str, where[:10])) + (", ..." if len(where) > 10 else "")
    return f"dimension{'s' if len(where) > 1 else ''} {shown}"


def placed(found: dict[str, Tensor]) -> str:
    r"""Returns the findings and their dimensions, booleans (D,), in words; "" for none."""
    return "; ".join(f"{what} in {dimensions(where)}" for what, where in found.items() if where.any())


def ranks(found: Tensor, L: int) -> str:
    r"""Returns the verdict on ranks (n, D) of t*."""
    words = shapes(found, L, ALPHA)
    parts = placed({text: torch.tensor([w == word for w in words]) for word, text in RANKS.items()})
    return f"q(t | x) is {parts}" if parts else f"no departure seen in {len(found)} ranks"


def joint_ranks(found: Tensor, L: int) -> str:
    r"""Returns the verdict on ranks (n,) of log p(x, t*)."""
    (word,) = shapes(found.unsqueeze(-1), L, ALPHA)
    other = "the ranks of log p(x, t) are not uniform: q is not the posterior"
    return JOINT.get(word, other) if word else f"no departure seen in {len(found)} ranks of log p(x, t)"


def coverage(c, n: int) -> str:
    r"""Returns the verdict on a `calibration.Coverage` from n points.

    In one dimension the number of truths inside is binomial. Over all dimensions the coverage is a mean of n
    independent numbers in [0, 1], however the dimensions depend on each other: with a probability of 1 − δ it is at
    most

        √(2 V ln(2/δ) / n) + 7 ln(2/δ) / (3 (n − 1))

    away from its expectation, where V is its variance over the points.

    References:
        Maurer and Pontil, "Empirical Bernstein bounds and sample variance penalization" (2009), theorem 4.
        https://arxiv.org/abs/0907.3740
    """
    from scipy import stats  # imported here, as in uniformity

    D = c.found.shape[1]
    delta = ALPHA / (2 * 4 * (D + 1))
    inside, expected = (n * c.found).round().cpu().numpy(), c.expected[:, None].cpu().numpy()
    tails = stats.binom.cdf(inside, n, expected), stats.binom.sf(inside - 1, n, expected)
    slack = math.log(2 / delta)
    far = (2 * slack) ** 0.5 * c.pooled_stderr + 7 * slack / (3 * (n - 1))
    together = (c.pooled < c.expected - far, c.pooled > c.expected + far)
    off = [torch.from_numpy(tail < delta).any(0) for tail in tails]
    parts = _covered(off, [bool(pooled.any()) and not one.any() for pooled, one in zip(together, off, strict=True)])
    # For display: with an exact q, pooling cannot be more precise than for independent dimensions.
    error = torch.maximum(c.pooled_stderr, c.stderr / D**0.5)
    numbers = ", ".join(f"{a:.0%}: {b:.1%} ± {s:.1%}" for a, b, s in zip(c.levels, c.pooled, error, strict=True))
    return f"{parts or f'as nominal in {n} points'} [{numbers}]"


def _covered(off: list[Tensor], together: list[bool]) -> str:
    r"""Returns what is wrong with the coverage in words, each dimension in one of them; "" for nothing.

    Arguments:
        off: where the coverage is too low at some level, and where it is too high at some level, booleans (D,).
        together: the same of all dimensions pooled.
    """
    low, high = off
    places = {(True, False): low & ~high, (False, True): high & ~low, (True, True): low & high}
    parts = [placed({COVERAGE[which]: where for which, where in places.items()})]
    parts += [f"{COVERAGE[tuple(together)]} in {dimensions(low & ~low)}"] if any(together) else []
    return "; ".join(filter(None, parts))


def kl(d) -> str:
    r"""Returns the verdict on the KL divergences of a `Diagnosis`."""
    if d.kl is None:
        return f"total {d.rate:.2f} ± {d.rate_stderr:.2f}; no closed form for single dimensions of this q"
    text = f"total {d.rate:.2f}; dimension {int(d.kl.argmax())} has the most, {float(d.kl.max()):.2f}"
    if d.factorized:
        return f"{text}; the dimensions add up to the total"
    total = float(d.kl.sum())
    rest = max(0.0, d.rate - total)
    return f"{text}; the dimensions are marginals and add up to {total:.2f}: q's correlations make up {rest:.2f}"


def active(d) -> str:
    r"""Returns the verdict on active units."""
    units = d.active_by_variance
    text = f"{int(units.sum())} of {len(units)} by the variance of E_q[t | x] (> 0.01)"
    if d.active_by_kl is not None:
        text += f", {int(d.active_by_kl.sum())} by KL (>= 0.01 nats at more than 1% of the points)"
    return text if units.all() else f"{text}; the mean of q does not vary in {dimensions(~units)}"


def information(d) -> str:
    r"""Returns the verdict on I(x; t)."""
    ceiling = math.log(d.num_points)
    if ceiling - d.information < CEILING:
        return (
            f"I >= {d.information:.2f}, at the ceiling log N = {ceiling:.2f} of an estimate from N points: only a "
            f"lower bound; the upper bound is I <= {min(d.information_upper, d.rate):.2f}"
        )
    if d.information_upper - d.information > max(MATTERS, ERRORS * d.information_stderr):
        return f"between {d.information:.2f} and {d.information_upper:.2f}: more points would narrow this"
    return f"{d.information:.2f} ± {d.information_stderr:.2f} nats, well below log N = {ceiling:.2f}"


def aggregate(d) -> str:
    r"""Returns the verdict on KL(q(t) ‖ p(t))."""
    # With finitely many points q(t) is lumpy, which adds at most the difference of the two bounds on I to the KL.
    least = max(0.0, d.aggregate_kl - (d.information_upper - d.information))
    seen = max(MATTERS, ERRORS * d.aggregate_kl_stderr)
    if least > seen:
        return f"q(t) is not the prior, KL {least:.2f} to {d.aggregate_kl:.2f}: samples of p(t) fall elsewhere"
    if d.aggregate_kl > seen:
        return f"undecided, KL {least:.2f} to {d.aggregate_kl:.2f}: N = {d.num_points} points do not fill q(t)"
    return f"no departure from the prior by {seen:.2f} or more, KL {d.aggregate_kl:.3f} ± {d.aggregate_kl_stderr:.3f}"


def aggregate_marginals(d) -> str:
    r"""Returns the verdict on mean and standard deviation of the marginals q(t_d) against those of the prior."""
    N = d.num_points
    ratio = d.aggregate_std / d.prior_std
    mean, log_std = (d.aggregate_mean - d.prior_mean) / d.prior_std, ratio.log()
    off_mean = mean.abs() > (ERRORS / N**0.5 * ratio).clamp_min(MATTERS)
    off_std = log_std.abs() > max(MATTERS, ERRORS / (2 * N) ** 0.5)
    found = {"mean off": off_mean, "too narrow": off_std & (log_std < 0), "too wide": off_std & (log_std > 0)}
    parts = placed(found)
    if parts:
        return f"the average of q(t | x) over the points, against p(t): {parts}"
    return f"no mean or standard deviation is off by {MATTERS:.0%} of the prior's or more"
