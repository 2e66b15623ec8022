"""The reports: well-formed, self-contained, complete, and honest about what is missing."""

import base64
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pyro_dlgm import DLGM, compare, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.cli.main import main
from pyro_dlgm.comparison import table
from pyro_dlgm.comparison.columns import Row, filled
from pyro_dlgm.comparison.sheet import sheet
from pyro_dlgm.data.dataset import Dataset
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.evaluate.snapshot import Snapshot, plane
from pyro_dlgm.plots.curves import learning_curves
from pyro_dlgm.plots.images import as_pil, captioned, grid, strip, traversal_figure, traversals
from pyro_dlgm.report import page as report
from pyro_dlgm.report import verdicts as words
from pyro_dlgm.report.sections import Section, drawing
from pyro_dlgm.runs.files import RunError

N, D, SHAPE = 40, 3, (1, 5, 4)
TITLES = ["Learning curves", "Reconstructions", "Samples", "Latent traversals", "Latent space"]
FACTORIES = {
    "hard-em": lambda model, N: guides.PointEstimate(N, D),
    "amortized": lambda model, N: guides.Amortized(nets.MLP(SHAPE, 8), D),
}


def model():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, SHAPE, (8,)), 0.3))


@pytest.fixture(scope="module")
def dataset():
    x = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    parts = {"train": x[:N], "val": x[:0], "test": x[N:], "train_labels": labels[:N], "test_labels": labels[N:]}
    return Dataset("spots & <stripes>", **parts, protocol="values as they are")


@pytest.fixture(scope="module")
def rows(dataset):
    r"""Rows as those of `compare`, with q for the test points as it comes: what is scored is not the matter here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = compare(model, {}, dataset.train, dataset.test, ppca=D)
        for name, factory in FACTORIES.items():
            pair = model(), factory(None, N)
            row = Row(name, "DLGM", history=fit(*pair, dataset.train, epochs=3, batch_size=20).history)
            row.pair = pair if name == "amortized" else (pair[0], factory(None, len(dataset.test)))
            spent = ("gradients_per_point", "test_gradients_per_point", "seconds", "test_seconds")
            row.put({"test_iwae": 1.25} | dict.fromkeys(spent, 0.0))
            row.reasons = {"test_log_px": "not asked for"}
            made.append(row)
        return made


@pytest.fixture(scope="module")
def comparison(rows, dataset):
    return report.of_comparison(rows, dataset, 25)


def run(out, kind, dataset, **settings):
    torch.manual_seed(0)
    pair = model(), FACTORIES[kind](None, N)
    fit(*pair, dataset.train, epochs=3, batch_size=20, out=out, seed=0, **settings)
    return report.of_run(out, dataset, model=pair[0], guide=pair[1])


def parsed(page):
    assert page.startswith("<!DOCTYPE html>")
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))


def figures_of(page):
    return {f.find("h2").text: f for f in parsed(page).iter("figure")}


def text(element):
    return " ".join("".join(element.itertext()).split())


def images_in(element):
    found = []
    for image in element.iter("img"):
        kind, content = image.get("src").split(",")
        assert kind == "data:image/png;base64" and image.get("alt")
        found.append(Image.open(io.BytesIO(base64.b64decode(content))))
    return found


def pages(comparison, dataset, folder):
    return [
        comparison,
        run(folder / "a", "amortized", dataset, x_val=dataset.test),
        run(folder / "b", "hard-em", dataset),
    ]


def test_pages_need_nothing_else_and_every_figure_has_a_title_and_two_sentences(comparison, dataset, tmp_path):
    for page in pages(comparison, dataset, tmp_path):
        assert "http:" not in page and "https:" not in page and "<script" not in page and "@import" not in page
        root = parsed(page)
        addresses = [e.get(key) for e in root.iter() for key in ("src", "href") if e.get(key)]
        assert addresses and all(a.startswith(("data:", "#")) for a in addresses)
        ids = {e.get("id") for e in root.iter() if e.get("id")}
        used = {a[1:] for a in addresses if a.startswith("#")} | set(re.findall(r"url\(#(\w+)\)", page))
        assert used <= ids
        for title, figure in figures_of(page).items():
            caption = text(figure.find("figcaption"))
            assert title and len(re.findall(r"\.(?= [A-Z]|$)", caption)) == 2, caption


def test_colours_are_those_of_the_page_in_light_and_in_dark(comparison):
    assert "prefers-color-scheme: dark" in comparison
    style = next(parsed(comparison).iter("style")).text
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for name in ("--page", "--text", *(f"--series-{n}" for n in range(10))):
        values = [re.search(rf"{name}: (#\w+);", part).group(1) for part in (light, dark)]
        assert values[0] != values[1], name
    drawn = "".join(re.findall(r"<svg.*?</svg>", comparison, flags=re.S))
    assert "currentColor" in drawn and "var(--series-1)" in drawn
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {"#808080"}  # the middle grey of a level, legible in both


def test_the_table_has_a_row_for_each_method_with_its_numbers_and_footnotes(comparison, rows, dataset):
    figure = figures_of(comparison)["Results"]
    cells = [[text(cell) for cell in row] for row in figure.find(".//tbody")]
    assert cells == [[column.text(row) for column in filled(rows)] for row in rows]
    over, titles = ([text(cell) for cell in row] for row in figure.findall(".//thead/tr"))
    assert titles == ["method", "model", "ELBO", "IWAE", "grads", "seconds"]  # what nothing fills is not there
    assert over == ["", "q of the row", "spent"]
    assert [cell.get("colspan") for cell in figure.find(".//thead/tr")] == ["2", "2", "2"]
    assert [row.get("class") for row in figure.find(".//tbody")] == ["reference", None, None]
    notes = [" ".join(note.split()) for note in table.footnotes(rows, dataset, 25)]
    assert [text(note) for note in figure.iter("li")] == notes


def test_the_images_are_those_of_the_rows(comparison, rows, dataset):
    strips = images_in(figures_of(comparison)["Reconstructions"])
    assert len(strips) == 1 + len(rows)
    amortized, guide = rows[-1].pair
    expected = [dataset.test[:12], evaluate.reconstruct(amortized, guide, dataset.test[:12])]
    for image, images in zip((strips[0], strips[-1]), expected, strict=True):
        pixels = torch.tensor(list(image.convert("RGBA").tobytes())).reshape(image.height, image.width, 4)
        assert torch.equal(pixels, strip(images).mul(255).round().long().permute(1, 2, 0))
    assert len(images_in(figures_of(comparison)["Samples"])) == len(rows)
    assert len(images_in(figures_of(comparison)["Latent traversals"])) == D * len(rows)


def test_the_latent_space_shows_every_point_and_label(comparison, rows, dataset):
    figure = figures_of(comparison)["Latent space"]
    dots = [u for u in figure.iter("use") if "fill-opacity: 0.7" in u.get("style", "")]
    assert len(dots) == len(rows) * len(dataset.test)
    words = [t.text for t in figure.iter("text")]
    assert words.count("PPCA-3") == words.count("hard-em") == words.count("amortized") == 1
    assert sum("% of the variance" in word for word in words) == 2 * len(rows)


def test_names_are_text_and_not_markup(comparison):
    assert parsed(comparison).find(".//h1").text == "Comparison on spots & <stripes>"


def test_what_is_missing_is_said(rows, dataset):
    flat = replace(dataset, test=dataset.test.flatten(1), test_labels=None)
    found = figures_of(report.of_comparison(rows, flat, 25))
    assert "labels: all points have one colour" in text(found["Latent space"])
    for title in ("Reconstructions", "Samples", "Latent traversals"):
        assert "Not shown: a point has shape (20,), which is no image" in text(found[title])
    assert "no validation points" in text(found["Learning curves"])
    unshown = figures_of(report.of_comparison([replace(row, pair=None) for row in rows], dataset, 25))
    assert "Not shown" in text(unshown["Reconstructions"]) and "Not shown" in text(unshown["Latent space"])


def test_a_guide_that_does_not_say_its_posterior_is_named(rows, dataset):
    own = replace(rows[-1], guide="own", pair=(rows[-1].pair[0], torch.nn.Identity()))
    found = figures_of(report.of_comparison([*rows, own], dataset, 25))
    for title in ("Verdicts", *TITLES[1:]):
        assert "own is not shown: its guide is a Pyro program that does not say its posterior" in text(found[title])
    assert len(images_in(found["Samples"])) == len(rows)
    alone = figures_of(report.of_comparison([own], dataset, 25))
    assert "Not shown: its guide" in text(alone["Samples"]) and "Not shown: its guide" in text(alone["Latent space"])


def test_a_point_mass_has_no_kl_and_its_curve_is_no_bound(comparison):
    found = figures_of(comparison)
    assert "hard-em: q has no density" in text(found["Latent traversals"])
    labels = [text(e) for e in found["Latent traversals"].iter("span") if e.get("class") == "label"]
    assert ["KL" in label for label in labels] == [True] * D + [False] * D + [True] * D
    words = {t.text for t in found["Learning curves"].iter("text")}
    assert {"ELBO, nats per point", "log p(x, t), no bound; nats per point", "hard-em", "amortized"} <= words


def test_further_sections_come_last(rows, dataset):
    def make():
        figure = Figure()
        figure.subplots().plot([1, 2], label="mine", color="C3")
        figure.legend()
        return figure

    page = report.of_comparison(rows, dataset, 25, [Section("Gaps", "One. Two.", drawing(make, "gaps"), ("a note",))])
    assert list(figures_of(page))[-1] == "Gaps"
    gaps = figures_of(page)["Gaps"]
    assert "mine" in text(gaps) and "a note" in text(gaps) and gaps.find(".//svg").get("aria-label") == "gaps"
    assert "stroke: var(--series-3)" in ElementTree.tostring(gaps, encoding="unicode")


def test_a_run_shows_its_curves_and_its_scores(dataset, tmp_path):
    before = run(tmp_path, "amortized", dataset, x_val=dataset.test)
    assert list(figures_of(before)) == ["Scores", "Verdicts", *TITLES]
    assert f"the run has not been scored; pyro-dlgm evaluate {tmp_path} does it" in text(figures_of(before)["Scores"])
    words = [t.text for t in figures_of(before)["Learning curves"].iter("text")]
    assert {"Amortized", "dashed: validation points", "epoch"} <= set(words)
    scores = {"points": 20, "num_samples": 50, "step": 5, "elbo": {"mean": -1.234, "standard_error": 0.05}}
    scores |= {"iwae": {"mean": -1.0, "standard_error": None, "bits_per_dim": 3.21}}
    scores |= {"ess": {"0.05": 1.0, "0.5": 7.0, "0.95": 9.0}, "reasons": {"log_px": "not asked for"}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"test": scores, "mine": 1}))
    pair = model(), FACTORIES["amortized"](None, N)
    found = figures_of(report.of_run(tmp_path, dataset, model=pair[0], guide=pair[1]))["Scores"]
    assert [[text(cell) for cell in row] for row in found.find(".//tbody")] == [
        ["test, 20", "ELBO", "-1.23", "0.05", "–"],
        ["test, 20", "IWAE-50", "-1.00", "–", "3.210"],
        ["test, 20", "ESS, median", "7.00", "1.00 to 9.00", "–"],
    ]
    assert [text(note) for note in found.iter("li")] == [
        "test: No log p(x): not asked for.",
        "Scored at step 5, and the run is at step 6 now: score it again.",
    ]


def test_the_commands_write_it_with_labels_and_evaluate_adds_the_scores(tmp_path):
    def call(*arguments):
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == 0 and str(tmp_path / "report.html") in result.output
        return figures_of((tmp_path / "report.html").read_text(encoding="utf-8"))

    before = call("fit", "--epochs", 1, "--latents", 2, "--likelihood", "factor-analysis", "--out", tmp_path)
    assert "has not been scored" in text(before["Scores"]) and "no labels" not in text(before["Latent space"])
    assert "posterior mean of t1" in text(before["Latent space"])
    (labels,) = tmp_path.glob("*/latents/metadata.tsv")
    assert labels.read_text().split() == [str(int(v)) for v in data.digits().train_labels[:256]]
    after = call("evaluate", tmp_path, "--iwae", 25, "--points", 30)
    assert "test, 30" in text(after["Scores"]) and "IWAE-25" in text(after["Scores"])


def test_a_guide_with_rows_is_seen_through_its_training_points(dataset, tmp_path):
    found = figures_of(run(tmp_path, "hard-em", dataset))
    assert "the training points" in text(found["Latent space"])
    dots = [u for u in found["Latent space"].iter("use") if "fill-opacity: 0.7" in u.get("style", "")]
    assert len(dots) == N
    shown = images_in(found["Reconstructions"])[0].convert("RGBA")
    pixels = torch.tensor(list(shown.tobytes())).reshape(shown.height, shown.width, 4)
    assert torch.equal(pixels, strip(dataset.train[:12]).mul(255).round().long().permute(1, 2, 0))


def test_scores_that_cannot_be_read_are_refused_in_one_line(dataset, tmp_path):
    run(tmp_path, "amortized", dataset)
    (tmp_path / "evaluation.json").write_text("{")
    pair = model(), FACTORIES["amortized"](None, N)
    with pytest.raises(RunError, match="is not JSON of this program; move it away"):
        report.of_run(tmp_path, dataset, model=pair[0], guide=pair[1])


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    report.write(tmp_path, "∫ p(t) dt")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "∫ p(t) dt"
    with pytest.raises(RunError, match="cannot write"):
        report.write(tmp_path / "nowhere", "")


def test_the_sheet_of_points_that_are_no_images_is_its_curves(rows, dataset):
    assert sheet(rows, dataset.test.flatten(1)).get_size_inches()[1] < sheet(rows, dataset.test).get_size_inches()[1]


def test_a_row_has_one_name_everywhere(comparison, rows):
    for title in ("Results", "Verdicts", "Learning curves", "Samples", "Latent traversals", "Latent space"):
        figure = figures_of(comparison)[title]
        words = {t.strip() for t in figure.itertext()}
        for row in rows:
            reference = title == "Learning curves" and row.reference
            wanted = f"{row.name}: exact log p(x), test points" if reference else row.name
            assert wanted in words, (title, wanted)
        assert "Exact" not in words


def test_footnotes_name_columns_and_not_fields(rows, dataset):
    own = replace(rows[1], cells=dict(rows[1].cells))
    own.put({"test_log_px": Mean(1.0, 0.1)})
    lost = replace(rows[2], reasons={"test_log_px": "not asked for", "ess": "too few samples"})
    notes = table.footnotes([rows[0], own, lost], dataset, 25)
    assert "– in log p(x): not asked for (amortized)." in notes
    assert "No ESS / k-hat: too few samples." in notes  # the column is not shown, so no row is named
    assert not [note for note in notes if "test_" in note or "pareto_k" in note or "_gap" in note]


def collapsed():
    guide = guides.Amortized(nets.MLP(SHAPE, 8), D)
    for parameter in guide.parameters():
        torch.nn.init.zeros_(parameter)
    return guide


def verdicts(guide, dataset):
    page = report.of_pair(model(), guide, dataset.test, num_samples=25)
    figure = figures_of(page)["Verdicts"]
    lines = zip(figure.iter("dt"), figure.iter("dd"), strict=True)
    return {text(what): text(said) for what, said in lines}, [text(note) for note in figure.iter("li")]


def test_a_collapsed_q_is_named(dataset):
    said, notes = verdicts(collapsed(), dataset)
    assert said["active units"].startswith("0 of 3 by the variance")
    assert said == evaluate.diagnose(model(), collapsed(), dataset.test, num_simulated=200, seed=0).verdicts
    assert len(notes) == 1 and notes[0].startswith("Amortized: no latent is active: the mean of q hardly changes")


def test_a_q_that_follows_x_is_not(dataset):
    torch.manual_seed(0)
    guide = guides.Amortized(nets.MLP(SHAPE, 8), D)
    guide.head.weight.data.mul_(50)
    said, notes = verdicts(guide, dataset)
    assert said["active units"].startswith("3 of 3") and not notes


def test_a_single_active_latent_is_no_collapse(dataset):
    guide = collapsed()
    guide.head.weight.data[0] = 50 * torch.randn(8, generator=torch.Generator().manual_seed(0))
    guide.encoder.load_state_dict(nets.MLP(SHAPE, 8).state_dict())
    said, notes = verdicts(guide, dataset)
    assert said["active units"].startswith("1 of 3") and not notes


@pytest.mark.parametrize(
    ("kind", "points", "calibrate", "asked"),
    [
        ("amortized", 7, True, (5, words.SIMULATED)),  # of the 7, the first 5 are looked at
        ("amortized", 7, False, (5, 0)),
        ("rows", 7, True, (5, 0)),  # points that are simulated would need an E-step
        ("amortized", 2, False, (2, 0)),
        ("amortized", 1, True, None),
        ("hard-em", 7, True, None),
    ],
)
def test_verdicts_are_on_the_first_points(kind, points, calibrate, asked, monkeypatch):
    seen, diagnose = [], words.diagnose

    def diagnosed(model, guide, points, *, num_simulated, seed):
        seen.append((len(points), num_simulated))
        return diagnose(model, guide, points, num_simulated=0, seed=seed)

    monkeypatch.setattr(words, "POINTS", 5)
    monkeypatch.setattr(words, "diagnose", diagnosed)
    made = FACTORIES | {"rows": lambda model, N: guides.MeanField(N, D)}
    pair = Snapshot(model(), made[kind](None, points), torch.rand(points, *SHAPE))
    section = words.verdicts({kind: pair}, "test", calibrate=calibrate)
    assert seen == ([] if asked is None else [asked]) and ("<svg" in section.body) == bool(seen)
    assert ("there is a single point" in section.body) == (points == 1)


def test_of_several_pairs_and_of_a_single_point_no_collapse_is_said():
    pairs = {name: Snapshot(model(), FACTORIES[name](None, 1), torch.rand(1, *SHAPE)) for name in FACTORIES}
    assert not words.verdicts(pairs, "test").notes


def test_verdicts_on_a_point_mass_say_what_there_is(comparison):
    figure = figures_of(comparison)["Verdicts"]
    assert [text(h) for h in figure.iter("h3")] == ["PPCA-3", "hard-em", "amortized"]
    assert text(figure).count("without a density") == 1 and text(figure).count("active units") == 3
    assert figure.find(".//svg") is None  # a figure is of a single pair


def dashed(histories, **settings):
    figure = learning_curves(Figure(layout="constrained"), histories, {"level": 0.5}, **settings)
    (axis,) = figure.axes
    return axis, [line.get_linestyle() for line in axis.lines], [t.get_text() for t in figure.legends[0].get_texts()]


def test_dashed_lines_are_validation_points_and_nothing_else():
    record = {"gradients_per_point": 2.0, "epoch": 1, "elbo": 0.0, "val_elbo": -1.0}
    history = [record, {**record, "gradients_per_point": 4.0, "epoch": 2}]
    axis, styles, entries = dashed({"a": history, "b": history})
    assert styles == ["-", "--", "-", "--", ":"] and entries == ["a", "b", "level", "dashed: validation points"]
    assert axis.get_xlabel() == "gradient evaluations per training point"
    assert list(axis.lines[0].get_xdata()) == [2.0, 4.0]
    axis, _, _ = dashed({"a": history}, against="epoch")
    assert axis.get_xlabel() == "epoch" and list(axis.lines[0].get_xdata()) == [1, 2]


def test_importance_bounds_have_a_panel_without_the_levels_of_f():
    record = {"gradients_per_point": 2.0, "elbo": 0.0, "iwae_5": 1.0}
    figure = Figure(layout="constrained")
    learning_curves(figure, {"a": [record], "b": [record, record | {"gradients_per_point": 4.0}]}, {"level": 0.5})
    assert [axis.get_ylabel() for axis in figure.axes] == ["ELBO, nats per point", "IWAE-5, nats per point"]
    styles = [[line.get_linestyle() for line in axis.lines] for axis in figure.axes]
    assert styles == [["-", "-", ":"], ["-", "-"]]
    assert [line.get_marker() for line in figure.axes[1].lines] == ["o", "None"]  # of one record there is no line


def test_latents_are_counted_from_0():
    pair = Snapshot(model(), guides.Amortized(nets.MLP(SHAPE, 8), D), torch.rand(4, *SHAPE))
    assert sorted(name.partition(",")[0] for name, _ in traversals(pair, D, 2)) == ["t0", "t1", "t2"]
    assert plane(torch.rand(4, 2)).axes == ("posterior mean of t0", "posterior mean of t1")


def cut(figure):
    r"""The labels that stick out of a figure."""
    FigureCanvasAgg(figure).draw()
    labels = [axis.yaxis.label for axis in figure.findobj(Axes)]
    return [label.get_text() for label in labels if label.get_text() and label.get_window_extent().x0 < 0]


@pytest.mark.parametrize("shape", [(1, 8, 8), SHAPE, (3, 4, 9)])
def test_labels_of_strips_are_whole(shape):
    pair = DLGM(priors.StandardNormal(8), likelihoods.FixedNormal(nets.MLP(8, shape, (8,)), 0.3))
    seen = Snapshot(pair, guides.Amortized(nets.MLP(shape, 8), 8), torch.rand(4, *shape))
    assert [cut(traversal_figure(seen, num)) for num in (1, 2, 4, 6)] == [[], [], [], []]


def test_labels_of_the_sheet_are_whole(rows, dataset):
    assert cut(sheet(rows, dataset.test)) == []


def test_a_caption_is_below_the_picture_and_leaves_it_as_it_is():
    image = as_pil(grid(torch.rand(6, 1, 9, 9), 5))
    whole = captioned(image, "64 samples of x: the mean of p(x | t, w), " * 3)
    assert whole.width == image.width and whole.crop((0, 0, *image.size)).tobytes() == image.tobytes()
    below = whole.crop((0, image.height, *whole.size)).convert("L")
    assert min(below.tobytes()) < 100 and min(below.crop((below.width - 3, 0, *below.size)).tobytes()) == 255


def test_curves_are_cut_to_what_can_be_read():
    history = [{"gradients_per_point": float(n), "elbo": -1e6 if n == 0 else n / 100} for n in range(100)]
    figure = Figure(layout="constrained")
    learning_curves(figure, {"a": history}, {})
    low, high = figure.axes[0].get_ylim()
    assert -1 < low < 0.06 and 0.99 < high < 1.1


def test_strips_and_grids_have_ink_on_white_and_clear_gaps():
    images = torch.zeros(3, 1, 2, 2)
    images[1] = 1
    row = strip(images)
    assert row.shape == (4, 2, 8)
    assert row[3, 0].tolist() == [1, 1, 0, 1, 1, 0, 1, 1] and row[0, 0, [0, 3, 6]].tolist() == [1, 0, 1]
    assert grid(images, 2, 3).shape == (3, 8, 20)
