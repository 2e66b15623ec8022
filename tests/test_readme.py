"""The Python that README.md shows first runs as it stands."""

import re
from pathlib import Path

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
