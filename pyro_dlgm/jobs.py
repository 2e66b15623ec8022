r"""What the command line does with a run: make it, go on with it, score it, draw from it."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.utils import save_image

from . import recipes, scores
from .checkpoint import LOG, Run, RunError
from .data.dataset import Dataset
from .files import whole
from .fit import Result, fit
from .loading import load
from .pictures import grid
from .seeding import forked

LINES = 20  # that a training prints where there is no terminal
LEGIBLE = 56  # pixels of the longer side of a drawn image, at least
PLACES = {"name": ("data", "name"), "data_root": ("data", "root"), "device": ("device",)}
PLACES |= {name: ("recipe", name) for name in ("likelihood", "guide", "latents")}
FIT = ("epochs", "batch_size", "lr", "row_lr", "schedule", "e_steps", "warmup", "clip_norm", "patience", "seed")
PLACES |= {name: ("fit", name) for name in FIT}


def options_of(out: Path) -> dict:
    r"""The options with which the run in ``out`` was made, by name; none where there is no run yet."""
    if not Run(out).checkpoint_file.exists():
        return {}
    options = {}
    for name, path in PLACES.items():
        value = Run(out).config()
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        options[name] = value
    if options["name"] is None or options["likelihood"] is None:
        raise RunError(f"{out} was made in Python: go on with it there, with fit(..., out={str(out)!r}, resume=True)")
    return options


def train(options: dict, out: Path, *, resume: bool, download: bool, progress: bool) -> Result:
    r"""Trains the pair that the options name and keeps the run in ``out``.

    Arguments:
        options: a value for each name of `PLACES`.
        out: folder of the run.
        resume: go on with the run that is there.
        download: whether torchvision may fetch or unpack data.
        progress: whether to show a bar.
    """
    validates = options["patience"] is not None
    names = (options[name] for name in ("name", "data_root", "likelihood"))
    dataset = recipes.dataset(*names, validate=validates, download=download)
    pair = {key: options[key] for key in ("likelihood", "guide", "latents")}
    pair |= {"image_shape": list(dataset.image_shape), "num_points": len(dataset.train)}
    recipe = recipes.Recipe(**pair)
    with forked(options["seed"]):
        model = recipe.new_model()
        guide = recipe.new_guide(model)
    root = options["data_root"] and str(Path(options["data_root"]).absolute())
    source = {"name": options["name"], "root": root, "protocol": dataset.protocol}
    return fit(
        model,
        guide,
        dataset.train,
        transform=dataset.transform,
        x_val=dataset.val if validates else None,
        device=options["device"],
        out=out,
        resume=resume,
        config={"data": source, "recipe": pair, "device": options["device"]},
        progress=progress,
        **{name: options[name] for name in FIT},
    )


class Lines(logging.Handler):
    r"""Creates the handler that says how a training goes, in about 20 lines.

    Arguments:
        epochs: how many there will be.
        say: what takes a line.
    """

    def __init__(self, epochs: int, say: Callable[[str], None]):
        super().__init__(logging.INFO)
        self.every, self.epochs, self.say = math.ceil(epochs / LINES), epochs, say

    def __enter__(self) -> "Lines":
        LOG.addHandler(self)
        self._level = LOG.level
        LOG.setLevel(logging.INFO)
        return self

    def __exit__(self, *_) -> None:
        LOG.removeHandler(self)
        LOG.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        r"""Says a record of the history, if it is its turn."""
        epoch = record.args["epoch"]
        if epoch in (1, self.epochs) or epoch % self.every == 0:
            self.say(line(record.args))


def line(record: dict) -> str:
    r"""A record of the history as a line to read."""
    names = [n for n in record if n.removeprefix("val_").removeprefix("tempered_") in ("elbo", "log_joint")]
    bounds = ", ".join(f"{name} {record[name]:.2f}" for name in names)
    return f"epoch {record['epoch']}, step {record['step']}: {bounds} nats per point, {record['seconds']:.1f} s"


def data_of(run: Path, config: dict, root: Path | None) -> Dataset:
    r"""The data set with which a run was made; ``root`` is where it lies now, if it has moved.

    Raises:
        RunError: if the run does not say.
    """
    try:
        source, likelihood = config["data"], config["recipe"]["likelihood"]
        return recipes.dataset(source["name"], root or source["root"], likelihood)
    except (KeyError, TypeError):
        raise RunError(f"{run} does not say its data; score it in Python: load(run), then evaluate.iwae") from None


def draw(run: Path, out: Path, num: int, seed: int) -> None:
    r"""Draws t from the prior and writes the means of p(x | t) as one picture."""
    model, _, _ = load(run)
    with forked(seed), torch.no_grad():
        images = model.likelihood(model.prior().sample((num,))).mean
    zoom = max(1, math.ceil(LEGIBLE / max(images.shape[-2:])))
    try:
        with whole(out) as path:
            save_image(grid(images, zoom), path)
    except OSError as error:
        raise RunError(f"cannot write {out} ({error.strerror or error}); choose another place") from error


def score(run: Path, *, num_samples: int, seed: int, points: int | None, root: Path | None, device: str, track) -> dict:
    r"""Scores the run on its test points and adds the result to ``evaluation.json``.

    Arguments:
        run: folder of the run.
        num_samples: K of IWAE-K.
        seed: of all that is random.
        points: how many test points, the first ones; `None` takes all.
        root: folder of the data, if it has moved.
        device: where to work.
        track: what goes through the blocks and may show how far it is: ``track(blocks, total)``.
    """
    model, guide, config = load(run)
    dataset = data_of(run, config, root)
    x = dataset.test[:points].to(device)
    parts = scores.blocks(guide, x)
    work = scores.block_scores(model.to(device), guide.to(device), parts, num_samples, seed)
    result = scores.summary(list(track(work, len(parts))), dataset.transform, x[0].numel())
    result |= {"num_samples": num_samples, "seed": seed, "data": dataset.name, "protocol": dataset.protocol}
    scores.add(run / "evaluation.json", "test", result | {"step": Run(run).load()["step"], "unit": "nats per point"})
    return result
