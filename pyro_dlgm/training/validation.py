r"""Bounds on validation points while w moves, and the way back to the best w."""

import copy

import torch
from torch import Tensor

from .. import gaussian
from ..evaluate.bounds import log_joint, log_mean_exp, log_weights
from ..evaluate.quiet import blocks, quiet
from ..objectives import ELBO
from ..optim.svi import SVI, adam

SAMPLES, E_STEPS = 10, 25


class Validation:
    r"""Creates the validation of a run.

    A guide whose q is a function of x is asked directly. A per-point guide gets rows of its own for the validation
    points, which follow w by a few E-steps at each call, so that its ELBO is a lower bound of what `evaluate.infer`
    would reach.

    Arguments:
        model, guide: the pair in training.
        x: validation points (M, ...).
        mask: boolean, of x's shape or (M,), or `None`.
        patience: calls without a better bound after which it is `exhausted`; `None` means never.
    """

    def __init__(self, model, guide, x: Tensor, mask: Tensor | None = None, patience: int | None = None):
        self.trained, self.model, self.x, self.mask, self.patience = guide, model, x, mask, patience
        self.index = torch.arange(len(x), device=x.device)
        self.per_point = getattr(guide, "per_point", False)
        with quiet(seed=0):
            self.guide = guide.start(x, mask) if self.per_point else guide
        self.svi = SVI(model, self.guide, adam(self.guide, row_lr=0.05, lr=0.05), ELBO())
        self.best, self.calls_since_best, self._states = -float("inf"), 0, None

    @property
    def exhausted(self) -> bool:
        r"""Whether the bound has not risen for ``patience`` calls."""
        return self.patience is not None and self.calls_since_best >= self.patience

    def scores(self, *, counts: bool = True) -> dict[str, float]:
        r"""What there is to know now, in nats per point, all from one table of log-weights.

        Arguments:
            counts: whether this may be the best call, and is counted against patience; not so during a warm-up.

        Returns:
            ``elbo``, which decides; ``iwae_10``; and ``rate``, KL(q ‖ p), with ``distortion``, −E_q log p(x given t),
            where the rate has a closed form: elbo = −(distortion + rate). Where q has no density ``log_joint`` alone.
        """
        with quiet(self.model, self.guide, seed=0), torch.enable_grad():
            self.guide.train(self.per_point)  # a chain moves in training mode only
            for _ in range(E_STEPS if self.per_point else 0):
                self.svi.e_step(self.x, self.index, mask=self.mask, weight=1 / len(self.x))
            scores = self._scores()
        if counts:
            self._keep(next(iter(scores.values())))
        return scores

    @torch.no_grad()
    def _scores(self) -> dict[str, float]:
        points = (self.x, self.index, SAMPLES, self.mask)
        if not getattr(self.guide, "has_density", True):
            return {"log_joint": float(log_joint(self.model, self.guide, *points).mean())}
        table = log_weights(self.model, self.guide, *points)
        elbo, rate = float(table.mean()), self._rate()
        split = {} if rate is None else {"rate": rate, "distortion": -(elbo + rate)}
        return {"elbo": elbo, f"iwae_{SAMPLES}": float(log_mean_exp(table).mean())} | split

    def _rate(self) -> float | None:
        r"""KL(q ‖ p), if it has a closed form."""
        if not (hasattr(self.guide, "posterior") and hasattr(self.model, "prior")):
            return None
        parts, p = blocks(self.x, self.index, self.mask, 1), self.model.prior()
        rates = [gaussian.kl(self.guide.posterior(x, index, mask), p) for x, index, mask, _ in parts]
        return None if rates[0] is None else float(torch.cat(rates).mean())

    def _keep(self, value: float) -> None:
        self.calls_since_best += 1
        if value > self.best:
            self.best, self.calls_since_best = value, 0
            if self.patience is not None:
                self._states = [copy.deepcopy(m.state_dict()) for m in (self.model, self.trained)]

    def restore_best(self) -> None:
        r"""Puts model and guide back to the best call, if there is a ``patience``."""
        if self._states is not None:
            for module, state in zip((self.model, self.trained), self._states, strict=True):
                module.load_state_dict(state)

    def state_dict(self) -> dict:
        r"""Its state, as tensors and plain values."""
        state = {"best": self.best, "calls_since_best": self.calls_since_best, "states": self._states}
        if self.per_point:
            state |= {"guide": self.guide.state_dict(), "optimizers": [o.state_dict() for o in self.svi.optimizers]}
        return state

    def load_state_dict(self, state: dict) -> None:
        r"""Goes to where ``state`` was taken."""
        self.best, self.calls_since_best, self._states = state["best"], state["calls_since_best"], state["states"]
        if self.per_point:
            self.guide.load_state_dict(state["guide"])
            for optimizer, saved in zip(self.svi.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
