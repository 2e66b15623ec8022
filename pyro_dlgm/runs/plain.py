r"""Plain values: what a run on disk is made of."""

import json
import math
from collections import OrderedDict

import torch

PLAIN = (torch.Tensor, torch.nn.Parameter, bool, int, float, str)


def check_plain(value, name: str) -> None:
    r"""Raises a `TypeError` that names the first value which is neither a tensor nor plain."""
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            check_plain(key, f"a key of {name}")
            check_plain(inner, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, inner in enumerate(value):
            check_plain(inner, f"{name}[{i}]")
    elif value is not None and type(value) not in PLAIN:
        raise TypeError(f"{name} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def differences(saved: dict, given: dict, but: tuple[str, ...] = ()) -> list[str]:
    r"""What differs between two configurations, by full names ("fit.lr"), those in ``but`` left out."""
    saved, given = _flat(saved), _flat(json.loads(json.dumps(given)))
    pairs = {key: (_said(saved, key), _said(given, key)) for key in sorted(saved.keys() | given.keys())}
    return [f"{key} was {old}, now {new}" for key, (old, new) in pairs.items() if old != new and key not in but]


def finite(value):
    r"""Plain values with `None` in place of each number that is not finite: JSON has no word for those."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(error: Exception) -> str:
    r"""What an error says, in one line."""
    return " ".join(str(error).split())[:300]


def _flat(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _said(config: dict, key: str) -> str:
    return repr(config[key]) if key in config else "not there"
