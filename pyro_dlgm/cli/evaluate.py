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
    scored = Scored(run, data_root, device)
    result = scored.score(iwae, seed, points)
    click.echo(f"{result['points']} test points of {result['data']}: {result['protocol']}")
    click.echo("\n".join(scored.lines))
    if asked:
        click.echo("\n".join(scored.certify(gaps, certified, chains, temperatures, seed)))
    click.echo(f"Written: {run / 'evaluation.json'}, {scored.report()}")


class Scored:
    r"""Creates what scores a run.

    Arguments:
        run: its folder.
        root: where its data lie, if they have moved.
        device: where to work.
    """

    def __init__(self, run: Path, root: Path | None, device: str):
        from ..runs.load import load
        from ..runs.run import Run

        self.run, self.step, self.lines = run, Run(run).load()["step"], []
        model, guide, self.config = load(run)
        self.dataset = config.data_of(run, self.config, root)
        self.model, self.guide, self.device = model.to(device), guide.to(device), device

    def score(self, num_samples: int, seed: int, points: int | None) -> dict:
        r"""Scores the pair on the first test points; K = ``num_samples`` of IWAE-K."""
        from ..comparison import pair

        x = self.dataset.test[:points].to(self.device)
        parts = pair.blocks(self.guide, x)
        work = track(pair.block_scores(self.model, self.guide, parts, num_samples, seed), len(parts))
        bits = pair.bits_per_dim(self.model.likelihood, self.dataset.transform, x[0].numel())
        result = pair.summary(list(work), bits) | {"num_samples": num_samples, "seed": seed}
        result |= {"data": self.dataset.name, "protocol": self.dataset.protocol}
        self._add("test", result)
        self.lines = pair.lines(result, num_samples)
        return result

    def certify(self, gaps: bool, points: int, chains: int, temperatures: int, seed: int) -> list[str]:
        r"""Certifies log p(x), or takes the gap apart; returns lines to read."""
        from ..comparison import certificates
        from ..runs.fingerprint import bound

        how = certificates.Certify(gaps, points, chains, temperatures)
        said = {"objective": bound(self.config.get("fit", {}).get("objective")), "progress": sys.stderr.isatty()}
        found = certificates.sections(self.model, self.guide, self.dataset, how, seed, **said)
        for name, section in found.items():
            self._add(name, section)
        return certificates.lines(found)

    def report(self) -> Path:
        r"""Writes the report of the run."""
        from ..report import page

        return page.write(self.run, page.of_run(self.run, self.dataset))

    def _add(self, name: str, section: dict) -> None:
        add_section(self.run / "evaluation.json", name, section | {"step": self.step, "unit": "nats per point"})


def track(blocks, total: int):
    r"""Goes through the blocks, with a bar if there is a terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    return progress.track(blocks, "scoring", total, console=console, transient=True, disable=not sys.stderr.isatty())
