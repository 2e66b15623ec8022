r"""What the site does with outputs of cells: a wide picture and columns of text get a class by which they scroll."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
COLUMNS = "rows      -1.24   -1.23\nencoder   -1.24   -1.23"
nodes = pytest.importorskip("docutils.nodes", reason="docutils is not installed: the extra docs")
utils = pytest.importorskip("docutils.utils", reason="docutils is not installed: the extra docs")


@pytest.fixture
def marked(monkeypatch):
    r"""Marks a page that has the given parts."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    outputs = importlib.import_module("outputs")

    def mark(*parts):
        page = utils.new_document("page")
        page.extend(parts)
        outputs.mark(SimpleNamespace(srcdir=ROOT / "docs"), page, "page")
        return parts

    return mark


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (COLUMNS, True),
        (COLUMNS.splitlines()[0], False),
        ("no two words\n    are far apart, but indented", False),
        ("two sentences.  One line\nand another", False),
    ],
)
def test_columns_of_an_output_scroll(text, found, marked):
    shown, code = marked(nodes.literal_block(text, text, classes=["output"]), nodes.literal_block(text, text))
    assert ("columns" in shown["classes"]) is found and not code["classes"]


def test_a_long_sentence_after_a_name_continues_under_itself(marked):
    sentence, table = "word " * 25 + "end", "1.00  " * 30 + "2.00"
    shown = marked(nodes.literal_block("", f"name   {sentence}\nother  {table}", classes=["output"]))[0].astext()
    first, second, third = shown.split("\n")
    assert first.startswith("name   word") and second.startswith("       word") and max(len(first), len(second)) <= 100
    assert f"{first[7:]} {second[7:]}" == sentence and third == f"other  {table}"


def test_a_wide_picture_scrolls_and_each_has_a_text(marked, monkeypatch):
    wide, other = marked(nodes.image(uri="_static/posteriors.png", alt="Posteriors"), nodes.image(uri="none.svg"))
    assert wide["classes"] == ["wide"] and wide["alt"] == "Posteriors"
    assert not other["classes"] and other["alt"]
    monkeypatch.setattr(importlib.import_module("outputs"), "WIDE", 1122)  # its width
    assert marked(nodes.image(uri="_static/posteriors.png"))[0]["classes"] == []
