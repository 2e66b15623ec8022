r"""An encoder whose draws are improved by HMC: Hoffman's hybrid of variational and Monte Carlo EM."""

from collections.abc import Callable
from functools import partial

import pyro
import torch
from pyro.nn import pyro_method
from torch import Tensor

from ... import hmc
from ...distributions import stddev
from ...latents.asked import latent_dim, log_joint
from ...points import Points, side
from ...shared import Shared
from ..base import Guide, adapted
from .chain import Chain, check_settings
from .empirical import States
from .kernel import DECAY, Kernel, Tuning


class Hybrid(Guide):
    r"""Creates a guide whose samples are draws of q(t | x), refined by a few transitions of HMC on log p(x, · | w).

    The M-step ascends log p(x, t | w) at the end of the chain. The encoder ascends its own ELBO: the gradient

        ∇_φ E_q [log p(x, t | w) − log q(t | x)]

    enters through a factor of the guide, with w held fixed, and costs no evaluation: HMC needs the gradient of log p(x,
    t | w) at the start of the chain anyway. The factor adds 0 to the loss, whose value is −log p(x, t | w).

    The parameters are those of the encoder. The distribution of the chain's end has no density that can be evaluated;
    for the encoder's F, evaluate ``guide``. One step size, in units of q's scales, serves all points and adapts to
    their acceptance in training mode. The model is held outside the module tree, as in `Exact`.

    Arguments:
        model: a `DLGM`.
        guide: an `Amortized` guide.
        num_states: the number of draws of q for each point, each the start of a chain.
        num_transitions: the number of transitions of each chain.
        num_leapfrog: gradient evaluations per transition.
        target_acceptance: the acceptance to which the step size adapts.

    Attributes:
        gradients: gradient evaluations of log p(x, t | w) since the guide was created.

    Raises:
        ValueError: if a number is out of range.
        TypeError: if ``guide`` has rows for its points, or no density.

    References:
        Hoffman, "Learning deep latent Gaussian models with Markov chain Monte Carlo" (2017), Algorithm 1.
        https://proceedings.mlr.press/v70/hoffman17a.html
    """

    has_density, moves = False, True

    def __init__(
        self,
        model,
        guide: Guide,
        *,
        num_states: int = 1,
        num_transitions: int = 3,
        num_leapfrog: int = 5,
        target_acceptance: float = 0.8,
    ):
        super().__init__(latent=model.latent, plate=model.plate)
        counts = {"num_states": num_states, "num_transitions": num_transitions, "num_leapfrog": num_leapfrog}
        check_settings(target_acceptance=target_acceptance, **counts)
        _check(guide)
        self.num_states, self.num_transitions, self.num_leapfrog = num_states, num_transitions, num_leapfrog
        self.target_acceptance, self.gradients = target_acceptance, 0
        self.guide, self._model = guide, Shared((model,))
        dim = latent_dim(model, guide)
        self.register_buffer("log_step", torch.tensor(hmc.first_step(dim)).log())
        self.register_buffer("visits", torch.tensor(0))

    def posterior(self, x: Tensor | None = None, index=None, mask: Tensor | None = None, **side: Tensor) -> States:
        r"""Returns the empirical distribution over the ends of ``num_states`` new chains; the index is ignored."""
        return self._moved(x, mask, side)[0]

    @pyro_method
    def datum(
        self, x: Tensor | None = None, index: Tensor | None = None, mask: Tensor | None = None, *, given=None
    ) -> Tensor:
        r"""Samples t at the end of the chains; in training mode, adds the factor that trains the encoder."""
        ends, bound, acceptance = self._moved(x, mask, side(given))
        if self.training:
            self._adapt(acceptance)
            pyro.factor(f"{self.latent}_encoder", bound.detach() - bound, has_rsample=True)
        return pyro.sample(self.latent, ends, infer={"analytic_kl": False})

    def cost(self, visits: int) -> int:
        r"""Returns the gradient evaluations over ``visits`` visits: chains, the encoder's gradient, and M-steps."""
        return visits * (self.num_states * (1 + self.num_transitions * self.num_leapfrog) + 1)

    def prepare(self, look: Callable[[], Points]) -> None:
        r"""Prepares the encoder for the scale of x, as `Amortized.prepare`."""
        self.guide.prepare(look)

    def start(self, points: Points) -> Chain:
        r"""Creates chains for the points that start at the encoder's q."""
        D = latent_dim(self._model[0], self.guide)
        return Chain(self._model[0], len(points), D, start_from=self.guide).to(self.log_step)

    def _moved(self, x: Tensor | None, mask: Tensor | None, side: dict) -> tuple[States, Tensor, Tensor]:
        r"""Returns the ends of the chains, a (B,) with the gradient of the encoder's ELBO, and acceptances (B,)."""
        q = self.guide.posterior(x, None, mask, **side)
        t = q.rsample((self.num_states,))
        kernel = self._kernel(x, mask, side, q)
        with pyro.validation_enabled(False):
            state = kernel.start(t.detach())
            bound = ((state.grads[0] * t).sum(-1) - q.log_prob(t)).mean(0)
            for _ in range(self.num_transitions):
                state, info = kernel.step(state)
        self.gradients += kernel.gradients
        return States(state.t), bound, info.acceptance

    def _kernel(self, x: Tensor, mask: Tensor | None, side: dict, q) -> Kernel:
        model = self._model[0]
        with torch.no_grad():
            tuning = Tuning.start(stddev(q))
        tuning.log_step = self.log_step.expand(len(x))
        target = partial(log_joint, model, Points(x, None, mask, **side))
        return Kernel(target, tuning, self.num_leapfrog, self.target_acceptance)

    def _adapt(self, acceptance: Tensor) -> None:
        self.visits = self.visits + 1
        rate = self.visits.to(self.log_step) ** -DECAY
        self.log_step = hmc.adapted_step(self.log_step, acceptance, target=self.target_acceptance, rate=rate)


def _check(guide) -> None:
    known = adapted(guide)
    if known.posterior is None or known.per_point or not known.has_density:
        raise TypeError(
            f"guide is a {type(guide).__name__}; expected an Amortized guide, which computes a q with a density from x"
        )
