r"""The inference gap and its decomposition: how far q is from the posterior, and why.

    log p(x) − F(q) = [log p(x) − F(q*)]  +  [F(q*) − F(q)]
                       approximation gap      amortization gap

with q* the best q of the guide's family for this point and this w. The first gap is due to the family, the second to
its parameters: an encoder, or rows that have not converged.

References:
    Cremer, Li, Duvenaud, "Inference suboptimality in variational autoencoders" (2018), equation 5.
    https://arxiv.org/abs/1801.03558
"""

from functools import partial

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from .. import distributions
from ..guides.base import adapted
from ..guides.families import FAMILIES
from ..guides.per_point import PER_POINT, PerPoint
from ..guides.programs.given import given_globals
from ..latents.asked import posterior
from ..points import Points
from ..seeding import seeds
from .blocks import check_pair
from .bounds import log_weights
from .decomposition import Gaps
from .e_step.climb import Pace, climb
from .estimates import Estimate
from .marginal.annealing.blocks import check_start
from .marginal.certificate import MATTERS
from .marginal.evidence import BUDGET, STREAMS, Asked, estimated
from .quiet import quiet


def gaps(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    *,
    families: tuple[str, ...] = (),
    judge: PerPoint | None = None,
    num_samples: int = 2000,
    num_chains: int | None = None,
    num_temperatures: int | None = None,
    num_simulated: int = 64,
    tol: float = MATTERS,
    budget: int = BUDGET,
    objective: str = "ELBO",
    fitted: bool = False,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Gaps:
    r"""Decomposes log p(x) − F(q) into approximation and amortization gap for each point, with the current w.

    log p(x) is that of `evidence`, from starts that do not depend on the guide: AIS or IWAE, whichever has the larger
    mean over points, since both are lower bounds in expectation; within errors, the one with the smaller error. `bdmc`
    with the same settings certifies it for this model. q* is optimized from q itself; where that gains nothing, q is
    kept. F(q) and F(q*) use the same random numbers, which differ from those of optimizing and choosing.

    Arguments:
        model: a `DLGM`.
        guide: a guide whose q is Gaussian: amortized or per point, or `AutoNormal`.
        x: data (B, ...), or `Points`.
        index: which points these are (B,), for guides with a row for each.
        families: further families to fit to these points, "mean_field" and "full_rank".
        judge: a guide with rows for x, from which to estimate log p(x) instead.
        num_samples: the number K of samples of each F and of IWAE-K.
        num_chains, num_temperatures, tol, budget: as in `evidence`.
        num_simulated: the number of points of `bdmc`; 0 omits it, and then ``num_temperatures`` is required.
        objective: what the guide was trained on. Unless it is the ELBO, the amortization gap mixes what the encoder
            cannot do with what the objective did not ask of it, and a note says so.
        fitted: whether the guide is the one that `infer` returned for these points and this w. Its q is q*, so the
            E-step is not repeated, and the amortization gap is 0.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what the points are conditioned on, (B, C); simulated points take its rows in turn.
        seed: seed of all random numbers. The global generator is left unchanged in any case.
        progress: whether annealing shows a bar.

    Returns:
        A `Gaps`, per point and in nats, with standard errors and the points that did not converge.

    Raises:
        TypeError: if the guide has no `posterior`, or one that has no density or is not Gaussian.
        ValueError: on an unknown family, numbers out of range, if x, index, mask or given does not fit, or if
            ``fitted`` is true of a guide that `infer` did not return.
    """
    walked = Asked(judge is not None, num_samples, num_chains, num_temperatures, num_simulated, tol, budget)
    model, guide = given_globals(model, guide)
    asked = Points.of(x, index, mask=mask, given=given)
    parts = decomposed(model, guide, asked, families=families, fitted=fitted, num_samples=num_samples, seed=seed)
    found = estimated(model, judge, asked.numbered(), walked, seed=seed, progress=progress)
    return Gaps(**vars(found), **parts, objective=objective)


def decomposed(
    model,
    guide,
    asked: Points,
    *,
    families: tuple[str, ...] = (),
    fitted: bool,
    num_samples: int,
    seed: int | None,
) -> dict:
    r"""Computes what `gaps` adds to `evidence`: F(q), F(q*) of each family, and what became of the E-steps.

    Arguments and errors are those of `gaps`; global latents are given.

    Returns:
        The fields of `Gaps` that are none of `Evidence`, but for ``objective``.
    """
    check_start(guide)
    _check(guide, families, fitted)
    check_pair(model, guide, asked)
    climbed, chosen, reported = seeds(STREAMS + 3, seed)[STREAMS:]  # the others are those of `evidence`
    with quiet(model, guide):
        q = posterior(guide, asked)
    own, points = _family(guide, q), asked.numbered()
    best = {name: _best(model, q, name, points, climbed) for name in families if name != own}
    weigh = partial(log_weights, model, num_samples=num_samples)
    reached, kept, ended = weigh(guide, asked, seed=reported), torch.ones_like(points.index, dtype=torch.bool), []
    if fitted:
        ended = [guide.convergence.converged[points.index if asked.index is None else asked.index]]
    else:
        best[own] = _best(model, q, own, points, climbed)
        kept = _keep(best[own], FAMILIES[own].of(q), guide, asked, partial(weigh, seed=chosen))
    tables = {own: reached} | {name: weigh(star, points, seed=reported) for name, star in best.items()}
    return {
        "reached": Estimate.mean(reached),
        "families": {name: Estimate.mean(table) for name, table in tables.items()},
        "own": own,
        "amortization": Estimate.mean(tables[own] - reached),
        "kept": kept,
        "converged": torch.stack(ended + [star.convergence.converged for star in best.values()]).all(0),
    }


def _check(guide, families: tuple[str, ...], fitted: bool) -> None:
    for name in families:
        if name not in FAMILIES:
            raise ValueError(f"families holds {name!r}; expected some of {', '.join(map(repr, FAMILIES))}")
    if fitted and adapted(guide).convergence is None:
        raise ValueError(
            f"fitted is true, but this {type(guide).__name__} has no convergence; expected the guide as `infer` "
            "returned it: q = infer(model, guide, x), gaps(model, q, x, index, fitted=True)"
        )


def _keep(best: PerPoint, rows: Tensor, guide, asked: Points, weigh) -> Tensor:
    r"""Puts the rows of q back where F(q*) is not above F(q); returns where, (B,).

    ``weigh`` has random numbers for this choice alone: with those of the reported values it would be biased upwards.
    """
    kept = weigh(guide, asked).mean(0) >= weigh(best, asked.numbered()).mean(0)
    best.set_rows(torch.where(kept.unsqueeze(1), rows, best.rows.weight.detach()))
    return kept


def _best(model, q, family: str, points: Points, seed: int) -> PerPoint:
    r"""Returns q* of a family for the numbered points, optimized from the member nearest to q."""
    with quiet(model, seed=seed), torch.enable_grad():
        guide = PER_POINT[family](*q.mean.shape, latent=model.latent, plate=model.plate)
        guide = guide.to(q.mean).set_rows(FAMILIES[family].of(q))
        guide.convergence = climb(model, guide, points, Pace())
    return guide


def family_of(q) -> str | None:
    r"""Returns the name of the Gaussian family of q, or `None` if q is not Gaussian."""
    if isinstance(q, MultivariateNormal):
        return "full_rank"
    return "mean_field" if distributions.diagonal(q) else None


def _family(guide, q) -> str:
    own = family_of(q)
    if own is not None:
        return own
    raise TypeError(
        f"q of {type(guide).__name__} is a {type(q).__name__}; expected a Gaussian, for whose family q* can be fitted: "
        "for others take log p(x) from evaluate.ais and F(q) from evaluate.elbo"
    )
