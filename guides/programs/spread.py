r"""Samples the sites of a program at the values given by one vector u per point."""

import contextlib

import pyro
import pyro.distributions as dist
from torch import Tensor

from ...latents.layout import Layout


def spread(layout: Layout, u: Tensor, plates: dict) -> dict[str, Tensor]:
    r"""Samples each site at its part of u, with the density q(u) transforms to: log q(z) = log q(u) − log |det ∂z/∂u|.

    Arguments:
        layout: the order of the sites in u.
        u: (..., D), with the axes of the open plates, those of particles on the left.
        plates: the other plates of the sites, by name.
    """
    lead = u.shape[: max(0, u.dim() - 1 - layout.depth)]
    values, jacobians = layout.values(u.reshape(*((lead.numel(),) if lead else ()), -1, u.shape[-1]))
    for site in layout.sites:
        value, jacobian = (v[site.name].unflatten(0, lead) if lead else v[site.name] for v in (values, jacobians))
        with contextlib.ExitStack() as stack:
            for frame in site.others:
                stack.enter_context(plates[frame.name])
            fn = dist.Delta(value, log_density=-jacobian, event_dim=len(site.event_shape))
            values[site.name] = pyro.sample(site.name, fn)
    return values
