r"""The first call of a pair, before its optimizers are made: parameters that are made by a call exist then."""

import pyro
import torch
from pyro import poutine
from pyro.infer import autoguide
from torch import nn

from ..evaluate.quiet import quiet
from ..guides.base import Guide
from ..points import Points
from ..program import Program

POSITIONAL = (autoguide.AutoContinuous, autoguide.AutoGaussian, autoguide.AutoStructured)


def is_made(model, guide) -> bool:
    r"""Whether all parameters of a pair exist, and its rows are those of the batch: of this package, and not lazy."""
    lazy = any(nn.parameter.is_lazy(p) for program in (model, guide) for p in program.parameters())
    return isinstance(model, Program) and isinstance(guide, Guide) and not lazy


def first_call(model, guide, points: Points, size: int) -> None:
    r"""Runs guide and model once on a batch; neither they nor a generator change, but for what is made at a first call.

    Arguments:
        model, guide: the pair.
        points: a batch with its index.
        size: the number N of all points.

    Raises:
        ValueError: if the plates of guide and model hold other points: rows of q would belong to the wrong ones.
    """
    args, kwargs = (points.x, points.index), points.keywords | {"size": size}
    with quiet(model, guide), pyro.validation_enabled(False), torch.enable_grad():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(model).get_trace(*args, **kwargs)  # replayed, it would take the guide's points
    plates = [_plates(trace) for trace in (model_trace, guide_trace)]
    for name in plates[0].keys() & plates[1].keys():
        if not torch.equal(*(found[name].sort().values for found in plates)):
            raise ValueError(_advice(guide, name, "other points than the model"))
    local = any(f.size < f.full_size for site in guide_trace.nodes.values() for f in site.get("cond_indep_stack", ()))
    if local and isinstance(guide, POSITIONAL):
        raise ValueError(_advice(guide, "data", "parameters of the batch's size, reused by position for other points"))


def _plates(trace) -> dict[str, torch.Tensor]:
    r"""The points of each plate, by its name."""
    return {name: site["value"] for name, site in trace.nodes.items() if poutine.util.site_is_subsample(site)}


def _advice(guide, plate: str, has: str) -> str:
    return (
        f"{type(guide).__name__} has {has} in the plate {plate!r}; expected rows for the points of the batch: use "
        "guides.MeanField, guides.FullRank or guides.auto, one batch of all points (batch_size=N), or create_plates="
    )
