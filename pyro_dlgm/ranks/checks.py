r"""What a training on several processes does not support."""

from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import torch
from torch import nn

from ..data.source import is_source
from ..guides.base import adapted
from ..guides.rows import in_files
from ..objectives.free_bits import FreeBits
from .group import Alone
from .rows import tables

PLAIN = (bool, int, float, str, type(None))
Refusal = tuple[str, bool, str]  # what there is, whether it is not supported, what is expected


def check(a: SimpleNamespace, ranks: Alone, names: Iterable[str]) -> None:
    r"""Raises a `ValueError` if an argument of `fit` is not for several processes, or differs between them.

    Arguments:
        a: the arguments.
        ranks: the processes; nothing is checked for one alone.
        names: the arguments that have to be the same in all processes.
    """
    if ranks.num > 1:
        _refuse(ranks, _of_arguments(a))
        _check_same(a, ranks, names)


def check_guide(a: SimpleNamespace, ranks: Alone) -> None:
    r"""Raises a `ValueError` if the guide is not for several processes, once all its parameters exist."""
    if ranks.num > 1:
        _refuse(ranks, _of_guide(a))


def _refuse(ranks: Alone, refusals: Iterator[Refusal]) -> None:
    for what, unsupported, expected in refusals:
        if unsupported:
            raise ValueError(f"{what}, which {ranks.num} processes do not support; expected {expected}")


def _of_arguments(a: SimpleNamespace) -> Iterator[Refusal]:
    yield f"compile is {a.compile!r}", a.compile is not False, "compile=False: leave it out"
    yield f"e_steps is {a.e_steps!r}", isinstance(a.e_steps, str), "a number of E-steps"
    yield f"x is a {type(a.x).__name__}", is_source(a.x), "a tensor or a memory map"
    device = torch.device(a.device or "cpu")
    yield f"device is {str(device)!r}", device.index is not None, f"{device.type!r}: each process takes its own"
    free = isinstance(a.objective, FreeBits)
    yield "the objective is FreeBits, not a sum over points", free, "objectives.ELBO, with warmup= against collapse"
    modules = [m for program in (a.model, a.guide) for m in program.modules()]
    normed = next((type(m).__name__ for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)), None)
    yield f"{normed} has moments of the whole batch", normed is not None, "a norm of each point: LayerNorm, GroupNorm"


def _of_guide(a: SimpleNamespace) -> Iterator[Refusal]:
    name, guide, rows = type(a.guide).__name__, adapted(a.guide), tables(a.model, a.guide)
    others = "guides.MeanField, FullRank, PointEstimate, a guide with an encoder, or one process"
    yield f"the guide is {name}, which moves by itself", guide.moves, others
    yield f"the guide is {name}, whose parameters of points are not Rows", guide.per_point and not rows, others
    yield "the guide's rows are in files", bool(in_files(a.model, a.guide)), "rows in memory: leave out folder="
    yield f"patience is {a.patience} and {name} has rows", bool(rows) and a.patience is not None, "no patience"
    yield f"start is a result and {name} has rows", bool(rows) and a.start is not None, "no start"


def _check_same(a: SimpleNamespace, ranks: Alone, names: Iterable[str]) -> None:
    r"""Raises a `ValueError` unless the processes were called alike: else they would wait for each other."""
    mine = {name: getattr(a, name) for name in names if isinstance(getattr(a, name), PLAIN)}
    mine |= {"x": tuple(a.x.shape), "out": str(a.out), "resume": a.resume, "validation": a.x_val is not None}
    first = ranks.agreed(mine)
    for name in first:
        if mine.get(name) != first[name]:
            raise ValueError(
                f"{name} is {mine.get(name)} in process {ranks.rank} and {first[name]} in process 0; expected the same "
                "arguments in all processes"
            )
