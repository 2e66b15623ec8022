r"""The files of a comparison, at one seed or over several."""

from collections.abc import Sequence
from pathlib import Path

from ..runs.files import whole, write_json
from . import page


def write(out: Path, rows: Sequence, config: dict, sheet, report: str) -> list[Path]:
    r"""Writes the files of a comparison, and returns the paths of those that are looked at.

    Arguments:
        out: the folder: compare.json, config.json, compare.png and report.html.
        rows: with a method ``plain()``.
        config: what was asked for.
        sheet: the figure of compare.png.
        report: the HTML of the report.
    """
    write_json(out / "compare.json", [row.plain() for row in rows])
    write_json(out / "config.json", config)
    with whole(out / "compare.png") as path:
        sheet.savefig(path, dpi=130, format="png")
    return [out / "compare.json", out / "compare.png", page.write(out, report)]
