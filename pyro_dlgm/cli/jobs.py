r"""What the command line does with a run: make it, go on with it, score it, draw from it."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torchvision.utils import save_image

from ..comparison import certificates, pair
from ..comparison.certify import Certify
from ..data.dataset import Dataset
from ..plots.images import grid
from ..recipes import pairs
from ..report import page
from ..runs.files import whole
from ..runs.load import load
from ..runs.run import LOG, Run, RunError
from ..seeding import forked
from ..training import checks
from ..training.fit import Result, fit
from .config import FIT, data_of, validates

LINES = 20  # that a training prints where there is no terminal
LEGIBLE = 56  # pixels of the longer side of a drawn image, at least


def train(options: dict, data: tuple[Dataset, dict], out: Path, *, resume: bool, progress: bool) -> Result:
    r"""Trains the pair that the options name and keeps the run in ``out``, with its report.

    Arguments:
        options: a value for each name of `settings.PLACES`.
        data: of `settings.dataset`.
        out: folder of the run.
        resume: go on with the run that is there.
        progress: whether to show a bar.
    """
    points, source = data
    pair = {key: options[key] for key in ("likelihood", "guide", "latents")}
    pair |= {"image_shape": list(points.image_shape), "num_points": len(points.train)}
    recipe = pairs.Recipe(**pair)
    with forked(options["seed"]):
        model = recipe.new_model()
        guide = recipe.new_guide(model)
    result = fit(
        model,
        guide,
        points.train,
        transform=points.transform,
        labels=points.train_labels,
        x_val=points.val if validates(options) else None,
        device=options["device"],
        out=out,
        resume=resume,
        config={"data": source, "recipe": pair, "device": options["device"]},
        progress=progress,
        **{name: options[name] for name in FIT} | {"batch_size": min(options["batch_size"], len(points.train))},
    )
    page.write(out, page.of_run(out, points))
    return result


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


def draw(run: Path, out: Path, num: int, seed: int) -> None:
    r"""Draws t from the prior and writes the means of p(x | t) as one picture."""
    model, _, _ = load(run)
    with forked(seed), torch.no_grad():
        images = model.likelihood(model.prior().sample((num,))).mean
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise RunError(
            f"the points of {run} have shape {tuple(images.shape[1:])} and are no pictures; draw them in Python: "
            "model, guide, config = load(run); model(size=64)"
        )
    zoom = max(1, math.ceil(LEGIBLE / max(images.shape[-2:])))
    try:
        with whole(out) as path:
            save_image(grid(images, zoom), path)
    except OSError as error:
        raise RunError(f"cannot write {out} ({error.strerror or error}); choose another place") from error


def score(run: Path, *, num_samples: int, seed: int, points: int | None, root: Path | None, device: str, track) -> dict:
    r"""Scores the run on its test points and adds the result to ``evaluation.json`` and to the report.

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
    parts = pair.blocks(guide, x)
    work = pair.block_scores(model.to(device), guide.to(device), parts, num_samples, seed)
    bits = pair.bits_per_dim(model.likelihood, dataset.transform, x[0].numel())
    result = pair.summary(list(track(work, len(parts))), bits)
    result |= {"num_samples": num_samples, "seed": seed, "data": dataset.name, "protocol": dataset.protocol}
    pair.add(run / "evaluation.json", "test", result | {"step": Run(run).load()["step"], "unit": "nats per point"})
    page.write(run, page.of_run(run, dataset))
    return result


def certify(run: Path, how: Certify, *, seed: int, root: Path | None, device: str, progress: bool) -> dict:
    r"""Certifies log p(x) of the run, or takes its gap apart; adds the result to ``evaluation.json`` and the report.

    Arguments:
        run: folder of the run.
        how: how many points, chains and temperatures, and whether gaps are asked for.
        seed, root, device: as in `score`.
        progress: whether annealing shows a bar.

    Returns:
        Sections of ``evaluation.json`` by name, as `certificates.sections` says.
    """
    model, guide, config = load(run)
    dataset = data_of(run, config, root)
    objective = checks.bound(config.get("fit", {}).get("objective"))
    said = {"objective": objective, "progress": progress}
    found = certificates.sections(model.to(device), guide.to(device), dataset, how, seed, **said)
    for name, section in found.items():
        pair.add(run / "evaluation.json", name, section | {"step": Run(run).load()["step"], "unit": "nats per point"})
    page.write(run, page.of_run(run, dataset))
    return found
