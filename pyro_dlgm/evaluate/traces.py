r"""Log-weights of any pair of Pyro programs, from their traces: for guides without a `posterior`."""

from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor

from ..objectives.log_weights import of_points
from ..objectives.sites import DRAWS, check_latents, check_plates, is_drawn, named, plate_of, point_frame
from ..points import Points
from ..seeding import forked


@dataclass(frozen=True)
class Traced:
    r"""Creates a pair of Pyro programs with draws of the latents outside the plate over data, such as a Bayesian w.

    Attributes:
        model, guide: Pyro programs.
        plate: the name of the plate over data; `None`: any plate at dimension −1.
        depth: the number of dimensions that the plates of the programs take.
        held: draws of the global latents by name, (K, 1, ..., 1, *shape) each.
    """

    model: object
    guide: object
    plate: str | None
    depth: int
    held: dict[str, Tensor]

    @classmethod
    def of(cls, model, guide, points: Points, num_samples: int) -> "Traced":
        r"""Creates the pair, and draws K = ``num_samples`` of the global latents from the guide, for all points.

        Raises:
            ValueError: if latents of points are functions of a global auxiliary site.
        """
        plate = plate_of(poutine.unwrap(model), poutine.unwrap(guide))
        with forked():
            looks = [poutine.trace(program).get_trace(*_of(points), **_keywords(points)) for program in (model, guide)]
        found = cls(model, guide, plate, max(map(_depth, looks)), {})
        names, extra = (_global_sites(look, plate) for look in looks)
        if not names:
            return found
        trace = found.trace(guide, points, num_samples)
        _check_auxiliary(trace, extra - names, plate, len(points))
        held = {name: trace.nodes[name]["value"] for name in names | extra if name in trace.nodes}
        return cls(model, guide, plate, found.depth, held)

    def log_weights(self, points: Points, samples: slice, with_q: bool) -> Tensor:
        r"""Returns unscaled log-weights (K, B), auxiliary sites of the guide included, or log p(x, t_k | w) without q.

        Arguments:
            points: the B points.
            samples: which of the samples; the densities of their global latents are left out.
            with_q: whether log q is subtracted.

        Raises:
            ValueError: if one program has a latent that the other does not sample (auxiliary ones excepted), or not in
                the plate over data, or another site does not have a log-weight for each point.
        """
        num, held = samples.stop - samples.start, {name: value[samples] for name, value in self.held.items()}
        guide_trace = self.trace(poutine.condition(self.guide, data=held), points, num)
        replayed = poutine.replay(poutine.condition(self.model, data=held), trace=guide_trace)
        model_trace = self.trace(replayed, points, num)
        check_latents(model_trace, guide_trace)
        check_plates(model_trace, guide_trace, self.plate)
        _check_in_model(model_trace, guide_trace)
        total = points.x.new_zeros(num, len(points))
        for trace, sign in ((model_trace, 1), (guide_trace, -1 if with_q else 0)):
            for name, site in trace.nodes.items():
                if is_drawn(site) and not site["infer"].get("_deterministic") and name not in held:
                    total = total + sign * self._per_point(name, site, num, len(points))
        return total

    def trace(self, program, points: Points, num_samples: int):
        r"""Returns the trace of a program with that number of samples, along an axis to the left of its plates."""
        with pyro.plate(DRAWS, num_samples, dim=-1 - self.depth):
            return poutine.trace(program).get_trace(*_of(points), **_keywords(points))

    def _per_point(self, name: str, site: dict, num: int, batch: int) -> Tensor:
        frame, shape = point_frame(site, self.plate), site["fn"].batch_shape
        if frame is None or frame.size != batch or len(shape) > 1 + self.depth:
            raise ValueError(_belongs_to_none(name, shape, batch, self.plate))
        return of_points(site, frame, num)


def _of(points: Points) -> tuple:
    return points.x, points.index


def _keywords(points: Points) -> dict:
    return {"mask": points.mask} | points.side


def _depth(trace) -> int:
    frames = [f for site in trace.nodes.values() if is_drawn(site) for f in site["cond_indep_stack"]]
    return max([1, *(-f.dim for f in frames if f.vectorized)])


def _global_sites(trace, plate: str | None) -> set[str]:
    sites = trace.nodes.items()
    return {
        name for name, site in sites if is_drawn(site) and not site["is_observed"] and point_frame(site, plate) is None
    }


def _check_in_model(model_trace, guide_trace) -> None:
    for name, site in guide_trace.nodes.items():
        drawn = is_drawn(site) and not site["is_observed"] and not site["infer"].get("is_auxiliary")
        if drawn and model_trace.nodes.get(name, {"is_observed": True})["is_observed"]:
            raise ValueError(
                f"the guide samples {name!r}, which the model does not: so only its log q would count; expected the "
                f"latents of the model: hold it in both, poutine.condition(guide, data={{{name!r}: ...}})"
            )


def _check_auxiliary(trace, extra: set[str], plate: str | None, batch: int) -> None:
    r"""Raises a `ValueError` if latents of points are functions of global auxiliary sites."""
    local = [site for site in trace.nodes.values() if is_drawn(site) and point_frame(site, plate) is not None]
    fixed = sum(isinstance(site["fn"], Delta) for site in local)
    own = sum(bool(site["infer"].get("is_auxiliary")) for site in local)
    if extra and fixed > own:
        name = sorted(extra)[0]
        raise ValueError(_belongs_to_none(name, trace.nodes[name]["value"].shape, batch, plate))


def _belongs_to_none(name: str, shape: torch.Size, batch: int, plate: str | None) -> str:
    return (
        f"site {name!r} has no log-density for each point (shape {tuple(shape)}, {batch} points): it is outside "
        f"{named(plate)}, the one over data, so its weight belongs to no point. Condition on it, or block it"
    )
