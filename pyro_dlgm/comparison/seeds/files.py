r"""The numbers of all rows at all seeds as one table in a file, for other programs."""

import csv
from collections.abc import Sequence
from pathlib import Path

from ...runs.files import whole
from ..columns import KEYS
from .gathered import SeedRow


def write_csv(file: Path, rows: Sequence[SeedRow]) -> None:
    r"""Writes a line for each row at each seed: method, seed, each number of the row, and why it failed."""
    lines = [{"method": row.name, "seed": seed, **one} for row in rows for seed, one in row.rows.items()]
    numbers = [key for key in KEYS if any(isinstance(line.get(key), int | float) for line in lines)]
    lines += [{"method": row.name, "seed": s, "failed": why} for row in rows for s, why in row.failed.items()]
    with whole(file) as path, path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, ["method", "seed", *numbers, "failed"], extrasaction="ignore")
        table.writeheader()
        table.writerows(lines)
