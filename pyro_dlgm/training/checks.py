r"""Checks of the arguments of `fit`, before training."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from .. import masks, messages
from ..data.source import is_source
from ..data.streamed_images import Streamed
from ..evaluate.blocks import check_axes
from ..evaluate.quiet import quiet
from ..guides.base import check_order
from ..guides.programs.auto_local import AutoLocal
from ..guides.rows import in_files
from ..model import DLGM
from ..objectives.elbo import ELBO
from ..optim.checks import check_objective, check_program
from ..points import Points, check_given, check_weight
from ..recipes.scale import note_scale
from . import options
from .options import BATCH

BLOCK = 2**22  # values of x to check at a time


def check_arguments(a: SimpleNamespace) -> None:
    r"""Raises an error that names the first invalid argument; ``a`` holds the arguments of `fit`."""
    _check_kinds(a)
    for name in ("mask_val", "given_val"):
        if getattr(a, name) is not None and a.x_val is None:
            raise ValueError(f"{name} was given without x_val; expected both: give the validation points as well")
    _check_size(a)
    if a.resume and a.out is None:
        raise ValueError("resume is True and out is None; expected the folder of the run: out='runs/x'")
    if a.stretch and not a.resume:
        raise ValueError("stretch is True and resume is False; expected both: resume=True, or leave stretch out")
    if (a.epochs is None) == (a.steps is None):
        raise ValueError(f"epochs is {a.epochs} and steps is {a.steps}; expected exactly one of them")
    options.check(vars(a))
    if a.e_steps == options.CONVERGED and (is_source(a.x) or in_files(a.model, a.guide)):
        what = "x yields batches in its own order" if is_source(a.x) else "the guide's rows are in files"
        raise ValueError(
            f"e_steps is {a.e_steps!r}, which draws batches of any points, but {what}; expected a number of E-steps"
        )
    if a.patience is not None:
        _check_patience(a)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("fit needs gradients and was called under torch.inference_mode(); leave it first")
    if a.warmup and not isinstance(a.objective, ELBO):
        raise ValueError(f"warmup is {a.warmup}, but {type(a.objective).__name__} has no beta; use objectives.ELBO")


def _check_patience(a: SimpleNamespace) -> None:
    if a.x_val is None:
        raise ValueError(f"patience is {a.patience} and there are no validation points; give x_val")
    if in_files(a.model, a.guide):
        raise ValueError(
            f"patience is {a.patience} and the guide's rows are in files, which do not store those of the best epoch; "
            "leave out patience, or folder= of the guide"
        )


def _check_kinds(a: SimpleNamespace) -> None:
    check_order(a.model, a.guide)
    check_program("guide", a.guide)
    if not isinstance(a.guide, AutoLocal):
        check_program("model", a.model)
    check_objective(a.objective)
    for name in ("x", "mask", "given", "weight", "x_val", "mask_val", "given_val"):
        value = getattr(a, name)
        if value is not None and is_source(value) and not (name == "x" and a.size is not None):
            more = ", or a source of batches of Points, with size=N" if name == "x" else ""
            raise TypeError(
                f"{name} is a {type(value).__name__}; expected a tensor: {messages.as_tensor(name, value)}{more}"
            )
    for listener in a.listeners:
        if not hasattr(listener, "after"):
            raise TypeError(
                f"a listener is a {type(listener).__name__}; expected an object with a method after(step, record)"
            )


def _check_size(a: SimpleNamespace) -> None:
    r"""Raises a `ValueError` unless ``size`` comes only with a source, and mask, ``given``, ... only with a tensor."""
    if not is_source(a.x):
        if a.size not in (None, len(a.x)):
            raise ValueError(
                f"size is {a.size} and x has {len(a.x)} points; expected size= only where x yields batches"
            )
        return
    beside = [name for name in ("mask", "given", "weight", "labels", "batch_size") if getattr(a, name) is not None]
    if beside:
        raise ValueError(
            f"{', '.join(beside)} came with a {type(a.x).__name__} that yields batches; expected them in its Points"
        )


def device(asked: str | torch.device | None) -> torch.device | None:
    r"""Returns the requested device.

    Raises:
        ValueError: if there is no device of that name, or torch does not see it.
    """
    if asked is None:
        return None
    try:
        found = torch.device(asked)
    except RuntimeError:
        raise ValueError(f"device is {asked!r}; expected 'cpu', 'cuda' or 'cuda:0'") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(
            f"device is {str(asked)!r} and torch sees {count} CUDA devices; expected one of those, or 'cpu'"
        )
    return found


def batch_size(asked: int | None, N: int) -> int:
    r"""Returns the number of points in a batch: the requested number, by default `BATCH`, or N if that is less.

    Raises:
        ValueError: if more points are requested than there are.
    """
    if asked is not None and asked > N > 0:  # an empty x is another error
        raise ValueError(
            f"batch_size is {asked} and there are {N} points; expected at most {N}: leave it out for {min(BATCH, N)}"
        )
    return min(BATCH, N) if asked is None else asked


def check_norms(a: SimpleNamespace, size: int) -> None:
    r"""Raises a `ValueError` if a batch has one point and a module normalizes over the points of a batch."""
    one = size == 1 or len(a.x) % size == 1
    normed = any(isinstance(m, nn.BatchNorm1d) and m.training for p in (a.model, a.guide) for m in p.modules())
    if one and normed:
        raise ValueError(
            f"batch_size is {size} of {len(a.x)} points, which leaves a batch of 1 point, and BatchNorm1d needs 2; "
            "expected another batch_size, or a norm of each point (LayerNorm)"
        )


def check_points(a: SimpleNamespace) -> None:
    r"""Raises a `ValueError` that names the rows with values that are not finite or outside the support.

    So does another number of points than the guide has rows for, here, where Pyro adds no trace to the message.
    """
    if not is_source(a.x):
        check_data("x", a, Points(a.x, None, a.mask, a.given, a.weight), a.transform)
    if a.x_val is not None:
        check_validation(a, Points(a.x_val, None, a.mask_val, a.given_val))
    if a.labels is not None and a.labels.shape != (len(a.x),):
        raise ValueError(
            f"labels have shape {tuple(a.labels.shape)}; expected ({len(a.x)},), a whole number for each point"
        )
    if hasattr(a.guide, "check_size"):
        a.guide.check_size(a.size or len(a.x))


def check_validation(a: SimpleNamespace, points: Points) -> None:
    r"""Raises a `ValueError` unless there are validation points that the likelihood accepts; ``a`` holds the pair."""
    if len(points) == 0:
        raise ValueError(f"x_val has shape {tuple(points.x.shape)}: there are no points")
    check_data("x_val", a, points, None)


def check_data(name: str, a: SimpleNamespace, points: Points, transform) -> None:
    r"""Raises a `ValueError` unless transform or likelihood accepts the points; checks block by block."""
    x, model = points.x, a.model
    if x.dim() < 2 and not isinstance(a.guide, AutoLocal):  # a program may observe one number per point
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected (N, ...): one axis of points, then the axes of a point"
        )
    check_given(points.given, len(x))
    check_weight(points.weight, len(x))
    if points.mask is not None:
        masks.check(points.mask, x)
    if name == "x":
        check_axes(model, points.given)
    if isinstance(x, Streamed):  # streamed images declare their range
        return transform.check(x.extremes) if hasattr(transform, "check") else None
    size = max(1, BLOCK // max(1, x[:1].numel()))
    for first in range(0, max(1, len(x)), size):
        block = points[first : first + size]
        _check_finite(name, block.observed(), first)
        if hasattr(transform, "check"):
            transform.check(block.observed())
        if transform is None and hasattr(model, "check"):
            with quiet(model):
                model.check(block.observed(), first=first, **block.side)
    if name == "x" and transform is None and isinstance(model, DLGM):
        with quiet(model):
            found = model.densities(given=points.given)
        note_scale(points, found)


def _check_finite(name: str, seen: Tensor, first: int) -> None:
    if seen.is_floating_point() and not bool(seen.isfinite().all()):
        bad = messages.rows(((~seen.isfinite().reshape(len(seen), -1).all(1)).nonzero().flatten() + first).tolist())
        raise ValueError(
            f"{name} has values that are not finite in {bad}; expected numbers: mask them, or drop the rows"
        )
