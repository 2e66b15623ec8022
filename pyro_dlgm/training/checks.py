r"""The arguments of `fit`: checked, and described for the run on disk."""

import math

import torch
from torch import Tensor

from ..evaluate.quiet import quiet
from ..masks import observed
from ..objectives import ELBO

BATCH = 128


def check(epochs, steps, e_steps, warmup, patience, x_val, positive: dict[str, float]) -> None:
    r"""Raises a `ValueError` that names the first number which makes no sense."""
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs is {epochs} and steps is {steps}; expected exactly one of them")
    for name, value in {"epochs": epochs, "steps": steps, "e_steps": e_steps, "patience": patience}.items():
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} is {value!r}; expected a whole number, at least 1")
    for name, value in positive.items():
        if not (isinstance(value, float | int) and value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}; expected a finite number > 0")
    if x_val is not None and len(x_val) == 0:
        raise ValueError(f"x_val has shape {tuple(x_val.shape)}: there are no points")
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}; expected a number of epochs >= 0")
    if patience is not None and x_val is None:
        raise ValueError(f"patience is {patience} and there are no validation points; give x_val")


def check_objective(objective, warmup: int) -> None:
    r"""Raises an error unless gradients can be had, and the objective has a β if there is a warm-up."""
    if torch.is_inference_mode_enabled():
        raise RuntimeError("fit needs gradients and was called under torch.inference_mode(); leave it first")
    if warmup and not isinstance(objective, ELBO):
        raise ValueError(f"warmup is {warmup}, but {type(objective).__name__} has no beta; use objectives.ELBO")


def check_kinds(model, guide, objective, tensors: dict[str, Tensor | None]) -> None:
    r"""Raises a `TypeError` that names the first argument which is something else than it has to be."""
    for name, program in {"model": model, "guide": guide, "objective": objective}.items():
        if isinstance(program, type) or program is None:
            said = f"the class {program.__name__}" if isinstance(program, type) else "None"
            raise TypeError(f"{name} is {said}; expected an instance: make one first")
    for name, value in tensors.items():
        if value is not None and not hasattr(value, "is_floating_point"):  # streamed images are no tensor
            raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor: torch.as_tensor({name})")


def check_pairs(*, x_val, mask_val, out, resume: bool) -> None:
    r"""Raises a `ValueError` if an argument stands without the one that it needs."""
    if mask_val is not None and x_val is None:
        raise ValueError("mask_val was given without x_val; expected both: give the validation points, too")
    if resume and out is None:
        raise ValueError("resume is True and out is None; expected the folder of the run: out='runs/x'")


def device(asked: str | torch.device | None) -> torch.device | None:
    r"""The device that was asked for.

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


def check_labels(labels: Tensor | None, N: int) -> None:
    r"""Raises a `ValueError` unless there is one label for each point."""
    if labels is not None and labels.shape != (N,):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected ({N},), a whole number for each point")


def batch_size(asked: int | None, N: int) -> int:
    r"""The number of points in a batch: what was asked for, or `BATCH`, or N if N is less.

    Raises:
        ValueError: if more was asked for than there are points.
    """
    if asked is not None and asked > N > 0:  # no points at all are another error
        raise ValueError(
            f"batch_size is {asked} and there are {N} points; expected at most {N}: leave it out for {min(BATCH, N)}"
        )
    return min(BATCH, N) if asked is None else asked


def check_data(name: str, model, x: Tensor, mask: Tensor | None, transform) -> None:
    r"""Raises a `ValueError` that names the rows with values that are not finite, or that the likelihood refuses."""
    if x.dim() < 2:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected (N, ...): one axis of points, then those of a point"
        )
    seen = observed(x, mask)
    if seen.is_floating_point() and not bool(seen.isfinite().all()):
        bad = (~seen.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} has values that are not finite in rows {bad[:10]}; expected numbers: mask them, or drop the rows"
        )
    if hasattr(transform, "check"):
        transform.check(getattr(seen, "extremes", seen))  # streamed images say what they may be
    if transform is None and hasattr(model, "check"):
        with quiet(model):
            model.check(seen)


def fingerprint(objective, transform, tensors: dict[str, Tensor | None]) -> dict[str, str | None]:
    r"""What a run keeps to notice that it is resumed on something else: names, and of tensors shape, dtype and sum."""
    said = {"objective": described(objective), "transform": described(transform)}
    for name, v in tensors.items():
        said[name] = None if v is None else f"{tuple(v.shape)} {v.dtype} {float(v.nansum(dtype=torch.float64))!r}"
    return said


def described(thing) -> str:
    r"""What `config.json` says of an objective, a transform, a schedule: the same in each process."""
    if isinstance(thing, ELBO):
        return f"ELBO(num_particles={thing.num_particles}, analytic_kl={thing.analytic_kl}, beta={thing.beta})"
    return getattr(thing, "__qualname__", None) or (type(thing).__name__ if " at 0x" in repr(thing) else str(thing))


def bound(said: str | None) -> str:
    r"""What a run was trained on, from what `described` said of it: "ELBO" for that bound however it is estimated."""
    plain = said is None or (said.startswith("ELBO(") and said.endswith("beta=1.0)"))
    return "ELBO" if plain or said in ("Trace_ELBO", "TraceMeanField_ELBO") else said
