r"""A step that can be repeated, with the same draws, to name what was not finite in it."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro.infer
import torch
from pyro import poutine
from torch import Tensor, nn

from .. import messages
from ..guides.rows import files_of
from ..masks import observed
from ..objectives.sites import is_drawn
from ..program import unregistered
from ..seeding import forked, restore

BLOCK = 2**24  # numbers to check at a time
FAR = 10.0  # values of x beyond this are mentioned in the error
ADVICE = "lower lr and row_lr, set clip_norm, raise the floor of the scale, or mask or drop such rows"


@dataclass
class Attempt:
    r"""A step on one batch up to its gradients, which can be repeated to find out what went wrong.

    Attributes:
        name: the name of the step.
        svi: the pair (model, guide) and its objective.
        backward: computes the loss and the gradients, and returns the loss.
        args, kwargs: the batch, as arguments of model and guide.
        generators: the states from which it drew.
    """

    name: str
    svi: pyro.infer.SVI
    backward: Callable[[], Tensor]
    args: tuple
    kwargs: dict
    generators: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        r"""The memory of the batch, in bytes."""
        return sum(v.nbytes for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor))

    def run(self) -> Tensor:
        r"""Computes the loss and the gradients.

        Raises:
            FloatingPointError: if a matrix cannot be factorized, which happens if it is not finite.
        """
        try:
            return self.backward()
        except (torch.linalg.LinAlgError, ValueError) as error:
            if isinstance(error, ValueError) and "to satisfy the constraint" not in str(error):
                raise
            raise self._absent(error) from error

    def error(self) -> FloatingPointError:
        r"""Returns the error to raise, which names the step, the site, the rows and the first parameter."""
        with self._again(), torch.no_grad(), self.svi.rounding:
            traces = self.svi.objective._get_traces(self.svi.program, self.svi.guide, self.args, self.kwargs)
            try:
                site = _bad_site(traces, partial(self.svi.program, *self.args, **self.kwargs))
            except torch.linalg.LinAlgError as error:
                return self._absent(error)
        with self._again():
            loss = self.backward().detach()
            what = "the gradient is not finite" if loss.isfinite() else f"the loss is {float(loss)}"
            return self._said(f"{what} at {self.name}: {site}")

    def _absent(self, error: Exception) -> FloatingPointError:
        return self._said(f"the loss at {self.name} does not exist ({messages.line(error)})")

    def _said(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what}; {_blamed(self.svi)}. This step was not taken: {ADVICE}{_range(*self.args, **self.kwargs)}"
        )

    @contextlib.contextmanager
    def _again(self):
        # With the same draws as then; buffers that the programs write, and gradients, are restored.
        pair = _pair(self.svi)
        before = copy.deepcopy(pair.state_dict())
        with forked(), pyro.validation_enabled(False), unregistered(), torch.enable_grad():
            restore(self.generators)
            yield
        pair.zero_grad(set_to_none=True)
        pair.load_state_dict(before)


def _range(x=None, index=None, mask=None, **_) -> str:
    r"""Returns the range of observed x as text, with advice if it is far from unit scale."""
    if not isinstance(x, Tensor):
        return ""
    seen = observed(x, mask)
    low, high = float(seen.min()), float(seen.max())
    far = max(-low, high) > FAR
    return f"; x goes from {low:g} to {high:g}" + (": scale it to about unit spread, column by column" if far else "")


def bad_parameter(svi: pyro.infer.SVI) -> str | None:
    r"""Returns the name of the first parameter that is not finite, such as "model.prior.scale"; `None` if all are."""
    return next((name for name, p in _pair(svi).named_parameters() if not _is_finite(p)), None)


def _is_finite(p: Tensor) -> bool:
    files = files_of(p)
    if files is not None:
        return files.finite
    return all(bool(part.isfinite().all()) for part in p.detach().reshape(-1).split(BLOCK))


def _pair(svi: pyro.infer.SVI) -> nn.ModuleDict:
    return nn.ModuleDict({"model": svi.model, "guide": svi.guide})


def _blamed(svi: pyro.infer.SVI) -> str:
    bad = bad_parameter(svi)
    if bad:
        return f"the first parameter that is not finite is {bad}"
    for name, p in _pair(svi).named_parameters():
        gradient = p.grad._values() if p.grad is not None and p.grad.is_sparse else p.grad
        if gradient is not None and not gradient.isfinite().all():
            return f"all parameters are finite, the first gradient that is not is that of {name}"
    here = "" if svi.summed is None else " in this process: the error of another one says more"
    return f"all parameters and their gradients are finite{here}"


def _bad_site(traces: list, program: Callable[[], object]) -> str:
    for trace in (trace for pair in traces for trace in reversed(pair)):  # the guide runs first
        sites = [name for name, site in trace.nodes.items() if is_drawn(site)]
        trace.compute_log_prob(lambda name, site, sites=sites: name in sites)
        for name in sites:
            bad = ~trace.nodes[name]["log_prob"].isfinite()
            if bad.any():
                return f"the log-density of site {name!r} is not finite{_rows(trace.nodes[name], bad, program)}"
    return "the log-densities of all sites are finite"


def _rows(site: dict, bad: Tensor, program: Callable[[], object]) -> str:
    plate = next((f.name for f in site["cond_indep_stack"] if f.dim == -1), None)
    if plate is None or bad.dim() == 0:
        return ""
    index = poutine.trace(program).get_trace().nodes[plate]["value"]
    return f" in {messages.rows(index[bad.reshape(-1, bad.shape[-1]).any(0)].sort().values.tolist())}"
