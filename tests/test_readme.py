"""The Python that README.md shows first runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def first_python_block() -> str:
    return re.search(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE).group(1)


def test_the_first_python_block_runs(capsys):
    code = first_python_block()
    assert len(code.splitlines()) <= 12
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["MeanField", "Amortized"]
    assert all(line.endswith("nats per test point") for line in lines)


def test_the_first_page_runs_the_same_lines():
    page = (README.parent / "docs" / "index.md").read_text(encoding="utf-8")
    assert first_python_block() in page


def imports():
    pages = [README, *sorted(README.parent.glob("docs/**/*.md"))]
    lines = {line.strip() for page in pages for line in page.read_text(encoding="utf-8").splitlines()}
    return sorted(line for line in lines if re.match(r"(from|import) pyro_dlgm\S* ?(import)?", line))


@pytest.mark.parametrize("line", imports())
def test_what_the_pages_import_is_there(line):
    exec(line, {"__name__": "pages"})
