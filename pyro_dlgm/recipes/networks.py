r"""The networks of recipes, by the shape of points, and the classes that recipes build from.

Images (C, H, W) get convolutional networks; rows of an array (P,), and images too small for those, multilayer
perceptrons. Classes are imported when a recipe is built: this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

SMALL = 16  # images with a shorter side than this get the small networks


def parts() -> SimpleNamespace:
    r"""Returns the classes and functions that recipes build from."""
    import torch

    from ..guides import amortized, autoguides, flow, laplace, per_point, semi_amortized
    from ..guides.chains import chain, hybrid
    from ..likelihoods import (
        bernoulli,
        categorical,
        discretized_logistic,
        log_normal,
        low_rank,
        normal,
        student_t,
        tables,
    )
    from ..likelihoods.counts import likelihood as counts
    from ..likelihoods.missingness import likelihood as missingness
    from ..nets import conv, net
    from ..priors import mixture, vamp
    from ..priors import normal as normal_priors

    modules = (amortized, autoguides, chain, flow, hybrid, laplace, per_point, semi_amortized, conv, net)
    modules += (bernoulli, categorical, counts, discretized_logistic, log_normal, low_rank, normal, student_t, tables)
    modules += (missingness, mixture, normal_priors, vamp)
    names = {name: value for module in modules for name, value in vars(module).items()}
    return SimpleNamespace(**names | {"torch": torch, "linear": False})


def _stages(p, shape: Sequence[int]) -> dict:
    r"""Returns the arguments of convolutional networks for these points; empty if they get perceptrons."""
    if len(shape) != 3 or min(shape[1:]) < p.SMALLEST:
        return {}
    return {"widths": (32, 64)} if min(shape[1:]) < SMALL else {"widths": (32, 64, 64, 64), "norm": True}


def network(shape: Sequence[int]) -> str:
    r"""Returns the kind of decoder for points of that shape: "conv" or "mlp"."""
    return "conv" if _stages(parts(), shape) else "mlp"


def decoder(p, D: int, shape, heads: int = 1):
    r"""Returns a network from D numbers to points of that shape, linear if ``p.linear``."""
    if p.linear:
        return p.Linear(D, shape, heads=heads)
    stages = _stages(p, shape)
    return p.ConvDecoder(D, shape, heads=heads, **stages) if stages else p.MLP(D, shape, heads=heads)


def skewed(p, likelihood) -> bool:
    r"""Returns whether an encoder takes log(1 + x): whether x are counts or amounts >= 0."""
    return isinstance(likelihood, (p.Counts, p.ZeroInflatedLogNormal))


def _compressed(p, likelihood) -> list:
    r"""Returns the layers in front of an encoder: log(1 + x) of counts and amounts, and of the amounts of a table.

    Counts of a table stay as they are: encoders of existing runs have learned to read them so.
    """
    if skewed(p, likelihood):
        return [p.Log1p()]
    parts = zip(likelihood.columns, likelihood.parts, strict=True) if isinstance(likelihood, p.Columns) else ()
    columns = [n for numbers, part in parts if isinstance(part, p.ZeroInflatedLogNormal) for n in numbers]
    return [p.Log1p(columns)] if columns else []


def encoder(p, model, shape):
    r"""Returns a network from points of that shape to features; of counts and amounts it takes log(1 + x)."""
    stages = _stages(p, shape)
    width = 128 if stages and min(shape[1:]) < SMALL else 256
    net = p.ConvEncoder(shape, width, **stages) if stages else p.MLP(shape, 200)
    first = _compressed(p, model.likelihood)
    return p.torch.nn.Sequential(*first, net) if first else net
