r"""Log-weights log p(x, t_k | w) − log q(t_k) of each point, from the traces of model and guide."""

from typing import NamedTuple

import torch
from pyro.distributions.util import is_validation_enabled, scale_and_mask
from torch import Tensor

from .sites import DRAWS, is_drawn, named, point_frame, summed


class Weights(NamedTuple):
    r"""The log-weights of K samples.

    Attributes:
        table: log w_k of each point, (K, B), unscaled, in nats.
        scale: the factor of each point, N/B times its weight: a number, or (B,).
        outside: the terms that belong to no point, log p(g) − log q(g) of global latents and factors outside the plate:
            a scalar, scaled.
    """

    table: Tensor
    scale: Tensor | float
    outside: Tensor | float


def log_weights(model_trace, guide_trace, plate: str | None, num: int) -> Weights:
    r"""Returns the log-weights: the log-densities of the sites of both traces, summed for each point.

    Arguments:
        model_trace, guide_trace: of programs with ``num`` samples of the latents of points.
        plate: the name of the plate over data; `None`: any plate at dimension −1.
        num: the number of samples.

    Raises:
        ValueError: if no site is in the plate, or sites of a point have different scales.
    """
    local, outer, scales = [], [], {}
    for trace, sign in ((model_trace, 1), (guide_trace, -1)):
        for name, site in trace.nodes.items():
            if not is_drawn(site) or site["infer"].get("_deterministic"):
                continue
            frame = point_frame(site, plate)
            if frame is None:
                outer.append(sign * scale_and_mask(_log_prob(site), scale=site["scale"]).sum())
            else:
                local.append(sign * of_points(site, frame, num))
                scales[name] = site["scale"]
    if not local:
        raise ValueError(f"no site is in {named(plate)}; expected a program with a plate over points: plate=its name")
    return Weights(sum(local), _common(scales), sum(outer))


def _log_prob(site: dict) -> Tensor:
    found = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(found, mask=site["mask"])


def of_points(site: dict, frame, num: int) -> Tensor:
    r"""Returns the log-density of a site, (K, B), unscaled, and summed over the axes of other plates.

    Arguments:
        site: of a trace.
        frame: that of the plate over data.
        num: the number K of samples, along the axis of a plate `DRAWS`.
    """
    frames = site["cond_indep_stack"]
    others = [f.dim for f in frames if f.vectorized and f.dim != frame.dim and f.name != DRAWS]
    return summed(_log_prob(site), others).reshape(num, frame.size)


def _common(scales: dict[str, Tensor | float]) -> Tensor | float:
    r"""Returns the common scale of all sites of a point; tensors are compared only if Pyro's validation is on."""
    (first, scale), *others = scales.items()
    for name, other in others:
        if not _equal(scale, other):
            raise ValueError(
                f"{name!r} has another scale than {first!r}; expected one for all sites of a point, since inside "
                "log-mean-exp a factor of single sites (poutine.scale, Tempered, a subsampled plate within that of "
                "the points) leaves no bound: scale model and guide as a whole, or use objectives.ELBO(beta=)"
            )
    return scale.reshape(-1) if isinstance(scale, Tensor) else scale


def _equal(one: Tensor | float, other: Tensor | float) -> bool:
    tensors = isinstance(one, Tensor), isinstance(other, Tensor)
    if not any(tensors):
        return one == other
    return not is_validation_enabled() or bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
