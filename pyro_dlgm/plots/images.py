r"""Images side by side: strips, grids, sprites, and traversals of the latents."""

import base64
import io
import math

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..evaluate.snapshot import REACH, Snapshot

Strips = list[tuple[str, Tensor | None]]  # names and images (n, C, H, W)


def traversals(pair: Snapshot, num: int, steps: int = 7) -> Strips:
    r"""Returns a strip for each of the most used latents, from −3 to 3 deviations of the prior, named by its nats.

    Latents are counted from 0, as the dimensions of t are.
    """
    most, images = pair.traversals(num, steps)
    nats, kind = pair.nats(), "KL " if pair.has_density else ""
    return [(f"t{j}, {kind}{float(nats[j]):.2f} nats", x) for j, x in zip(most, images, strict=True)]


def traversal_figure(pair: Snapshot, num: int) -> Figure:
    r"""Draws the `traversals`, one below the other."""
    strips = traversals(pair, num)
    figure = Figure(figsize=(4.8, 0.3 + 0.6 * len(strips)), layout="constrained")
    figure.suptitle(f"one latent from −{REACH:g} to {REACH:g} sd of the prior, the others as in point 0", size=9)
    draw_strips(figure, strips)
    return figure


def draw_strips(figure, strips: Strips) -> None:
    r"""Draws strips of images below each other, each with its name on the left."""
    axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for axis, (name, images) in zip(axes, strips, strict=True):
        # On the left, where the layout leaves room for the name: a strip may be narrower than its axes.
        axis.set(xticks=[], yticks=[], anchor="W")
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        if images is not None:
            axis.imshow(strip(images).permute(1, 2, 0).numpy(), interpolation="nearest")


def strip(images: Tensor) -> Tensor:
    r"""Joins images (n, C, H, W) with one clear pixel between them: (4, H, n (W + 1) − 1), the last channel alpha."""
    shown = inked(images).expand(-1, 3, -1, -1)
    padded = pad(torch.cat([shown, torch.ones_like(shown[:, :1])], 1), (0, 1))
    return padded.permute(1, 2, 0, 3).flatten(2)[..., :-1]


def inked(images: Tensor) -> Tensor:
    r"""Returns images (n, C, H, W) in [0, 1], on the CPU; of one channel, ink is dark on white."""
    shown = images.detach().float().cpu().clamp(0, 1)
    return 1 - shown if shown.shape[1] == 1 else shown


def grid(images: Tensor, zoom: int = 1, columns: int | None = None) -> Tensor:
    r"""Joins images (n, C, H, W) with values in [0, 1] to one, (3, height, width), ink dark on white.

    Arguments:
        images: the images.
        zoom: pixels for each pixel, along both sides.
        columns: how many in a row; by default it becomes about square.
    """
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    shown = inked(images).expand(-1, 3, -1, -1).repeat_interleave(zoom, -1).repeat_interleave(zoom, -2)
    tiles = pad(shown, (zoom, 0, zoom, 0), value=GREY)  # a border on the left of and above each
    tiles = torch.cat([tiles, tiles.new_full((-len(tiles) % columns, *tiles.shape[1:]), GREY)])
    # (rows * columns, 3, h, w) -> (3, rows * h, columns * w)
    joined = tiles.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
    return pad(joined, (0, zoom, 0, zoom), value=GREY)


GREY = 0.85  # between the images of a grid


def squares(images: Tensor, largest: int) -> Tensor:
    r"""Puts images (n, C, H, W) into white squares with a side of at most ``largest``, as TensorBoard's sprites."""
    shown = inked(images)
    side = max(shown.shape[-2:])
    below, beside = side - shown.shape[-2], side - shown.shape[-1]
    shown = pad(shown, (0, beside, 0, below), value=1.0)
    return shown if side <= largest else interpolate(shown, largest, mode="area")


def as_pil(image: Tensor) -> Image.Image:
    r"""Turns an image (3 or 4, H, W), the fourth channel alpha, with values in [0, 1], into one of PIL."""
    return Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy())


def source(image: Tensor) -> str:
    r"""Encodes an image (3 or 4, H, W) with values in [0, 1] as the ``src`` of an ``img``."""
    with io.BytesIO() as file:
        as_pil(image).save(file, format="png", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def captioned(image: Image.Image, text: str) -> Image.Image:
    r"""Puts an image of PIL above its caption, broken into lines that fit; the image itself stays as it is."""
    font = ImageFont.load_default()
    lines, height = [""], font.getbbox("Ag")[3] + 3
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= image.width - 8 else [*lines, word]
    whole = Image.new("RGB", (image.width, image.height + height * len(lines) + 8), "white")
    whole.paste(image)
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        draw.text((4, image.height + 4 + height * number), line, fill="black", font=font)
    return whole
