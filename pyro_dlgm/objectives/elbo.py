r"""The objective F(q, w) = E_q[log p(x, t | w) − log q(t)], as a loss for Pyro's SVI.

A loss is −F, summed over the plate with its scale, so that with ``size=N`` it estimates the loss of all N points.
"""

import contextlib

from pyro import poutine
from pyro.distributions.util import is_validation_enabled, scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import distributions
from .loss import Loss
from .sites import check_broadcast, check_latents, check_reparametrized, depth_of, is_drawn, plate_of
from .tempered import Tempered, weight


class ELBO(Loss):
    r"""Creates the loss −F(q, w) for reparametrized guides, with KL(q ‖ p) in closed form where both are Gaussian.

    log p(t) − log q(t) is sampled instead if one of them is not (a point mass, an autoguide), if the guide's site has
    ``infer={"analytic_kl": False}`` (`Exact`), or if p(t) may depend on a latent that the guide draws later. The loss
    stays a tensor, so that a step never waits for the device. For guides without reparametrized samples use Pyro's
    `Trace_ELBO`.

    Arguments:
        num_particles: samples of t per point.
        analytic_kl: whether to use the closed form.
        beta: the weight β of the KL term, in model and guide; an attribute, which a warm-up may change between steps.
        max_plate_nesting: the number of dimensions that the plates of the program take, 1 for the plate over data
            alone. A guide that has traced its program, an `AutoPerPoint`, can raise it.
    """

    def __init__(
        self, num_particles: int = 1, *, analytic_kl: bool = True, beta: float = 1.0, max_plate_nesting: int = 1
    ):
        if num_particles < 1:
            raise ValueError(f"num_particles is {num_particles}; expected at least 1")
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=num_particles > 1)
        self.analytic_kl, self.beta = analytic_kl, weight(beta)

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        r"""Returns the loss as a scalar tensor, in nats, with its graph."""
        program, q = poutine.unwrap(model), poutine.unwrap(guide)
        plate = plate_of(program, q)
        self.max_plate_nesting = max(self.max_plate_nesting, depth_of(q))
        plain = not isinstance(self.beta, Tensor) and self.beta == 1.0
        with contextlib.nullcontext() if plain else Tempered(self.beta, plate):
            traces = list(self._get_traces(model, guide, args, kwargs))
        return -sum(self._bound(*pair, plate) for pair in traces) / self.num_particles

    def _bound(self, model_trace, guide_trace, plate: str | None) -> Tensor:
        closed = self._closed_form(model_trace, guide_trace, plate) if self.analytic_kl else {}
        total = -sum(closed.values())
        for trace, sign in ((model_trace, 1), (guide_trace, -1)):
            drawn = [name for name, site in trace.nodes.items() if is_drawn(site) and name not in closed]
            trace.compute_log_prob(lambda name, site, drawn=drawn: name in drawn)
            for name in drawn:
                total = total + sign * trace.nodes[name]["log_prob_sum"]
        return total

    def _closed_form(self, model_trace, guide_trace, plate: str | None) -> dict[str, Tensor]:
        r"""Returns KL(q ‖ p), scaled and summed, for each latent site where the closed form exists and may be used.

        It may be used if the latents before the site in the model, on which p may depend, come before it in the guide.
        """
        closed, before = {}, set()
        parents = _latents_before(model_trace)
        for name, q in guide_trace.nodes.items():
            if not is_drawn(q):
                continue
            p, known = model_trace.nodes.get(name), parents.get(name, before) <= before
            before = before | {name}
            if p is not None and known and q["infer"].get("analytic_kl", True):
                kl = distributions.kl(q["fn"], p["fn"])
                if kl is not None:
                    closed[name] = scale_and_mask(kl, q["scale"], q["mask"]).sum()
        return closed

    def _get_trace(self, model, guide, args, kwargs):
        if is_validation_enabled() or isinstance(poutine.unwrap(guide), Messenger):
            model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
            check_latents(model_trace, guide_trace)
            check_broadcast(model_trace)
            check_reparametrized(guide_trace)
            return model_trace, guide_trace
        # The same without checks and score parts: `_bound` computes only the log-densities that it needs.
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs), guide_trace


def _latents_before(trace) -> dict[str, set[str]]:
    r"""Returns, for each latent site of a model, the latent sites before it."""
    names = [name for name, site in trace.nodes.items() if is_drawn(site) and not site["is_observed"]]
    return {name: set(names[:place]) for place, name in enumerate(names)}
