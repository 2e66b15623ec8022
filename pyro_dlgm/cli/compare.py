r"""The command ``pyro-dlgm compare``: several guides on one generative model, one table."""

import platform
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import click

from ..recipes import imports, pairs
from ..runs.files import whole, write_json
from . import config, types
from .options import CERTIFY, COUNT, DATA, LIKELIHOOD, annealed, check_certifying, together

NO_PPCA = "There is no row of PPCA: a probability is no density, and values of one column have no linear model."
OWN = "There is no row of PPCA: it compares with a density alone, and {} does not say whether it is one."
TEMPERATURES = 30  # a pilot that finds how many --tol takes costs each row more than the walks of 64 points
HEADLINE = "hard-em,mean-field,full-rank,amortized,auto-normal"


ASK = together(
    click.option("--ais/--no-ais", default=True, help="Estimate log p(x) by AIS, certified by BDMC."),
    click.option("--gaps/--no-gaps", default=True, help="Also take log p(x) - F(q) apart."),
)


@click.command("compare")
@DATA
@click.option(
    "--guides",
    default=HEADLINE,
    callback=types.guides,
    help=f"Rows, with commas between: some of {', '.join(pairs.GUIDES)}, or module:Name.",
)
@LIKELIHOOD
@click.option("--latents", type=click.IntRange(1, 63), default=16, help="The number D of latents t.")
@click.option(
    "--gradients", type=COUNT, default=100, help="Budget of each row, gradient evaluations per training point."
)
@click.option("--points", type=COUNT, help="How many test points, the first ones.  [default: all]")
@ASK
@CERTIFY
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
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="runs/compare",
    callback=types.folder,
    help="Folder for compare.json, compare.png and report.html.",
)
def compare_command(
    guides, points, ais, gaps, certified, chains, temperatures, tol, w, out, download, **options
) -> None:
    """The main job: several guides on one generative model, one table.

    Every row starts from the same w and has the same budget. PPCA, the exact linear baseline, stands first, where the
    likelihood is a density as well. Guides with parameters for each point score the test set after an E-step there,
    with w frozen.

    \b
    --ais    log p(x) of each row's w by annealed importance sampling, with the bound that BDMC sets on its error
    --gaps   log p(x) - F(q) = [log p(x) - F(q*)] + [F(q*) - F(q)]: what the family, what the parameters of q lose
    """
    asked = check_certifying(ais, ais and gaps)
    from ..comparison import table
    from ..comparison.certificates import Certify
    from ..comparison.comparison import rows

    dataset, kept = _dataset(options, points, download)
    N = len(dataset.test)
    likelihood, latents, shape = options["likelihood"], options["latents"], dataset.image_shape
    built = latents, shape, dataset.given_dim
    own = imports.is_path(likelihood)
    density = not own and not set(pairs.names(likelihood)) & set(pairs.MASSES)
    linear = min(latents, dataset.test[0].numel() - 1) or None if density else None
    certify = Certify(gaps, min(certified, N), chains, **annealed(temperatures, tol, TEMPERATURES)) if asked else None
    budget = {"gradients": options["gradients"], "num_samples": options["samples"], "ppca": linear}
    budget["seed"] = options["seed"]
    work = rows(
        lambda: pairs.model(likelihood, *built),
        {guide: pairs.guide(guide, *built) for guide in guides},
        dataset.train_points,
        dataset.test_points,
        transform=dataset.transform,
        model_name=pairs.called(likelihood, shape),
        certify=certify,
        frozen=w == "frozen",
        progress=sys.stderr.isatty(),
        **budget,
    )
    done = []
    click.secho(table.header(asked), bold=True)
    for row in work:
        click.echo(table.line(row, asked))
        done.append(row)
    click.echo("\n" + "\n".join(table.footnotes(done, dataset, budget["num_samples"])))
    if linear is None:
        click.echo(OWN.format(likelihood) if own else NO_PPCA)
    said = {"data": kept, "likelihood": likelihood, "guides": guides, "w": w, **budget}
    written = _write(out, done, dataset, said | {"certify": asdict(certify) if asked else None})
    click.echo(f"\nWritten: {', '.join(map(str, written))}")


def _dataset(options: dict, points: int | None, download: bool):
    r"""The data set with its first test points, and what ``config.json`` says of it."""
    dataset, kept = config.dataset(options, download=download)
    labels = None if dataset.test_labels is None else dataset.test_labels[:points]
    some = dataset.test_points[:points]
    return replace(dataset, test=some.x, test_given=some.given, test_labels=labels), kept


def _write(out: Path, done: list, dataset, said: dict) -> list[Path]:
    import torch

    from ..comparison.sheet import sheet
    from ..report import page

    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    said |= {"machine": machine | {name: version(name) for name in ("torch", "pyro-ppl", "pyro_dlgm")}}
    for name, value in (("compare", [row.plain() for row in done]), ("config", said)):
        write_json(out / f"{name}.json", value)
    with whole(out / "compare.png") as path:
        sheet(done, dataset.test_points).savefig(path, dpi=130, format="png")
    report = page.write(out, page.of_comparison(done, dataset, said["num_samples"]))
    return [out / "compare.json", out / "compare.png", report]
