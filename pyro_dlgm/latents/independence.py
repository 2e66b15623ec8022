r"""Checks that points are independent given the globals: no density of one depends on the latents of another."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..points import Points


def check(local, points: Points) -> None:
    r"""Raises a `ValueError` if the log-density of a point, or of a global site, changes with another point's latents.

    Arguments:
        local: a `LocalModel` with values of its globals.
        points: some points; with a single one there is no check.
    """
    if len(points) < 2:
        return
    with torch.no_grad():
        u = torch.randn(2, len(points), local.latent_dim, device=points.x.device, dtype=local.seen.dtype)
        first = local.log_joint(points, u[0])
        for moved in _parts(len(points), u.device):
            second = local.log_joint(points, torch.where(moved.unsqueeze(-1), u[1], u[0]))
            if not close(first[~moved], second[~moved]):
                raise ValueError(_dependent(local.plate, "the log-density of a point"))
        outside = [_outside(local, points, each) for each in u]
    for name in outside[0]:
        if not close(outside[0][name], outside[1][name]):
            raise ValueError(_dependent(local.plate, f"site {name!r}, outside of that plate,"))


def _parts(num: int, device) -> Iterator[Tensor]:
    r"""Yields booleans (B,) that separate any two points, in both directions."""
    rows = torch.arange(num, device=device)
    for bit in range((num - 1).bit_length()):
        part = (rows >> bit) % 2 == 1
        yield from (part, ~part)


def _outside(local, points: Points, u: Tensor) -> dict[str, Tensor]:
    r"""Returns the log-densities of the sites outside the plate."""
    trace = local._run(points, local.named(u), enumerated=local.seen.discrete)
    sites = [s for s in trace.nodes.values() if s["type"] == "sample" and not s["infer"].get("_deterministic")]
    outside = [s for s in sites if all(f.name != local.plate for f in s["cond_indep_stack"])]
    return {s["name"]: s["fn"].log_prob(s["value"]) for s in outside if s["name"] != local.plate}


def close(one: Tensor, two: Tensor) -> bool:
    r"""Returns whether log-densities are equal up to rounding."""
    if one.shape != two.shape:
        return False
    tol = torch.finfo(one.dtype).eps ** 0.5 if one.is_floating_point() else 0
    return torch.allclose(one, two, rtol=tol, atol=tol, equal_nan=True)


def _dependent(plate: str, what: str) -> str:
    return (
        f"{what} depends on the latents of other points in the plate {plate!r}; expected points that are independent "
        "given the global latents: draw what they share outside of the plate"
    )
