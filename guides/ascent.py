r"""Ascent on F for each point by itself: natural gradients in q's own coordinates, with backtracking."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..latents.asked import log_joint
from ..points import Points
from .families import Gaussian

GROW, SHRINK = 1.5, 0.25  # of a step that climbed, and of one that fell


def noise(num_samples: int, latent_dim: int, seed: int) -> Tensor:
    r"""Draws ε_k (S, D), both signs of random orthogonal directions of length √D; each column has mean square 1.

    With S a multiple of 2D, the mean of any polynomial in ε up to degree 3 is that of N(0, I). The numbers come from a
    generator of their own: one seed, one noise.

    Arguments:
        num_samples: an even number S.
        latent_dim: D.
        seed: of the generator.

    References:
        Arasaratnam and Haykin, "Cubature Kalman filters" (2009). IEEE Transactions on Automatic Control 54(6).
    """
    half, generator = num_samples // 2, torch.Generator().manual_seed(seed)
    squares = torch.randn(math.ceil(half / latent_dim), latent_dim, latent_dim, generator=generator, dtype=torch.double)
    one_side = torch.linalg.qr(squares)[0].flatten(0, 1)[:half]
    one_side = one_side / one_side.square().mean(0).sqrt()
    return torch.cat([one_side, -one_side])


class Bound:
    r"""Creates F̂(raw) = (1/S) Σ_k log p(x, m + L ε_k | w) + H(q) of B points, (B, width) -> (B,), with fixed noise.

    Arguments:
        model: a `DLGM`.
        points: B of them.
        family: of q.
        noise: ε (S, D).
    """

    def __init__(self, model, points: Points, family: Gaussian, noise: Tensor):
        self.model, self.points, self.family = model, points, family
        self.noise = noise.unsqueeze(1)  # (S, 1, D), the same for each point: what q is does not depend on the others

    def __call__(self, raw: Tensor) -> Tensor:
        t = self.family.codes(raw, self.noise.to(raw))
        return log_joint(self.model, self.points, t).mean(0) + self.family(raw).entropy()


class Place(NamedTuple):
    r"""Where an ascent is: raw numbers (B, width), F̂ (B,), its natural gradient (B, width), and that by raw."""

    raw: Tensor
    value: Tensor
    uphill: Tensor
    by_raw: Tensor


class Refined(NamedTuple):
    r"""What an ascent found.

    Attributes:
        raw: raw numbers of the refined q, (B, width).
        before, after: F̂ where it began and where it ended, (B,), in nats.
        by_raw: the gradient of F̂ by the raw numbers with which it began, (B, width).
    """

    raw: Tensor
    before: Tensor
    after: Tensor
    by_raw: Tensor


def look(bound: Callable, family: Gaussian, raw: Tensor, through: bool) -> Place:
    r"""F̂ and its gradients there: one gradient evaluation for each sample."""
    raw = raw if through else raw.detach().requires_grad_()
    step = torch.zeros_like(raw, requires_grad=True)
    value = bound(family.nearby(raw, step))
    by_step, by_raw = torch.autograd.grad(value.sum(), (step, raw), create_graph=through)
    D = family.latent_dim(raw.shape[-1])
    return Place(raw, value.detach(), by_step / family.information(D).to(raw), by_raw.detach())


def climb(bound: Callable, family: Gaussian, raw: Tensor, steps: int, *, through: bool = False) -> Refined:
    r"""Takes natural-gradient steps, for each point by itself; F̂ never falls.

    The first is the natural gradient itself, or where that is longer than √width, in its direction. A step that would
    let the F̂ of a point fall is not taken; the next one of that point is a quarter as long, and half as long again
    after one that was taken.

    Arguments:
        bound: F̂, a function (B, width) -> (B,) in which points know nothing of each other.
        family: of q.
        raw: where it begins, (B, width).
        steps: at least 1.
        through: whether the result is a function of ``raw`` and w that can be differentiated, with the steps that were
            taken.
    """
    here = first = look(bound, family, raw, through)
    rate = torch.ones_like(here.value).unsqueeze(-1)
    for k in range(1, steps + 1):
        tried = family.nearby(here.raw, rate * _within(here.uphill))
        there = look(bound, family, tried, through) if k < steps else _end(bound, tried)
        better = there.value >= here.value  # False of NaN
        here = Place(*(_chosen(better, b, a) for a, b in zip(here, there, strict=True)))
        rate = torch.where(better.unsqueeze(-1), GROW * rate, SHRINK * rate)
    return Refined(here.raw, first.value, here.value, first.by_raw)


def _chosen(better: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(better.reshape(-1, *[1] * (one.dim() - 1)), one, other)


def _within(step: Tensor) -> Tensor:
    r"""The step (B, width), no longer than √width: about one unit of q's own coordinates in each of them."""
    return step * (step.shape[-1] ** 0.5 / step.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)


@torch.no_grad()
def _value(bound: Callable, raw: Tensor) -> Tensor:
    return bound(raw)


def _end(bound: Callable, raw: Tensor) -> Place:
    r"""The last place, at which nothing but F̂ is asked."""
    return Place(raw, _value(bound, raw), torch.zeros_like(raw), torch.zeros_like(raw))
