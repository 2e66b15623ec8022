r"""Pictures of a comparison: learning curves, reconstructions and samples on one sheet."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from .evaluate.predict import reconstruct
from .seeding import forked
from .table import Row

SHOWN = 10


def sheet(rows: list[Row], x: Tensor, seed: int = 0) -> Figure:
    r"""One sheet: the training objective against the budget on top, then for each row reconstructions and samples.

    Arguments:
        rows: of `compare.rows`, with their pairs.
        x: test images (M, C, H, W).
        seed: of the samples; the same for all rows.
    """
    shown = [row for row in rows if row.pair is not None]
    figure = Figure(figsize=(11, 3.4 + 0.56 * (len(shown) + 1)), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=[3.4, 0.56 * (len(shown) + 1)])
    _curves(top.subplots(), rows)
    left, right = below.subfigures(1, 2)
    left.suptitle("test images, and their reconstructions at the mean of q", fontsize=9)
    right.suptitle("samples from the prior (the mean of x given t)", fontsize=9)
    _strips(left, [("test", x[:SHOWN])] + [(_name(r), _reconstructions(r, x[:SHOWN])) for r in shown])
    _strips(right, [("", None)] + [(_name(r), _samples(r, x.shape[1:], seed)) for r in shown])
    return figure


def _name(row: Row) -> str:
    return row.model if row.guide == "Exact" else row.guide


def _curves(axis, rows: list[Row]) -> None:
    for row in rows:
        if not row.history:
            axis.axhline(row.test_elbo, color="0.5", linestyle=":", label=f"{row.model}: exact log p(x), test")
            continue
        name = "elbo" if "elbo" in row.history[-1] else "log_joint"
        style = {"linestyle": "-"} if name == "elbo" else {"linestyle": "--"}
        note = "" if name == "elbo" else " (log p(x, t), no bound)"
        axis.plot(
            [h["gradients_per_point"] for h in row.history],
            [h[name] for h in row.history],
            label=row.guide + note,
            **style,
        )
    axis.set_xlabel("gradient evaluations per training point")
    axis.set_ylabel("training ELBO, nats per point")
    last = [h.get("elbo", h.get("log_joint")) for row in rows for h in row.history[len(row.history) // 20 :]]
    if last:
        axis.set_ylim(min(last), max(last) + 0.05 * (max(last) - min(last)) + 1e-9)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")


def _strips(figure, strips: list[tuple[str, Tensor | None]]) -> None:
    axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for axis, (name, images) in zip(axes, strips, strict=True):
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        if images is not None:
            axis.imshow(strip(images), cmap="gray_r" if images.shape[1] == 1 else None, vmin=0, vmax=1)


def strip(images: Tensor) -> Tensor:
    r"""Images (n, C, H, W) side by side with one pixel between, as (H, n (W + 1) − 1) or (H, n (W + 1) − 1, 3)."""
    padded = torch.nn.functional.pad(images.detach().float().cpu().clamp(0, 1), (0, 1))
    row = padded.permute(2, 0, 3, 1).flatten(1, 2)[:, :-1]
    return row.squeeze(-1)


@torch.no_grad()
def _reconstructions(row: Row, x: Tensor) -> Tensor:
    model, guide = row.pair
    if guide is None:
        flat = x.flatten(1).double()
        return model.likelihood(model.posterior(flat).mean).mean.reshape(x.shape)
    return reconstruct(model, guide, x, torch.arange(len(x), device=x.device))


@torch.no_grad()
def _samples(row: Row, image_shape, seed: int) -> Tensor:
    model = row.pair[0]
    with forked(seed):
        t = model.prior().sample((SHOWN,))
    return model.likelihood(t).mean.reshape(SHOWN, *image_shape)


def grid(images: Tensor, zoom: int = 1) -> Tensor:
    r"""Images (n, C, H, W) with values in [0, 1] as one, about square: (3, height, width), ink dark on white."""
    shown = images.detach().float().cpu().clamp(0, 1)
    shown = 1 - shown if shown.shape[1] == 1 else shown
    shown = shown.repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    return make_grid(shown, math.ceil(math.sqrt(len(shown))), padding=zoom, pad_value=0.85)
