r"""`infer`: the E-step alone, which maximizes F(q, w) over q at the given points, with w frozen."""

import warnings

import torch
from torch import Tensor

from ... import messages
from ...guides.base import adapted
from ...guides.families import full_rank, mean_field
from ...guides.per_point import PerPoint
from ...guides.programs.auto_local import AutoLocal
from ...guides.programs.given import given_globals
from ...model import DLGM
from ...objectives.elbo import ELBO
from ...points import Points
from ..blocks import check_points
from ..quiet import quiet
from .climb import FAR, Pace, climb
from .gaussians import gaussians

MOST = 64  # latents; beyond, a curvature, for D gradients, costs more than the phase that it replaces


def infer(
    model,
    guide,
    x: Tensor,
    *,
    mask: Tensor | None = None,
    given: Tensor | None = None,
    lr: float = Pace.lr,
    tol: float = Pace.tol,
    window: int = Pace.window,
    max_steps: int = Pace.max_steps,
    num_particles: int = Pace.num_particles,
    batch_size: int = Pace.batch_size,
    seed: int | None = None,
):
    r"""Fits q to the points x with w frozen, and returns q*, the best of the guide's family.

    A per-point guide starts from fresh rows for x, never from those of training points. `MeanField` and `FullRank` rows
    of a `DLGM` with up to 64 latents start near the optimum: at Gaussians found by Newton steps to a mode, the one with
    more mass from two starts, and a few steps up F. An amortized guide starts from the encoder's q as rows of the
    per-point guide of its family; an exact one is returned unchanged. Chains run until split R-hat and bulk ESS of each
    point are good, or for ``max_steps`` transitions (`guides.Chain.settle`). Other guides are optimized by Adam in
    blocks of points, in windows of steps. A window that gains less than ``tol`` nats per point lowers the learning
    rate; at the last rate it ends the block. A point has converged if its block reached that end and its own F changed
    in the last window by at most ``tol`` plus four standard errors of the change (common random
    numbers). On PPCA with 16 latents, where q* is known, the defaults end 0.01 nats below it.

    Arguments:
        model: a `DLGM`.
        guide: a guide of this package.
        x: data (N, ...), or `Points`.
        mask: boolean, True where observed, of x's shape or (N,).
        given: what the points are conditioned on, (N, C).
        lr: the first learning rate; rows that start near the optimum begin with a tenth of it.
        tol: nats per point and window.
        window: the number of steps in a window.
        max_steps: the largest number of steps of Adam of a block.
        num_particles: samples of t per point and step; near the optimum four times as many. A point mass takes one.
        batch_size: the number of points in a block.
        seed: seed of all random numbers here. The global generator is left unchanged in any case.

    Returns:
        The fitted guide, with rows for x in their order (index 0..N−1) and an attribute ``convergence``. A warning
        names the points that did not converge. A guide with nothing to fit (`Exact`) is returned as it is.
    """
    points = Points.of(x, mask=mask, given=given)
    _check(model, guide, points)
    points = points.numbered()
    pace = Pace(lr, tol, window, max_steps, num_particles, batch_size)
    if isinstance(guide, AutoLocal):
        pair = given_globals(model, guide)
        return _wrapped(guide, infer(*pair, points, **vars(pace), seed=seed))
    with quiet(model, guide, seed=seed), torch.enable_grad():
        fitted = guide.start(points)
        if fitted is guide:
            return fitted
        spent, near = _approach(model, fitted, points, batch_size) if adapted(guide).per_point else (0, False)
        fitted.convergence = climb(model, fitted, points, pace, far=() if near else FAR, spent=spent)
    late = (~fitted.convergence.converged).nonzero().flatten().tolist()
    if late:
        warnings.warn(
            f"{len(late)} of {len(points)} points have not converged ({messages.rows(late)}): "
            f"raise max_steps={max_steps} or tol",
            stacklevel=2,
        )
    return fitted


def _approach(model, fitted, points: Points, size: int) -> tuple[int, bool]:
    r"""Moves fresh rows of Gaussians near the posteriors, ``size`` points at a time.

    Returns:
        The gradient evaluations of all points together, and whether all rows are near.
    """
    if not _is_cheap(model, fitted):
        return 0, False
    one = points[:1]
    with torch.no_grad():  # names and numbers of latents that do not fit are an error here
        ELBO().differentiable_loss(model, fitted, one.x, one.index, mask=one.mask, **one.side)
    rows, spent, near = fitted.rows.weight.detach().clone(), 0, True
    for here in points.index.split(size):
        made = gaussians(model, points[here], fitted.family, seed=int(torch.randint(2**62, (), device="cpu")))
        rows[here] = torch.where(made.found.unsqueeze(-1), made.raw.to(rows), rows[here])
        spent, near = spent + made.gradients, near and bool(made.found.all())
    fitted.set_rows(rows)
    return spent, near


def _is_cheap(model, fitted) -> bool:
    r"""Returns whether Gaussians near the posteriors of the points save more gradients than they take."""
    if not (isinstance(model, DLGM) and isinstance(fitted, PerPoint)):  # a run of a program may be anything
        return False
    return fitted.family in (mean_field, full_rank) and fitted.latent_dim <= MOST


def _wrapped(guide: AutoLocal, inner) -> AutoLocal:
    r"""Returns the guide of the program, with a q of u that was fitted to the points."""
    if inner is guide.inner:
        return guide
    made = guide.with_inner(inner)
    made.convergence = inner.convergence
    return made


def _check(model, guide, points: Points) -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("infer needs gradients and was called under torch.inference_mode(); leave it first")
    if adapted(guide).start is None:
        raise TypeError(
            f"{type(guide).__name__} does not say where q starts; use a guide of this package, such as guides.MeanField"
        )
    if not isinstance(guide, AutoLocal):
        check_points(model, points)
