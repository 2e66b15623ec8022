r"""TensorBoard: the only file that knows it.

Everything is per point, in nats, and signed: ``elbo`` rises, ``loss`` falls. Where q has no density there is no
``elbo`` but a ``log_joint``, and no rate.
"""

import shutil
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from ..evaluate.snapshot import Look
from ..plots.images import grid, squares, walk
from ..ppca.model import PPCA
from ..runs.run import RunError
from .loop import Training

SHOWN = 10  # images in a row
LATENTS = 6  # that are traversed
LEGIBLE = 28  # pixels of the longer side of an image, at least
SPRITE = 64  # pixels of the side of a sprite, at most: TensorBoard takes 8192 for all of them together
DATA = ("x", "mask", "x_val", "mask_val")  # fingerprints of the data in the configuration: no hyper-parameters


class Board:
    r"""Creates the listener that logs a training for TensorBoard.

    Arguments:
        folder: where the event files go.
        training: what is logged.
        x: points to look at (B, ...), as the model sees them; for guides with rows, training points.
        index: which points these are, (B,).
        mask: boolean, of x's shape or (B,), or `None`.
        labels: whole numbers (B,), or `None`.
        config: the configuration, logged once.
    """

    def __init__(
        self,
        folder: str | Path,
        training: Training,
        x: Tensor,
        index: Tensor,
        mask: Tensor | None,
        labels: Tensor | None,
        config: dict,
    ):
        self.folder, self.training = Path(folder), training
        self.look = Look(training.svi.model, training.svi.guide, x, index, mask, labels)
        begins = training.step == 0 and not list(self.folder.glob("events.out.tfevents.*"))
        _wait_for_a_new_second(self.folder)
        # On resume, steps behind the checkpoint are hidden: they will come again.
        self.writer = SummaryWriter(str(folder), purge_step=training.step + 1)
        metric = f"{'train' if training.validation is None else 'val'}/{training.bound}"
        *self.opening, self.ending = hparams(hyper_parameters(config), {metric: None})
        if begins:
            self._open(config)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_) -> None:
        self.writer.close()

    def after(self, step, record: dict | None) -> None:
        r"""Logs a record of the history and what q looks like; pictures at epochs 1, 2, 4, 8, ... and at the end.

        Raises:
            RunError: if it cannot be written, to a full disk, say.
        """
        if record is None:
            return
        try:
            self._log(step, record)
        except OSError as error:
            said = error.strerror or error
            raise RunError(f"cannot log to TensorBoard in {self.folder} ({said}): make room and resume") from error

    def _log(self, step, record: dict) -> None:
        self._scalars(step.step, record)
        if self.look.says:
            self._model(step.step)
            self._latents(step.step)
            if step.epoch & (step.epoch - 1) == 0 or self.training.done:
                self._pictures(step.step)
        if self.training.done:
            self._close(step.step)
        self.writer.flush()

    def _open(self, config: dict) -> None:
        self.writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()), 0)
        for summary in self.opening:
            self.writer.file_writer.add_summary(summary, 0)
        self.writer.flush()  # so that a run which is killed early does not say it again

    def _scalars(self, step: int, record: dict) -> None:
        bound = self.training.bound
        # A tempered objective is no bound and is called a loss only.
        objective = next(record[name] for name in (bound, f"tempered_{bound}") if name in record)
        found = self.look.bounds() if self.look.says else {k: record[k] for k in (bound,) if k in record}
        self._add(step, "train", {"loss": -objective} | found)
        seen = {name.removeprefix("val_"): value for name, value in record.items() if name.startswith("val_")}
        self._add(step, "val", ({"loss": -seen[bound]} if bound in seen else {}) | seen)
        rates = {"beta": getattr(self.training.svi.objective, "beta", 1.0)}
        rates["learning_rate"] = self.training.svi.optimizers[0].param_groups[0]["lr"]
        rates |= {k: record[k] for k in ("gradient_norm", "points_per_second", "gradients_per_point") if k in record}
        self._add(step, "train", rates)

    def _add(self, step: int, part: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{part}/{name}", value, step)

    def _model(self, step: int) -> None:
        model = self.look.model
        if isinstance(model, PPCA):
            self._add(step, "ppca", {"sigma2": float(model.sigma2.detach())})
            self.writer.add_histogram("ppca/norms_of_columns_of_W", model.W.detach().norm(dim=0), step)

    def _latents(self, step: int) -> None:
        self._add(step, "q", {"active_units": self.look.active()})
        self.writer.add_histogram("q/mean", self.look.means(), step)
        if self.look.has_density:
            self.writer.add_histogram("q/kl_per_dimension", self.look.use(), step)

    def _pictures(self, step: int) -> None:
        shape = self.look.image_shape
        if shape is None:
            return
        zoom = -(-LEGIBLE // max(shape[1:]))
        pairs = torch.cat([self.look.data(SHOWN), self.look.reconstructions(SHOWN)])
        self.writer.add_image("images/data_above_reconstructions", grid(pairs, zoom, len(pairs) // 2), step)
        self.writer.add_image("images/samples", grid(self.look.samples(2 * SHOWN), zoom, SHOWN), step)
        self.writer.add_figure("images/traversals", walk(self.look, LATENTS), step)

    def _close(self, step: int) -> None:
        r"""Says that the training has ended; the latent space, with images and labels."""
        self.writer.file_writer.add_summary(self.ending, step)
        if not self.look.says:
            return
        # What a killed process has left of the same: it would be mixed.
        shutil.rmtree(self.folder / f"{step:05d}" / "latents", ignore_errors=True)
        labels = None if self.look.labels is None else self.look.labels.tolist()
        sprites = None if self.look.image_shape is None else squares(self.look.data(len(self.look.x)), SPRITE)
        self.writer.add_embedding(self.look.means(), labels, sprites, step, "latents")


def hyper_parameters(config: dict, prefix: str = "") -> dict[str, str | float | bool]:
    r"""The configuration with names as "fit.lr", as far as it says something; not what identifies the data."""
    found: dict = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= hyper_parameters(value, f"{prefix}{key}.")
        elif value is not None and not (prefix == "fit." and key in DATA):
            found[f"{prefix}{key}"] = value if isinstance(value, str | bool | int | float) else str(value)
    return found


def _wait_for_a_new_second(folder: Path) -> None:
    # Event files are read in the order of their names, which begin with the second in which they were made.
    while list(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)
