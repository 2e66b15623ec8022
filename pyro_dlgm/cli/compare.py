r"""The command ``pyro-dlgm compare``: several guides on one generative model, one table."""

import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click

from ..recipes import bounds, imports, mechanisms, pairs
from . import config, types
from .help import Taught
from .options import COUNT, DATA, LIKELIHOOD, MISSINGNESS, OBJECTIVE, annealed, certifying, scores_asked

NO_PPCA = "There is no row of PPCA: a probability is no density, and values of one column have no linear model."
MASKS = "There is no row of PPCA: log p(x, m) counts which values are missing, and PPCA's does not."
OWN = "There is no row of PPCA: it compares with a density alone, and {} does not say whether it is one."
SAID = ("likelihood", "missingness", "guides", "objective", "w")  # in config.json
TEMPERATURES = 30  # a pilot that finds how many --tol takes costs each row more than the walks of 64 points
ASKED = {"log_px": "ais", "gaps": "gaps"}  # what a column needs, and the option that asks for it
HEADLINE = "hard-em,mean-field,full-rank,amortized,auto-normal"
EXAMPLES = {
    "pyro-dlgm compare --data digits": "five guides on the built-in digits, with certificates",
    "pyro-dlgm compare --guides mean-field,amortized --no-ais": "two guides, by their bounds alone",
    "pyro-dlgm compare --guides mean-field,amortized --objective iwae:10": "trained by IWAE-10",
    "pyro-dlgm compare --w frozen --certified 100": "all guides at one w, gaps at 100 test points",
    "pyro-dlgm compare --seeds 8": "each row at eight seeds, in processes, and which one wins",
}


@click.command("compare", cls=Taught, examples=EXAMPLES)
@DATA
@click.option(
    "--guides",
    default=HEADLINE,
    callback=types.guides,
    help=f"Rows, with commas between: some of {', '.join(pairs.GUIDES)}, or module:Name.",
)
@LIKELIHOOD
@MISSINGNESS
@click.option("--latents", type=click.IntRange(1, 63), default=16, help="The number D of latents t.")
@click.option(
    "--gradients", type=COUNT, default=100, help="Budget of each row, gradient evaluations per training point."
)
@OBJECTIVE
@click.option("--points", type=COUNT, help="Number of test points, from the first on.  [default: all]")
@certifying(True)
@click.option(
    "--w",
    type=click.Choice(["own", "frozen"]),
    default="own",
    help="own: each method trains its w. frozen: the first guide's w serves all rows, which train q alone, so that "
    "F(q) and the gaps compare what the guides can do at one w.",
)
@click.option("--samples", type=click.IntRange(25), default=1000, help="The number K of samples of IWAE-K.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of w, of each training and of each scoring.")
@click.option(
    "--seeds",
    type=COUNT,
    default=1,
    help="Train and score each row at this many seeds, from --seed on, in processes of one thread each. What is "
    "finished is kept, and the same command goes on from there.",
)
@click.option(
    "--jobs",
    type=COUNT,
    help="Processes in which rows are trained and scored; they share the cores. With 1, and for streamed images, one "
    "row is done after the other.  [default: one for each core]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="runs/compare",
    callback=types.folder,
    help="Folder for compare.json, compare.png and report.html.",
)
def compare_command(out, download, **options) -> None:
    """Compare several guides on one generative model, in one table: the main job.

    Every row starts from the same w and has the same budget. PPCA, the exact linear baseline, comes first as a
    reference, where the likelihood is a density as well. Guides with parameters for each point score the test set
    after an E-step there, with w frozen.

    \b
    --ais    log p(x) of each row's w, by annealing, with a bound on its error
    --gaps   log p(x) - F(q): what the family of q loses, what its parameters
    --seeds  means and paired differences over seeds; a winner, if there is one
    """
    options["ais"], options["gaps"] = scores_asked(options["ais"], options["gaps"])
    _check(options)
    dataset, kept = _dataset(options, download)
    certify = _certify(options, len(dataset.test)) if options["ais"] else None
    budget = {"gradients": options["gradients"], "num_samples": options["samples"], "seed": options["seed"]}
    budget["ppca"] = _linear(options, dataset)
    said = {"data": kept, **{name: options[name] for name in SAID}, **budget}
    said |= {"certify": certify and asdict(certify)}
    do = _over_seeds if options["seeds"] > 1 else _one_seed
    written, sound = do(options, dataset, certify, budget, out, said)
    click.echo(f"\nWritten: {', '.join(map(str, written))}")
    if not sound:
        click.get_current_context().exit(1)


def _check(options: dict) -> None:
    r"""Raises a `ValueError` that names the first options that do not fit each other, before anything is spent."""
    bounds.check(options["objective"], options["guides"])
    mechanisms.check(options["missingness"], options["likelihood"], pairs.names(options["likelihood"]))
    K, budget = bounds.num_samples(options["objective"]), options["gradients"]
    if budget < K:
        raise ValueError(f"gradients is {budget}, and objective {options['objective']!r} takes {K} at each visit")


def _dataset(options: dict, download: bool):
    r"""The data set with its first test points, and what ``config.json`` says of it."""
    (dataset, kept), points = config.dataset(options, download=download), options["points"]
    labels = None if dataset.test_labels is None else dataset.test_labels[:points]
    some = dataset.test_points[:points]
    return replace(dataset, test=some.x, test_given=some.given, test_labels=labels), kept


def _certify(options: dict, M: int):
    r"""How log p(x) of M test points is certified."""
    from ..comparison.certificates import Certify

    walks = annealed(options["temperatures"], options["tol"], TEMPERATURES)
    return Certify(options["gaps"], min(options["certified"], M), options["chains"], **walks)


def _linear(options: dict, dataset) -> int | None:
    r"""The latents of PPCA; `None` where it is no reference."""
    likelihood = options["likelihood"]
    if options["missingness"] or imports.is_path(likelihood) or set(pairs.names(likelihood)) & set(pairs.MASSES):
        return None
    return min(options["latents"], dataset.test[0].numel() - 1) or None


def _asked(options: dict, dataset, certify, budget: dict) -> tuple[tuple, dict]:
    r"""The arguments of `compare`, those by place and those by name."""
    for path in filter(imports.is_path, (options["likelihood"], *options["guides"])):
        imports.imported(path)  # here, so that what processes return can be read, and a mistake is told at once
    built = options["latents"], dataset.image_shape, dataset.given_dim
    factories = {guide: pairs.guide(guide, *built) for guide in options["guides"]}
    settings = {
        "transform": dataset.transform,
        "x_val": dataset.val_points if len(dataset.val) else None,
        "model_name": pairs.called(options["likelihood"], dataset.image_shape),
        "certify": certify,
        "frozen": options["w"] == "frozen",
        "objective": bounds.objective(options["objective"]),
    }
    model = partial(pairs.model, options["likelihood"], *built, missingness=options["missingness"])
    return (model, factories, dataset.train_points, dataset.test_points), settings | budget


def _rows(options: dict, dataset, certify, budget: dict) -> Iterator:
    from ..comparison.comparison import rows

    points, settings = _asked(options, dataset, certify, budget)
    return rows(*points, jobs=options["jobs"], progress=sys.stderr.isatty(), **settings)


def _jobs(options: dict, dataset) -> int | None:
    r"""In how many processes the rows at one seed are done; `None`: in this one, as where images are streamed."""
    from ..comparison.workers import pool

    jobs = min(options["jobs"] or pool.cores(), len(options["guides"]))
    return None if jobs == 1 or hasattr(dataset.train, "extremes") else jobs


def _one_seed(options: dict, dataset, certify, budget: dict, out: Path, said: dict) -> tuple[list[Path], bool]:
    r"""Trains, scores and prints the rows at one seed; returns the files, and whether nothing failed."""
    options["jobs"] = said["jobs"] = _jobs(options, dataset)
    done = _printed(_rows(options, dataset, certify, budget), options, certify and certify.points)
    _say(done, dataset, options, budget)
    return _write(out, done, dataset, said), True


def _over_seeds(options: dict, dataset, certify, budget: dict, out: Path, said: dict) -> tuple[list[Path], bool]:
    r"""The same over several seeds."""
    from . import seeds

    rows = seeds.compared(_asked(options, dataset, certify, budget), options["seeds"], options["jobs"], out)
    click.echo("\n".join(seeds.said(rows, dataset, options["samples"])))
    _say_linear(options, budget)
    said |= {"seeds": options["seeds"], "jobs": options["jobs"], "machine": _machine(1)}
    return seeds.write(out, rows, dataset, said), not any(row.failed for row in rows)


def _printed(rows: Iterator, options: dict, certified: int | None) -> list:
    r"""The rows, each printed as soon as it is there, in the columns that can be filled.

    Arguments:
        certified: the number of points at which log p(x) is certified.
    """
    from ..comparison import columns, table

    shown, done = columns.columns(*(name for name, ask in ASKED.items() if options[ask])), []
    click.secho(table.header(shown, certified), bold=True)
    for row in rows:
        click.echo(table.line(row, shown))
        done.append(row)
    return done


def _say(done: list, dataset, options: dict, budget: dict) -> None:
    r"""Prints the footnotes."""
    from ..comparison import table

    click.echo("\n" + "\n".join(table.footnotes(done, dataset, budget["num_samples"])))
    _say_linear(options, budget)


def _say_linear(options: dict, budget: dict) -> None:
    r"""Prints why there is no row of PPCA, where there is none."""
    if budget["ppca"] is None:
        own = imports.is_path(options["likelihood"])
        why = OWN.format(options["likelihood"]) if own else NO_PPCA
        click.echo(MASKS if options["missingness"] else why)


def _write(out: Path, done: list, dataset, said: dict) -> list[Path]:
    import torch

    from ..comparison.sheet import sheet
    from ..comparison.workers import pool
    from ..report import folder, page

    said |= {"machine": _machine(pool.share(said["jobs"]) if said["jobs"] else torch.get_num_threads())}
    report = page.of_comparison(done, dataset, said["num_samples"])
    return folder.write(out, done, said, sheet(done, dataset.test_points), report)


def _machine(threads: int) -> dict:
    r"""What the numbers were computed on, with that many threads in a process."""
    machine = {"processor": platform.processor() or platform.machine(), "threads": threads}
    return machine | {name: version(name) for name in ("torch", "pyro-ppl", "pyro_dlgm")}
