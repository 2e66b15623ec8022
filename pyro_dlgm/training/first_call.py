r"""The first call of a pair, before its optimizers are made, which creates parameters that are made lazily."""

import pyro
import torch
from pyro import poutine
from pyro.infer import autoguide
from torch import nn

from ..evaluate.quiet import quiet
from ..guides.base import Guide
from ..guides.programs.auto_local import AutoLocal
from ..guides.programs.outer import Outer
from ..latents.call import Function, accepting
from ..latents.held import Batch
from ..objectives.sites import is_drawn, plate_of, point_frame
from ..points import Points

POSITIONAL = (autoguide.AutoContinuous, autoguide.AutoGaussian, autoguide.AutoStructured)
USE = "use guides.MeanField, guides.FullRank or guides.auto"
OWN = "inherit from guides.Guide and write posterior(x, index, mask), for a guide whose plate is the model's"


def is_made(model, guide) -> bool:
    r"""Returns whether model and guide are of this package and have all parameters, so need no first call."""
    lazy = any(nn.parameter.is_lazy(p) for program in (model, guide) for p in _parameters(program))
    traced = guide.is_set_up if isinstance(guide, AutoLocal) else True
    return all(map(_is_ours, (model, guide))) and not lazy and traced


def _is_ours(program) -> bool:
    package = type(program).__module__.partition(".")[0]
    return package == __package__.partition(".")[0] and not isinstance(program, Function)


def _parameters(program):
    return program.parameters() if isinstance(program, nn.Module) else ()


def first_call(model, guide, points: Points, size: int, *, validated: bool = False) -> None:
    r"""Runs guide and model once on a batch; it changes nothing but what a first call creates.

    Arguments:
        model, guide: the pair.
        points: a batch with its index.
        size: the number N of all points.
        validated: whether there are validation points.

    Raises:
        ValueError: if the guide would be silently wrong: its plates hold other points than the model's, its latents
            have another scale (it ignores a weight), or its rows would be used for validation points.
    """
    args, kwargs = (points.x, points.index), points.keywords | {"size": size}
    with quiet(model, guide), pyro.validation_enabled(False), torch.enable_grad():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        plate = plate_of(model, guide) or (guide.plate if isinstance(guide, Guide) else None)
        checked = Batch(plate, len(points))(accepting(model))
        model_trace = poutine.trace(checked).get_trace(*args, **kwargs)  # replayed, it would take the guide's points
    local = _local(guide_trace, guide.program_plate if isinstance(guide, Outer) else None)
    _check_points(guide, points.index, _plates(model_trace), _plates(guide_trace))
    _check_scales(guide, local, model_trace)
    if isinstance(guide, autoguide.AutoGuide) and local:
        _check_rows(type(guide).__name__, isinstance(guide, POSITIONAL), len(points), size, validated)


def _use(guide) -> str:
    return USE if isinstance(guide, autoguide.AutoGuide) else f"{USE}, or {OWN}"


def _check_points(guide, index: torch.Tensor, of_model: dict, of_guide: dict) -> None:
    for plate, rows in of_model.items():
        theirs = of_guide.get(plate)
        if theirs is not None and _same(rows, index) and not _same(rows, theirs):
            more = ", or create_plates=" if isinstance(guide, autoguide.AutoGuide) else ""
            raise ValueError(
                f"{type(guide).__name__} has other points than the model in the plate {plate!r}; expected rows for "
                f"those of the batch: {_use(guide)}, one batch of all points (batch_size=N){more}"
            )


def _check_scales(guide, local: dict[str, dict], model_trace) -> None:
    for site, q in local.items():
        p = model_trace.nodes.get(site, q)
        if not torch.equal(*torch.broadcast_tensors(*(torch.as_tensor(s["scale"]).float() for s in (p, q)))):
            raise ValueError(
                f"{site!r} has another scale in {type(guide).__name__} than in the model; expected one on both sides, "
                f"that of size= and weight=: {_use(guide)}"
            )


def _check_rows(name: str, positional: bool, batch: int, size: int, validated: bool) -> None:
    r"""Raises a `ValueError` if one of Pyro's autoguides would use its rows for other points than theirs."""
    if positional and batch < size:
        raise ValueError(
            f"{name} has parameters of the batch's size, and reuses them by position for other points; expected rows "
            f"for N = {size} points: {USE}, or one batch of all points (batch_size=N)"
        )
    if validated:
        raise ValueError(
            f"{name} has rows for the training points, which validation points would get; expected no x_val, or a "
            f"guide with rows for others: {USE}"
        )


def _plates(trace) -> dict[str, torch.Tensor]:
    r"""Returns the points of each plate, by name."""
    return {name: site["value"] for name, site in trace.nodes.items() if poutine.util.site_is_subsample(site)}


def _same(rows: torch.Tensor, others: torch.Tensor) -> bool:
    return rows.shape == others.shape and torch.equal(rows.sort().values, others.sort().values)


def _local(trace, plate: str | None) -> dict[str, dict]:
    r"""Returns the latents in the plate over points, by name; `None`: any plate at dimension −1."""
    sites = {name: site for name, site in trace.nodes.items() if is_drawn(site) and not site["is_observed"]}
    return {name: site for name, site in sites.items() if point_frame(site, plate) is not None}
