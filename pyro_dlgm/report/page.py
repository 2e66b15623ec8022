r"""Reports of a comparison, a run or a pair: one self-contained page of HTML."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ..comparison.certificates import Certify
from ..comparison.columns import Row
from ..comparison.scoring import infer_silently, summary
from ..comparison.seeds import sheet
from ..comparison.seeds.gathered import SeedRow
from ..comparison.sheet import histories, levels, snapshots
from ..data.dataset import Dataset
from ..evaluate.scores import point_scores
from ..evaluate.snapshot import Snapshot
from ..guides.base import adapted
from ..plots.palette import DARK, LIGHT
from ..points import Points
from ..runs.files import read_sections, whole, writing
from ..runs.load import load
from ..runs.run import Run
from . import sections, seeds
from .sections import PAGES, Section
from .verdicts import verdicts
from .views import seen

NAME = "report.html"
POINTS = 1000  # at most, on the page
IN_COMPARISON, IN_RUN = 3, 6  # latents with a traversal


def of_comparison(rows: list[Row], dataset: Dataset, num_samples: int, more: Sequence[Section] = ()) -> str:
    r"""Returns the report of a comparison, as HTML.

    Arguments:
        rows: the rows of `comparison.rows`, with their pairs.
        dataset: the data set on whose test points they were scored.
        num_samples: the number K of IWAE-K.
        more: further sections, which come last.
    """
    pairs = snapshots(rows, dataset.test_points[:POINTS], _first(dataset.test_labels))
    curves = sections.learning(histories(rows), levels(rows), "gradients_per_point", (sections.BUDGET,))
    shown = [sections.results(rows, dataset, num_samples), curves]
    shown += sections.gaps({row.name: row.gaps for row in rows})
    shown += [verdicts(pairs, "test"), *seen(pairs, "test", IN_COMPARISON)]
    size = f"{len(rows)} methods, {len(dataset.test)} test points"
    return _page(f"Comparison on {dataset.name}", dataset, size, [*shown, *more])


def of_seeds(rows: list[SeedRow], dataset: Dataset, num_samples: int, more: Sequence[Section] = ()) -> str:
    r"""Returns the report of a comparison over seeds, as HTML.

    Arguments:
        rows: the rows of `compare_seeds`.
        dataset: the data set on whose test points they were scored.
        num_samples: the number K of IWAE-K.
        more: further sections, which come last.
    """
    notes = (sections.BUDGET, "Curves are means over seeds.")
    curves = sections.learning(sheet.histories(rows), sheet.levels(rows), "gradients_per_point", notes)
    shown = [seeds.results(rows, len(dataset.test), num_samples), seeds.differences(rows), curves]
    num = len(set().union(*(row.rows for row in rows)))
    size = f"{len(rows)} methods, {num} seeds, {len(dataset.test)} test points"
    return _page(f"Comparison on {dataset.name}", dataset, size, [*shown, *more])


def of_run(
    run: str | Path,
    dataset: Dataset,
    *,
    model=None,
    guide=None,
    imports: Iterable[str] = (),
    more: Sequence[Section] = (),
) -> str:
    r"""Returns the report of a run on disk, as HTML, with the scores of its ``evaluation.json`` if it has one.

    A guide with rows is shown on its training points, any other one on the test points.

    Arguments:
        run: the folder of the run.
        dataset: the data set of the run.
        model, guide, imports: for a run with your own networks, as in `load`.
        more: further sections, which come last.

    Raises:
        RunError: as `load`.
    """
    folder, state = Run(run), Run(run).load()
    model, guide, config = load(run, model=model, guide=guide, imports=imports)
    name = config.get("recipe", {}).get("guide", type(guide).__name__)
    points, labels, of = dataset.test_points[:POINTS], dataset.test_labels, "test"
    if adapted(guide).per_point:
        points, labels, of = dataset.seen(POINTS), dataset.train_labels, "training"
    found = read_sections(folder.folder / "evaluation.json")
    pair = {name: Snapshot(model, guide, points, labels=_first(labels))}
    notes = (sections.STOPPED,) if state["stopped_early"] else ()
    shown = [sections.scores(found, folder.folder, state["step"]), verdicts(pair, of, calibrate=True)]
    shown.append(sections.learning({name: state["history"]}, {}, "epoch", notes))
    shown += sections.gaps({part: found.get(f"{part}_gaps") for part in ("train", "test")})
    shown += seen(pair, of, IN_RUN)
    last = state["history"][-1] if state["history"] else {"epoch": 0, "seconds": 0.0}
    fact = f"{type(guide).__name__} on {type(model).__name__}, "
    fact += f"{state['step']} steps, {last['epoch']} epochs, {last['seconds']:.0f} s"
    return _page(f"Run {folder.folder.name}: {name}", dataset, fact, [*shown, *more], json.dumps(config, indent=1))


def of_pair(
    model,
    guide,
    x: Tensor | Points,
    *,
    name: str = "A pair",
    labels: Tensor | None = None,
    certify: Certify | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    more: Sequence[Section] = (),
) -> str:
    r"""Returns the report of a pair without a run, such as one of `adopt`, as HTML.

    A guide with rows makes an E-step on the points first, with w frozen.

    Arguments:
        model, guide: the pair; neither changes.
        x: points (B, ...), or `Points`, other than those of the training; the first 1,000 are used.
        name: the title.
        labels: whole numbers (B,), which colour the latent space.
        certify: how to estimate log p(x) and the inference gaps of the first points; `None`: neither is estimated.
        num_samples: the number K of IWAE-K.
        seed: seed of all random numbers.
        more: further sections, which come last.
    """
    points = Points.of(x)[:POINTS].numbered()
    q = infer_silently(model, guide, points, seed) if adapted(guide).per_point else guide
    found = {"points": summary([point_scores(model, q, points, num_samples, seed)]) | {"num_samples": num_samples}}
    if certify is not None:
        found["certified"] = certify(model, q, points, seed, fitted=q is not guide).summary()
    pair = {type(guide).__name__: Snapshot(model, q, points, labels=_first(labels))}
    shown = [sections.scores(found, Path(), 0), verdicts(pair, "given", calibrate=True)]
    shown += sections.gaps({"points": found["certified"]} if certify is not None and certify.gaps else {})
    shown += seen(pair, "given", IN_RUN)
    facts = f"{type(guide).__name__} on {type(model).__name__} of {type(model.likelihood).__name__}"
    values = Dataset(name, points.x, points.x[:0], points.x, protocol=f"{len(points)} points as they were given")
    return _page(name, values, facts, [*shown, *more])


def write(folder: Path, text: str) -> Path:
    r"""Writes a report into the folder, whole or not at all, and returns its path.

    Raises:
        RunError: if it cannot be written.
    """
    file = folder / NAME
    with writing(file), whole(file) as path:
        path.write_text(text, encoding="utf-8")
    return file


def _first(labels: Tensor | None) -> Tensor | None:
    return None if labels is None else labels[:POINTS]


def _page(title: str, dataset: Dataset, fact: str, shown: list[Section], config: str | None = None) -> str:
    said = {"title": title, "facts": [f"{dataset.name}: {dataset.protocol}", fact], "config": config}
    return PAGES.get_template("report.html").render(sections=shown, light=LIGHT, dark=DARK, **said)
