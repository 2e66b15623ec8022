r"""Scores on validation points during a training of a comparison."""

import time
from types import SimpleNamespace

from torch import Tensor

from ..objectives.elbo import ELBO
from ..points import Points
from ..training.checks import check_validation
from ..training.validation import Validation

LOOKS = 5  # at most, in a training


class HeldOut:
    r"""Creates the listener that adds `Validation.scores` to five records of a training, with the prefix ``val_``.

    ``fit(x_val=)`` scores each epoch. For a guide with rows, whose rows for the validation points need E-steps, that
    takes longer than the epoch. The time that is spent here is taken off the seconds of the records.

    Arguments:
        model, guide: the pair in training.
        points: validation points (M, ...), after the transform, or `Points`.
        epochs: the number of epochs of the training.
        objective: of the training.

    Raises:
        ValueError: if there are no points, or the model does not accept them.
    """

    def __init__(self, model, guide, points: Tensor | Points, epochs: int, objective: ELBO | None = None):
        self.pair, self.points, self.objective = (model, guide), Points.of(points), objective
        check_validation(SimpleNamespace(model=model, guide=guide), self.points)
        looks = min(LOOKS, epochs)
        self.epochs = {epochs * look // looks for look in range(1, looks + 1)}
        self.spent, self.validation = 0.0, None

    def after(self, step, record: dict | None) -> None:
        r"""Adds the scores to the record of an epoch, if it is its turn."""
        if record is None:
            return
        record["seconds"] -= self.spent
        if record["epoch"] in self.epochs:
            began = time.perf_counter()
            record |= {f"val_{name}": value for name, value in self._scores().items()}
            self.spent += time.perf_counter() - began

    def _scores(self) -> dict[str, float]:
        if self.validation is None:  # a guide may be made by its first step
            self.validation = Validation(*self.pair, self.points, objective=self.objective)
        return self.validation.scores()
