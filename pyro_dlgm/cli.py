r"""The command line, ``pyro-dlgm``: the front door, which knows every name and is known by none."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import click
import torch

from . import data, jobs, parsing, recipes, scores
from . import table as text
from .compare import Row, rows
from .files import whole
from .pictures import sheet
from .schedules import SCHEDULES

HEADLINE = "hard-em,mean-field,full-rank,amortized,auto-normal"
LADDER = (
    "fixed: one σ; fixed-per-pixel: a σ for each pixel; diagonal: σ(t); factor-analysis: linear μ, a σ for each pixel."
)


@click.group(cls=parsing.OneLine, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="pyro_dlgm")
def main() -> None:
    """Deep latent Gaussian models: one generative model, guides that swap.

    \b
    p(x|w) = ∫ p(x|t,w) p(t) dt        p(t) = N(0, I), p(x|t,w) = N(μ(t,w), Σ(t,w))
    F(q,w) = E_q [log p(x,t|w) - log q(t)] <= log p(x|w)

    Learning w is climbing F in q (E-step) and in w (M-step); what distinguishes the methods is only q. Start with
    `pyro-dlgm compare`; a run of your own is

    \b
    pyro-dlgm fit --data digits --guide amortized --out runs/x
    pyro-dlgm evaluate runs/x
    pyro-dlgm sample runs/x --out samples.png
    """


@main.command("compare")
@click.option("--data", "name", type=click.Choice(["digits"]), default="digits", help="Data set; digits needs no file.")
@click.option(
    "--guides",
    default=HEADLINE,
    callback=parsing.names,
    help=f"Rows, with commas between: some of {', '.join(recipes.GUIDES)}.",
)
@click.option(
    "--likelihood",
    type=click.Choice(recipes.GAUSSIAN),
    default="fixed",
    help=f"p(x|t,w) = N(μ(t), Σ). {LADDER}",
)
@click.option("--latents", type=click.IntRange(1, 63), default=16, help="The number D of latents t.")
@click.option(
    "--gradients",
    type=click.IntRange(1),
    default=100,
    help="Budget of each row, in gradient evaluations per training point.",
)
@click.option("--samples", type=click.IntRange(25), default=1000, help="The number K of samples of IWAE-K.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of w, of each training and of each scoring.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="runs/compare",
    callback=parsing.folder,
    help="Folder for compare.json and compare.png.",
)
def compare_command(name, guides, likelihood, latents, gradients, samples, seed, out) -> None:
    """The main job: several guides on one generative model, one table.

    Every row starts from the same w and has the same budget. PPCA, the exact linear baseline, stands first. Guides
    with parameters for each point score the test set after an E-step there, with w frozen.
    """
    dataset = data.digits()
    shape = dataset.image_shape
    settings = {"gradients": gradients, "num_samples": samples, "ppca": latents, "seed": seed}
    work = rows(
        lambda: recipes.model(likelihood, latents, shape),
        {guide: recipes.guide(guide, latents, shape) for guide in guides},
        dataset.train,
        dataset.test,
        transform=dataset.transform,
        model_name=f"conv-{likelihood}" if likelihood != "factor-analysis" else likelihood,
        progress=sys.stderr.isatty(),
        **settings,
    )
    done = []
    click.secho(text.header(), bold=True)
    for row in work:
        click.echo(text.line(row))
        done.append(row)
    click.echo("\n" + "\n".join(text.footnotes(done, dataset, samples)))
    _write(out, done, dataset, {"data": name, "likelihood": likelihood, "guides": guides, **settings})
    click.echo(f"\nWritten: {out / 'compare.json'}, {out / 'compare.png'}")


def _write(out: Path, done: list[Row], dataset: data.Dataset, settings: dict) -> None:
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    machine |= {name: version(name) for name in ("torch", "pyro-ppl", "pyro_dlgm")}
    with whole(out / "compare.json") as path:
        path.write_text(json.dumps([row.plain() for row in done], indent=1, ensure_ascii=False))
    with whole(out / "config.json") as path:
        path.write_text(json.dumps(settings | {"machine": machine}, indent=1))
    with whole(out / "compare.png") as path:
        sheet(done, dataset.test).savefig(path, dpi=130, format="png")


COUNT, POSITIVE = click.IntRange(1), click.FloatRange(0, min_open=True)
PATH = click.Path(path_type=Path)
ROOT = click.option("--data-root", type=PATH, help="Folder that holds the data set's raw/ folder; not for digits.")
DEVICE = click.option("--device", default="cpu", callback=parsing.device, help="Where to work: cpu, cuda or cuda:0.")
PAIR = parsing.options(
    click.option("--data", "name", type=click.Choice(list(recipes.DATA)), default="digits", help="Data set."),
    ROOT,
    click.option(
        "--likelihood",
        type=click.Choice(list(recipes.LIKELIHOODS)),
        default="fixed",
        help=f"p(x|t,w). {LADDER} bernoulli: binary pixels; discretized-logistic: 8-bit pixels.",
    ),
    click.option("--guide", type=click.Choice(list(recipes.GUIDES)), default="amortized", help="q(t), the method."),
    click.option("--latents", type=COUNT, default=16, help="The number D of latents t."),
)
CLIMB = parsing.options(
    click.option("--epochs", type=COUNT, default=100, help="Passes through the training points."),
    click.option("--batch-size", type=COUNT, default=100, help="Points in a batch."),
    click.option("--lr", type=POSITIVE, default=2e-3, help="Learning rate of networks."),
    click.option("--row-lr", type=POSITIVE, default=1e-1, help="Learning rate of what a guide has for each point."),
    click.option("--schedule", type=click.Choice(list(SCHEDULES)), default="cosine", help="Of the learning rates."),
    click.option("--e-steps", type=COUNT, default=1, help="Steps on q for each step on w."),
    click.option("--warmup", type=click.IntRange(0), default=0, help="Epochs over which the KL term's weight rises."),
    click.option("--clip-norm", type=POSITIVE, help="Bound on the gradient norm of networks.  [default: none]"),
    click.option(
        "--patience",
        type=COUNT,
        help="Stop once the bound on validation points has not risen for so many epochs, and keep the best epoch.  "
        "[default: never]",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all that is random."),
    DEVICE,
)


@main.command("fit")
@PAIR
@CLIMB
@click.option("--out", type=PATH, default="runs/fit", help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; options left out are the run's.")
@click.option("--download", is_flag=True, help="Let torchvision fetch or unpack data that are not there.")
@click.pass_context
def fit_command(context, out, resume, download, **options) -> None:
    """Train one guide on one model, and keep the run on disk.

    E-step and M-step are one climb of F(q,w). The folder holds config.json, metrics.jsonl, checkpoint.pt and
    TensorBoard's events (tensorboard --logdir runs). A run that was killed, or stopped by Ctrl-C, goes on with
    `pyro-dlgm fit --out runs/x --resume` as if it had never stopped, bit for bit.
    """
    given = {name for name in options if context.get_parameter_source(name) != click.core.ParameterSource.DEFAULT}
    if resume:
        options |= {name: value for name, value in jobs.options_of(out).items() if name not in given}
        parsing.device(context, None, options["device"])
    terminal = sys.stderr.isatty()
    try:
        with jobs.Lines(options["epochs"], lambda said: None if terminal else click.echo(said)):
            result = jobs.train(options, out, resume=resume, download=download, progress=terminal)
    except KeyboardInterrupt as stop:
        done = str(stop).partition(";")[0] or "the last checkpoint is kept"
        raise KeyboardInterrupt(f"{done}; go on with: pyro-dlgm fit --out {out} --resume") from None
    early = ", stopped early: the run is at its best epoch" if result.stopped_early else ""
    click.echo(f"Done: {jobs.line(result.history[-1])}{early}.\nNext: pyro-dlgm evaluate {out}")


@main.command("evaluate")
@click.argument("run", type=PATH)
@click.option("--iwae", type=click.IntRange(25), default=1000, help="The number K of samples of IWAE-K.")
@click.option("--points", type=COUNT, help="How many test points, the first ones.  [default: all]")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all that is random.")
@ROOT
@DEVICE
def evaluate_command(run, iwae, points, seed, data_root, device) -> None:
    """Score the RUN on its test points: ELBO <= IWAE-K <= log p(x|w), in nats per point.

    Guides with parameters for each point make an E-step on the test points first, with w frozen. ESS and Pareto k-hat
    say how far to trust the IWAE. The numbers go to evaluation.json in the folder of the run.
    """
    places = {"root": data_root, "device": device}
    result = jobs.score(run, num_samples=iwae, seed=seed, points=points, track=parsing.track, **places)
    click.echo(f"{result['points']} test points of {result['data']}: {result['protocol']}")
    click.echo("\n".join(scores.lines(result, iwae)) + f"\nWritten: {run / 'evaluation.json'}")


@main.command("sample")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, default="samples.png", help="The picture.")
@click.option("--num", type=COUNT, default=64, help="How many images.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of t.")
def sample_command(run, out, num, seed) -> None:
    """Draw from the model of the RUN: t ~ p(t), and of each the mean of p(x|t,w), in one picture."""
    jobs.draw(run, out, num, seed)
    click.echo(f"Written: {out}")


if __name__ == "__main__":
    main()
