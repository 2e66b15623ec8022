r"""Sections of a report, each with two sentences on how to read it: those of numbers and curves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from ..comparison import evaluation
from ..comparison.columns import Column, Row, filled, groups
from ..comparison.table import footnotes
from ..data.dataset import Dataset
from ..plots.curves import learning_curves
from ..plots.gaps import bars
from .svg import svg

PAGES = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


BUDGET = (
    "A comparison spends its budget on training, where validation points do not count; its rows are scored once, at "
    "the end, on test points."
)
STOPPED = "The training stopped early; model and guide of this page are at the best epoch on validation points."


@dataclass(frozen=True)
class Section:
    r"""A section of a report.

    Attributes:
        title: its heading.
        caption: how to read it, in two sentences.
        body: its HTML: a table, an SVG, images as data.
        notes: what is missing in it, and why.
    """

    title: str
    caption: str
    body: Markup
    notes: tuple[str, ...] = ()


def missing(title: str, caption: str, reason: str) -> Section:
    r"""Creates a section that says why there is nothing to show."""
    return Section(title, caption, Markup('<p class="missing">Not shown: {}.</p>').format(reason))


def drawing(make: Callable[[], Figure], alt: str) -> Markup:
    r"""Returns the body of a section that is one figure; arguments are those of `svg.svg`."""
    return Markup('<div class="wide">{}</div>').format(Markup(svg(make, alt)))


def table(shown: list[Column], rows: Sequence, certified: int | None = None) -> Markup:
    r"""Returns the HTML of columns and rows, with references in italics and the headings of `groups`."""
    spans = [(name, len(of)) for name, of in groups(shown, certified)]
    said = {
        "groups": spans,
        "starts": [sum(span for _, span in spans[:n]) for n in range(1, len(spans))],
        "titles": [column.title for column in shown],
        "texts": sum(column.width < 0 for column in shown),
        "rows": [[column.text(row) for column in shown] for row in rows],
        "references": [number for number, row in enumerate(rows) if row.reference],
    }
    return Markup(PAGES.get_template("table.html").render(said))


def results(rows: list[Row], dataset: Dataset, num_samples: int) -> Section:
    r"""Returns the section with the table of a comparison and its footnotes."""
    certified = next((row.certified_points for row in rows if row.certified_points is not None), None)
    return Section(
        "Results",
        "Every row starts at the same w and trains it with the same budget, so rows differ by their q; a reference, in "
        "italics, is another model. Read log p(x) for how good w is, and the gaps for what q misses; "
        "log p(x) may be of fewer points than the ELBO.",
        table(filled(rows), rows, certified),
        tuple(footnotes(rows, dataset, num_samples)),
    )


def learning(
    histories: dict[str, list[dict]], levels: dict[str, float], against: str, notes: tuple[str, ...] = ()
) -> Section:
    r"""Returns the section with learning curves; arguments are those of `plots.curves.learning_curves`, and notes."""
    caption = (
        "Solid lines are the mean of the objective over an epoch of training points, dashed lines are on validation "
        "points. A dashed line that falls while the solid one rises says that w is memorizing its training points."
    )
    if not any(histories.values()):
        return missing("Learning curves", caption, "no method was trained step by step")
    unseen = [name for name, h in histories.items() if not any(k.startswith("val_") for record in h for k in record)]
    if len(unseen) == len(histories):
        notes += ("There is no validation curve: the training was given no validation points.",)
    else:
        notes += tuple(f"No validation points: {name}" for name in unseen)

    def make():
        return learning_curves(Figure(figsize=(9.5, 3.8), layout="constrained"), histories, levels, against)

    return Section("Learning curves", caption, drawing(make, "Learning curves"), notes)


def gaps(found: dict[str, dict | None]) -> list[Section]:
    r"""Returns a section with inference gaps from the summaries of `evaluate.gaps` by name, or none without any."""
    found = {name: result for name, result in found.items() if result is not None}
    if not found:
        return []
    caption = (
        "Each bar goes from F(q), what q reaches, over F(q*), what the best q of its family would reach, to log p(x): "
        "nats per point, the whole gap in figures. The whisker is what BDMC allows log p(x) to be above its estimate; "
        "a gap that is not much longer is not known."
    )
    notes = tuple(f"{name}: {note}." for name, result in found.items() for note in result["notes"])
    return [Section("Inference gap", caption, drawing(lambda: bars(found), "Inference gaps"), notes)]


def scores(found: dict, folder: Path, step: int) -> Section:
    r"""Returns the section with the scores of a run, from all parts of its ``evaluation.json``.

    Arguments:
        found: the content of the file.
        folder: the folder of the run.
        step: the step of its checkpoint.
    """
    caption = (
        "Bounds are means over the points, in nats per point with the standard error of the mean: the higher, the "
        "better. ELBO ≤ IWAE ≤ log p(x), so that their distance is a part of what q loses, and where k̂ is above 0.7 "
        "the IWAE is not to be trusted."
    )
    rows, remarks, stale = [], [], []
    parts = {name: section for name, section in found.items() if isinstance(section, dict)}
    for name, section in parts.items():
        part = name.partition("_")[0]  # "test" of "test_gaps"
        points = f"{part}, {section['points']}" if "points" in section else part
        rows += [[points, *score] for score in evaluation.scores(section)]
        bdmc = evaluation.certificate(parts, name)
        remarks += [f"{part}: {remark}" for remark in evaluation.remarks(section, bdmc)]
        if section.get("step", step) != step:
            stale.append(f"Scored at step {section['step']}, and the run is at step {step} now: score it again.")
    if not rows:
        return missing("Scores", caption, f"the run has not been scored; pyro-dlgm evaluate {folder} does it")
    titles = ["points", "score", "value", "± or 5% to 95% of points", "bits per dimension"]
    body = PAGES.get_template("table.html").render(titles=titles, rows=rows, texts=2)
    return Section("Scores", caption, Markup(body), (*remarks, *stale))
