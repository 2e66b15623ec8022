r"""Ascent on F, separately for each point: natural gradients in q's own coordinates, with backtracking."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from torch import Tensor

from ..latents.asked import log_joint
from ..points import Points, index_blocks
from ..program import evaluating, unregistered
from .families import Gaussian

GROW, SHRINK = 1.5, 0.25  # factors of the step size after a step that raised F̂, and after one that lowered it


def noise(num_samples: int, latent_dim: int, seed: int) -> Tensor:
    r"""Draws ε_k (S, D): random orthogonal directions, each with both signs; columns have mean square 1.

    If S is a multiple of 2D, the mean of any polynomial in ε up to degree 3 is that under N(0, I). With several sets of
    2D, the sets have different lengths, in the proportions of draws from N(0, I). The first half of the rows has one
    sign, the second half the other. A private generator draws the numbers, so that equal seeds give equal noise.

    Arguments:
        num_samples: an even number S.
        latent_dim: D.
        seed: the seed of that generator.

    References:
        Arasaratnam and Haykin, "Cubature Kalman filters" (2009). IEEE Transactions on Automatic Control 54(6).
    """
    half, generator = num_samples // 2, torch.Generator().manual_seed(seed)
    shape = math.ceil(half / latent_dim), latent_dim, latent_dim
    squares, lengths = (torch.randn(s, generator=generator, dtype=torch.double) for s in (shape, shape[:2]))
    one_side = torch.linalg.qr(squares)[0] * lengths.norm(dim=-1)[:, None, None]
    one_side = one_side.flatten(0, 1)[:half]
    one_side = one_side / one_side.square().mean(0).sqrt()
    return torch.cat([one_side, -one_side])


class Bound:
    r"""Creates F̂(raw) = (1/S) Σ_k log p(x, m + L ε_k | w) + H(q), a function (B, width) -> (B,) with fixed noise.

    Arguments:
        model: a `DLGM`.
        points: the B points.
        family: the family of q.
        noise: ε (S, D).
    """

    def __init__(self, model, points: Points, family: Gaussian, noise: Tensor):
        self.model, self.points, self.family = model, points, family
        # (S, 1, D), the same for each point, so that q does not depend on the rest of the batch.
        self.noise = noise.unsqueeze(1)

    def __call__(self, raw: Tensor) -> Tensor:
        t = self.family.codes(raw, self.noise.to(raw, non_blocking=True))
        return log_joint(self.model, self.points, t).mean(0) + self.family(raw).entropy()


class Place(NamedTuple):
    r"""A state of the ascent: raw numbers (B, width), F̂ (B,), its natural gradient (B, width) and plain gradient."""

    raw: Tensor
    value: Tensor
    uphill: Tensor
    by_raw: Tensor


class Refined(NamedTuple):
    r"""The result of an ascent.

    Attributes:
        raw: raw numbers of the refined q, (B, width).
        before, after: F̂ at the start and at the end, (B,), in nats.
        by_raw: the gradient of F̂ by the raw numbers at the start, (B, width).
        looks: the number of times that F̂ was evaluated, (B,), each for one gradient evaluation per sample.
    """

    raw: Tensor
    before: Tensor
    after: Tensor
    by_raw: Tensor
    looks: Tensor


def look(bound: Callable, family: Gaussian, raw: Tensor, through: bool) -> Place:
    r"""Returns F̂ and its gradients at ``raw``, for one gradient evaluation per sample."""
    raw = raw if through else raw.detach().requires_grad_()
    step = torch.zeros_like(raw, requires_grad=True)
    value = bound(family.nearby(raw, step))
    by_step, by_raw = torch.autograd.grad(value.sum(), (step, raw), create_graph=through)
    D = family.latent_dim(raw.shape[-1])
    return Place(raw, value.detach(), by_step / family.information(D).to(raw, non_blocking=True), by_raw.detach())


def climb(
    bound: Callable, family: Gaussian, raw: Tensor, steps: int, *, tol: float = -math.inf, through: bool = False
) -> Refined:
    r"""Takes natural-gradient steps, separately for each point; F̂ never decreases.

    The first step is the natural gradient, shortened to √width where it is longer. A step that would lower the F̂ of a
    point is not taken, and the next one of that point is a quarter as long; after a step that was taken, the next one
    is 1.5 times as long.

    Arguments:
        bound: F̂, a function (B, width) -> (B,) in which points are independent.
        family: the family of q.
        raw: the raw numbers at the start, (B, width).
        steps: at least 1.
        tol: the ascent ends after a step that most points took and with which F̂ rose by no more than this on average,
            in nats; the points then depend on each other.
        through: whether the result can be differentiated by ``raw`` and w, through the steps that were taken.
    """
    here = first = look(bound, family, raw, through)
    rate = torch.ones_like(here.value).unsqueeze(-1)
    for k in range(1, steps + 1):
        tried = family.nearby(here.raw, rate * _within(here.uphill))
        there = look(bound, family, tried, through) if k < steps else _end(bound, tried)
        better = there.value >= here.value  # False of NaN
        ended = tol > -math.inf and _flat(there.value - here.value, better, tol)
        here = Place(*(_chosen(better, b, a) for a, b in zip(here, there, strict=True)))
        if ended:
            break
        rate = torch.where(better.unsqueeze(-1), GROW * rate, SHRINK * rate)
    return Refined(here.raw, first.value, here.value, first.by_raw, torch.full_like(rate[:, 0], k + 1))


def refined(model, points: Points, family: Gaussian, raw: Tensor, steps: int, epsilon: Tensor, **settings) -> Refined:
    r"""Takes `climb`'s steps on the `Bound` of the points, in blocks that bound the memory.

    Modules of the model are in eval mode meanwhile, so that points are independent.

    Arguments:
        model: a `DLGM`.
        points: the B points.
        family: the family of q.
        raw: the raw numbers at the start, (B, width).
        steps: at least 1.
        epsilon: the fixed noise (S, D).
        settings: ``tol`` and ``through`` of `climb`.
    """
    parts = []
    with torch.enable_grad(), evaluating(model), pyro.validation_enabled(False), unregistered():
        for here in index_blocks(points, len(epsilon)):
            bound = Bound(model, points[here], family, epsilon)
            parts.append(climb(bound, family, raw[here], steps, **settings))
    return Refined(*map(torch.cat, zip(*parts, strict=True)))


def _flat(gain: Tensor, better: Tensor, tol: float) -> bool:
    r"""Returns whether the mean gain is at most ``tol`` although most steps were taken: shorter ones may gain more."""
    return bool((torch.where(better, gain, 0.0).nan_to_num(nan=0.0).mean() <= tol) & (better.double().mean() > 0.5))


def _chosen(better: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(better.reshape(-1, *[1] * (one.dim() - 1)), one, other)


def _within(step: Tensor) -> Tensor:
    r"""Shortens the step (B, width) to √width at most: about one unit in each of q's own coordinates."""
    return step * (step.shape[-1] ** 0.5 / step.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)


@torch.no_grad()
def _value(bound: Callable, raw: Tensor) -> Tensor:
    return bound(raw)


def _end(bound: Callable, raw: Tensor) -> Place:
    r"""Returns the final state, for which only F̂ is computed."""
    return Place(raw, _value(bound, raw), torch.zeros_like(raw), torch.zeros_like(raw))
