r"""Log-weights of any pair of Pyro programs, from their traces: for guides that do not say their posterior."""

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor


def traced_log_weights(model, guide, x: Tensor, index, num_samples: int, mask, with_q: bool = True) -> Tensor:
    r"""Unscaled log-weights (K, B) of the programs; auxiliary sites of the guide are summed.

    Arguments as in `bounds.log_weights`.

    Raises:
        ValueError: if a site has no log-weight for each point: a latent outside the plate over data.
    """
    with pyro.plate("samples", num_samples, dim=-2):
        guide_trace = poutine.trace(guide).get_trace(x, index, mask=mask)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x, index, mask=mask)
    total = x.new_zeros(num_samples, len(x))
    for trace, sign in ((model_trace, 1), (guide_trace, -1 if with_q else 0)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if _has_density(site):
                total = total + sign * _per_point(name, site, len(x))
    return total


def _has_density(site: dict) -> bool:
    if site["type"] != "sample" or poutine.util.site_is_subsample(site):
        return False
    return not site["infer"].get("_deterministic")


def _per_point(name: str, site: dict, batch: int) -> Tensor:
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    frames = [f for f in site["cond_indep_stack"] if f.dim == -1]
    if not frames or log_prob.dim() > 2 or log_prob.shape[-1:] != torch.Size([batch]):
        raise ValueError(
            f"site {name!r} has no log-density for each point (shape {tuple(log_prob.shape)}, {batch} points): it is "
            "outside the plate over data at dim=-1, so its weight belongs to no point. Condition on it, or block it"
        )
    return log_prob
