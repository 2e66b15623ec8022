r"""The build of the site finds links that lead nowhere."""

import importlib
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parent.parent / "docs" / "_ext"
PAGE = """<p id="top">text</p> <a class="x" href="{}">link</a> <a href="https://none.org/x#y">other</a>"""


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("#top", False),
        ("#", False),
        ("#bottom", True),
        ("b.html", False),
        ("b.html#top", False),
        ("b.html#bottom", True),
        ("c.html", True),
        ("text.txt#line", False),
        ("with%20space.html#top", False),
    ],
)
def test_links_that_lead_nowhere(link, found, tmp_path, monkeypatch):
    pytest.importorskip("sphinx", reason="sphinx is not installed: the extra docs")
    monkeypatch.syspath_prepend(EXTENSIONS)
    for name in ("a.html", "b.html", "text.txt", "with space.html"):
        (tmp_path / name).write_text(PAGE.format(link if name == "a.html" else "#top"), encoding="utf-8")
    dead = importlib.import_module("anchors").dead(tmp_path.glob("*.html"))
    assert [page for page, _ in dead] == ["a.html"] * found
