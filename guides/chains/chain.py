r"""Markov chains as a guide: Monte Carlo EM."""

from functools import partial

import pyro
import torch
from torch import Tensor

from ...distributions import draws, stddev
from ...latents import asked
from ...latents.asked import log_joint, prior
from ...latents.local import LocalModel
from ...points import Points
from ...priors.given import needs_given
from ...priors.normal import StandardNormal
from ...shared import Shared
from ..base import Guide, check_start
from ..per_point import Rowed
from .empirical import States
from .kernel import KEPT, Kernel, Tuning, converged, rounds

CHAINS = 4  # at least, where convergence is tested: R-hat compares chains


class Chain(Rowed):
    r"""Creates M persistent states T_is of p(t | x_i, w) for each point, i = 1..N, s = 1..M: Monte Carlo EM.

    In training mode `forward` begins with an E-step: Hamiltonian Monte Carlo moves the M chains of each point of the
    batch on log p(x_i, · | w) with the current w. Then it draws from the states, so that the M-step ascends the mean of
    log p(x_i, T_is | w). In eval mode nothing moves.

    Each point has its own step sizes: ε adapts to its acceptance, with a gain that goes to 0, and each dimension has a
    scale that follows the spread of the point's states, updated ever more rarely. The first visit of a point begins
    with ``burn_in`` further transitions.

    States, step sizes and counts are buffers; there are no parameters. The model and ``start_from`` are held outside
    the module tree: ``.to()`` and ``state_dict`` skip them, and a deep copy of the guide alone shares them.

    Arguments:
        model: a `DLGM`.
        num_points: the number N of points.
        latent_dim: the number D of latents.
        num_states: the number M of states of each point. A loss with M particles uses each of them in each step.
        num_transitions: the number of transitions of each chain at each visit.
        num_leapfrog: gradient evaluations per transition; with 1 the chain is MALA.
        burn_in: the number of transitions before those, at the first visit of a point.
        target_acceptance: the acceptance to which step sizes adapt.
        start_from: an `Amortized` guide, trained or in training: the chains of a point start at draws of its q, with
            its scales. By default they start at draws of the prior.

    Attributes:
        gradients: gradient evaluations of log p(x, t | w) by the chains since the guide was created.

    Raises:
        ValueError: if a number is out of range, or D is not the model's.
        TypeError: if ``start_from`` is not a guide, or has rows for its points.

    References:
        Wei and Tanner, "A Monte Carlo implementation of the EM algorithm and the poor man's data augmentation
        algorithms" (1990). JASA 85(411).
        Delyon, Lavielle, Moulines, "Convergence of a stochastic approximation version of the EM algorithm" (1999).
        Annals of Statistics 27(1).
    """

    has_density, moves = False, True

    def __init__(
        self,
        model,
        num_points: int,
        latent_dim: int,
        *,
        num_states: int = 4,
        num_transitions: int = 1,
        num_leapfrog: int = 10,
        burn_in: int = 100,
        target_acceptance: float = 0.8,
        start_from: Guide | None = None,
    ):
        super().__init__(latent=model.latent, plate=model.plate)
        counts = {"num_states": num_states, "num_transitions": num_transitions, "num_leapfrog": num_leapfrog}
        self.settings = {**counts, "burn_in": burn_in, "target_acceptance": target_acceptance}
        check_settings(num_points=num_points, latent_dim=latent_dim, **self.settings)
        check_start("start_from", start_from, "the prior")
        self.num_points, self.latent_dim, self.gradients = num_points, latent_dim, 0
        self._model, self._start_from = Shared((model,)), Shared((start_from,))
        if latent_dim != (expected := asked.latent_dim(model, self)):
            raise ValueError(f"latent_dim is {latent_dim}; expected {expected}, the latents of this model")
        self._waiting: int | None = None  # points that no chain has visited yet; `None`: to be counted
        self._make_tables(_prior(model, latent_dim))

    def _make_tables(self, prior) -> None:
        N, D = self.num_points, self.latent_dim
        with torch.no_grad():
            self.register_buffer("states", prior((N, self.settings["num_states"])))
            tuning = Tuning.start(stddev(prior).expand(N, D))
        for name, table in vars(tuning).items():
            self.register_buffer(name, table)
        self.register_buffer("draws", None, persistent=False)

    def posterior(self, x=None, index: Tensor | None = None, mask=None, given=None) -> States:
        r"""Returns the empirical distribution of the states of the rows ``index``: batch shape (B,), event shape (D,).

        It ignores the other arguments: the states contain what the chains have seen of them.
        """
        return States(self.samples(index))

    def samples(self, index: Tensor) -> Tensor:
        r"""Returns draws of p(t | x_i, w), (S, B, D): those of the run by `evaluate.infer`, if any, or the states.

        S is 100 per chain of that run, equally spaced along it, or M.
        """
        self.check_index(index)
        table = self.states if self.draws is None else self.draws
        return table.index_select(0, index).transpose(0, 1)

    def data_plate(self, x, index, size):
        r"""Returns the plate over data; a chain always needs an index."""
        self.check_index(index)
        return super().data_plate(x, index, size)

    def e_step(self, points: Points) -> None:
        r"""Moves the chains of the points, and initializes them at their first visit."""
        self.check_index(points.index)
        if points.x is None:
            raise ValueError(f"{type(self).__name__} moves on p(x, t | w) and got no x: call it with the data")
        self.draws = None
        self._begin(points)
        self._run(points, self.settings["num_transitions"])

    def start(self, points: Points) -> "Chain":
        r"""Creates a guide with the same settings and fresh chains for the points, at least four for each."""
        settings = self.settings | {"num_states": max(CHAINS, self.settings["num_states"])}
        start_from = self._start_from[0]
        return Chain(self._model[0], len(points), self.latent_dim, **settings, start_from=start_from).to(self.states)

    def settle(self, points: Points, max_steps: int) -> tuple[Tensor, int]:
        r"""Runs the chains of the points until they have converged or made ``max_steps`` transitions.

        It draws in rounds of 100, 200, 400, ... transitions, each preceded by half as many that adapt the step sizes. A
        point has converged if the draws of its last round have, in the worst dimension, a split R-hat below 1.01 and a
        bulk ESS above 400. `samples` returns 100 draws of each chain of that round.

        Returns:
            Which points converged, booleans (B,), and the number of gradient evaluations of all points together.
        """
        before = self.gradients
        if self.draws is None:
            self.draws = self.states.repeat(1, KEPT, 1)
        self._begin(points)
        late = torch.ones_like(points.index, dtype=torch.bool)
        for num in rounds(max_steps - self.settings["burn_in"]):
            here = late.nonzero().squeeze(-1)
            block = points[here]
            draws = torch.stack(self._run(block, num // 2, num))
            # (S, M, B, D) -> (B, S*M, D)
            self.draws[block.index] = draws[num // KEPT - 1 :: num // KEPT].flatten(0, 1).transpose(0, 1)
            late[here] = ~converged(draws)
            if not late.any():
                break
        return ~late, self.gradients - before

    def cost(self, visits: int) -> int:
        r"""Returns the gradient evaluations over ``visits`` visits: chains with burn-in, and one for each M-step."""
        s = self.settings
        M, L = s["num_states"], s["num_leapfrog"]
        first = M * (1 + s["burn_in"] * L) if s["burn_in"] else 0
        return first + visits * (M * (1 + s["num_transitions"] * L) + 1)

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._waiting = None

    def _begin(self, points: Points) -> None:
        r"""Initializes the points that have not been visited yet."""
        if self._waiting is None:
            self._waiting = int((self.transitions == 0).sum())
        if self._waiting == 0:  # then a step never waits for the device
            return
        new = points[(self.transitions[points.index] == 0).nonzero().squeeze(-1)]
        if len(new) == 0:
            return
        self._waiting -= len(new.index.unique())
        start = self._first_q(new)
        if start is not None:
            with torch.no_grad():
                self.states[new.index] = draws(start, self.states.shape[1], len(new)).transpose(0, 1)
                self._store(Tuning.start(stddev(start).expand(len(new), self.latent_dim)), new.index)
        if self.settings["burn_in"]:
            self._run(new, self.settings["burn_in"])

    def _first_q(self, points: Points):
        r"""Returns the distribution of the starts if it depends on the points, else `None`: states start at p(t)."""
        if self._start_from[0] is not None:
            return self._start_from[0].posterior(points.x, None, points.mask, **points.side)
        fixed = not points.side and not isinstance(self._model[0], LocalModel)
        return None if fixed else prior(self._model[0], points)

    def _run(self, points: Points, learn: int, keep: int = 0) -> list[Tensor]:
        r"""Moves the chains of the points by `Kernel.run`, stores states and tuning, and returns the draws."""
        kernel, index = self._kernel(points), points.index
        with pyro.validation_enabled(False):
            state, kept = kernel.run(kernel.start(self.states[index].transpose(0, 1)), learn, keep)
        self.states[index] = state.t.transpose(0, 1)
        self._store(kernel.tuning, index)
        self.gradients += kernel.gradients
        return kept

    def _kernel(self, points: Points) -> Kernel:
        model, s = self._model[0], self.settings
        tuning = Tuning(*(getattr(self, name)[points.index] for name in Tuning.__dataclass_fields__))
        return Kernel(partial(log_joint, model, points), tuning, s["num_leapfrog"], s["target_acceptance"])

    def _store(self, tuning: Tuning, index: Tensor) -> None:
        for name, rows in vars(tuning).items():
            getattr(self, name)[index] = rows


def _prior(model, latent_dim: int):
    r"""Returns p(t), or N(0, I) if it depends on the points, whose states are then drawn again at their first visit."""
    waits = isinstance(model, LocalModel) or needs_given(model.prior)
    return StandardNormal(latent_dim)() if waits else model.prior()


def check_settings(*, target_acceptance: float, **counts: int) -> None:
    r"""Raises a `ValueError` unless counts are at least 1 (burn_in 0) and the acceptance is between 0 and 1."""
    for name, count in counts.items():
        least = 0 if name == "burn_in" else 1
        if not (count >= least and count == int(count)):
            raise ValueError(f"{name} is {count}; expected a whole number, at least {least}")
    if not 0 < target_acceptance < 1:
        raise ValueError(
            f"target_acceptance is {target_acceptance}; expected a probability between 0 and 1, such as 0.8"
        )
