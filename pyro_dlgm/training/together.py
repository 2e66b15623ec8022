r"""Trainings that differ in their seed alone, taken step by step together: each step is one for all of them."""

import contextlib
import copy
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import torch
from pyro.nn import PyroModule

from ..optim.compiled.together import Together
from ..progress import Bar
from ..ranks.group import Alone
from ..seeding import alone, forked, restore, states
from ..shared import named_pyro_params
from .fit import fit
from .loop.listeners import Guarded
from .loop.result import Result
from .loop.steps import Step
from .session import begun, check

OWN = ("out", "resume", "stretch", "start", "ranks", "patience", "config", "seed")  # of one training


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
        listeners: for the number of a pair, its listeners, as in `fit`; the time that they take is on its clock alone.
        progress: whether to show a bar.
        settings: other arguments of `fit`, alike for all; but none of a run on disk, several processes or patience, and
            ``e_steps`` is 1.

    Returns:
        The `Result` of each pair; ``seconds`` in its history are those of all trainings together.

    Raises:
        ValueError: if there is no pair, or not one seed for each, or an argument is of one training alone.
        FloatingPointError: as `fit`; it names the number of the training, and ends all of them.
    """
    _check(pairs, seeds, settings)
    x = x.to(settings["device"]) if settings.get("device") is not None and hasattr(x, "to") else x  # once for all
    calls = [_call(pair, x, listeners(number), settings) for number, pair in enumerate(pairs)]
    with alone(training=True), forked():
        trainings, generators = [], []
        for call, seed in zip(calls, seeds, strict=True):
            with forked(seed):
                trainings.append(begun(call))
                generators.append(states())
        heard = [[Guarded(listener) for listener in call.listeners] for call in calls]
        with Bar(trainings[0].total, shown=progress) as bar, contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            together = stack.enter_context(
                contextlib.closing(Together([t.svi for t in trainings], settings.get("compile", False)))
            )
            heard[0].append(bar)
            _climb(trainings, heard, together, generators)
        return [training.finish() for training in trainings]


def _call(pair: tuple, x, listeners: Sequence, settings: dict) -> SimpleNamespace:
    r"""Returns the checked arguments of `fit` for one of the pairs."""
    own = {"listeners": listeners, "objective": copy.deepcopy(settings.get("objective"))}  # it has a state, β
    bound = inspect.signature(fit).bind(*pair, x, **settings | own)
    bound.apply_defaults()
    call = SimpleNamespace(**bound.arguments, processes=Alone())
    check(call)
    return call


def _climb(trainings: list, listeners: list[list], together: Together, generators: list[dict]) -> None:
    r"""Takes the steps; each training continues from the states of its own generators."""
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
        records = [training.ended(step) for training, step in zip(trainings, steps, strict=True)]
        spent = [_heard(*each) for each in zip(listeners, steps, records, strict=True)]
        for training, own in zip(trainings, spent, strict=True):
            training.pause(sum(spent) - own)


def _heard(listeners: list, step: Step, record: dict | None) -> float:
    r"""Calls the listeners of one training, and returns the seconds that they took."""
    began = time.perf_counter()
    for listener in listeners:
        listener.after(step, record)
    return time.perf_counter() - began


def _check(pairs: Sequence, seeds: Sequence, settings: dict) -> None:
    if not pairs or len(pairs) != len(seeds):
        raise ValueError(f"there are {len(pairs)} pairs and {len(seeds)} seeds; expected one seed for each, at least 1")
    given = [name for name in OWN if settings.get(name)]
    if given or settings.get("e_steps", 1) != 1:
        raise ValueError(
            f"{given[0] if given else 'e_steps'} is {settings[given[0] if given else 'e_steps']!r}; expected "
            "the default: trainings together have no run on disk, no further processes, and one step for each batch"
        )
    names = [set(_names(pair)) for pair in pairs]
    if len(set().union(*names)) < sum(map(len, names)):
        raise ValueError(
            "two of these trainings have programs of one name, for which Pyro's parameter store holds one set of "
            "parameters; expected names of their own, PyroModule.__init__(self, name), or one training after the other"
        )


def _names(pair: tuple) -> Iterator[str]:
    r"""Yields names in Pyro's parameter store: those of programs, and of parameters in modules below."""
    for program in pair:
        if isinstance(program, PyroModule):
            yield program._pyro_name
        yield from (name for name, _ in named_pyro_params(program))
