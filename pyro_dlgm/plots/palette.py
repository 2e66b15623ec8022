r"""Ten colours that one can tell apart, on a light and on a dark page.

In each list the smallest distance in OKLab between two colours is at least 0.11 for readers who lack one kind of
cone (red or green), and 0.18 for the others.

References:
    Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009).
    https://doi.org/10.1109/TVCG.2009.113
    Ottosson, "A perceptual color space for image processing" (2020). https://bottosson.github.io/posts/oklab
"""

LIGHT = (
    "#1f3eb4", "#df560e", "#0aa079", "#01b5ff", "#f970c0", "#780061", "#c5af1f", "#0b4802", "#985fdc", "#6d5f61",
)  # fmt: skip
DARK = (
    "#5fc7ff", "#fa9100", "#11e89b", "#2763d3", "#f7e5f8", "#a74388", "#f6f235", "#027c04", "#a87dff", "#879380",
)  # fmt: skip
REFERENCE = "#808080"  # of levels and references, legible on both
VALIDATION = "--"  # the line style of validation points, in every picture


def colour(number: int) -> str:
    r"""Returns the colour of a series, counted from 0; after ten they begin again."""
    return LIGHT[number % len(LIGHT)]
