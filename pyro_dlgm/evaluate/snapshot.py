r"""A look at a pair (model, guide) at some points: numbers, images, codes. Looking moves nothing."""

import functools

import torch
from torch import Tensor

from .. import gaussian
from ..ppca.model import PPCA
from ..seeding import forked
from ..training.validation import SAMPLES
from . import latents
from .bounds import log_joint, log_mean_exp, log_weights
from .predict import reconstruct
from .quiet import quiet

ACTIVE = 0.01  # a latent is active if the variance of its posterior mean over the points exceeds this


def _quietly(method):
    @functools.wraps(method)
    def looked(self, *args, **settings):
        with quiet(self.model, self.guide, seed=0), torch.no_grad():
            return method(self, *args, **settings)

    return looked


class Look:
    r"""Creates a look at model and guide through points x.

    Arguments:
        model, guide: the pair, on the device of x.
        x: points (B, ...), in any shape with as many numbers as the model's.
        index: which points these are (B,), for guides with a row for each; by default the first ones.
        mask: boolean, True where observed, of x's shape or (B,), or `None`.
        labels: whole numbers (B,), or `None`.
    """

    def __init__(self, model, guide, x: Tensor, index: Tensor | None = None, mask: Tensor | None = None, labels=None):
        self.model, self.guide, self.mask, self.labels = model, guide, mask, labels
        self.index = torch.arange(len(x), device=x.device) if index is None else index
        self.has_density = getattr(guide, "has_density", True)
        # What is seen needs q itself and the two halves of the model; any other Pyro program has only a loss.
        self.says = hasattr(guide, "posterior") and hasattr(model, "likelihood") and hasattr(model, "prior")
        self.image_shape = tuple(x.shape[1:]) if x.dim() == 4 and x.shape[1] in (1, 3) else None
        self.x = self._as_taken(x) if self.says else x

    def _as_taken(self, x: Tensor) -> Tensor:
        r"""x in the shape and dtype of the model: a linear one takes images as rows."""
        with quiet(self.model), torch.no_grad():
            p = self.model.likelihood(self.model.prior().mean.unsqueeze(0))
        return x.reshape(len(x), *p.event_shape).to(p.mean.dtype)

    def _posterior(self):
        return self.guide.posterior(self.x, self.index, self.mask)

    @_quietly
    def bounds(self) -> dict[str, float]:
        r"""Means over the points, in nats: ``elbo``, ``rate``, ``distortion``, ``iwae_10``, with elbo = −(rate +
        distortion), all of the same samples; ``log_joint`` instead where q has no density. ``log_px`` is exact, where
        the model is `PPCA`."""
        exact = {"log_px": float(self.model.log_prob(self.x, self.mask).mean())} if self._is_linear() else {}
        pair = self.model, self.guide, self.x, self.index
        if not self.has_density:
            return exact | {"log_joint": float(log_joint(*pair, SAMPLES, self.mask, seed=0).mean())}
        table = log_weights(*pair, SAMPLES, self.mask, seed=0)
        elbo, rate = float(table.mean()), float(self._rate().mean())
        found = {"elbo": elbo, "rate": rate, "distortion": -(elbo + rate)}
        return exact | found | {f"iwae_{SAMPLES}": float(log_mean_exp(table).mean())}

    def _is_linear(self) -> bool:
        return isinstance(self.model, PPCA)

    def _rate(self) -> Tensor:
        q, p = self._posterior(), self.model.prior()
        closed = gaussian.kl(q, p)
        if closed is not None:
            return closed
        t = q.sample((SAMPLES,))
        return (q.log_prob(t) - p.log_prob(t)).mean(0)

    @_quietly
    def means(self) -> Tensor:
        r"""The means of q, (B, D)."""
        return self._posterior().mean

    @_quietly
    def use(self) -> Tensor:
        r"""How much each latent is used, (D,), in nats: `latents.use`."""
        return latents.use(self._posterior(), self.model.prior(), self.has_density)

    @_quietly
    def active(self) -> int:
        r"""How many latents have a posterior mean that varies over the points."""
        return int((self._posterior().mean.var(0) > ACTIVE).sum()) if len(self.x) > 1 else 0

    def data(self, num: int) -> Tensor:
        r"""The first points as images (num, C, H, W)."""
        return self._as_images(self.x[:num])

    @_quietly
    def reconstructions(self, num: int) -> Tensor:
        r"""Of the first points, as images."""
        mask = None if self.mask is None else self.mask[:num]
        return self._as_images(reconstruct(self.model, self.guide, self.x[:num], self.index[:num], mask))

    @_quietly
    def samples(self, num: int, seed: int = 0) -> Tensor:
        r"""The mean of p(x | t) for draws of t from the prior, as images: the same t for all models of D latents."""
        with forked(seed):
            t = self.model.prior().sample((num,))
        return self._as_images(self.model.likelihood(t).mean)

    @_quietly
    def traversals(self, num: int, steps: int) -> tuple[list[int], Tensor]:
        r"""The most used latents, and for each, images (num, steps, C, H, W) around the posterior mean of point 0."""
        most = self.use().argsort(descending=True)[:num].tolist()
        x = latents.traversal(self.model, self._posterior().mean[0], most, steps)
        return most, self._as_images(x.flatten(0, 1)).unflatten(0, (len(most), steps))

    def _as_images(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.image_shape)
