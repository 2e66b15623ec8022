r"""All seeds of a row at once: one vectorized training, and one scoring after the other."""

import warnings
from collections.abc import Iterator

from ...messages import line
from ...seeding import forked
from ...training.together import fit_together
from ..comparison import filled
from ..method import Method
from .part import DEFAULTS, Done, Part


def at_once(parts: list[Part]) -> Iterator[Done]:
    r"""Does the parts, all seeds of a row at once; seeds of a training that fails are trained one after the other."""
    rows = {part.name: [other for other in parts if other.name == part.name] for part in parts}
    for name, alike in rows.items():
        try:
            yield from _row(alike)
        except Exception as error:
            said = f"{name}: the seeds are trained one after the other: {type(error).__name__}: {line(error)}"
            warnings.warn(said, stacklevel=2)
            yield from map(_alone, (part for part in alike if part.kept() is None))


def _row(parts: list[Part]) -> Iterator[Done]:
    if not parts[0].guides:  # PPCA
        yield from map(_alone, parts)
        return
    ((name, factory),) = parts[0].guides.items()
    methods = [Method.of(part.train, part.test, _arguments(part)) for part in parts]
    pairs, how = [], []
    for part, method in zip(parts, methods, strict=True):
        with forked(part.seed):
            model = part.model()
        guide, own = method.prepared(model, factory)
        pairs.append((model, guide))
        how.append(own)
    settings = {key: value for key, value in how[0].items() if key not in ("seed", "listeners")}
    seeds = [part.seed for part in parts]
    results = fit_together(pairs, parts[0].train, seeds=seeds, listeners=lambda k: how[k]["listeners"], **settings)
    for part, method, result in zip(parts, methods, results, strict=True):
        made = method.scored(result.model, result.guide, result.history)
        (row,) = filled([name], [made], _arguments(part)["model_name"], False)
        part.keep(row)
        yield Done(part, part.kept())


def _arguments(part: Part) -> dict:
    r"""Returns the arguments of `rows` by name."""
    return DEFAULTS | part.settings | {"x_val": part.val, "seed": part.seed}


def _alone(part: Part) -> Done:
    r"""Does one part in this process."""
    try:
        part()
    except Exception as error:
        return Done(part, None, f"{type(error).__name__}: {line(error)}")
    return Done(part, part.kept())
