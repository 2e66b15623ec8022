r"""A snapshot of a pair (model, guide) at some points: bounds, reconstructions, samples, traversals, codes."""

import functools
import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..distributions import draws, mean, stddev
from ..guides.base import adapted
from ..guides.chains.empirical import States
from ..latents.asked import emission, posterior, prior
from ..points import Points
from ..ppca.model import PPCA
from ..seeding import forked
from .diagnostics.aggregate import charged, is_active, marginal_kl, mean_variance, mean_variance_error, two_means
from .predict import decoded, reconstruct
from .quiet import quiet
from .scores import SAMPLES, mean_scores

REACH = 3.0  # standard deviations of the prior, on both sides


def _quietly(method):
    @functools.wraps(method)
    def call(self, *args, **settings):
        with quiet(self.model, self.guide, seed=0):
            return method(self, *args, **settings)

    return call


class Snapshot:
    r"""Creates a snapshot of model and guide at points x; it changes neither them nor a generator.

    Arguments:
        model, guide: the pair, on the device of x.
        x: data (B, ...), in any shape with as many numbers as the model's, or `Points`.
        index: which points these are (B,), for guides with a row for each; by default the first ones.
        mask: boolean, True where observed, of x's shape or (B,), or `None`.
        given: what the points are conditioned on, (B, C), or `None`; samples take its rows in turn.
        labels: whole numbers (B,), or `None`.

    Attributes:
        has_density: whether q has a density.
        has_posterior: whether the guide has a posterior, and the model prior and likelihood; else there are only
            bounds.
        image_shape: (C, H, W) if points are images of one or three channels, else `None`; `None` also if p(x | t) has
            no mean, as for a `Categorical`.
    """

    def __init__(self, model, guide, x, index: Tensor | None = None, *, mask=None, given=None, labels=None):
        self.model, self.guide, self.labels = model, guide, labels
        points = Points.of(x, index, mask=mask, given=given)
        x = points.x
        self.has_density = adapted(guide).has_density
        halves = hasattr(model, "likelihood") and hasattr(model, "prior")
        self.has_posterior = halves and adapted(guide).posterior is not None
        self.image_shape = tuple(x.shape[1:]) if x.dim() == 4 and x.shape[1] in (1, 3) else None
        self.points = points if points.index is not None else points.numbered()
        if self.has_posterior:
            self.points = replace(self.points, x=self._as_taken(self.points))
            self.image_shape = self.image_shape if self._has_mean() else None
        self.x = self.points.x

    def _as_taken(self, points: Points) -> Tensor:
        r"""Returns x in the shape and dtype of the model: a linear one takes images as rows."""
        with quiet(self.model):
            one = points[:1]
            t = draws(prior(self.model, one), 1, 1)
            p = emission(self.model, one, t)
        return points.x.reshape(len(points), *p.event_shape).to(t.dtype)

    def _has_mean(self) -> bool:
        r"""Returns whether p(x | t) has a mean."""
        with quiet(self.model, seed=0):
            one = self.points[:1]
            try:
                decoded(self.model, one, draws(prior(self.model, one), 1, 1))
            except ValueError:
                return False
        return True

    def _posterior(self):
        return posterior(self.guide, self.points)

    @_quietly
    def bounds(self) -> dict[str, float]:
        r"""Returns `mean_scores` at the points, and the exact ``log_px`` if the model is `PPCA`; nats per point."""
        scores = mean_scores(self.model, self.guide, self.points, seed=0)
        if not isinstance(self.model, PPCA):
            return scores
        return {"log_px": float(self.model.log_prob(self.x, self.points.mask).mean())} | scores

    @_quietly
    def latent_dim(self) -> int:
        r"""Returns the number D of latents."""
        return self._posterior().event_shape[0]

    @_quietly
    def means(self) -> Tensor:
        r"""Returns the means of q, (B, D)."""
        return mean(self._posterior())

    @_quietly
    def nats(self) -> Tensor:
        r"""Returns how much q uses each latent, (D,), a mean over the points, in nats.

        It is the KL of the marginals; if q has no density, the cost of its mean under the prior (`charged`), or NaN for
        a single state of a chain.
        """
        p = prior(self.model, self.points)
        return marginal_kl(self._posterior(), p).mean(0) if self.has_density else charged(self._two_means(), p)

    @_quietly
    def active(self) -> float:
        r"""Returns how many latents have a posterior mean with a variance over points above 0.01 and noise.

        It is NaN if q is a single state of a chain.
        """
        if len(self.x) == 1:
            return 0
        means = self._two_means()
        if means.isnan().all():
            return math.nan
        return int(is_active(mean_variance(means), mean_variance_error(means)).sum())

    def _two_means(self) -> Tensor:
        r"""Returns `two_means` of q; for a q of few states that are new at each call, from at least ten states."""
        q = self._posterior()
        if isinstance(q, States):
            states = [q.states]
            while len(q.states) * len(states) < SAMPLES:
                more = self._posterior().states
                if torch.equal(more, q.states):  # the states do not change
                    break
                states.append(more)
            q = States(torch.cat(states))
        return two_means(q, SAMPLES)

    def data(self, num: int) -> Tensor:
        r"""Returns the first points as images (num, C, H, W)."""
        return self._as_images(self.x[:num])

    def reconstructions(self, num: int) -> Tensor:
        r"""Returns reconstructions of the first points, as images."""
        return self._as_images(reconstruct(self.model, self.guide, self.points[:num], seed=0))

    @_quietly
    def samples(self, num: int, seed: int = 0) -> Tensor:
        r"""Returns the mean of p(x | t) for draws of t from the prior, as images; t depends on D and the seed alone."""
        here = self.points.dealt(self.x.new_empty(num, 0))
        with forked(seed):
            t = draws(prior(self.model, here), 1, num).squeeze(0)
        return self._as_images(decoded(self.model, here, t))

    @_quietly
    def traversals(self, num: int, steps: int) -> tuple[list[int], Tensor]:
        r"""Returns the most used latents, and images (num, steps, C, H, W) along each, around point 0's mean of q."""
        most = self.nats().argsort(descending=True, stable=True)[:num].tolist()
        x = traversal(self.model, mean(self._posterior())[0], most, steps, self.points[:1])
        return most, self._as_images(x.flatten(0, 1)).unflatten(0, (len(most), steps))

    def _as_images(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.image_shape)


def traversal(model, t: Tensor, latents: list[int], steps: int, point: Points) -> Tensor:
    r"""Returns the mean of p(x | t) as one latent at a time goes from −3 to 3 standard deviations of the prior.

    Arguments:
        model: a `DLGM`.
        t: the code (D,) of the other latents.
        latents: the n latents to move.
        steps: the number S of values of each.
        point: the point of the code, for its ``given``.

    Returns:
        A tensor of shape (n, S, ...).
    """
    p = prior(model, point)
    centre, scale = (v.reshape(-1, len(t))[0] for v in (mean(p), stddev(p)))
    codes = t.repeat(len(latents), steps, 1)
    way = torch.linspace(-REACH, REACH, steps, dtype=t.dtype, device=t.device)
    for row, j in enumerate(latents):
        codes[row, :, j] = centre[j] + way * scale[j]
    return decoded(model, point, codes)


class Plane(NamedTuple):
    r"""Points in two dimensions.

    Attributes:
        points: (N, 2).
        axes: the labels of the two axes.
    """

    points: Tensor
    axes: tuple[str, str]


def plane(means: Tensor) -> Plane:
    r"""Projects codes (N, D) to the plane: two latents as they are, one with 0 for the other axis, more by PCA."""
    D = means.shape[1]
    if D <= 2:
        points = pad(means, (0, 2 - D))
        return Plane(points, ("posterior mean of t0", "posterior mean of t1" if D == 2 else "(one latent only)"))
    U, S, _ = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    U, S = pad(U, (0, 1))[:, :2], pad(S, (0, 1))  # a single point has one component
    share = S.square() / S.square().sum().clamp_min(torch.finfo(S.dtype).tiny)
    parts = (f"PCA {j} of the posterior means, {float(v):.0%} of the variance" for j, v in enumerate(share[:2], 1))
    return Plane(U * S[:2], tuple(parts))
