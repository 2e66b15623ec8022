r"""Simulation-based calibration of q: ranks of the true t* among samples of q(t | x), x ~ p(x | t*, w).

If q(t | x) is p(t | x, w), then t* and samples of q are exchangeable: the rank of t*_d among L samples is uniform on
0..L, and a central interval of q of probability c contains t*_d with the frequency c. The converse is false: the prior
itself passes both tests, since it is the average of the posteriors. The rank of log p(x, t* | w) among those of the
samples is also uniform if q is exact, and it reveals a q that ignores x.

References:
    Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian inference algorithms with simulation-based
    calibration" (2018). https://arxiv.org/abs/1804.06788
    Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman, Vehtari, "Simulation-based calibration checking for
    Bayesian computation: the choice of test quantities shapes sensitivity" (2023). https://arxiv.org/abs/2211.02383
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from ... import distributions
from ...distributions import draws
from ...guides.base import adapted
from ...guides.programs.given import conditions, given_globals
from ...latents.asked import log_joint, posterior
from ...points import Points
from ...storage.sums import sums_dtype
from ..blocks import FIT_ONE, blocks, check_axes, check_density
from ..e_step.infer import infer
from ..predict import simulated
from ..quiet import quiet
from . import verdicts
from .uniformity import chi_square_p, inside

WRAP_OR_FIT = f"wrap it in a guides.Guide, use guides.auto, or {FIT_ONE}"
LEVELS = (0.5, 0.8, 0.9, 0.95)
LEAST = 50  # simulated points for a test, at least


@dataclass(frozen=True)
class Coverage:
    r"""The coverage of central intervals of q: how often they contain the truth.

    Attributes:
        levels: the nominal probabilities (4,): 0.5, 0.8, 0.9, 0.95.
        found: the frequencies (4, D).
        stderr: their binomial standard errors (4,) if q is exact, √(c (1 − c) / n) with c from ``expected``.
        pooled: the frequencies over all dimensions (4,).
        pooled_stderr: their standard errors (4,), over points: the dimensions of one point are not independent.
        expected: the frequencies (4,) if q is exact: ``levels``, or, where q has only ranks, the share of the L + 1
            ranks inside.
    """

    levels: Tensor
    found: Tensor
    stderr: Tensor
    pooled: Tensor
    pooled_stderr: Tensor
    expected: Tensor


@dataclass(frozen=True)
class Calibration:
    r"""The result of `check_calibration`: ranks, joint ranks, and PIT values of n simulated points.

    Attributes:
        ranks: the rank of t*_d among the samples of q, (n, D), integers 0..L.
        joint_ranks: the rank of log p(x, t* | w) among those of the samples, (n,), integers 0..L.
        pit: q(t_d <= t*_d | x), (n, D), uniform on (0, 1) if q is exact; computed from the ranks if q is not Gaussian.
        num_samples: the number L of samples.
        conditions: the values at which global latents are held; empty without any.
    """

    ranks: Tensor
    joint_ranks: Tensor
    pit: Tensor
    num_samples: int
    conditions: str = ""

    @property
    def p_values(self) -> Tensor:
        r"""Chi-square p-values (D,) of uniform ranks, one for each dimension."""
        return chi_square_p(self.ranks, self.num_samples)

    @property
    def joint_p_value(self) -> float:
        r"""The chi-square p-value of uniform ranks of log p(x, t | w)."""
        return float(chi_square_p(self.joint_ranks.unsqueeze(-1), self.num_samples))

    @property
    def coverage(self) -> Coverage:
        r"""Coverage of the central intervals of q."""
        n = len(self.pit)
        levels = torch.tensor(LEVELS, dtype=sums_dtype(self.pit.device), device=self.pit.device)
        held = inside(self.pit, levels)  # (4, n, D)
        of_point = held.mean(-1)
        by_ranks = self._pit(self.ranks)
        all_ranks = self._pit(torch.arange(self.num_samples + 1, device=self.pit.device))
        c = inside(all_ranks, levels).mean(1) if torch.equal(by_ranks, self.pit) else levels
        stderr, pooled_stderr = (c * (1 - c) / n).sqrt(), of_point.std(-1) / n**0.5
        return Coverage(levels, held.mean(1), stderr, of_point.mean(-1), pooled_stderr, c)

    def _pit(self, ranks: Tensor) -> Tensor:
        return pit_of_ranks(ranks, self.num_samples).to(self.pit)

    @property
    def verdicts(self) -> dict[str, str]:
        r"""Verdicts in words on the ranks, the ranks of log p(x, t) and the coverage."""
        return {
            "ranks": verdicts.ranks(self.ranks, self.num_samples),
            "joint ranks": verdicts.joint_ranks(self.joint_ranks, self.num_samples),
            "coverage": verdicts.coverage(self.coverage, len(self.pit)),
        }

    def __str__(self) -> str:
        return verdicts.listed(self.verdicts)


def check_calibration(
    model,
    guide,
    *,
    num_points: int = 1000,
    num_samples: int = 199,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Calibration:
    r"""Simulates points from the model, and ranks the code t* of each among samples of q(t | x).

    A guide that is a function of x is evaluated directly. For a guide with rows, `infer` fits rows to the simulated
    points: the check is then of its family with this E-step. Points come from the model, not from the data, for which
    an encoder may be better trained.

    Arguments:
        model: a `DLGM`.
        guide: a guide with a ``posterior`` that has a density.
        num_points: the number n of simulated points.
        num_samples: the number L of samples for each. With 199, all four intervals of `Coverage` are exact even if they
            come from ranks.
        mask: boolean, True where observed, of the simulated points' shape or (n,).
        given: what points are conditioned on, (B, C); simulated ones take its rows in turn.
        seed: seed of all random numbers here. The global generator is left unchanged in any case.

    Returns:
        A `Calibration`: ranks and coverage, with a verdict in words on each.

    Raises:
        TypeError: if q has no density, or the guide no ``posterior``.
        ValueError: if there are fewer than 50 points or no samples, or the mask does not fit.
    """
    model, guide = given_globals(model, guide)
    check_density(guide, WRAP_OR_FIT)
    if num_points < LEAST or num_samples < 1:
        raise ValueError(
            f"num_points is {num_points}, num_samples {num_samples}; expected at least {LEAST} simulated points, for a "
            "test, and at least 1 sample"
        )
    check_axes(model, given)
    with quiet(model, guide, seed=seed):
        points, t = simulated(model, num_points, mask, given)
        if adapted(guide).per_point:
            # Another seed: the samples below must not repeat the noise of the E-step.
            guide = infer(model, guide, replace(points, index=None), seed=int(torch.randint(2**31, ())))
        parts = [_place(model, guide, t, *block) for block in blocks(points, num_samples)]
    return Calibration(*(torch.cat(part) for part in zip(*parts, strict=True)), num_samples, conditions(model))


def pit_of_ranks(ranks: Tensor, num_samples: int) -> Tensor:
    r"""Returns PIT values from ranks 0..L, of any shape, for a q without marginals in closed form."""
    return (ranks + 0.5) / (num_samples + 1)


def marginals(q) -> Normal | None:
    r"""Returns the marginals q(t_d) of a Gaussian q as one `Normal` of batch shape (B, D), else `None`."""
    return Normal(q.mean, q.stddev) if distributions.diagonal(q) or isinstance(q, MultivariateNormal) else None


def _place(model, guide, t: Tensor, points: Points, counts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns ranks (B, D), joint ranks (B,) and PIT values (B, D) of one block."""
    q, t = posterior(guide, points), t[points.index]
    joint = log_joint(model, points, t)
    ranks, joint_ranks = torch.zeros_like(t, dtype=torch.long), torch.zeros_like(joint, dtype=torch.long)
    for count in counts:
        samples = draws(q, count, 1)
        ranks += (samples < t).sum(0)
        joint_ranks += (log_joint(model, points, samples) < joint).sum(0)
    normal = marginals(q)
    pit = normal.cdf(t) if normal is not None else pit_of_ranks(ranks, sum(counts)).to(t)
    return ranks, joint_ranks, pit
