r"""Sections of a report that show what a pair has learnt: images and codes."""

import math

from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from ..evaluate.latents import REACH, plane
from ..evaluate.snapshot import Look
from ..plots import curves
from ..plots.images import strip
from .sections import PAGES, Section, drawing, missing

SHOWN = 12  # images in a strip
STEPS = 7  # places of a traversal
ACROSS = 3  # planes beside each other
UNSAID = "its guide is a Pyro program that does not say its posterior, so there is no mean of q to look at"


def reconstructions(looks: dict[str, Look], of: str) -> Section:
    r"""The first points above their reconstructions, a strip for each look."""
    caption = (
        f"On top are the first {of} points, below is the mean of p(x given t) at the mean of q, for each method. What "
        "a strip lacks is lost in the code, or smoothed away because many x share a code."
    )
    return _strips("Reconstructions", caption, looks, lambda look: look.reconstructions(SHOWN), above=of)


def samples(looks: dict[str, Look]) -> Section:
    r"""Draws from the model, a strip for each look."""
    caption = (
        "Each image is the mean of p(x given t) for a t drawn from the prior, without the noise of Σ; every method "
        "gets the same draws. Images unlike the data show codes that the prior reaches and the data do not."
    )
    return _strips("Samples", caption, looks, lambda look: look.samples(SHOWN))


def _strips(title: str, caption: str, looks: dict[str, Look], images, above: str | None = None) -> Section:
    reason = _no_images(looks)
    if reason:
        return missing(title, caption, reason)
    first = next(iter(looks.values()))
    rows = [(f"{above} points", _image(first.data(SHOWN)))] if above else []
    rows += [(name, _image(images(look))) for name, look in looks.items() if look.says]
    block = {"name": "", "columns": [], "rows": rows}
    return Section(title, caption, _blocks([block]), _unsaid(looks))


def traversals(looks: dict[str, Look], of: str, num: int) -> Section:
    r"""What the most used latents do to the first point."""
    caption = (
        f"One latent goes from −{REACH:g} to {REACH:g} standard deviations of the prior while the others stay at the "
        f"mean of q of the first {of} point; the numbers of nats say how much q uses the latent, a mean over points. "
        "A row that hardly changes is a latent that the model ignores, or that matters only for other points."
    )
    reason = _no_images(looks)
    if reason:
        return missing("Latent traversals", caption, reason)
    blocks = [_walk(name, look, num) for name, look in looks.items() if look.says]
    notes = [
        f"{name}: q has no density, so its nats are what the prior charges for the mean of q, no KL."
        for name, look in looks.items()
        if not look.has_density
    ]
    return Section("Latent traversals", caption, _blocks(blocks), tuple(notes) + _unsaid(looks))


def _walk(name: str, look: Look, num: int) -> dict:
    most, images = look.traversals(num, STEPS)
    nats = look.use()
    kind = "KL " if look.has_density else ""
    rows = [(f"t{j + 1}, {kind}{float(nats[j]):.2f} nats", _image(x)) for j, x in zip(most, images, strict=True)]
    return {"name": name, "columns": _places(), "rows": rows}


def _places() -> list[str]:
    return [f"{REACH * (2 * step / (STEPS - 1) - 1):.2g}".replace("-", "−") for step in range(STEPS)]


def space(looks: dict[str, Look], of: str) -> Section:
    r"""The means of q in the plane, coloured by label."""
    caption = (
        f"Each dot is the mean of q for one of the {of} points, in the two latents or, where there are more, in the "
        "two directions in which the means vary most (PCA). Labels were never seen in training: where colours part, "
        "the code has found the classes, and where they mix, other directions may still part them."
    )
    seen = {name: look for name, look in looks.items() if look.says}
    if not seen:
        return missing("Latent space", caption, UNSAID)
    labels = next(iter(seen.values())).labels
    notes = () if labels is not None else ("There are no labels: all points have one colour.",)
    across, down = min(ACROSS, len(seen)), math.ceil(len(seen) / ACROSS)
    width, height = (5.5, 4.5) if across == 1 else (10, 9 / across)

    def make():
        figure = Figure(figsize=(width, down * height), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).flatten()
        for axis, (name, look) in zip(axes, seen.items(), strict=False):
            curves.scatter(axis, plane(look.means()), look.labels)
            axis.set_title(name, fontsize=10)
        for axis in axes[len(seen) :]:
            axis.remove()
        return figure

    return Section("Latent space", caption, drawing(make, "Latent space"), notes + _unsaid(looks))


def _no_images(looks: dict[str, Look]) -> str | None:
    if not looks:
        return "there is no pair to look at"
    if not any(look.says for look in looks.values()):
        return UNSAID
    look = next(iter(looks.values()))
    if look.image_shape is None:
        return f"a point has shape {tuple(look.x.shape[1:])}, which is no image of one or three channels"
    return None


def _unsaid(looks: dict[str, Look]) -> tuple[str, ...]:
    return tuple(f"{name} is not shown: {UNSAID}." for name, look in looks.items() if not look.says)


def _image(images: Tensor) -> str:
    return curves.source(strip(images))


def _blocks(blocks: list[dict]) -> Markup:
    return Markup(PAGES.get_template("strips.html").render(blocks=blocks))
