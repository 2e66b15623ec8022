r"""The sheet of a comparison: learning curves above reconstructions and samples of each row."""

from matplotlib.figure import Figure
from torch import Tensor

from ..evaluate.snapshot import Snapshot
from ..guides.exact import Exact
from ..plots.curves import learning_curves
from ..plots.images import draw_strips
from ..points import Points
from .columns import Row

SHOWN = 10


def snapshots(rows: list[Row], points: Tensor | Points, labels: Tensor | None = None) -> dict[str, Snapshot]:
    r"""Creates a snapshot of each row that has a pair, at test points, by the rows' names.

    Of these, PPCA gets x alone: it conditions on nothing.
    """
    points, pairs = Points.of(points), {row.name: row.pair for row in rows if row.pair is not None}
    return {
        name: Snapshot(model, Exact(model), Points(points.x, mask=points.mask), labels=labels)
        if guide is None
        else Snapshot(model, guide, points, labels=labels)
        for name, (model, guide) in pairs.items()
    }


def histories(rows: list[Row]) -> dict[str, list[dict]]:
    r"""The records of `fit`, by the rows' names."""
    return {row.name: row.history for row in rows if row.history}


def levels(rows: list[Row]) -> dict[str, float]:
    r"""log p(x) of the references at the test points, by what they are."""
    return {f"{row.name}: exact log p(x), test points": row.test_elbo for row in rows if row.reference}


def sheet(rows: list[Row], points: Tensor | Points, seed: int = 0) -> Figure:
    r"""Draws the training objective against the budget, then for each row reconstructions and samples.

    Points that are no images have the upper part only.

    Arguments:
        rows: of `comparison.rows`, with their pairs.
        points: test points, images (M, C, H, W) or (M, ...).
        seed: of the samples; the same for all rows.
    """
    points = Points.of(points)[:SHOWN]
    pairs = snapshots(rows, points)
    if not any(pair.image_shape for pair in pairs.values()):
        return learning_curves(Figure(figsize=(11, 3.6), layout="constrained"), histories(rows), levels(rows))
    height = 0.56 * (len(pairs) + 1)
    figure = Figure(figsize=(11, 3.6 + height), layout="constrained")
    top, below = figure.subfigures(2, 1, height_ratios=[3.6, height])
    learning_curves(top, histories(rows), levels(rows))
    left, right = below.subfigures(1, 2)
    left.suptitle("test images, and their reconstructions at the mean of q", fontsize=9)
    right.suptitle("samples: the mean of p(x | t) for t from the prior", fontsize=9)
    draw_strips(left, [("test", points.x)] + [(name, pair.reconstructions(SHOWN)) for name, pair in pairs.items()])
    draw_strips(right, [("", None)] + [(name, pair.samples(SHOWN, seed)) for name, pair in pairs.items()])
    return figure
