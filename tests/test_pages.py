r"""The Python of the pages on guides, of the how-to and of the FAQ runs, with trainings cut to two steps."""

import ast
import re
import textwrap
from functools import partial
from pathlib import Path

import pytest

import pyro_dlgm
from pyro_dlgm import evaluate, fit, guides, nets

DOCS = Path(__file__).parent.parent / "docs"
START = DOCS / "methods" / "index.md"  # what the pages say that their code starts with
METHODS = sorted(page for page in START.parent.glob("*.md") if page != START)
EVIDENCE = evaluate.evidence
HEADINGS = [
    "What it assumes",
    "Definition",
    "Cost",
    "When it fails",
    "Advantages and limits",
    "Use",
    "Tutorial and references",
]


def python(page: Path) -> str:
    r"""The blocks of Python on a page, one after the other."""
    found = re.findall(r"^( *)```python\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return "\n".join(textwrap.dedent(code) for _, code in found)


def roughly(model, judge, x, **settings):
    r"""`evaluate.evidence` of three points, hardly certified, whatever was asked for."""
    return EVIDENCE(model, judge, x[:3], **settings | {"num_simulated": 2, "tol": 50.0, "budget": 500})


def two_steps(*args, epochs=None, steps=None, **settings):
    r"""`fit` for two steps on a few points each, whatever was asked for."""
    return fit(*args, steps=2, **settings | {"batch_size": 10})


@pytest.fixture
def short(monkeypatch, tmp_path):
    r"""Trainings and E-steps of two steps with small networks, in an empty folder."""
    monkeypatch.setattr(pyro_dlgm, "fit", two_steps)
    monkeypatch.setattr(nets, "ConvDecoder", lambda D, shape: nets.MLP(D, shape, (8,)))
    monkeypatch.setattr(nets, "ConvEncoder", lambda shape: nets.MLP(shape, 8, (8,)))
    monkeypatch.setattr(guides, "Chain", partial(guides.Chain, burn_in=2))
    monkeypatch.setattr(evaluate, "infer", partial(evaluate.infer, max_steps=2))
    monkeypatch.setattr(evaluate, "evidence", roughly)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, short):
    if page.stem == "flow":
        pytest.importorskip("zuko", reason="zuko is not installed: the extra flow")
    exec(compile(f"{python(START)}\n{python(page)}", str(page), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_pages_of_guides_have_the_same_headings(page):
    assert re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE) == HEADINGS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", ["how_to", "faq"])
def test_the_code_of_how_to_and_faq_runs(page, short):
    code = f"{python(START)}\n{python(DOCS / f'{page}.md')}"
    exec(compile(code, page, "exec"), {"__name__": "page"})


def texts() -> list[str]:
    r"""All texts in the code of the package, of an f-string each part between two values."""
    files = [path for face in (pyro_dlgm, guides) for path in Path(face.__file__).parent.rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_messages_in_the_faq_are_those_of_the_package():
    known, page = "\n".join(texts()), (DOCS / "faq.md").read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"^ *```text\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE))
    parts = {
        part.strip() for line in shown.splitlines() for part in line.removeprefix("FloatingPointError:").split("…")
    }
    assert len(parts) > 30
    assert [part for part in parts if part not in known] == []
