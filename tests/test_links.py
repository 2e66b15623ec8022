"""README and the pages of the site: links lead somewhere, and a summary repeats numbers that stand below it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))], ids=lambda p: p.name)
def test_links_lead_to_files(page):
    text = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    missing = [link for link, _ in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


def numbers(text):
    return re.findall(r"−?\d[\d,]*(?:\.\d+)?", text)


def test_the_summary_of_the_benchmarks_stands_below():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    summary, below = text.split("\n## ", 1)
    answers = [line.split(" | ")[1] for line in summary.splitlines() if line.startswith("| ") and "](#" in line]
    assert len(answers) > 10
    there = set(numbers(below))
    assert not [number for answer in answers for number in numbers(answer) if number not in there]
