r"""The commands that make a run and work on one: ``pyro-dlgm fit``, ``evaluate`` and ``sample``."""

import sys

import click

from ..comparison import certificates, pair
from ..recipes import datasets
from ..report import page
from . import config, jobs, types
from .options import CERTIFY, CLIMB, COUNT, DATA, DEVICE, PAIR, PATH, WORKERS, certifying


@click.command("fit")
@DATA
@WORKERS
@PAIR
@CLIMB
@click.option(
    "--config",
    type=PATH,
    is_eager=True,
    expose_value=False,
    callback=types.config,
    help='JSON file of options, as {"data": "mnist", "epochs": 10}, or the config.json of a run. An option on the '
    "command line goes before the file, the file before the defaults.  [default: none]",
)
@click.option("--out", type=PATH, default="runs/fit", help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; options left out are the run's.")
@click.pass_context
def fit_command(context, out, resume, download, **options) -> None:
    """Train one guide on one model, and keep the run on disk.

    E-step and M-step are one climb of F(q,w). The folder holds config.json, metrics.jsonl, checkpoint.pt and
    TensorBoard's events (tensorboard --logdir runs). A run that was killed, or stopped by Ctrl-C, goes on with
    `pyro-dlgm fit --out runs/x --resume` as if it had never stopped, bit for bit.
    """
    given = {name for name in options if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
    if resume:
        options |= {name: value for name, value in config.options_of(out).items() if name not in given}
        types.device(context, None, options["device"])
    terminal = sys.stderr.isatty()
    found = config.dataset(options, download=download)
    if options["name"] not in datasets.KNOWN:
        click.echo(f"{found[0].name}: {found[0].protocol}")
    try:
        with jobs.Lines(options["epochs"], lambda said: None if terminal else click.echo(said)):
            result = jobs.train(options, found, out, resume=resume, progress=terminal)
    except KeyboardInterrupt as stop:
        done = str(stop).partition(";")[0] or "the last checkpoint is kept"
        raise KeyboardInterrupt(f"{done}; go on with: pyro-dlgm fit --out {out} --resume") from None
    early = ", stopped early: the run is at its best epoch" if result.stopped_early else ""
    click.echo(
        f"Done: {jobs.line(result.history[-1])}{early}.\nReport: {out / page.NAME}\nNext: pyro-dlgm evaluate {out}"
    )


@click.command("evaluate")
@click.argument("run", type=PATH)
@click.option("--iwae", type=click.IntRange(25), default=1000, help="The number K of samples of IWAE-K.")
@click.option("--points", type=COUNT, help="How many test points, the first ones.  [default: all]")
@CERTIFY
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all that is random.")
@click.option(
    "--data-root", type=PATH, help="Where the data lie, if they have moved: as for fit, or the file or folder."
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
    places = {"root": data_root, "device": device}
    result = jobs.score(run, num_samples=iwae, seed=seed, points=points, track=types.track, **places)
    click.echo(f"{result['points']} test points of {result['data']}: {result['protocol']}")
    click.echo("\n".join(pair.lines(result, iwae)))
    certify = certifying(ais, gaps, certified, chains, temperatures)
    if certify is not None:
        found = jobs.certify(run, certify, seed=seed, progress=sys.stderr.isatty(), **places)
        click.echo("\n".join(certificates.lines(found)))
    click.echo(f"Written: {run / 'evaluation.json'}, {run / page.NAME}")


@click.command("sample")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, default="samples.png", help="The picture.")
@click.option("--num", type=COUNT, default=64, help="How many images.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of t.")
def sample_command(run, out, num, seed) -> None:
    """Draw from the model of the RUN: t ~ p(t), and of each the mean of p(x|t,w), in one picture."""
    jobs.draw(run, out, num, seed)
    click.echo(f"Written: {out}")
