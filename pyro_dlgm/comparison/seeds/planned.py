r"""The parts of a comparison over seeds, each a row at a seed, and what their numbers depend on."""

import inspect
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ...points import Points
from ...runs.fingerprint import described, fingerprint
from ..comparison import rows
from .part import Part, beyond_defaults


def planned(
    model_factory: Callable,
    guide_factories: dict[str, Callable],
    x_train: Tensor | Points,
    x_test: Tensor | Points,
    *,
    seeds: int,
    seed: int,
    folder: Path,
    frozen: bool = False,
    ppca: int | None = None,
    x_val: Tensor | Points | None = None,
    **settings,
) -> list[Part]:
    r"""Returns the parts of `compare_seeds`, all rows of the first seed first; nothing is done yet.

    Arguments:
        folder: where the parts are kept.
        frozen, ppca, x_val: as in `compare`.
        model_factory, guide_factories, x_train, x_test, seeds, seed, settings: as in `compare_seeds`.
    """
    inspect.signature(rows).bind(model_factory, guide_factories, x_train, x_test, **settings)
    if seeds < 1 or not guide_factories:
        raise ValueError(f"seeds is {seeds}, with {len(guide_factories)} guides; expected at least 1 of each")
    points = {"train": Points.of(x_train), "test": Points.of(x_test)}
    points |= {} if x_val is None else {"val": Points.of(x_val)}
    first = next(iter(guide_factories)) if frozen else None
    config = _config(model_factory, points, settings) | {"frozen": first}
    more = {"folder": folder, "model_factory": model_factory, "dtype": torch.get_default_dtype(), **points}
    methods = {name: ({name: factory}, settings) for name, factory in guide_factories.items()}
    if ppca is not None and f"PPCA-{ppca}" in guide_factories:
        raise ValueError(f"a guide is called PPCA-{ppca}, as the reference is; expected another name")
    if ppca is not None:
        methods = {f"PPCA-{ppca}": ({}, settings | {"ppca": ppca})} | methods
    return [
        Part(name, s, guides=guide, settings=own, config=config | {"guide": _described(guide)}, frozen=first, **more)
        for s in range(seed, seed + seeds)
        for name, (guide, own) in methods.items()
    ]


def _config(model_factory: Callable, points: dict[str, Points], settings: dict) -> dict:
    r"""Returns what the numbers of a row depend on, apart from seed and guide, as plain values."""
    said = {name: described(value) if callable(value) else value for name, value in beyond_defaults(settings).items()}
    if settings.get("certify") is not None:
        said["certify"] = asdict(settings["certify"])
    tensors = {f"{part}.{name}": v for part, of in points.items() for name, v in vars(of).items() if v is not None}
    data = {name: said for name, said in fingerprint(None, None, tensors).items() if name in tensors}
    by = {name: version(name) for name in ("pyro_dlgm", "pyro-ppl", "torch")}
    kept = {"dtype": str(torch.get_default_dtype()), "settings": said, "versions": by}
    return {"model": described(model_factory), "data": data} | kept


def _described(guide: dict[str, Callable]) -> list[str]:
    return [described(factory) for factory in guide.values()]
