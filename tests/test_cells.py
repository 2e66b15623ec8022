r"""What the site does with cells of tables and code: classes by their length, and places where long names break."""

import importlib
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parent.parent / "docs" / "_ext"
nodes = pytest.importorskip("docutils.nodes", reason="docutils is not installed: the extra docs")
utils = pytest.importorskip("docutils.utils", reason="docutils is not installed: the extra docs")


@pytest.fixture
def tables(monkeypatch):
    pytest.importorskip("sphinx", reason="sphinx is not installed: the extra docs")
    monkeypatch.syspath_prepend(EXTENSIONS)
    return importlib.import_module("tables")


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("evaluate/marginal/annealing/", ["evaluate/", "marginal/", "annealing/"]),
        ("pyro_dlgm.evaluate.points", ["pyro", "_dlgm.", "evaluate.", "points"]),
        ("differentiable_loss(model=None)", ["differentiable", "_loss(", "model=", "None)"]),
        ("AutoLowRankMultivariateNormal", ["Auto", "Low", "Rank", "Multivariate", "Normal"]),
        ("sparse_adam.py", ["sparse", "_adam.py"]),
        ("short.name", ["short.name"]),
        ("a sentence of short words, of which none breaks", ["a sentence of short words, of which none breaks"]),
    ],
)
def test_long_names_break_at_their_joints(name, pieces, tables):
    shown = tables.breakable(nodes.Text(name))
    assert "".join(map(str, shown[::2])) == name
    assert list(map(str, shown[::2])) == pieces
    assert all(isinstance(node, nodes.raw) and "<wbr" in node.astext() for node in shown[1::2])


def test_cells_are_marked_by_their_length_and_formulas_stay_whole(tables):
    page, formula = utils.new_document("page"), nodes.math("", "p(x_{observed}) ± long_formula(x)")
    cells = [nodes.entry("", nodes.paragraph("", "n" * n)) for n in (16, 17, 60, 61)]
    page += [*cells, nodes.entry("", formula), nodes.entry("", nodes.paragraph("", "1.5 ± 0.5"))]
    tables.set_cells(None, page)
    assert [cell["classes"] for cell in cells] == [["short"], [], [], ["long"]]
    assert len(formula.children) == 1 and page[-1].astext() == "1.5 ±\N{NO-BREAK SPACE}0.5"


def test_code_with_a_name_longer_than_a_line_is_marked(tables):
    page = utils.new_document("page")
    page += [nodes.literal("", "a" * 30 + " " + "b" * 30), nodes.literal("", "a" * 31)]
    tables.set_code(None, page)
    assert [code["classes"] for code in page] == [[], ["long"]]
