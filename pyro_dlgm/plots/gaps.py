r"""Pictures of the inference gap: bars from F(q) over F(q*) to log p(x), and each q over the exact posterior."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..distributions import diagonal
from ..evaluate.quiet import quiet
from ..latents.asked import log_joint, prior
from ..points import Points
from .palette import REFERENCE, colour

PIECES = ("amortization", "approximation")
WIDE, CELLS, RESOLVED = 5.0, 161, 1e-3  # the grid of two latents, and the share of the peak where it may end
LEVELS = (1.0, 2.0)  # standard deviations of the ellipses


def bars(found: dict[str, dict]) -> Figure:
    r"""Draws a bar for each method, from F(q) over F(q*) to log p(x), in nats per point.

    Arguments:
        found: by name, the `summary` of what `evaluate.gaps` returned.
    """
    figure = Figure(figsize=(9.5, 0.9 + 0.5 * len(found)), layout="constrained")
    axis = figure.subplots()
    for place, gaps in enumerate(found.values()):
        left = gaps["reached"]["mean"]
        for number, name in enumerate(PIECES):
            # A gap can be a little below zero, by Monte Carlo error: it is drawn as it is.
            axis.barh(place, gaps[name]["mean"], left=left, color=colour(number), height=0.6)
            left += gaps[name]["mean"]
        above = _above(gaps)
        axis.errorbar(left, place, xerr=[[0.0], [above]], fmt="|", color=REFERENCE, capsize=4, markersize=18)
        total = round(gaps["total"]["mean"], 2) + 0.0  # zero has no sign
        axis.annotate(f"{total:.2f}", (left + above, place), (6, 0), textcoords="offset points", va="center")
    for number, name in enumerate(PIECES):
        axis.barh(0, 0, color=colour(number), label=f"{name} gap")
    low = min(gaps["reached"]["mean"] for gaps in found.values())
    high = max(gaps["log_px"]["mean"] + _above(gaps) for gaps in found.values())
    axis.set_xlim(low - 0.05 * (high - low) - 1e-3, high + 0.15 * (high - low) + 1e-3)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set_xlabel("nats per point: from F(q) on the left to log p(x) on the right")
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


def _above(gaps: dict) -> float:
    r"""What BDMC allows log p(x) above its estimate, in nats; nothing below."""
    return max(0.0, gaps.get("bdmc", {}).get("gap", 0.0))


def posteriors(model, qs: dict[str, torch.distributions.Distribution], x: Tensor | Points) -> Figure:
    r"""Draws, for two latents, the exact posterior of each point on a grid, with every q over it.

    Arguments:
        model: a `DLGM` with two latents.
        qs: Gaussian q of batch shape (B,) by name; drawn at one and two standard deviations.
        x: data (B, ...), or `Points`.

    Raises:
        ValueError: unless there are two latents.
    """
    points = Points.of(x)
    shape = prior(model, points[:1]).event_shape
    if shape != (2,):
        raise ValueError(f"the prior has event shape {tuple(shape)}; expected two latents, (2,)")
    figure = Figure(figsize=(2.6 * len(points), 3.2), layout="constrained")
    axes = figure.subplots(1, len(points), squeeze=False)[0]
    for point, axis in enumerate(axes):
        corners, density = posterior_on_grid(model, points[point : point + 1])
        (left, right), (low, high) = corners.tolist()
        axis.imshow(density.T, origin="lower", extent=(left, right, low, high), cmap="Greys", aspect="auto")
        for number, (name, q) in enumerate(qs.items()):
            for level in LEVELS:
                label = name if point == 0 and level == LEVELS[0] else None
                axis.plot(*_ellipse(q, point, level).T, color=colour(number), linewidth=1.2, label=label)
        axis.set(xlabel="$t_0$", xlim=(left, right), ylim=(low, high), title=f"point {point}")
    axes[0].set_ylabel("$t_1$")
    figure.legend(loc="outside lower center", ncols=len(qs), fontsize=8, frameon=False)
    return figure


def posterior_on_grid(model, points: Tensor | Points) -> tuple[Tensor, Tensor]:
    r"""Returns the posterior of one point on a square grid that is zoomed in to where it is.

    Returns:
        The corners ((left, right), (low, high)), (2, 2), and the density there, (n, n), its peak 1.
    """
    points = Points.of(points)
    x = points.x
    corners = torch.tensor([[-WIDE, WIDE], [-WIDE, WIDE]]).to(x)
    with quiet(model):
        for _ in range(3):
            axes = [torch.linspace(float(a), float(b), CELLS).to(x) for a, b in corners]
            t = torch.cartesian_prod(*axes).unflatten(0, (CELLS, CELLS))
            log_p = torch.stack([log_joint(model, points, row.unsqueeze(1)).squeeze(1) for row in t])
            density = (log_p - log_p.max()).exp()
            there = (density > RESOLVED).nonzero()
            cell = (corners[:, 1] - corners[:, 0]) / (CELLS - 1)
            near = torch.stack([there.amin(0) - 2, there.amax(0) + 2], 1).to(x)
            shown, corners = corners, corners[:, :1] + near * cell.unsqueeze(1)
    return shown.cpu(), density.cpu()


def _ellipse(q, point: int, level: float) -> Tensor:
    r"""The curve on which a Gaussian is that many standard deviations from its mean, (n, 2)."""
    angle = torch.linspace(0, 2 * math.pi, 100)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    L = q.stddev.diag_embed() if diagonal(q) else q.scale_tril
    return (q.mean[point].cpu() + level * circle @ L[point].cpu().float().mT).detach()
