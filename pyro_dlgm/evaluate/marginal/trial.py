r"""Points simulated from the model, on which walks are tried in both directions."""

from dataclasses import dataclass

from torch import Tensor

from ...points import Points, dealt
from ...seeding import seeds
from ..predict import simulated
from ..quiet import quiet
from .annealing.bdmc import BDMC, bounds, bracket
from .annealing.path import Settings
from .starts import Starts, near, refitted


@dataclass(frozen=True)
class Trial:
    r"""Creates a trial of walks.

    Attributes:
        model: a `DLGM`.
        points: simulated points (M, ...), numbered.
        t: their codes (M, D).
        starts: Gaussians near their posteriors.
    """

    model: object
    points: Points
    t: Tensor
    starts: Starts

    @classmethod
    def simulated(cls, model, like: Points, num_points: int, *, seed: int) -> "Trial":
        r"""Simulates points that take the masks and ``given`` of those of ``like`` in turn."""
        made, sought = seeds(2, seed)
        with quiet(model, seed=made):
            points, t = simulated(model, num_points, dealt(like.mask, num_points), like.given)
        return cls(model, points, t, near(model, points, seed=sought))

    def bracketed(
        self, settings: Settings, *, seed: int, refit: bool = True, progress: bool = False
    ) -> tuple[BDMC, int]:
        r"""Returns the `BDMC` of walks from starts chosen as for other points, and the gradient evaluations spent.

        Arguments:
            settings: the settings of the walks.
            seed: seed of all random numbers.
            refit: whether to make an E-step at points whose walks do not agree.
            progress: whether to show a bar.

        Returns:
            The `BDMC`, and the gradient evaluations of all points together without those of ``starts``.
        """
        chosen, walked = seeds(2, seed)
        model, points, starts = self.model, self.points, self.starts
        if refit:
            starts = refitted(model, points, starts, settings, seed=chosen, progress=progress)
        up, down = bracket(model, starts.guide, points, self.t, settings, seed=walked, progress=progress)
        spent = starts.gradients - self.starts.gradients + len(points) * settings.gradients(sweeps=2)
        return bounds(model, up, down, points.x, self.t), spent
