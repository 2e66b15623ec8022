r"""TensorBoard: the only file that knows it.

Everything is per point, in nats, and signed: ``elbo`` rises, ``loss`` falls. Where q has no density there is no
``elbo`` but a ``log_joint``, and no rate.
"""

import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from . import gaussian
from .evaluate.bounds import log_mean_exp, log_weights
from .evaluate.quiet import quiet
from .training import Training

ACTIVE = 0.01  # a latent is active if the variance of its posterior mean over the data exceeds this
SHOWN = 16
SAMPLES = 20


class Board:
    r"""Creates the listener that logs a training for TensorBoard.

    Arguments:
        folder: where the event files go.
        training: what is logged.
        x: points to look at (B, ...), as the model sees them; for guides with rows, training points.
        index: which points these are, (B,).
        mask: boolean, of x's shape or (B,), or `None`.
        config: the configuration, logged once.
    """

    def __init__(
        self, folder: str | Path, training: Training, x: Tensor, index: Tensor, mask: Tensor | None, config: dict
    ):
        self.training, self.x, self.index, self.mask = training, x, index, mask
        _wait_for_a_new_second(Path(folder))
        # On resume, steps behind the checkpoint are hidden: they will come again.
        self.writer = SummaryWriter(str(folder), purge_step=training.step + 1)
        if training.step == 0:
            self.writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()), 0)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_) -> None:
        self.writer.close()

    def after(self, step, record: dict | None) -> None:
        r"""Logs a record of the history and what q looks like; pictures at epochs 1, 2, 4, 8, ... and at the end."""
        if record is None:
            return
        with quiet(self.training.svi.model, self.training.svi.guide, seed=0), torch.no_grad():
            self._scalars(step.step, record)
            self._latents(step.step)
            if step.epoch & (step.epoch - 1) == 0 or self.training.done:
                self._pictures(step.step)
        self.writer.flush()

    def _scalars(self, step: int, record: dict) -> None:
        # "elbo" or "log_joint", with "tempered_" before it while β is not 1: what it is not it is not called.
        for name in (n for n in record if n.endswith(("elbo", "log_joint"))):
            part, bound = ("val", name[4:]) if name.startswith("val_") else ("train", name)
            self._add(step, f"{part}/{bound}", record[name])
            self._add(step, f"{part}/loss", -record[name])
        self._add(step, "train/points_per_second", record["points_per_second"])
        self._add(step, "train/gradients_per_point", record["gradients_per_point"])
        self._add(step, "train/beta", getattr(self.training.svi.objective, "beta", 1.0))
        self._add(step, "train/learning_rate", self.training.svi.optimizers[0].param_groups[0]["lr"])

    def _latents(self, step: int) -> None:
        r"""Rate, distortion, active units, KL per dimension: of the points to look at."""
        model, guide = self.training.svi.model, self.training.svi.guide
        if not hasattr(guide, "posterior"):
            return
        q = guide.posterior(self.x, self.index, self.mask)
        self._add(step, "q/active_units", float((q.mean.var(0) > ACTIVE).sum()))
        self.writer.add_histogram("q/mean", q.mean, step)
        rate = gaussian.kl(q, model.prior())
        if rate is None:
            return
        weights = log_weights(model, guide, self.x, self.index, SAMPLES, self.mask, seed=0)
        bound = weights.mean(0)
        self._add(step, f"q/iwae_{SAMPLES}", float(log_mean_exp(weights).mean()))
        self._add(step, "q/rate_kl", float(rate.mean()))
        self._add(step, "q/distortion", float(-(bound + rate).mean()))
        # of the marginals of q, which are Gaussian in both families
        per_dimension = 0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).mean(0)
        self.writer.add_histogram("q/kl_per_dimension", per_dimension, step)

    def _pictures(self, step: int) -> None:
        model, guide = self.training.svi.model, self.training.svi.guide
        if self.x.dim() != 4 or self.x.shape[1] not in (1, 3) or not hasattr(guide, "posterior"):
            return
        x, q = self.x[:SHOWN], guide.posterior(self.x, self.index, self.mask)
        pairs = torch.cat([x, model.likelihood(q.mean[:SHOWN]).mean])
        self.writer.add_image("images/data_above_reconstructions", make_grid(pairs.clamp(0, 1), len(x)), step)
        t = model.prior().sample((SHOWN,))
        self.writer.add_image("images/samples", make_grid(model.likelihood(t).mean.clamp(0, 1), SHOWN), step)

    def _add(self, step: int, name: str, value: float) -> None:
        self.writer.add_scalar(name, value, step)


def _wait_for_a_new_second(folder: Path) -> None:
    # Event files are read in the order of their names, which begin with the second in which they were made.
    while list(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)
