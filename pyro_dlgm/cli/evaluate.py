r"""The command ``pyro-dlgm evaluate``: scores a run, and adds the scores to it."""

import sys
from pathlib import Path

import click

from ..runs.files import add_section
from . import config, types
from .help import Taught
from .options import COUNT, DEVICE, MOVED, OWN, annealed, certifying, scores_asked

EXAMPLES = {
    "pyro-dlgm evaluate runs/x": "ELBO and IWAE-1000 at all test points",
    "pyro-dlgm evaluate runs/x --gaps --points 100": "log p(x), certified, and what q loses, at 100 test points",
}


@click.command("evaluate", cls=Taught, examples=EXAMPLES)
@click.argument("run", type=types.PATH)
@click.option("--iwae", type=click.IntRange(25), default=1000, help="The number K of samples of IWAE-K.")
@click.option("--points", type=COUNT, help="Number of test points, from the first on.  [default: all]")
@certifying(False)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all that is random.")
@MOVED
@OWN
@DEVICE
def evaluate_command(
    run, iwae, points, ais, gaps, certified, chains, temperatures, tol, seed, data_root, likelihood, guide, device
) -> None:
    """Score the RUN on its test points: ELBO <= IWAE-K <= log p(x|w), in nats per point.

    Guides with parameters for each point make an E-step on the test points first, with w frozen. ESS and Pareto k-hat
    say how far to trust the IWAE. The numbers go to evaluation.json in the folder of the run.

    \b
    --ais    log p(x) of the run's w by annealed importance sampling, with the bound that BDMC sets on its error
    --gaps   log p(x) - F(q) = [log p(x) - F(q*)] + [F(q*) - F(q)], on training and on test points
    """
    ais, gaps = scores_asked(ais, gaps)
    from ..comparison.certificates import Certify, sections
    from ..runs.fingerprint import bound
    from ..runs.load import load

    # Bad options are refused before the run is read.
    certify = Certify(gaps, certified, chains, **annealed(temperatures, tol))
    imports = config.consented(run, likelihood, guide)
    model, guide, kept = load(run, imports=imports)
    dataset, pair = config.data_of(run, kept, data_root), (model.to(device), guide.to(device))
    click.echo(f"{len(dataset.test[:points])} test points of {dataset.name}: {dataset.protocol}")
    _add(run, dataset, {"test": _scored(*pair, dataset, iwae, seed, points)}, imports)
    if ais:
        said = {"objective": bound(kept.get("fit", {}).get("objective")), "progress": sys.stderr.isatty()}
        _add(run, dataset, sections(*pair, dataset, certify, seed, **said), imports)
    click.echo(f"Written: {run / 'evaluation.json'}, {run / 'report.html'}")


def _scored(model, guide, dataset, num_samples: int, seed: int, points: int | None) -> dict:
    from ..comparison.scoring import bits_per_dim, block_scores, scored_blocks, summary
    from ..progress import Bar

    parts, found = scored_blocks(guide, dataset.test_points[:points].to(next(model.parameters()).device)), []
    with Bar(len(parts), shown=sys.stderr.isatty(), name="score") as bar:
        for block in block_scores(model, guide, parts, num_samples, seed):
            found.append(block)
            bar.tick()
    bits = bits_per_dim(model.likelihood, dataset.transform, dataset.test[0].numel())
    said = {"num_samples": num_samples, "seed": seed, "data": dataset.name, "protocol": dataset.protocol}
    return summary(found, bits) | said


def _add(run: Path, dataset, sections: dict[str, dict], imports: list[str]) -> None:
    r"""Adds the sections to ``evaluation.json`` and the report, and prints them: the next ones take long."""
    from ..comparison.evaluation import lines
    from ..report import page
    from ..runs.run import Run

    said = {"step": Run(run).load()["step"], "unit": "nats per point"}
    for name, section in sections.items():
        add_section(run / "evaluation.json", name, section | said)
    page.write(run, page.of_run(run, dataset, imports=imports))
    click.echo("\n".join(lines(sections)))
