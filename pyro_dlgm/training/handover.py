r"""Switching from an encoder to rows, or from rows to an encoder, during a training: `to_rows` and `to_encoder`.

Rows start at the encoder's q. An encoder is first fitted to the rows: it minimizes

    (1/N) Σ_i KL(q_i ‖ q_φ(· | x_i))

over φ (distillation). Both return a `Result` for ``fit(..., start=result)``: optimizers keep their moments for all
parameters that stay.
"""

import copy

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from ..data.batches import Batches
from ..distributions import diagonal
from ..evaluate.quiet import quiet
from ..guides.amortized import Amortized
from ..guides.base import Guide
from ..guides.per_point import PerPoint
from ..guides.programs.auto_local import AutoLocal
from ..latents.asked import posterior
from ..points import Points
from ..progress import Bar
from ..seeding import forked
from .loop.result import Result
from .options import SCHEDULES

SOME = 1000  # points for preparing an encoder


def to_rows(former: Result, x: Tensor, *, mask: Tensor | None = None, given: Tensor | None = None) -> Result:
    r"""Returns the pair with a row for each point instead of the encoder; rows start at the encoder's q.

    Arguments:
        former: the result of `fit` for an amortized guide.
        x: data (N, ...), all points, or `Points`.
        mask: boolean, True where observed, of x's shape or (N,).
        given: what the points are conditioned on, (N, C).

    Raises:
        TypeError: if the guide has no encoder.
    """
    if not isinstance(_inner(former.guide), Amortized):
        raise TypeError(f"the guide is a {type(former.guide).__name__}; expected one with an encoder")
    points = Points.of(x, mask=mask, given=given).numbered()
    with quiet(former.model, former.guide):
        started = former.guide.start(points)
    guide = started.owning() if isinstance(started, AutoLocal) else started
    return Result(former.model, guide, optimizers=former.optimizers)


def to_encoder(
    former: Result,
    guide: Guide,
    x: Tensor,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    epochs: int = 100,
    batch_size: int = 100,
    lr: float = 2e-3,
    seed: int | None = None,
    progress: bool = False,
) -> Result:
    r"""Returns the pair with an encoder instead of the rows, fitted to them by the mean of KL(row ‖ encoder).

    Arguments:
        former: the result of `fit` for a per-point guide.
        guide: an `Amortized`, or for a program an `AutoAmortized`; it is trained in place.
        x: data (N, ...) in the order of the rows, or `Points`.
        mask: boolean, True where observed, of x's shape or (N,).
        given: what the points are conditioned on, (N, C).
        epochs: passes over the points, under a cosine schedule.
        batch_size: the number of points in a batch.
        lr: the learning rate of Adam.
        seed: the seed of the batches.
        progress: whether to show a bar.

    Returns:
        A `Result` whose history has ``kl`` for each epoch, in nats per point.

    Raises:
        TypeError: if the former guide has no Gaussian rows, or ``guide`` no encoder.
        ValueError: if the number of points is not that of the rows.
    """
    points = Points.of(x, mask=mask, given=given).numbered()
    rows, encoder = _rows(former.guide, points), _encoder(former, guide, points)
    optimizer, history = torch.optim.Adam(encoder.parameters(), lr=lr), []
    batches = Batches(points.x, min(batch_size, len(points)), mask=points.mask, given=points.given)
    with forked(seed), torch.enable_grad(), Bar(epochs, shown=progress, name="distil") as bar:
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * SCHEDULES["cosine"](epoch / epochs)
            losses = [_step(rows, encoder, batch, optimizer) * len(batch) for batch in batches]
            history.append({"epoch": epoch + 1, "kl": sum(losses) / len(points)})
            bar.tick()
    return Result(former.model, guide, history, optimizers=[*former.optimizers, optimizer])


def take_over(optimizers: list[torch.optim.Optimizer], former: Result) -> None:
    r"""Copies the states of a former training's optimizers for the parameters that both have."""
    states = {(type(o), p): state for o in former.optimizers for p, state in o.state.items()}
    for optimizer in optimizers:
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            if (type(optimizer), p) in states:
                optimizer.state[p] = copy.deepcopy(states[type(optimizer), p])


def _step(rows: PerPoint, encoder: Amortized, points: Points, optimizer) -> float:
    optimizer.zero_grad()
    with torch.no_grad():
        q = posterior(rows, points)
    loss = kl(q, posterior(encoder, points)).mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def kl(q, other) -> Tensor:
    r"""Returns KL(q ‖ other) of two Gaussians, diagonal or not, for each point, (B,), in nats."""
    if diagonal(q) and diagonal(other):
        return kl_divergence(q.base_dist, other.base_dist).sum(-1)
    return kl_divergence(_dense(q), _dense(other))


def _dense(q) -> MultivariateNormal:
    return q if isinstance(q, MultivariateNormal) else MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())


def _inner(guide) -> Guide:
    return guide.inner if isinstance(guide, AutoLocal) else guide


def _rows(guide, points: Points) -> PerPoint:
    rows = _inner(guide)
    if not (isinstance(rows, PerPoint) and rows.has_density):
        raise TypeError(f"the guide is a {type(guide).__name__}; expected rows with a density: MeanField or FullRank")
    rows.check_size(len(points))
    return rows


def _encoder(former: Result, guide, points: Points) -> Amortized:
    r"""Returns the encoder to train; the guide of a program takes over the q of the globals from the former one."""
    if isinstance(guide, AutoLocal) != isinstance(former.guide, AutoLocal):
        name = type(former.guide).__name__
        raise TypeError(f"the new guide is a {type(guide).__name__}, and the former one a {name}; expected one kind")
    with quiet(former.model, guide):
        if isinstance(guide, AutoLocal):
            guide.setup(points, size=len(points)).share_globals(former.guide)
        if not isinstance(_inner(guide), Amortized):
            name = type(guide).__name__
            raise TypeError(f"the new guide is a {name}; expected Amortized, or AutoAmortized of a program")
        guide.prepare(lambda: points[:: max(1, len(points) // SOME)])
    return _inner(guide)
