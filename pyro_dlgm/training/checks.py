r"""The arguments of `fit`, checked before anything is trained."""

from types import SimpleNamespace

import torch
from torch import Tensor

from .. import messages
from ..evaluate.quiet import quiet
from ..masks import observed
from ..objectives import ELBO
from . import options
from .options import BATCH


def check_arguments(a: SimpleNamespace) -> None:
    r"""Raises an error that names the first argument which makes no sense; ``a`` holds those of `fit`."""
    _check_kinds(a)
    if a.mask_val is not None and a.x_val is None:
        raise ValueError("mask_val was given without x_val; expected both: give the validation points as well")
    if a.resume and a.out is None:
        raise ValueError("resume is True and out is None; expected the folder of the run: out='runs/x'")
    if (a.epochs is None) == (a.steps is None):
        raise ValueError(f"epochs is {a.epochs} and steps is {a.steps}; expected exactly one of them")
    options.check(vars(a))
    if a.patience is not None and a.x_val is None:
        raise ValueError(f"patience is {a.patience} and there are no validation points; give x_val")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("fit needs gradients and was called under torch.inference_mode(); leave it first")
    if a.warmup and not isinstance(a.objective, ELBO):
        raise ValueError(f"warmup is {a.warmup}, but {type(a.objective).__name__} has no beta; use objectives.ELBO")


def _check_kinds(a: SimpleNamespace) -> None:
    for name in ("model", "guide", "objective"):
        program = getattr(a, name)
        if isinstance(program, type) or program is None:
            said = f"the class {program.__name__}" if isinstance(program, type) else "None"
            raise TypeError(f"{name} is {said}; expected an instance: make one first")
    for name in ("x", "mask", "x_val", "mask_val"):
        value = getattr(a, name)
        if value is not None and not hasattr(value, "is_floating_point"):  # streamed images are no tensor
            raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor: torch.as_tensor({name})")
    for listener in a.listeners:
        if not hasattr(listener, "after"):
            raise TypeError(
                f"a listener is a {type(listener).__name__}; expected an object with a method after(step, record)"
            )


def device(asked: str | torch.device | None) -> torch.device | None:
    r"""Returns the device that was asked for.

    Raises:
        ValueError: if there is none of that name, or torch does not see it.
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
    r"""Returns the number of points in a batch: what was asked for, or `BATCH`, or N if N is less.

    Raises:
        ValueError: if more was asked for than there are points.
    """
    if asked is not None and asked > N > 0:  # no points at all are another error
        raise ValueError(
            f"batch_size is {asked} and there are {N} points; expected at most {N}: leave it out for {min(BATCH, N)}"
        )
    return min(BATCH, N) if asked is None else asked


def check_points(a: SimpleNamespace) -> None:
    r"""Raises a `ValueError` that names the rows with values that are not finite, or that the likelihood refuses."""
    _check_data("x", a.model, a.x, a.mask, a.transform)
    if a.x_val is not None:
        if len(a.x_val) == 0:
            raise ValueError(f"x_val has shape {tuple(a.x_val.shape)}: there are no points")
        _check_data("x_val", a.model, a.x_val, a.mask_val, None)
    if a.labels is not None and a.labels.shape != (len(a.x),):
        raise ValueError(
            f"labels have shape {tuple(a.labels.shape)}; expected ({len(a.x)},), a whole number for each point"
        )


def _check_data(name: str, model, x: Tensor, mask: Tensor | None, transform) -> None:
    if x.dim() < 2:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected (N, ...): one axis of points, then those of a point"
        )
    seen = observed(x, mask)
    if seen.is_floating_point() and not bool(seen.isfinite().all()):
        bad = messages.rows((~seen.isfinite().flatten(1).all(1)).nonzero().flatten().tolist())
        raise ValueError(
            f"{name} has values that are not finite in {bad}; expected numbers: mask them, or drop the rows"
        )
    if hasattr(transform, "check"):
        transform.check(getattr(seen, "extremes", seen))  # streamed images say what they may be
    if transform is None and hasattr(model, "check"):
        with quiet(model):
            model.check(seen)
