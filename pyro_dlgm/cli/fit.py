r"""The command ``pyro-dlgm fit``: trains a pair and keeps the run on disk."""

import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from ..recipes import bounds, sources
from ..recipes.imports import check_consent
from ..runs.files import writing
from . import config, types
from .help import Taught
from .options import CLIMB, DATA, FIT, PAIR, WORKERS

KINDS = "likelihood", "guide"  # may be a user's own code
LINES = 20  # printed by a training without a terminal

EXAMPLES = {
    "pyro-dlgm fit --data digits --guide amortized --out runs/x": "an encoder on the built-in digits",
    "pyro-dlgm fit --data table.npy --likelihood diagonal --patience 20 --out runs/x": "rows of a file, early stopping",
    "pyro-dlgm fit --data holes.npy --missingness known --guide full-rank --out runs/x": "high values hide (NaN)",
    "pyro-dlgm fit --data digits --objective dreg:10 --out runs/x": "a tighter bound, from ten importance weights",
    "pyro-dlgm fit --out runs/x --resume --epochs 200": "continue a run, for more epochs",
}


@click.command("fit", cls=Taught, examples=EXAMPLES)
@DATA
@WORKERS
@PAIR
@CLIMB
@click.option(
    "--config",
    type=types.PATH,
    is_eager=True,
    expose_value=False,
    callback=config.from_file,
    help='JSON file of options, as {"data": "mnist", "epochs": 10}, or the config.json of a run. An option on the '
    "command line overrides the file, the file the defaults.  [default: none]",
)
@click.option("--out", type=types.PATH, default="runs/fit", help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue the run in --out; options left out are those of the run.")
@click.option("--stretch", is_flag=True, help="With --resume: more epochs under a schedule that ends with the run.")
@click.pass_context
def fit_command(context, out, resume, stretch, download, **options) -> None:
    """Train one guide on one model, and keep the run on disk.

    E-step and M-step maximize the same F(q,w). The folder holds config.json, metrics.jsonl, checkpoint.pt and
    TensorBoard's events (tensorboard --logdir runs). A run that was killed, or stopped by Ctrl-C, continues with
    `pyro-dlgm fit --out runs/x --resume` as if it had never stopped, bit for bit. With more --epochs it continues up to
    these; if --schedule is not constant, add --stretch. On two processes or GPUs:
    `torchrun --nproc-per-node=2 -m pyro_dlgm fit ...`, where --batch-size counts the points of both.
    """
    own = _completed(context, options, out, resume)
    options["objective"] = options["objective"] or bounds.ELBO_NAME  # a run with the ELBO does not store it
    bounds.check(options["objective"], [options["guide"]])
    if download and types.of_several():
        raise ValueError("download is True on several processes; expected the data to be there: fetch them with one")
    points, source = config.dataset(options, download=download)
    if options["name"] not in sources.KNOWN and _writes():
        click.echo(f"{points.name}: {points.protocol}")
    try:
        result = _train(options, points, source, out, resume=resume, stretch=stretch)
    except KeyboardInterrupt as stop:
        done = str(stop).partition(";")[0] or "the last checkpoint is kept"
        raise KeyboardInterrupt(f"{done}; go on with: pyro-dlgm fit --out {out} --resume") from None
    if not _writes():
        return
    early = ", stopped early: the run is at its best epoch" if result.stopped_early else ""
    click.echo(f"Done: {line(result.history[-1])}{early}.")
    from ..report import page

    click.echo(f"Report: {page.write(out, page.of_run(out, points, imports=own))}\nNext: pyro-dlgm evaluate {out}")


def _completed(context, options: dict, out: Path, resume: bool) -> list[str]:
    r"""Adds to the options those of the run to resume; returns the import paths that the command line gives.

    Raises:
        ValueError: if the run, or the file of options, names code that the command line does not.
    """
    sources_of = {name: context.get_parameter_source(name) for name in options}
    given = {name for name, source in sources_of.items() if source != ParameterSource.DEFAULT}
    if resume:
        options |= {name: value for name, value in config.options_of(out).items() if name not in given}
        types.device(context, None, options["device"])
    own = [options[kind] for kind in KINDS if sources_of[kind] == ParameterSource.COMMANDLINE]
    check_consent({kind: options[kind] for kind in KINDS}, own, out if resume else "the options' file", config.consent)
    return own


def _writes() -> bool:
    r"""Returns whether this is the first process of a training, or the only one: it alone writes files and lines."""
    return not types.of_several() or os.environ["RANK"] == "0"


def _train(options: dict, points, source: dict, out: Path, *, resume: bool, stretch: bool):
    r"""Trains the pair that the options name on the data set ``points``, and keeps the run in ``out``."""
    from ..training.fit import fit

    model, guide, recipe = _pair(options, points)
    terminal = sys.stderr.isatty()
    lines = () if terminal or not _writes() else (Lines(options["epochs"], click.echo),)
    return fit(
        model,
        guide,
        points.train_points,
        transform=points.transform,
        labels=points.train_labels,
        x_val=points.val_points if len(points.val) and not (resume and config.unvalidated(out)) else None,
        device=options["device"],
        out=out,
        resume=resume,
        stretch=stretch,
        config={"data": source, "recipe": recipe, "device": options["device"]} | _objective(options),
        objective=bounds.objective(options["objective"]),
        progress=terminal,
        listeners=lines,
        ranks=types.of_several(),
        **{name: options[name] for name in FIT} | {"batch_size": min(options["batch_size"], len(points.train))},
    )


def _pair(options: dict, points) -> tuple:
    r"""Returns model and guide that the options name, for the data set ``points``, and their recipe as plain values."""
    from ..recipes.pairs import Recipe
    from ..seeding import forked

    names = ("likelihood", "guide", "latents", "prior", "components", "missingness")
    named = {name: options[name] for name in names if options[name] is not None}
    recipe = Recipe(
        **named, image_shape=list(points.image_shape), num_points=len(points.train), given_dim=points.given_dim
    )
    with forked(options["seed"]):
        model = recipe.new_model()
        guide = recipe.new_guide(model)
        if recipe.prior == "vamp":
            _place(model.prior, points)
    return model, guide, recipe.plain()


def _objective(options: dict) -> dict[str, str]:
    r"""Returns what ``config.json`` says of the objective: nothing for the ELBO, as in older runs."""
    return {} if options["objective"] == bounds.ELBO_NAME else {"objective": options["objective"]}


def _place(prior, points) -> None:
    r"""Sets the pseudo-inputs of a `VampPrior` to training points, as the model sees them."""
    import torch

    from ..data.batches import Batches

    K, N = prior.num_components, len(points.train)
    if K > N:
        raise ValueError(f"components is {K}, and there are {N} training points; expected at most {N}")
    with torch.no_grad():
        prior.pseudo_inputs.copy_(Batches(points.train_points, K, transform=points.transform).drawn().x)


class Lines:
    r"""Creates the listener that prints the history of a training, in about 20 lines.

    Arguments:
        epochs: the number of epochs of the training.
        say: a function of a line, which prints it.
    """

    def __init__(self, epochs: int, say: Callable[[str], None]):
        self.every, self.epochs, self.say = math.ceil(epochs / LINES), epochs, say

    def after(self, step, record: dict | None) -> None:
        r"""Prints the record of every n-th epoch, the first and the last."""
        if record is not None and (record["epoch"] in (1, self.epochs) or record["epoch"] % self.every == 0):
            with writing("how the training goes", "; what was saved goes on with --resume"):
                self.say(line(record))


def line(record: dict) -> str:
    r"""Returns a record of the history as a line of text."""
    known = re.compile(r"(val_)?((tempered_)?(elbo|log_joint)|iwae_\d+)")
    names = [name for name in record if known.fullmatch(name)]
    bounds = ", ".join(f"{name} {record[name]:.2f}" for name in names)
    return f"epoch {record['epoch']}, step {record['step']}: {bounds} nats per point, {record['seconds']:.1f} s"
