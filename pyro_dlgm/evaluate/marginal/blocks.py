r"""Blocks of points on their way from q to the posterior and back, in bounded memory."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import pyro
import torch
from torch import Tensor

from ... import messages
from ...distributions import draws
from ...latents.asked import log_joint, posterior, prior
from ...points import Points
from ...program import unregistered
from ...progress import Bar
from .. import importance
from ..blocks import FIT_ONE, check_density, chunks
from ..quiet import quiet
from .path import Annealer, Settings, Walk

COPIES = 3  # of what autograd keeps: the pass itself, its gradients, and what is freed late
OFTEN = 0.01  # of the transitions that diverge
ALONE = 2.0  # an effective number of walks below which one of them carries the estimate
PRIOR_OR_FIT = f"anneal from the prior with guide=None, or {FIT_ONE}"


def check_start(guide) -> None:
    r"""Raises a `TypeError` unless walks can start from q, or from the prior, which `None` stands for."""
    if guide is not None:
        check_density(guide, PRIOR_OR_FIT)


@contextlib.contextmanager
def annealing(model, guide, *, seed: int | None):
    r"""Context manager of annealing: no side effects, no validation, gradients only where they are asked for."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("annealing needs gradients and was called under torch.inference_mode(); leave it first")
    with quiet(model, guide, seed=seed), pyro.validation_enabled(False), unregistered():
        yield


def annealers(
    model, guide, points: Points, settings: Settings, *, sweeps: int = 1, progress: bool = False
) -> Iterator[Annealer]:
    r"""The annealers of all points, block by block, with a bar if one is wanted; for use inside `annealing`.

    At the end it warns of the points where q is too ill-conditioned for its precision.

    Arguments:
        model: a `DLGM`.
        guide: whose q the walks start from; `None` for the prior.
        points: x (N, ...) with index and mask.
        settings: how to anneal.
        sweeps: how many each chain makes.
        progress: whether to show the bar.
    """
    one = points[:1]
    t = draws(prior(model, one), 1, 1)
    rows = rows_that_fit(lambda t: log_joint(model, one, t), t, settings.memory)
    todo = list(chunks(len(points), settings.num_chains, rows))
    total, strays = sum(settings.transitions(sweeps, len(counts)) for _, counts in todo), []
    with Bar(total, shown=progress, name="anneal") as bar:
        for here, counts in todo:
            block = points[here]
            q = prior(model, block).expand((len(block),)) if guide is None else posterior(guide, block)
            annealer = Annealer(model, q, block, counts, settings, bar.tick)
            strays.append(annealer.strays)
            yield annealer
    importance.report(torch.cat(strays), stacklevel=3)


def report(walks: Walk, settings: Settings, stacklevel: int) -> None:
    r"""Warns of the points at which transitions diverged and one walk carries the estimate.

    That some diverge is no harm by itself: step sizes are near the largest that is stable, and the weights stay right.
    """
    share = walks.diverged.double().mean(0) / max(1, settings.num_temperatures - 1)
    bad = ((share > OFTEN) & (importance.ess(walks.log_weights) < ALONE)).nonzero().flatten().tolist()
    if bad:
        warnings.warn(
            f"{float(share[bad].mean()):.0%} of the transitions diverged at {len(bad)} of {len(share)} points "
            f"({messages.rows(bad)}), where one walk carries log p(x): it may be too low by any amount; "
            "start from a q that was fitted to the points (evaluate.infer), or take more temperatures",
            stacklevel=stacklevel + 1,
        )


def rows_that_fit(log_density: Callable[[Tensor], Tensor], t: Tensor, memory: int) -> int:
    r"""How many positions may be evaluated at a time.

    Arguments:
        log_density: (1, B, D) -> (1, B), for the B points of t.
        t: one position of each, (1, B, D).
        memory: bytes.
    """
    one, two = (_kept(log_density, t.expand(n, *t.shape[1:])) for n in (1, 2))
    # What a second chain adds: weights of a network are kept once, for all rows.
    return max(1, memory * t.shape[1] // (COPIES * max(1, two - one)))


def _kept(log_density: Callable[[Tensor], Tensor], t: Tensor) -> int:
    r"""Bytes that the backward pass needs: autograd says what the forward pass keeps for it."""
    kept = []

    def count(saved: Tensor) -> Tensor:
        kept.append(saved.numel() * saved.element_size())
        return saved

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        log_density(t.detach().requires_grad_())
    return sum(kept)
