r"""Runs a program with some sites fixed, and sums the log-densities of its trace for each point."""

import contextlib
from collections.abc import Callable

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import Tensor

from ..objectives.sites import DRAWS, is_drawn, summed
from ..program import unregistered
from .held import EVENT


def execute(
    call: Callable,
    held: dict[str, Tensor],
    depth: int,
    *,
    num: int | None = None,
    enumerated: tuple[str, ...] = (),
    around=None,
):
    r"""Runs a program and returns its trace, hidden from all handlers around it.

    Arguments:
        call: runs the program.
        held: values of latents, by name.
        depth: the number of axes that its plates take.
        num: the number of draws, in a plate to the left of all others.
        enumerated: the names of discrete latents to enumerate, each along an axis further to the left.
        around: a handler around the program, or `None`.
    """
    marked = lambda site: {"enumerate": "parallel"} if site["name"] in enumerated else {}  # noqa: E731
    with contextlib.ExitStack() as stack:
        tracer = poutine.trace()
        for context in (pyro.validation_enabled(False), unregistered(), _apart(), poutine.block(), tracer):
            stack.enter_context(context)
        if enumerated:
            stack.enter_context(poutine.enum(first_available_dim=-depth - 2))
            stack.enter_context(poutine.infer_config(config_fn=marked))
        stack.enter_context(around or contextlib.nullcontext())
        stack.enter_context(poutine.condition(data=held))
        if num is not None:
            stack.enter_context(pyro.plate(DRAWS, num, dim=-depth - 1))
        call()
    return tracer.trace


@contextlib.contextmanager
def _apart():
    r"""Context manager: plates that are open outside do not reserve dimensions and names that the program needs."""
    outside, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
    try:
        yield
    finally:
        _DIM_ALLOCATOR._stack = outside


def log_probs(trace, plate: str, dim: int, names: Callable[[str, dict], bool]) -> dict[str, Tensor]:
    r"""Returns unscaled log-densities of the sites of points that ``names`` selects, summed over other plates.

    The number of axes is kept: of the axes of plates, only that of the points may have a size other than 1.
    """
    found = {}
    for name, site in trace.nodes.items():
        frames = site["cond_indep_stack"] if site["type"] == "sample" else ()
        if not is_drawn(site) or all(f.name != plate for f in frames) or site["infer"].get("_deterministic"):
            continue
        if names(name, site):
            log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])
            others = [f.dim for f in frames if f.vectorized and f.dim != dim and f.name != DRAWS]
            found[name] = summed(log_prob, others)
    return found


def total(terms: list[Tensor], depth: int, dim: int, batch: int, num: int | None, enumerated: int = 0) -> Tensor:
    r"""Returns the sum over sites, with discrete latents summed out: (B,), or (S, B) with samples.

    Raises:
        ValueError: if a term has another number of points.
    """
    joint = sum(terms)
    shape = (1,) * (depth + 1 - joint.dim()) + tuple(joint.shape)
    joint = joint.reshape(shape)
    lead, samples, plates = shape[: -depth - 1], shape[-depth - 1], list(shape[-depth:])
    further = len(lead) > enumerated or (samples != 1 and samples != num)
    if further and num is not None:
        raise ValueError(
            f"the log-densities of the program have the axes {tuple(shape)} for {num} samples of {batch} points; "
            "expected operations that broadcast over an axis to the left of the plates: z.unsqueeze(-2) @ W for z @ W"
        )
    if further or plates[dim] not in (1, batch) or plates[:dim] + plates[dim:][1:] != [1] * (depth - 1):
        raise ValueError(
            f"the log-densities of the program have the axes {tuple(shape if further else plates)} for {batch} points; "
            f"expected one number for each point: {_per_point(dim)}"
        )
    joint = joint.reshape(*lead, samples, plates[dim])
    joint = joint.logsumexp(tuple(range(len(lead)))) if lead else joint
    return joint.squeeze(0).expand(batch) if num is None else joint.expand(num, batch)


def _per_point(dim: int) -> str:
    r"""Returns what to write where log-densities have an axis that is neither of points nor of a plate."""
    if dim == -1:
        return EVENT
    ones = -1 - dim
    return (
        f"the plate over points is at dim={dim}, where numbers of points have the shape (B{', 1' * ones}); put it at "
        f"dim=-1, or write v[...{', None' * ones}] for v of shape (B,), and {EVENT}"
    )


def drawn_apart(call: Callable, seed: int):
    r"""Returns the trace of a program under a seed, with gradients, which show the dependence on parameters."""
    torch.manual_seed(seed)
    with torch.enable_grad():
        return execute(call, {}, 0)
