r"""The command ``pyro-dlgm evaluate``: score a run, and add the scores to it."""

import sys
from pathlib import Path

import click

from ..runs.files import add_section
from . import config, types
from .options import CERTIFY, COUNT, DEVICE, check_certifying


@click.command("evaluate")
@click.argument("run", type=types.PATH)
@click.option("--iwae", type=click.IntRange(25), default=1000, help="The number K of samples of IWAE-K.")
@click.option("--points", type=COUNT, help="How many test points, the first ones.  [default: all]")
@CERTIFY
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all that is random.")
@click.option(
    "--data-root", type=types.PATH, help="Where the data lie, if they have moved: as for fit, or the file or folder."
)
@DEVICE
def evaluate_command(run, iwae, points, ais, gaps, certified, chains, temperatures, seed, data_root, device) -> None:
    """Score the RUN on its test points: ELBO <= IWAE-K <= log p(x|w), in nats per point.

    Guides with parameters for each point make an E-step on the test points first, with w frozen. ESS and Pareto k-hat
    say how far to trust the IWAE. The numbers go to evaluation.json in the folder of the run.

    \b
    --ais    log p(x) of the run's w by annealed importance sampling, with the bound that BDMC sets on its error
    --gaps   log p(x) - F(q) = [log p(x) - F(q*)] + [F(q*) - F(q)], on training and on test points
    """
    asked = check_certifying(ais, gaps)
    from ..comparison.certificates import Certify, lines, sections
    from ..report import page
    from ..runs.fingerprint import bound
    from ..runs.load import load

    model, guide, kept = load(run)
    dataset, pair = config.data_of(run, kept, data_root), (model.to(device), guide.to(device))
    _score(run, pair, dataset, iwae, seed, points)
    if asked:
        said = {"objective": bound(kept.get("fit", {}).get("objective")), "progress": sys.stderr.isatty()}
        found = sections(*pair, dataset, Certify(gaps, certified, chains, temperatures), seed, **said)
        _add(run, found)
        click.echo("\n".join(lines(found)))
    click.echo(f"Written: {run / 'evaluation.json'}, {page.write(run, page.of_run(run, dataset))}")


def _score(run: Path, pair: tuple, dataset, num_samples: int, seed: int, points: int | None) -> None:
    from ..comparison.pair import bits_per_dim, block_scores, blocks, lines, summary

    model, guide = pair
    parts = blocks(guide, dataset.test[:points].to(next(model.parameters()).device))
    scores = list(track(block_scores(model, guide, parts, num_samples, seed), len(parts)))
    bits = bits_per_dim(model.likelihood, dataset.transform, dataset.test[0].numel())
    result = summary(scores, bits) | {"num_samples": num_samples, "seed": seed}
    _add(run, {"test": result | {"data": dataset.name, "protocol": dataset.protocol}})
    click.echo(f"{result['points']} test points of {dataset.name}: {dataset.protocol}")
    click.echo("\n".join(lines(result, num_samples)))


def _add(run: Path, sections: dict[str, dict]) -> None:
    from ..runs.run import Run

    said = {"step": Run(run).load()["step"], "unit": "nats per point"}
    for name, section in sections.items():
        add_section(run / "evaluation.json", name, section | said)


def track(blocks, total: int):
    r"""Goes through the blocks, with a bar if there is a terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.track(blocks, "scoring", total, console=console, transient=True, disable=not sys.stderr.isatty())
