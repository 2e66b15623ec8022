r"""Figures: learning curves and codes in the plane, and any figure as SVG that is legible in light and in dark."""

import base64
import html
import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..evaluate.latents import Plane

BOUNDS = {"elbo": "ELBO, nats per point", "log_joint": "log p(x, t), no bound; nats per point"}
TAIL = 0.05  # of the records are left out when the scale is chosen: the first steps climb far
NAMED = 20  # as many labels have their name in the plane
INK = "#010203"  # stands for the colour of the page's text
SERIES = [f"#0102{n:02x}" for n in range(16, 26)]  # stand for the colours of the page's series


def curves(figure, histories: dict[str, list[dict]], levels: dict[str, float]) -> None:
    r"""Learning curves: one panel for bounds and one for what is none; dashed on validation points.

    Arguments:
        figure: to draw on.
        histories: the records of `fit`, by name.
        levels: horizontal lines among the bounds, by name.
    """
    kinds = [kind for kind in BOUNDS if any(_curve(h, kind)[0] for h in histories.values())] or ["elbo"]
    for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for number, (name, history) in enumerate(histories.items()):
            for of, style in (("", "-"), ("val_", "--")):
                at, values = _curve(history, of + kind)
                label = f"{name}, validation" if of else name
                marker = "o" if len(at) == 1 else None
                if at:
                    axis.plot(at, values, style, color=f"C{number}", marker=marker, markersize=3, label=label)
        for label, level in levels.items() if kind == "elbo" else ():
            axis.axhline(level, color="0.5", linestyle=":", label=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel="gradient evaluations per training point", ylabel=BOUNDS[kind])
        _scale(axis)
        axis.grid(alpha=0.15)
        axis.legend(fontsize=8, loc="lower right")


def _curve(history: list[dict], name: str) -> tuple[list[float], list[float]]:
    seen = [h for h in history if h.get(name) is not None]
    return [h["gradients_per_point"] for h in seen], [h[name] for h in seen]


def _scale(axis) -> None:
    values = [y for line in axis.lines for y in list(line.get_ydata())[int(TAIL * len(line.get_ydata())) :]]
    if values and max(values) > min(values):
        room = 0.05 * (max(values) - min(values))
        axis.set_ylim(min(values) - room, max(values) + room)


def scatter(axis, plane: Plane, labels: Tensor | None) -> None:
    r"""Codes in the plane, with a colour for each label and its name at the median of its points."""
    points, labels = plane.points.cpu().double(), None if labels is None else labels.cpu()
    x, y = points.T.numpy()
    values = [] if labels is None else labels.unique().tolist()
    if not values:
        axis.scatter(x, y, s=5, color="C0", linewidths=0)
    for number, value in enumerate(values):
        here = (labels == value).numpy()
        axis.scatter(x[here], y[here], s=8, color=f"C{number % 10}", linewidths=0, alpha=0.7)
    for number, value in enumerate(values if len(values) <= NAMED else ()):
        at = points[labels == value].median(0).values.tolist()
        text = {"ha": "center", "va": "center", "size": 13, "weight": "bold", "color": f"C{number % 10}"}
        axis.annotate(str(value), at, **text)
    axis.set_aspect("equal", "datalim")
    axis.set(xlabel=plane.axes[0], ylabel=plane.axes[1])
    axis.grid(alpha=0.15)


def svg(make: Callable[[], Figure], alt: str) -> str:
    r"""An inline SVG of the figure that ``make()`` returns, without a background.

    Text takes the colour of the page's text, and series take ``var(--series-0)`` to ``var(--series-9)``.

    Arguments:
        make: makes the figure, in here, where the colours are those of the page; an inch is 96 pixels on a screen.
        alt: what it shows, for those who do not see it.
    """
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    ink |= {"grid.color": INK, "axes.facecolor": "none", "legend.facecolor": "none", "legend.edgecolor": INK}
    ink |= {"legend.framealpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
    text = {"svg.fonttype": "none", "svg.hashsalt": "pyro_dlgm", "font.size": 10}
    with (
        matplotlib.rc_context(ink | text | {"axes.prop_cycle": matplotlib.cycler(color=SERIES)}),
        io.StringIO() as file,
    ):
        make().savefig(file, format="svg", metadata={"Date": None}, transparent=True)
        return _inline(file.getvalue(), alt)


def _inline(text: str, alt: str) -> str:
    r"""The SVG alone: no prologue, no addresses of name spaces, no ids that repeat; font and colours of the page."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;]*;", "font-family: inherit;", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
    for number, colour in enumerate(SERIES):
        text = text.replace(colour, f"var(--series-{number})")
    return text.replace(INK, "currentColor")


def source(image: Tensor) -> str:
    r"""An image (3 or 4, H, W), the fourth channel alpha, with values in [0, 1], as the ``src`` of an ``img``."""
    with io.BytesIO() as file:
        pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, format="png", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
