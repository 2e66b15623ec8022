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
    r"""The numbers of a text, each with its standard error or quartiles."""
    return re.findall(r"−?\d[\d,.]*\d(?: ± [\d.]+| \([\d.]+ to [\d.]+\))?", text)


def sections(text):
    r"""The texts under headings, by the name that a link gives a heading."""
    parts = re.split(r"^#{2,} (.+)$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-"): part
        for t, part in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_the_summary_of_the_benchmarks_repeats_its_sections():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    below = sections(text)
    table = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|") and "](#" in line]
    rows = [line.strip("| ").split(" | ") for line in table]
    assert len(rows) > 10
    for _, answer, how in rows:
        section = below[re.search(r"\(#(.+)\)", how)[1]]
        assert numbers(answer) and all(number in section for number in numbers(answer)), (answer, how)
