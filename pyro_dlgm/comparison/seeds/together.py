r"""All seeds of a row at once: one vectorized training, and one scoring after the other."""

import copy
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from ...messages import line
from ...seeding import forked
from ...training.loop.result import Result
from ...training.together import fit_together
from ..comparison import filled
from ..method import Method, Trained
from .part import DEFAULTS, Done, Part


class Prepared(NamedTuple):
    r"""A part with its pair, which it shares with no other, and the arguments of `fit`."""

    part: Part
    method: Method
    pair: tuple
    how: dict


def at_once(parts: list[Part]) -> Iterator[Done]:
    r"""Does the parts: all seeds of a row are trained at once, or if that fails, one after the other."""
    rows = {part.name: [other for other in parts if other.name == part.name] for part in parts}
    for name, alike in rows.items():
        if len(alike) == 1 or not alike[0].guides:  # PPCA is not trained
            yield from map(_alone, alike)
            continue
        made = [_or_failure(part, _prepared) for part in alike]
        yield from (end for end in made if isinstance(end, Done))
        ready = [each for each in made if isinstance(each, Prepared)]
        results, failure = _trained(ready)
        if results is None:
            left = [each.part for each in ready]
            del made, ready  # the pairs
            warnings.warn(f"{name}: the seeds are trained one after the other: {failure}", stacklevel=2)
            yield from map(_alone, left)
            continue
        for each, result in zip(ready, results, strict=True):
            yield _or_failure(each.part, _kept, each, result)


def _prepared(part: Part) -> Prepared:
    ((_, factory),) = part.guides.items()
    method = Method.of(part.train, part.test, _arguments(part))
    with forked(part.seed):
        model = part.model()
    # Factories may return what they returned for other seeds.
    pair = copy.deepcopy((model, method.guide(model, factory)))
    return Prepared(part, method, pair, method.how(*pair))


def _trained(ready: list[Prepared]) -> tuple[list[Result] | None, str]:
    r"""Returns the results of the training, or `None` and why it failed."""
    if not ready:
        return [], ""
    settings = {key: value for key, value in ready[0].how.items() if key not in ("seed", "listeners")}
    seeds = [each.part.seed for each in ready]
    own = [each.how["listeners"] for each in ready]
    try:
        return fit_together(
            [each.pair for each in ready],
            ready[0].part.train,
            seeds=seeds,
            listeners=lambda number: own[number],
            **settings,
        ), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {line(error)}"


def _kept(part: Part, each: Prepared, result: Result) -> Done:
    made = each.method.scored(Trained.of(result.model, result.guide, result.history))
    (row,) = filled([part.name], [made], _arguments(part)["model_name"], False)
    part.keep(row)
    return Done(part, part.kept())


def _alone(part: Part) -> Done:
    r"""Does one part in this process."""
    return _or_failure(part, lambda part: part() or Done(part, part.kept()))


def _or_failure(part: Part, do, *given):
    r"""Returns what is done for the part, or that it has failed."""
    try:
        return do(part, *given)
    except Exception as error:
        return Done(part, None, f"{type(error).__name__}: {line(error)}")


def _arguments(part: Part) -> dict:
    r"""Returns the arguments of `rows` by name."""
    return DEFAULTS | part.settings | {"x_val": part.val, "seed": part.seed}
