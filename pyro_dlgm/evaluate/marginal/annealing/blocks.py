r"""Annealing in blocks of points and chains, in bounded memory."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import pyro
import torch
from torch import Tensor

from .... import messages
from ....distributions import draws
from ....latents.asked import log_joint, posterior, prior
from ....points import Points
from ....program import unregistered
from ....progress import Bar
from ....storage.sums import widened
from ... import importance
from ...blocks import FIT_ONE, check_density, chunks
from ...quiet import quiet
from .path import Annealer, Settings, Walk

COPIES = 3  # of what autograd stores: the pass itself, its gradients, and what is freed late
OFTEN = 0.01  # the share of divergent transitions above which a point may be named
ALONE = 2.0  # the effective number of walks below which one of them dominates the estimate
PRIOR_OR_FIT = f"anneal from the prior with guide=None, or {FIT_ONE}"


def check_start(guide) -> None:
    r"""Raises a `TypeError` unless walks can start from q; `None` stands for the prior."""
    if guide is not None:
        check_density(guide, PRIOR_OR_FIT)


@contextlib.contextmanager
def annealing(model, guide, *, seed: int | None):
    r"""Context manager for annealing: no side effects, no validation, gradients only where they are enabled."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("annealing needs gradients and was called under torch.inference_mode(); leave it first")
    with quiet(model, guide, seed=seed), pyro.validation_enabled(False), unregistered():
        yield


def annealers(
    model, guide, points: Points, settings: Settings, *, sweeps: int = 1, progress: bool = False
) -> Iterator[Annealer]:
    r"""Yields the annealers of all points, block by block, inside `annealing`.

    At the end it warns about points where q is too ill-conditioned for its dtype.

    Arguments:
        model: a `DLGM`.
        guide: the guide whose q the walks start from; `None` for the prior.
        points: x (N, ...) with index and mask.
        settings: how to anneal.
        sweeps: the number of sweeps of each chain.
        progress: whether to show a bar.
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
    r"""Warns about points at which transitions diverged and one walk dominates the estimate.

    Some divergences are harmless: step sizes are near the largest stable one, and the weights stay valid.
    """
    share = widened(walks.diverged).mean(0) / max(1, settings.num_temperatures - 1)
    bad = ((share > OFTEN) & (importance.ess(walks.log_weights) < ALONE)).nonzero().flatten().tolist()
    if bad:
        warnings.warn(
            f"{float(share[bad].mean()):.0%} of the transitions diverged at {len(bad)} of {len(share)} points "
            f"({messages.rows(bad)}), where one walk dominates log p(x): it may be too low by any amount; start from "
            "a q that was fitted to the points (evaluate.infer), or take more temperatures",
            stacklevel=stacklevel + 1,
        )


def rows_that_fit(log_density: Callable[[Tensor], Tensor], t: Tensor, memory: int) -> int:
    r"""Returns the number of positions that may be evaluated at a time.

    Arguments:
        log_density: (1, B, D) -> (1, B), for the B points of t.
        t: one position for each, (1, B, D).
        memory: bytes.
    """
    one, two = (_kept(log_density, t.expand(n, *t.shape[1:])) for n in (1, 2))
    # What a second chain adds: weights of a network are stored once, for all rows.
    return max(1, memory * t.shape[1] // (COPIES * max(1, two - one)))


def _kept(log_density: Callable[[Tensor], Tensor], t: Tensor) -> int:
    r"""Returns the number of bytes that autograd stores for the backward pass."""
    kept = []

    def count(saved: Tensor) -> Tensor:
        kept.append(saved.numel() * saved.element_size())
        return saved

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved):
        log_density(t.detach().requires_grad_())
    return sum(kept)
