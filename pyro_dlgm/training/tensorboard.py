r"""TensorBoard: each key of a record, properties of q, pictures, the latent space.

Everything is per point, in nats, and signed: ``elbo`` rises, ``loss`` falls. Where q has no density there is no
``elbo`` but a ``log_joint``, and no rate.
"""

import shutil
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ..evaluate.snapshot import Snapshot
from ..messages import only_warned
from ..plots.images import grid, squares, traversal_figure
from ..ppca.model import PPCA
from ..runs.events import cut, table, wait_for_a_new_second
from ..runs.files import writing
from ..runs.fingerprint import flat
from ..runs.run import Run
from ..seeding import forked
from .loop.training import Training

POINTS = 256  # in the embedding and the pictures
SHOWN = 10  # images in a row
LATENTS = 6  # that are traversed
LEGIBLE = 28  # pixels of the longer side of an image, at least
SPRITE = 64  # pixels of the side of a sprite, at most: TensorBoard takes 8192 for all of them together
MATTER = ("lr", "seed")  # options of `fit` among the hyper-parameters: by default TensorBoard shows five columns
SAID = ("fit", "data", "recipe", "device")  # sections of a configuration that the package writes; others are a user's
TOGETHER = "training (train) and validation points (val)"


class TensorBoard:
    r"""Creates the listener that logs a training for TensorBoard.

    Arguments:
        run: where the event files go; its configuration is logged once.
        training: what is logged; its first points are shown.
        labels: whole numbers (N,), or `None`.
        names: of the labels, where they have some.
    """

    def __init__(self, run: Run, training: Training, labels: Tensor | None, names: Sequence[str] | None = None):
        self.names = names
        self.folder, self.training, self.pair = run.folder, training, _snapshot(training, labels)
        config = run.config()
        self.moves = config["fit"].get("schedule") != "constant"
        begins = training.step == 0 and not list(self.folder.glob("events.out.tfevents.*"))
        wait_for_a_new_second(self.folder)
        # On resume, events after the checkpoint are removed: they will be logged again.
        cut(self.folder, training.step)
        self.writer = SummaryWriter(str(self.folder), purge_step=training.step + 1)
        self.parts = ("train",) if training.validation is None else ("train", "val")
        metrics = {f"{part}/{training.bound}": None for part in self.parts}
        *self.opening, self.ending = hparams(hyper_parameters(config, self.pair), metrics)
        if begins:
            self._open(config)

    def close(self) -> None:
        r"""Ends the writing."""
        self.writer.close()

    def after(self, step, record: dict | None) -> None:
        r"""Logs a record of the history and properties of q; pictures at epochs 1, 2, 4, 8, ... and at the end.

        An error in what is only shown is a warning.

        Raises:
            RunError: if the files cannot be written, as on a full disk.
        """
        if record is None:
            return
        with writing(f"to TensorBoard in {self.folder}", ": make room and resume", verb="log"):
            self._scalars(step, record)
            if self.pair.has_posterior:
                self._model(step.step)
                with only_warned("what q looks like, for TensorBoard,", but=(OSError,)):
                    self._latents(step.step)
                if step.epoch & (step.epoch - 1) == 0 or self.training.done:
                    with only_warned("a picture for TensorBoard", but=(OSError,)):
                        self._pictures(step.step)
            if self.training.done:
                self._close(step.step)
            self.writer.flush()

    def _open(self, config: dict) -> None:
        self.writer.add_text("config", table(config), 0)
        if len(self.parts) > 1:
            self.writer.add_custom_scalars({TOGETHER: self._charts()})
        for summary in self.opening:
            self.writer.file_writer.add_summary(summary, 0)
        self.writer.flush()  # so that a run that is killed early does not log it again

    def _charts(self) -> dict[str, list]:
        r"""Returns one chart for each bound, with a curve for the training points and one for the validation points."""
        names = ("loss", *(self.pair.bounds() if self.pair.has_posterior else (self.training.bound,)))
        names = [name for name in names if name != "log_px"]  # of training points alone
        tags = {name: [f"^{part}/{name}$" for part in self.parts] for name in names}  # regular expressions
        return {f"{name}, nats per point": ["Multiline", tags[name]] for name in names}

    def _scalars(self, step, record: dict) -> None:
        bound, values = self.training.bound, {}
        for key, value in record.items():
            part, name = ("val", key.removeprefix("val_")) if key.startswith("val_") else ("train", key)
            # A tempered objective is no bound and is called a loss only.
            if name.removeprefix("tempered_") == bound:
                values[f"{part}/loss"] = -value
            if not name.startswith("tempered_"):
                values[f"{part}/{name}"] = value
        values |= self._schedules(step)
        if self.pair.has_posterior:  # at the points shown, after the epoch
            with only_warned("a bound for TensorBoard", but=(OSError,)):
                values |= {f"train/{name}": value for name, value in self.pair.bounds().items()}
        for tag, value in values.items():
            if tag != "train/step":
                self.writer.add_scalar(tag, value, step.step)

    def _schedules(self, step) -> dict[str, float]:
        r"""Returns the weight β of the KL term and the learning rate, if they are not constant."""
        training, values = self.training, {}
        if training.warmup_steps > step.step / step.epoch:  # it is not over with the first epoch
            values["train/beta"] = training.svi.objective.beta
        if self.moves and training.svi.optimizers:  # none where all is frozen
            values["train/learning_rate"] = training.svi.optimizers[0].param_groups[0]["lr"]
        return values

    def _model(self, step: int) -> None:
        model = self.pair.model
        if isinstance(model, PPCA):
            self.writer.add_scalar("ppca/sigma2", float(model.sigma2.detach()), step)
            self.writer.add_histogram("ppca/norms_of_columns_of_W", model.W.detach().norm(dim=0), step)

    def _latents(self, step: int) -> None:
        self.writer.add_scalar("q/active_units", self.pair.active(), step)
        means = self.pair.means()
        if means.isfinite().all():  # a q may have no mean
            self.writer.add_histogram("q/mean", means, step)
        if self.pair.has_density:
            self.writer.add_histogram("q/kl_per_dimension", self.pair.nats(), step)

    def _pictures(self, step: int) -> None:
        shape = self.pair.image_shape
        if shape is None:
            return
        zoom = -(-LEGIBLE // max(shape[1:]))
        pairs = torch.cat([self.pair.data(SHOWN), self.pair.reconstructions(SHOWN)])
        self.writer.add_image("images/data_above_reconstructions", grid(pairs, zoom, len(pairs) // 2), step)
        self.writer.add_image("images/samples", grid(self.pair.samples(2 * SHOWN), zoom, SHOWN), step)
        self.writer.add_figure("images/traversals", traversal_figure(self.pair, LATENTS), step)

    def _close(self, step: int) -> None:
        r"""Logs that the training has ended, and the latent space."""
        self.writer.file_writer.add_summary(self.ending, step)
        if self.pair.has_posterior:
            with only_warned("the embedding for TensorBoard", but=(OSError,)):
                self._embedding(step)

    def _embedding(self, step: int) -> None:
        r"""Logs the latent space, with images and labels."""
        # Files that a killed process has left would be mixed in.
        shutil.rmtree(self.folder / f"{step:05d}" / "latents", ignore_errors=True)
        labels = None if self.pair.labels is None else self.pair.labels.tolist()
        if labels is not None and self.names is not None:
            labels = [" ".join(str(self.names[label]).split()) or "-" for label in labels]  # a tab is another column
        sprites = None if self.pair.image_shape is None else squares(self.pair.data(len(self.pair.x)), SPRITE)
        self.writer.add_embedding(self.pair.means(), labels, sprites, step, "latents")


def _snapshot(training: Training, labels: Tensor | None) -> Snapshot:
    r"""Returns the pair at the first training points, as the model sees them."""
    svi = training.svi
    with forked(0):
        points = training.batches.first(POINTS)
    return Snapshot(svi.model, svi.guide, points, labels=None if labels is None else labels[: len(points)])


def hyper_parameters(config: dict, pair: Snapshot) -> dict[str, str | float | bool]:
    r"""Returns what distinguishes runs: guide, likelihood, latents, options of `fit`, and a user's own settings."""
    recipe, model = config.get("recipe"), pair.model
    recipe = recipe if isinstance(recipe, dict) else {}  # another one is a user's own
    said = {"guide": type(pair.guide).__name__, "likelihood": type(model).__name__}
    if pair.has_posterior:
        said |= {"likelihood": type(model.likelihood).__name__, "latents": pair.latent_dim()}
    said |= {name: recipe[name] for name in (*said, "prior") if name in recipe}
    said |= {name: config["fit"].get(name) for name in MATTER}
    said |= flat({name: value for name, value in config.items() if name not in SAID})
    said = {name: value for name, value in said.items() if value is not None}
    return {name: value if isinstance(value, str | bool | int | float) else str(value) for name, value in said.items()}
