r"""Predictions of a model: reconstructions, and simulated points."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pyro
import torch
from pyro import poutine
from torch import Tensor

from .. import messages
from ..distributions import averaged, draws, guess, mean, unwrapped
from ..guides.programs.given import given_globals
from ..latents.asked import emission, posterior
from ..latents.local import LocalModel
from ..likelihoods.base import Conditional
from ..objectives.sites import is_drawn
from ..points import Points, dealt, side
from .blocks import blocks, check_points, check_posterior
from .quiet import quiet


def reconstruct(
    model,
    guide,
    x: Tensor,
    index: Tensor | None = None,
    num_samples: int | None = None,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    r"""Returns the mean of p(x | t, w) at the mean of q, or averaged over samples of q, in x's shape.

    Classes (`likelihoods.Categorical`) have no mean: for them it is the most probable class.

    Arguments:
        model: a `DLGM`.
        guide: a guide with a `posterior`.
        x: data (B, ...), or `Points`.
        index: which points these are (B,), for guides with a row for each.
        num_samples: the number of samples of q to average over; `None` takes the mean of q alone.
        mask: boolean, True where observed, of x's shape or (B,).
        given: what the points are conditioned on, (B, C).
        seed: seed of the samples.

    Raises:
        ValueError: if x, index, mask, given or the number of samples is invalid, or the likelihood has no mean.
        TypeError: if the guide has no `posterior`.
    """
    return predicted(model, guide, Points.of(x, index, mask=mask, given=given), num_samples, seed, emission)


def predicted(model, guide, points: Points, num_samples: int | None, seed: int | None, says: Callable) -> Tensor:
    r"""Returns the guess at x from ``says`` (`emission` or `completion`) for codes of q: see `reconstruct`."""
    model, guide = given_globals(model, guide)
    check_points(model, points)
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1 sample, or None for the mean of q")
    check_posterior(guide)
    K = num_samples or 1
    with quiet(model, guide, seed=seed):
        parts = []
        for block, counts in blocks(points, K):
            q = posterior(guide, block)
            codes = (mean(q).unsqueeze(0) if num_samples is None else draws(q, k, len(block)) for k in counts)
            parts.append(_guessed(model, block, codes, K, says))
        made = torch.cat(parts)
    if made.shape != points.x.shape:
        # A guide that ignores x would not notice the wrong shape.
        raise ValueError(
            f"x has shape {tuple(points.x.shape)}; expected {tuple(made.shape)}, the shape of the model: "
            + messages.reshaping("x", points.x.shape[1:], made.shape[1:], 1)
        )
    return made


def decoded(model, points: Points, t: Tensor) -> Tensor:
    r"""Returns the mean of p(x | t, w) for codes t (..., D) of the points, or that of draws if it has no closed form.

    Raises:
        ValueError: if there is no mean, as for a `Categorical` or a `Cauchy`.
    """
    p = emission(model, points, t)
    return _there(mean(p), model, p, len(t))


def _guessed(model, points: Points, codes: Iterable[Tensor], K: int, says: Callable) -> Tensor:
    r"""Returns the guess at x (B, ...), an average of p(x | t, w) over K codes, which come as (k, B, D)."""
    total = 0
    for t in codes:
        p = says(model, points, t)
        total = total + _there(averaged(p), model, p, len(t)).sum(0)
    return guess(p, total / K)


def _there(made: Tensor, model, p, batch: int) -> Tensor:
    if made.isnan().any() and not draws(p, 1, batch).isnan().any():
        name = type(getattr(model, "likelihood", model)).__name__
        raise ValueError(
            f"{name} returns a {type(unwrapped(p)).__name__}, which has no mean; expected a likelihood that has one: "
            "draw x with model.likelihood(t).sample() instead, for codes t of guide.posterior(x)"
        )
    return made


def simulated(model, num_points: int, mask: Tensor | None, given: Tensor | None) -> tuple[Points, Tensor]:
    r"""Draws t ~ p(t | c) and x ~ p(x | t, c) by `DLGM.datum`; returns M points, index 0..M−1, and codes (M, D).

    Arguments:
        model: a `DLGM`.
        num_points: the number M.
        mask: boolean, True where observed, of the points' shape or (M,).
        given: what p is conditioned on, (B, C); the simulated points take its rows in turn.

    Raises:
        ValueError: if the model observes another site than x, or samples another latent than t, or the mask does not
            fit.
    """
    if isinstance(model, LocalModel):
        return model.simulated(num_points, mask, given)
    rows = dealt(given, num_points)
    with model.global_latents(), pyro.plate(model.plate, num_points, dim=-1), poutine.trace() as tracer:
        x = model.datum(**side(rows))
    drawn = {name: site for name, site in tracer.trace.nodes.items() if is_drawn(site)}
    for name, site in drawn.items():
        if name not in (model.latent, model.observed) and not site["infer"].get("_deterministic"):
            kind = "observes" if site["is_observed"] else "samples"
            raise ValueError(
                f"the model {kind} {name!r} besides {model.observed!r}, so its points cannot be simulated; expected "
                f"{model.latent!r} and {model.observed!r} alone: leave out the simulation, num_simulated=0"
            )
    points = masked(model, Points(x.detach(), None, None, rows).numbered(), mask)
    points.check()
    return points, drawn[model.latent]["value"].detach()


def masked(model, points: Points, mask: Tensor | None) -> Points:
    r"""Returns simulated points with a mask, or with draws of p(m | x) if the likelihood says which values hide."""
    if mask is not None and isinstance(getattr(model, "likelihood", None), Conditional):
        mask = model.likelihood.drawn_mask(points.x, mask)
    return replace(points, mask=mask)
