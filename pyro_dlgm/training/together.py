r"""Trainings that differ in their seed alone, taken step by step together: each step is one for all of them."""

import contextlib
import inspect
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch

from ..optim.compiled.together import Together
from ..progress import Bar
from ..ranks.group import Alone
from ..seeding import alone, forked, restore, states
from .fit import fit
from .loop.listeners import Guarded
from .loop.result import Result
from .session import begun, check

OWN = ("out", "resume", "stretch", "start", "ranks", "patience")  # of one training


def fit_together(
    pairs: Sequence[tuple],
    x,
    *,
    seeds: Sequence[int],
    listeners: Callable[[int], Sequence] = lambda number: (),
    progress: bool = False,
    **settings,
) -> list[Result]:
    r"""Trains pairs as `fit` does, each under its seed, in steps that are one for all of them.

    It is meant for a GPU, where S small operations take the time of one large one. On a CPU, processes with one thread
    each take less. The numbers are those of `fit` up to rounding. Where the step of a pair cannot be vectorized, a
    warning says why, and each takes its own.

    Arguments:
        pairs: S pairs (model, guide), made alike: they differ in the values of their tensors alone.
        x: the points, as in `fit`.
        seeds: the seed of each training.
        listeners: for the number of a pair, its listeners, as in `fit`.
        progress: whether to show a bar.
        settings: other arguments of `fit`, alike for all; but none of a run on disk, several processes or patience, and
            ``e_steps`` is 1.

    Returns:
        The `Result` of each pair.

    Raises:
        ValueError: if there is no pair, or not one seed for each, or an argument is of one training alone.
    """
    _check(pairs, seeds, settings)
    defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    calls = [
        SimpleNamespace(**defaults | settings | {"model": m, "guide": g, "x": x, "listeners": listeners(number)})
        for number, (m, g) in enumerate(pairs)
    ]
    for call in calls:
        check(call)
        call.processes = Alone()
    with alone(training=True), forked():
        trainings, generators = [], []
        for call, seed in zip(calls, seeds, strict=True):
            with forked(seed):
                trainings.append(begun(call))
                generators.append(states())
        heard = [[Guarded(listener) for listener in call.listeners] for call in calls]
        with Bar(trainings[0].total, shown=progress) as bar, contextlib.ExitStack() as stack:
            for training in trainings:
                stack.callback(training.restore_beta)
            stack.enter_context(torch.enable_grad())
            together = stack.enter_context(
                contextlib.closing(Together([t.svi for t in trainings], settings.get("compile", False)))
            )
            heard[0].append(bar)
            _climb(trainings, heard, together, generators)
        return [training.finish() for training in trainings]


def _climb(trainings: list, listeners: list[list], together: Together, generators: list[dict]) -> None:
    r"""Takes the steps; each training draws from the states of its own generators, which change."""
    rounds = [training.begun() for training in trainings]
    while True:
        steps = []
        for number, each in enumerate(rounds):
            restore(generators[number])
            steps.append(next(each, None))
            generators[number] = states()
        if None in steps:
            return
        together.take()
        for training, step, heard in zip(trainings, steps, listeners, strict=True):
            record = training.ended(step)
            for listener in heard:
                listener.after(step, record)


def _check(pairs: Sequence, seeds: Sequence, settings: dict) -> None:
    if not pairs or len(pairs) != len(seeds):
        raise ValueError(f"there are {len(pairs)} pairs and {len(seeds)} seeds; expected one seed for each, at least 1")
    given = [name for name in OWN if settings.get(name)]
    if given or settings.get("e_steps", 1) != 1:
        raise ValueError(
            f"{given[0] if given else 'e_steps'} is {settings[given[0] if given else 'e_steps']!r}; expected "
            "the default: trainings together have no run on disk, no further processes, and one step for each batch"
        )
