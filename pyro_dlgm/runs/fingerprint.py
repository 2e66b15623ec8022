r"""What a run is recognized by: its configuration and its data, and how two of them differ."""

import json

import torch
from torch import Tensor

from ..objectives import ELBO

KEPT = ("x", "mask", "x_val", "mask_val")  # also where there is none


def fingerprint(
    objective, transform, tensors: dict[str, Tensor | None], size: int | None = None
) -> dict[str, str | None]:
    r"""Describes modules and data so that a resume on others is noticed: names; shape, dtype and sum of tensors.

    Of a source of batches: its kind and the number of points.
    """
    said = {"objective": described(objective), "transform": described(transform)}
    for name, v in tensors.items():
        if v is not None or name in KEPT:
            said[name] = _data(v, size)
    return said


def _data(v, size: int | None) -> str | None:
    if v is None:
        return None
    if not hasattr(v, "nansum"):
        return f"{type(v).__name__}, {size} points"
    return f"{tuple(v.shape)} {v.dtype} {float(v.nansum(dtype=torch.float64))!r}"


def described(thing) -> str:
    r"""What `config.json` says of an objective, a transform, a schedule: the same in each process."""
    if isinstance(thing, ELBO):
        return f"ELBO(num_particles={thing.num_particles}, analytic_kl={thing.analytic_kl}, beta={thing.beta})"
    return getattr(thing, "__qualname__", None) or (type(thing).__name__ if " at 0x" in repr(thing) else str(thing))


def bound(said: str | None) -> str:
    r"""The bound that a run was trained on, from what `described` said: "ELBO" for that however it is estimated."""
    plain = said is None or (said.startswith("ELBO(") and said.endswith("beta=1.0)"))
    return "ELBO" if plain or said in ("Trace_ELBO", "TraceMeanField_ELBO") else said


def differences(saved: dict, given: dict, but: tuple[str, ...] = ()) -> list[str]:
    r"""What differs between two configurations, by full names ("fit.lr"), those in ``but`` left out."""
    saved, given = flat(saved), flat(json.loads(json.dumps(given)))
    pairs = {key: (_said(saved, key), _said(given, key)) for key in sorted(saved.keys() | given.keys())}
    return [f"{key} was {old}, now {new}" for key, (old, new) in pairs.items() if old != new and key not in but]


def flat(config: dict, prefix: str = "") -> dict:
    r"""A configuration by full names: {"fit": {"lr": 0.1}} -> {"fit.lr": 0.1}."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _said(config: dict, key: str) -> str:
    return repr(config[key]) if key in config else "not there"
