r"""Sections of a report with images and codes of pairs."""

import itertools
import math
from collections.abc import Iterable

from markupsafe import Markup
from matplotlib.figure import Figure

from ..evaluate.snapshot import REACH, Snapshot, plane
from ..plots.curves import scatter
from ..plots.images import source, strip
from ..plots.images import traversals as traversal_strips
from .sections import PAGES, Section, drawing, missing

SHOWN = 12  # images in a strip
STEPS = 7  # images in a traversal
ACROSS = 3  # planes in a row
UNSAID = "its guide is a Pyro program that does not say its posterior, so there is no mean of q to look at"


def seen(pairs: dict[str, Snapshot], of: str, num: int) -> list[Section]:
    r"""Returns all sections of this module.

    Arguments:
        pairs: snapshots by name.
        of: what the points are, such as "test".
        num: the number of latents with a traversal.
    """
    images = [reconstructions(pairs, of), samples(pairs), traversals(pairs, of, num)]
    return [*images, latent_space(pairs, of)]


def reconstructions(pairs: dict[str, Snapshot], of: str) -> Section:
    r"""Returns the section with the first points above their reconstructions, a strip for each pair."""
    caption = (
        f"On top are the first {of} points, below is the mean of p(x given t) at the mean of q, for each method. What "
        "a strip lacks is lost in the code, or smoothed away because many x share a code."
    )
    points = ((f"{of} points", pair.data(SHOWN)) for pair in list(pairs.values())[:1])
    rows = ((name, pair.reconstructions(SHOWN)) for name, pair in with_posterior(pairs).items())
    return _section("Reconstructions", caption, pairs, [("", [], itertools.chain(points, rows))])


def samples(pairs: dict[str, Snapshot]) -> Section:
    r"""Returns the section with draws from the models, a strip for each pair."""
    caption = (
        "Each image is the mean of p(x given t) for a t drawn from the prior, without the noise of Σ; every method "
        "gets the same draws. Images unlike the data show codes that the prior reaches and the data do not."
    )
    rows = ((name, pair.samples(SHOWN)) for name, pair in with_posterior(pairs).items())
    return _section("Samples", caption, pairs, [("", [], rows)])


def traversals(pairs: dict[str, Snapshot], of: str, num: int) -> Section:
    r"""Returns the section with traversals of the most used latents, from the code of the first point."""
    caption = (
        f"One latent, counted from 0, goes from −{REACH:g} to {REACH:g} standard deviations (sd) of the prior, while "
        f"the others stay at the mean of q of the first {of} point; the nats say how much q uses the latent, a mean "
        "over points. "
        "A row that hardly changes is a latent that the model ignores, or that matters only for other points."
    )
    places = [f"{REACH * (2 * step / (STEPS - 1) - 1):.2g} sd".replace("-", "−") for step in range(STEPS)]
    shown = with_posterior(pairs)
    blocks = ((name, places, traversal_strips(pair, num, STEPS)) for name, pair in shown.items())
    notes = [
        f"{name}: q has no density, so its nats are what the prior charges for the mean of q, no KL."
        for name, pair in pairs.items()
        if not pair.has_density
    ]
    return _section("Latent traversals", caption, pairs, blocks, notes)


def _section(
    title: str, caption: str, pairs: dict[str, Snapshot], blocks: Iterable[tuple], notes: Iterable[str] = ()
) -> Section:
    r"""Returns a section of images, or one that says why there are none.

    Arguments:
        title, caption, notes: those of the section.
        pairs: snapshots by name, including those whose guide has no posterior.
        blocks: strips, as (name, names of columns, rows) with (label, images) for each row. Rows are generators, which
            do not run if there are no images to show.
    """
    reason = _no_images(pairs)
    if reason:
        return missing(title, caption, reason)
    body = PAGES.get_template("strips.html").render(blocks=blocks, source=lambda images: source(strip(images)))
    return Section(title, caption, Markup(body), (*notes, *unsaid(pairs)))


def latent_space(pairs: dict[str, Snapshot], of: str) -> Section:
    r"""Returns the section with the means of q in the plane, coloured by label."""
    caption = (
        f"Each dot is the mean of q for one of the {of} points, in the two latents or, where there are more, in the "
        "two directions in which the means vary most (PCA). Labels were never seen in training: where colours part, "
        "the code has found the classes, and where they mix, other directions may still part them."
    )
    shown = with_posterior(pairs)
    if not shown:
        return missing("Latent space", caption, UNSAID)
    labels = next(iter(shown.values())).labels
    notes = () if labels is not None else ("There are no labels: all points have one colour.",)
    across, down = min(ACROSS, len(shown)), math.ceil(len(shown) / ACROSS)
    width, height = (9.5, 5.5) if across == 1 else (10, 9 / across)

    def make():
        figure = Figure(figsize=(width, down * height), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).flatten()
        for axis, (name, pair) in zip(axes, shown.items(), strict=False):
            scatter(axis, plane(pair.means()), pair.labels)
            axis.set_title(name, fontsize=10)
        for axis in axes[len(shown) :]:
            axis.remove()
        return figure

    return Section("Latent space", caption, drawing(make, "Latent space"), notes + unsaid(pairs))


def with_posterior(pairs: dict[str, Snapshot]) -> dict[str, Snapshot]:
    r"""Returns the pairs whose guide has a posterior."""
    return {name: pair for name, pair in pairs.items() if pair.has_posterior}


def _no_images(pairs: dict[str, Snapshot]) -> str | None:
    if not pairs:
        return "there is no pair to look at"
    if not with_posterior(pairs):
        return UNSAID
    pair = next(iter(pairs.values()))
    if pair.image_shape is None:
        return f"a point has shape {tuple(pair.x.shape[1:])}, which is no image of one or three channels with a mean"
    return None


def unsaid(pairs: dict[str, Snapshot]) -> tuple[str, ...]:
    r"""Returns notes on the pairs whose guide has no posterior."""
    return tuple(f"{name} is not shown: {UNSAID}." for name, pair in pairs.items() if not pair.has_posterior)
