r"""Log-weights of any pair of Pyro programs, from their traces: for guides without a `posterior`."""

import pyro
from pyro import poutine
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ..objectives.sites import check_latents, is_drawn, point_frame
from ..points import Points
from ..seeding import forked


def global_draws(model, guide, points: Points, num_samples: int) -> dict[str, Tensor]:
    r"""Draws the latents outside the plate over data, such as a Bayesian w, from the guide, by name: (K, 1, ...) each.

    Arguments:
        model, guide: Pyro programs.
        points: a block of points on which to run the programs.
        num_samples: the number K of draws.
    """
    with forked():
        names = _global_sites(_trace(model, points, 1))
        extra = _global_sites(_trace(guide, points, 1)) - names
    if not names:
        return {}
    trace = _trace(guide, points, num_samples)
    _check_auxiliary(trace, extra, len(points))
    return {name: trace.nodes[name]["value"] for name in names | extra if name in trace.nodes}


def _global_sites(trace) -> set[str]:
    sites = trace.nodes.items()
    return {
        name for name, site in sites if is_drawn(site) and not site["is_observed"] and point_frame(site, None) is None
    }


def _check_in_model(model_trace, guide_trace) -> None:
    for name, site in guide_trace.nodes.items():
        drawn = is_drawn(site) and not site["is_observed"] and not site["infer"].get("is_auxiliary")
        if drawn and model_trace.nodes.get(name, {"is_observed": True})["is_observed"]:
            raise ValueError(
                f"the guide samples {name!r}, which the model does not: so only its log q would count; expected the "
                f"latents of the model: hold it in both, poutine.condition(guide, data={{{name!r}: ...}})"
            )


def _check_auxiliary(trace, extra: set[str], batch: int) -> None:
    r"""Raises a `ValueError` if latents of points are functions of global auxiliary sites."""
    local = [site for site in trace.nodes.values() if is_drawn(site) and point_frame(site, None) is not None]
    fixed = sum(isinstance(site["fn"], Delta) for site in local)
    own = sum(bool(site["infer"].get("is_auxiliary")) for site in local)
    if extra and fixed > own:
        name = sorted(extra)[0]
        raise ValueError(_belongs_to_none(name, trace.nodes[name]["value"].shape, batch))


def traced_log_weights(model, guide, points: Points, num_samples: int, with_q: bool, held: dict[str, Tensor]) -> Tensor:
    r"""Returns unscaled log-weights (K, B), auxiliary sites of the guide included, or log p(x, t_k | w) without q.

    Arguments:
        held: draws of the global latents by name, (K, 1, ...) each, whose densities are left out.

    Raises:
        ValueError: if one program has a latent that the other does not sample (auxiliary ones excepted), or another
            site does not have a log-weight for each point.
    """
    guide_trace = _trace(poutine.condition(guide, data=held), points, num_samples)
    replayed = poutine.replay(poutine.condition(model, data=held), trace=guide_trace)
    model_trace = _trace(replayed, points, num_samples)
    check_latents(model_trace, guide_trace)
    _check_in_model(model_trace, guide_trace)
    total = points.x.new_zeros(num_samples, len(points))
    for trace, sign in ((model_trace, 1), (guide_trace, -1 if with_q else 0)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if is_drawn(site) and not site["infer"].get("_deterministic") and name not in held:
                total = total + sign * _per_point(name, site, len(points))
    return total


def _trace(program, points: Points, num_samples: int):
    with pyro.plate("samples", num_samples, dim=-2):
        return poutine.trace(program).get_trace(points.x, points.index, mask=points.mask, **points.side)


def _per_point(name: str, site: dict, batch: int) -> Tensor:
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    if point_frame(site, None) is None or log_prob.dim() > 2 or log_prob.shape[-1:] != (batch,):
        raise ValueError(_belongs_to_none(name, log_prob.shape, batch))
    return log_prob


def _belongs_to_none(name: str, shape, batch: int) -> str:
    return (
        f"site {name!r} has no log-density for each point (shape {tuple(shape)}, {batch} points): it is outside the "
        "plate over data at dim=-1, so its weight belongs to no point. Condition on it, or block it"
    )
