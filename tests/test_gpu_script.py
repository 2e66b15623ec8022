r"""The script of `make gpu` on the CPU, with tiny sizes and without the libraries that a GPU machine may lack."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
ABSENT = ("sklearn", "scipy", "arviz", "zuko", "rich", "click", "matplotlib", "tensorboard", "xarray", "pandas")
# Nothing is installed there: neither these libraries nor the package.
BARE = f"""
import runpy, sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(f) for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
sys.path[:] = [p for p in sys.path if "editable" not in p]
sys.argv = ["gpu.py", *sys.argv[1:]]
sys.path.insert(0, {str(BENCHMARKS)!r})
runpy.run_path({str(BENCHMARKS / "gpu.py")!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> tuple[dict, str]:
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-c", BARE, "--device", "cpu", "--smoke", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


def test_each_section_has_its_rows(smoke):
    found, page = smoke
    assert [name for name, record in found["sections"].items() if "error" in record or not record["rows"]] == []
    failed = [row for record in found["sections"].values() for row in record["rows"] if "failed" in row]
    assert failed == [] and page.count("\n## ") == len(found["sections"]) == 9
    assert sum(record["budget"] + 5 for record in found["sections"].values()) <= 8 * 60


def test_it_says_what_was_found(smoke):
    sections = smoke[0]["sections"]
    waits = {row["guide"]: row["waits"] for row in sections["sync"]["rows"]}
    lacking = {name for name, said in waits.items() if "zuko" in said}
    assert lacking <= {"flow", "flow_rows"} and {said for name, said in waits.items() if name not in lacking} == {"no"}
    assert {row["bit_for_bit"] for row in sections["resume"]["rows"]} == {"yes"}
    assert {row["step"] for row in sections["price"]["rows"]} >= {"hand-written", "pyro_dlgm.SVI, compiled, bf16"}
    assert "20 images: " in smoke[1] and "(measured)" in smoke[1]


@pytest.fixture
def apart(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_apart

    return gpu_apart


def asked(apart, tmp_path, seconds=30.0):
    return apart.Asked("cpu", True, seconds, str(tmp_path / "one.json"))


def failing(asked) -> None:
    asked.row(done=1)
    raise RuntimeError("the device is gone")


def dying(asked) -> None:
    asked.row(done=1)
    os._exit(3)


def hanging(asked) -> None:
    asked.row(done=1)
    time.sleep(60)


@pytest.mark.parametrize(
    ("section", "words"), [(failing, "RuntimeError: the device is gone at tests/"), (dying, "its process ended with 3")]
)
def test_a_section_that_fails_keeps_its_rows_and_says_why(section, words, apart, tmp_path):
    record = apart.run(section, asked(apart, tmp_path))
    assert record["rows"] == [{"done": 1}] and record["error"].startswith(words)


def test_a_section_that_takes_too_long_is_stopped(apart, tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "GRACE", 0.1)
    record = apart.run(hanging, asked(apart, tmp_path, 0.4))
    assert record["rows"] == [{"done": 1}] and record["error"] == "stopped after 0 s" and record["seconds"] < 30


def test_the_page_has_errors_and_all_columns(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_report

    record = {"seconds": 1.0, "budget": 2.0, "rows": [{"a": 1}, {"b": 0.5}], "notes": ["a note"], "error": "why"}
    page = gpu_report.markdown({"sync": record}, 1.0)
    assert "| a | b |" in page and "| 1 | – |" in page and "| – | 0.5 |" in page
    assert "**Not finished**: why" in page and "a note" in page


def test_without_the_device_it_says_so(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu

    with pytest.raises(SystemExit, match="no device 'cuda:63' here: "):
        gpu.main(["--device", "cuda:63", "--out", str(tmp_path)])
