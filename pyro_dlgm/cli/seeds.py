r"""``pyro-dlgm compare --seeds``: rows over several seeds, what is printed of them, and their files."""

from pathlib import Path

import click


def compared(asked: tuple[tuple, dict], num: int, jobs: int | None, out: Path) -> list:
    r"""Trains and scores all rows at ``num`` seeds, and prints a line for each that has ended or is kept.

    Arguments:
        asked: the arguments of `compare`, those by place and those by name.
        num: the number of seeds.
        jobs: processes at a time.
        out: the folder of the comparison.
    """
    from ..comparison.seeds.gathered import gathered
    from ..comparison.seeds.over_seeds import FOLDER, run
    from ..comparison.seeds.planned import planned

    points, settings = asked
    folder = out / FOLDER
    parts, done = planned(*points, seeds=num, folder=folder, **settings), []
    try:
        for end in run(parts, folder, jobs):
            done.append(end)
            click.echo(f"{len(done):>{len(str(len(parts)))}} of {len(parts)}  {_line(end)}", err=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is finished is kept in {folder}; the same command goes on from there") from None
    return gathered(parts, done)


def _line(end) -> str:
    r"""What a part has come to, in one line."""
    from ..comparison.seeds.gathered import SCORES

    name = f"{end.part.name}, seed {end.part.seed}"
    if end.failure:
        return f"{name} failed: {end.failure}"
    scores = [f"{title} {end.row[key]:.2f}" for key, title in SCORES.items() if end.row[key] is not None]
    return ": ".join([name, ", ".join(scores)] if scores else [name])


def said(rows: list, dataset, num_samples: int) -> list[str]:
    r"""Returns the lines of the table, and its footnotes."""
    from ..comparison import table
    from ..comparison.seeds.table import columns, footnotes

    shown = columns(rows)
    lines = [click.style(table.header(shown), bold=True), *(table.line(row, shown) for row in rows)]
    return [*lines, "", *footnotes(rows, len(dataset.test), num_samples)]


def write(out: Path, rows: list, dataset, config: dict) -> list[Path]:
    r"""Writes the files of `folder.write`, and compare.csv."""
    from ..comparison.seeds.files import write_csv
    from ..comparison.seeds.sheet import sheet
    from ..report import folder, page

    write_csv(out / "compare.csv", rows)
    report = page.of_seeds(rows, dataset, config["num_samples"])
    first, *others = folder.write(out, rows, config, sheet(rows), report)
    return [first, out / "compare.csv", *others]
