r"""Sections of the report of a comparison over seeds."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..comparison.seeds.gathered import SeedRow
from ..comparison.seeds.sheet import draw, panels
from ..comparison.seeds.table import columns, footnotes
from .sections import Section, drawing, missing, table

IMAGES = "Images and the latent space are on the page of a comparison at one seed."


def results(rows: Sequence[SeedRow], num_points: int, num_samples: int) -> Section:
    r"""Returns the section with the table over seeds and its footnotes."""
    return Section(
        "Results",
        "At each seed every row starts at the same w and trains it with the same budget, so rows differ by their q; a "
        "reference, in italics, is another model. Read the differences Δ, which are paired over seeds, and not the "
        "spread in brackets, which the rows share in part.",
        table(columns(rows), rows),
        (*footnotes(rows, num_points, num_samples), IMAGES),
    )


def differences(rows: Sequence[SeedRow]) -> Section:
    r"""Returns the section with a picture of the paired differences of each row to the first one."""
    title, shown = "Differences over seeds", panels(rows)
    caption = (
        "Each dot is a seed, and the bar is the 95% interval of their mean. A bar that crosses the dotted line says "
        "that other seeds could have turned the order around."
    )
    if not shown:
        return missing(title, caption, "fewer than two rows have the same score at two seeds")
    height = 1.0 + 0.5 * max(map(len, shown.values()))

    def make():
        figure = Figure(figsize=(9.5, height), layout="constrained")
        draw(figure, shown)
        return figure

    return Section(title, caption, drawing(make, title))
