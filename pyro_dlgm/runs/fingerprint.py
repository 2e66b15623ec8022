r"""Fingerprints of runs: configuration and data, and the differences between two of them."""

import re

import torch
from pyro import infer
from torch import Tensor

from ..data.source import is_source
from ..objectives.elbo import ELBO
from .digest import code, digest
from .files import finite, plain

KEPT = ("x", "mask", "x_val", "mask_val")  # recorded even if they are None


def fingerprint(
    objective, transform, tensors: dict[str, Tensor | None], size: int | None = None, former: dict | None = None
) -> dict[str, str | None]:
    r"""Returns a description by which a resume with other modules or data is detected.

    It has names, and shape, dtype and hash of tensors; for a source of batches, its type and the number of points.

    Arguments:
        objective, transform: those of the training.
        tensors: its data, by name.
        size: the number of points of a source.
        former: the description in the run to resume. If it has the form of older versions (the sum of a tensor, the
            name of a function), that form is used.
    """
    former = former or {}
    pair = {"objective": objective, "transform": transform}
    said = {name: as_before(former.get(name), thing) for name, thing in pair.items()}
    for name, v in tensors.items():
        if v is not None or name in KEPT:
            said[name] = _data(v, size, former.get(name))
    return said


def _data(v, size: int | None, former: str | None) -> str | None:
    if v is None:
        return None
    if is_source(v):
        return f"{type(v).__name__}, {size} points"
    if former is not None and " torch." in former and " blake2b " not in former:
        return f"{tuple(v.shape)} {v.dtype} {float(v.nansum(dtype=torch.float64))!r}"
    return f"{tuple(v.shape)} {v.dtype} {digest(v)}"


def described(thing) -> str:
    r"""Returns the text for `config.json` of an objective, a transform or a schedule, the same in each process.

    For a function, or an object without a ``repr``, it is the name, and a hash of the code with the values it holds.
    """
    name = named(thing)
    if isinstance(thing, infer.ELBO):
        particles = getattr(thing, "num_particles", 1)
        return name if isinstance(thing, ELBO) or particles == 1 else f"{name}(num_particles={particles})"
    held = code(thing)
    return name if held is None else f"{name} ({held})"


def named(thing) -> str:
    r"""Returns the text of older versions, without a hash: the name of a function, or the ``repr`` of an object."""
    if type(thing) is ELBO:  # subclasses have a repr
        return f"ELBO(num_particles={thing.num_particles}, analytic_kl={thing.analytic_kl}, beta={thing.beta})"
    return getattr(thing, "__qualname__", None) or (type(thing).__name__ if " at 0x" in repr(thing) else str(thing))


def as_before(former: str | None, thing) -> str:
    r"""Returns `described`, or only the name if the run to resume has only that."""
    return named(thing) if former == named(thing) else described(thing)


def bound(said: str | None) -> str:
    r"""Returns the name of the training bound from `described`: "ELBO" however it is estimated."""
    plain = said is None or (said.startswith("ELBO(") and said.endswith("beta=1.0)"))
    return "ELBO" if plain or said.partition("(")[0] in ("Trace_ELBO", "TraceMeanField_ELBO") else said


def differences(saved: dict, given: dict, but: tuple[str, ...] = ()) -> list[str]:
    r"""Returns the differences of two configurations, by full names ("fit.lr"), except those in ``but``."""
    saved, given = flat(finite(saved)), flat(plain(given))
    pairs = {key: (_said(saved, key), _said(given, key)) for key in sorted(saved.keys() | given.keys())}
    return [f"{key} was {old}, now {new}" for key, (old, new) in pairs.items() if key not in but and _differ(old, new)]


def _differ(old: str, new: str) -> bool:
    # Another version of Python compiles the same function differently: then only the names are compared.
    found = [re.fullmatch(r"(.*) \(\w+ of Python ([\d.]+)\)'", said) for said in (old, new)]
    if all(found) and found[0][2] != found[1][2]:
        return found[0][1] != found[1][1]
    return old != new


def flat(config: dict, prefix: str = "") -> dict:
    r"""Returns a configuration by full names: {"fit": {"lr": 0.1}} -> {"fit.lr": 0.1}."""
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _said(config: dict, key: str) -> str:
    return repr(config[key]) if key in config else "not there"
