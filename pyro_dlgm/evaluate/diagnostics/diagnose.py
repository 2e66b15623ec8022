r"""Diagnosis of q over a data set: KL by dimension, information about x in t, and the aggregate posterior.

The rate, E_x KL(q(t | x) ‖ p(t)), is the cost of the code in the ELBO. It has two parts,

    rate = I(x; t) + KL(q(t) ‖ p(t)),      q(t) = (1/N) Σ_i q(t | x_i),

information, and a mismatch between the aggregate posterior q(t) and the prior.

References:
    Hoffman and Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound" (2016).
    NIPS workshop on advances in approximate Bayesian inference.
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders" (2016), section 5.2, on active units.
    https://arxiv.org/abs/1509.00519
    Lucas, Tucker, Grosse, Norouzi, "Don't blame the ELBO! A linear VAE perspective on posterior collapse" (2019), on
    (ε, δ)-collapse. https://arxiv.org/abs/1911.02469
    Poole, Ozair, van den Oord, Alemi, Tucker, "On variational bounds of mutual information" (2019), on the bounds
    with and without a sample's own component. https://arxiv.org/abs/1905.06922
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import distributions
from ...guides.programs.given import conditions, given_globals
from ...latents.asked import prior
from ...points import Points, dealt
from ...seeding import forked
from ..blocks import check_density, check_pair
from ..estimates import Mean
from ..quiet import quiet
from . import verdicts
from .aggregate import is_active, log_aggregate, mean_variance, mean_variance_error, tabulate
from .calibration import WRAP_OR_FIT, Calibration, check_calibration

COLLAPSED = 0.01  # ε and δ of (ε, δ)-collapse


@dataclass(frozen=True)
class Diagnosis:
    r"""The result of `diagnose` at N points; ``str()`` of it has one verdict per line.

    Attributes:
        num_points: the number N.
        rate, rate_stderr: E_x KL(q(t | x) ‖ p(t)), the total, in nats per point, and its standard error.
        kl: E_x KL(q(t_d | x) ‖ p(t_d)) for each dimension (D,), in nats per point; `None` without a closed form. For a
            q with correlations these are the KL divergences of its marginals, whose sum is less than the total by the
            KL divergence of q from the product of its marginals.
        factorized: whether q has no correlations, so that ``kl`` adds up to the total.
        collapsed: the share of the points (D,) with a KL below 0.01 nats in that dimension, or `None`.
        mean_variance, mean_variance_error: the variance over the points of E_q[t_d | x], (D,), and its sampling error
            if these means have no closed form.
        information: I(x; t) under q, in nats, with q(t) of these N points: at most log N, and in expectation a lower
            bound on I for the distribution of the points.
        information_upper: the same without a sample's own component in q(t): in expectation an upper bound.
        information_stderr: the standard error of ``information`` over the points.
        aggregate_kl, aggregate_kl_stderr: KL(q(t) ‖ p(t)) = rate − I, in nats, with q(t) of these N points.
        aggregate_mean, aggregate_std: of the marginals q(t_d), (D,).
        prior_mean, prior_std: of p(t_d), (D,).
        calibration: the result of `check_calibration` on simulated points, or `None`.
        conditions: the values at which global latents are held; empty without any.
    """

    num_points: int
    rate: float
    rate_stderr: float
    kl: Tensor | None
    factorized: bool
    collapsed: Tensor | None
    mean_variance: Tensor
    mean_variance_error: Tensor
    information: float
    information_upper: float
    information_stderr: float
    aggregate_kl: float
    aggregate_kl_stderr: float
    aggregate_mean: Tensor
    aggregate_std: Tensor
    prior_mean: Tensor
    prior_std: Tensor
    calibration: Calibration | None
    conditions: str = ""

    @property
    def active_by_variance(self) -> Tensor:
        r"""Active units (D,) by Burda et al. (2016): the variance over the data of E_q[t_d | x] exceeds 0.01.

        It has to exceed it by more than four of its sampling errors.
        """
        return is_active(self.mean_variance, self.mean_variance_error)

    @property
    def active_by_kl(self) -> Tensor | None:
        r"""Active units (D,) by Lucas et al. (2019): less than 99% of the points have a KL below 0.01 nats."""
        return None if self.collapsed is None else self.collapsed < 1 - COLLAPSED

    @property
    def verdicts(self) -> dict[str, str]:
        r"""Verdicts in words on the numbers."""
        return {
            "KL(q || p)": verdicts.kl(self),
            "active units": verdicts.active(self),
            "I(x; t)": verdicts.information(self),
            "KL(q(t) || p(t))": verdicts.aggregate(self),
            "marginals of q(t)": verdicts.aggregate_marginals(self),
        } | (self.calibration.verdicts if self.calibration else {})

    def __str__(self) -> str:
        return verdicts.listed(({"given": self.conditions} if self.conditions else {}) | self.verdicts)


def diagnose(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int = 10,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    num_simulated: int = 1000,
    seed: int | None = None,
) -> Diagnosis:
    r"""Diagnoses how q uses its latents: KL of each, active units, I(x; t), the aggregate posterior, and calibration.

    Arguments:
        model: a `DLGM`.
        guide: a guide with a ``posterior`` that has a density.
        x: data (N, ...), or `Points`. The cost is N² densities of q per sample.
        index: which points these are (N,), for guides with a row for each.
        num_samples: the number of samples of q for each point.
        mask: boolean, True where observed, of x's shape or (N,). Simulated points take its rows in turn.
        given: what the points are conditioned on, (N, C), likewise.
        num_simulated: the number of points for `check_calibration`, 0 for none. A guide with rows needs an E-step on
            them.
        seed: seed of all random numbers here. The global generator is left unchanged in any case.

    Returns:
        A `Diagnosis`: numbers, with a verdict in words on each.

    Raises:
        TypeError: if q has no density, or the guide no ``posterior``.
        ValueError: if x, index or mask is invalid, or there are fewer than two points or samples.
    """
    model, guide = given_globals(model, guide)
    check_density(guide, WRAP_OR_FIT)
    points = Points.of(x, index, mask=mask, given=given)
    check_pair(model, guide, points)
    if len(points) < 2 or num_samples < 2:
        raise ValueError(f"x has {len(points)} points, num_samples is {num_samples}; expected at least 2 of both")
    calibration = None
    if num_simulated:
        like = {"mask": dealt(points.mask, num_simulated), "given": points.given}
        calibration = check_calibration(model, guide, num_points=num_simulated, **like, seed=seed)
    # Another stream: points simulated with this seed would share their noise with samples of q.
    with quiet(model, guide, seed=seed), forked(int(torch.randint(2**31, ()))):
        table = tabulate(model, guide, points, num_samples)
        with_own, without = log_aggregate(guide, table["t"], table["log_q"], points)
        return _diagnosis(prior(model, points), table, with_own, without, calibration, conditions(model))


def _marginals(p) -> tuple[Tensor, Tensor]:
    r"""Returns mean and standard deviation of p(t_d), (D,); of the mixture over the points if p depends on them."""
    centre, width = (
        v.flatten(0, -2) if v.dim() > 1 else v.unsqueeze(0) for v in (distributions.mean(p), distributions.variance(p))
    )
    return centre.mean(0), (width.mean(0) + centre.var(0, correction=0)).sqrt()


def _diagnosis(
    p, table: dict, with_own: Tensor, without: Tensor, calibration: Calibration | None, held: str
) -> Diagnosis:
    r"""Returns the diagnosis from a `tabulate`, and from log q(t) with and without a sample's own component."""
    rate = Mean.of(table["rate"].mean(0))
    information, aggregate_kl = (Mean.of(v.mean(0)) for v in (table["log_q"] - with_own, with_own - table["log_p"]))
    kl, mean = table["kl"], table["means"].mean((0, 1))
    prior_mean, prior_std = _marginals(p)
    return Diagnosis(
        num_points=with_own.shape[1],
        rate=rate.mean,
        rate_stderr=rate.standard_error,
        kl=None if kl is None else kl[0].mean(0),
        factorized=table["factorized"],
        collapsed=None if kl is None else (kl[0] < COLLAPSED).to(kl).mean(0),
        mean_variance=mean_variance(table["means"]),
        mean_variance_error=mean_variance_error(table["means"]),
        information=information.mean,
        information_upper=float((table["log_q"] - without).mean()),
        information_stderr=information.standard_error,
        aggregate_kl=aggregate_kl.mean,
        aggregate_kl_stderr=aggregate_kl.standard_error,
        aggregate_mean=mean,
        aggregate_std=(table["second"].mean((0, 1)) - mean.square()).sqrt(),
        prior_mean=prior_mean,
        prior_std=prior_std,
        calibration=calibration,
        conditions=held,
    )
