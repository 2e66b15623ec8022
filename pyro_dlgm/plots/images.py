r"""Pictures: images side by side, and the sheet of a comparison."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from ..comparison.table import Row
from ..evaluate.latents import REACH
from ..evaluate.snapshot import Look
from ..guides.exact import Exact
from .curves import curves

SHOWN = 10


def look(row: Row, x: Tensor, labels: Tensor | None = None) -> Look:
    r"""A look at a row of `compare.rows` through test points."""
    model, guide = row.pair
    return Look(model, Exact(model) if guide is None else guide, x, labels=labels)


def called(row: Row) -> str:
    r"""What a row is called: by its guide, or by its model where the guide is exact."""
    return row.model if row.guide == "Exact" else row.guide


def histories(rows: list[Row]) -> dict[str, list[dict]]:
    r"""The records of `fit`, by the rows' names."""
    return {called(row): row.history for row in rows if row.history}


def levels(rows: list[Row]) -> dict[str, float]:
    r"""The test scores of the rows that were not trained step by step, by what they are."""
    return {f"{row.model}: exact log p(x), test": row.test_elbo for row in rows if not row.history}


def sheet(rows: list[Row], x: Tensor, seed: int = 0) -> Figure:
    r"""One sheet: the training objective against the budget on top, then for each row reconstructions and samples.

    Points that are no images have the upper part only.

    Arguments:
        rows: of `compare.rows`, with their pairs.
        x: test points (M, C, H, W) or (M, ...).
        seed: of the samples; the same for all rows.
    """
    looks = {called(row): look(row, x[:SHOWN]) for row in rows if row.pair is not None}
    if not any(look.image_shape for look in looks.values()):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        curves(figure, histories(rows), levels(rows))
        return figure
    height = 0.56 * (len(looks) + 1)
    figure = Figure(figsize=(11, 3.6 + height), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=[3.6, height])
    curves(top, histories(rows), levels(rows))
    left, right = below.subfigures(1, 2)
    left.suptitle("test images, and their reconstructions at the mean of q", fontsize=9)
    right.suptitle("samples: the mean of p(x | t) for t from the prior", fontsize=9)
    _strips(left, [("test", x[:SHOWN])] + [(name, seen.reconstructions(SHOWN)) for name, seen in looks.items()])
    _strips(right, [("", None)] + [(name, seen.samples(SHOWN, seed)) for name, seen in looks.items()])
    return figure


def walk(look: Look, num: int, steps: int = 7) -> Figure:
    r"""The most used latents of a look, each from −3 to 3 deviations of the prior, a strip each."""
    most, images = look.traversals(num, steps)
    nats, kind = look.use(), "KL " if look.has_density else ""
    figure = Figure(figsize=(4.4, 0.3 + 0.5 * len(most)), layout="constrained")
    figure.suptitle(f"one latent from −{REACH:g} to {REACH:g}, the others as in point 0", size=9)
    _strips(figure, [(f"t{j + 1}, {kind}{float(nats[j]):.2f} nats", x) for j, x in zip(most, images, strict=True)])
    return figure


def _strips(figure, strips: list[tuple[str, Tensor | None]]) -> None:
    axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for axis, (name, images) in zip(axes, strips, strict=True):
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        if images is not None:
            axis.imshow(strip(images).permute(1, 2, 0).numpy(), interpolation="nearest")


def strip(images: Tensor) -> Tensor:
    r"""Images (n, C, H, W) side by side with one clear pixel between, as (4, H, n (W + 1) − 1), the last one alpha."""
    shown = inked(images).expand(-1, 3, -1, -1)
    padded = torch.nn.functional.pad(torch.cat([shown, torch.ones_like(shown[:, :1])], 1), (0, 1))
    return padded.permute(1, 2, 0, 3).flatten(2)[..., :-1]


def inked(images: Tensor) -> Tensor:
    r"""Images (n, C, H, W) in [0, 1], on the CPU; of one channel, ink is dark on white."""
    shown = images.detach().float().cpu().clamp(0, 1)
    return 1 - shown if shown.shape[1] == 1 else shown


def grid(images: Tensor, zoom: int = 1, columns: int | None = None) -> Tensor:
    r"""Images (n, C, H, W) with values in [0, 1] as one, (3, height, width), ink dark on white.

    Arguments:
        images: the images.
        zoom: pixels for each pixel, along both sides.
        columns: how many in a row; by default it becomes about square.
    """
    shown = inked(images).repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    return make_grid(shown, columns or math.ceil(math.sqrt(len(shown))), padding=zoom, pad_value=0.85)


def squares(images: Tensor, largest: int) -> Tensor:
    r"""Images (n, C, H, W) in white squares with a side of at most ``largest``, as TensorBoard's sprites have to be."""
    shown = inked(images)
    side = max(shown.shape[-2:])
    below, beside = side - shown.shape[-2], side - shown.shape[-1]
    shown = torch.nn.functional.pad(shown, (0, beside, 0, below), value=1.0)
    return shown if side <= largest else torch.nn.functional.interpolate(shown, largest, mode="area")
