r"""Figures as inline SVG that is legible on a light and on a dark page."""

import html
import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure

from ..plots.palette import LIGHT

INK = "#010203"  # stands for the colour of the page's text


def svg(make: Callable[[], Figure], alt: str) -> str:
    r"""Returns an inline SVG of the figure that ``make()`` returns, without a background.

    Text takes the colour of the page's text, and the ten colours of series become ``var(--series-0)`` to
    ``var(--series-9)``, which the page defines for light and for dark.

    Arguments:
        make: makes the figure; it is called with the colours of the page set. An inch is 96 pixels on a screen.
        alt: what the figure shows, for screen readers.
    """
    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    ink |= {"grid.color": INK, "axes.facecolor": "none", "legend.facecolor": "none", "legend.edgecolor": INK}
    ink |= {"legend.framealpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
    text = {"svg.fonttype": "none", "svg.hashsalt": "pyro_dlgm", "font.size": 10}
    style = ink | text | {"axes.prop_cycle": matplotlib.cycler(color=LIGHT)}
    with matplotlib.rc_context(style), io.StringIO() as file:
        make().savefig(file, format="svg", metadata={"Date": None}, transparent=True)
        return _inline(file.getvalue(), alt)


def _inline(text: str, alt: str) -> str:
    r"""Returns the SVG with the font and colours of the page, and without prologue, namespaces and ids."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;]*;", "font-family: inherit;", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
    for number, colour in enumerate(LIGHT):
        text = text.replace(colour, f"var(--series-{number})")
    return text.replace(INK, "currentColor")
