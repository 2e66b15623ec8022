r"""The layout of a point's latents: sites concatenated to one unconstrained vector u, with their log-Jacobians.

The value of site s is T_s(u_s), and

    log p(u) = Σ_s [ log p(T_s(u_s)) + log |det ∂T_s / ∂u_s| ] .
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .sites import Site
from .support import is_identity


@dataclass(frozen=True)
class Layout:
    r"""The order of the sites in u.

    Attributes:
        sites: the sites of a point.
        dim: the dimension of the plate over points, negative.
        depth: the number of axes that all plates take.
    """

    sites: tuple[Site, ...]
    dim: int
    depth: int

    @property
    def width(self) -> int:
        r"""The number D of unconstrained numbers per point."""
        return sum(site.width for site in self.sites)

    @property
    def names(self) -> tuple[str, ...]:
        r"""The names of the sites."""
        return tuple(site.name for site in self.sites)

    @property
    def is_one_vector(self) -> bool:
        r"""Whether u is the value of the only latent, a vector of real numbers."""
        first = self.sites[0]
        plain = len(self.sites) == 1 and len(first.event_shape) == 1 and not first.others and self.dim == -1
        return plain and is_identity(first.transform)

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        r"""Returns constrained values and log-Jacobians by site, with the axes of the program.

        Arguments:
            u: (B, D), or (S, B, D) for samples, whose axis is to the left of all plates.
        """
        values, jacobians = {}, {}
        for site, part in zip(self.sites, u.split([site.width for site in self.sites], -1), strict=True):
            free = part.reshape(*part.shape[:-1], *site.inner_shape)
            value = site.transform(free)
            jacobian = site.transform.log_abs_det_jacobian(free, value)
            values[site.name] = self._placed(value, site, len(u.shape) - 2)
            jacobians[site.name] = self._placed(jacobian, site, len(u.shape) - 2)
        return values, jacobians

    def vector(self, values: dict[str, Tensor]) -> Tensor:
        r"""Returns u, (B, D) or (S, B, D), for constrained values with the axes of the program."""
        parts = []
        for site in self.sites:
            value = self._taken(values[site.name], site)
            free = site.transform.inv(value)
            parts.append(free.flatten(free.dim() - len(site.inner_shape)) if site.inner_shape else free.unsqueeze(-1))
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)

    def _axes(self, site: Site) -> list[int]:
        r"""Returns the dimensions of the plates of a site, that of the points first."""
        return [self.dim, *(f.dim for f in site.others)]

    def _placed(self, value: Tensor, site: Site, lead: int) -> Tensor:
        r"""Reshapes (S?, B, others..., event...) -> (S?, axes of all plates..., event...); unused axes have size 1."""
        dims = self._axes(site)
        depth = self.depth if lead else max(-d for d in dims)
        event = value.shape[lead + len(dims) :]
        order = sorted(range(len(dims)), key=lambda k: dims[k])
        moved = value.permute(*range(lead), *(lead + k for k in order), *range(lead + len(dims), value.dim()))
        sizes = {dims[k]: value.shape[lead + k] for k in range(len(dims))}
        return moved.reshape(*value.shape[:lead], *(sizes.get(d, 1) for d in range(-depth, 0)), *event)

    def _taken(self, value: Tensor, site: Site) -> Tensor:
        r"""Inverts `_placed`."""
        dims, events = self._axes(site), len(site.event_shape)
        batch = value.dim() - events
        lead = list(range(batch - self.depth))
        axes = [batch + d for d in dims]
        rest = [a for a in range(len(lead), batch) if a not in axes]  # of size 1
        moved = value.permute(*lead, *axes, *rest, *range(batch, value.dim()))
        return moved.reshape(*moved.shape[: len(lead) + len(axes)], *site.event_shape)
