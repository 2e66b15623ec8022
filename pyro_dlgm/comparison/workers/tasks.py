r"""The rows of a comparison as tasks: trainings, scores of q, and scores of w, in turn or several at once."""

import contextlib
import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from ...guides.programs.given import given_globals
from ...runs.files import RunError
from ..method import Made, Method, Trained
from .serving import Outcome


@dataclass(frozen=True, eq=False)
class Task:
    r"""Creates a task of a row: ``what`` is "trained", "q" or "w"."""

    row: str
    what: str
    do: Callable

    def __call__(self):
        return self.do()


def in_turn(tasks: deque[Task]) -> Iterator[tuple[Task, Outcome]]:
    r"""Does the tasks here, one after the other, as `pool.run` does in processes; errors are raised."""
    while tasks:
        task = tasks.popleft()
        yield task, Outcome(task())


class Tasks:
    r"""Creates the tasks of the rows, which grow: each training that has ended adds the scores of its row.

    Scores of q and of w do not need each other, so that the last row may be scored by two processes. Frozen, the first
    row comes first, its w is that of the others, and it is scored once.

    Arguments:
        method: trains and scores.
        factories: of guides, by the names of the rows.
        model: the model to start from.
        frozen: whether the w that the first method has trained serves all rows.
    """

    def __init__(self, method: Method, factories: dict[str, Callable], model, frozen: bool):
        self.method, self.factories = method, factories
        names = list(factories)
        self.first = names[0] if frozen and names else None
        self.todo, self.found = deque(), {name: {} for name in names}
        self._train(names[:1] if frozen else names, model)

    def made(self, run: Callable) -> Iterator[Made]:
        r"""Yields what each method has made, in the order of the rows.

        Arguments:
            run: does the tasks of a deque that grows, `in_turn` or as `pool.run`.

        Raises:
            RunError: if a task of the row failed.
        """
        with contextlib.closing(run(self.todo)) as ends:
            for name in self.factories:
                while not self._complete(name):
                    self._take(*next(ends))
                yield self._joined(name)

    def _train(self, names: list[str], model) -> None:
        for name in names:
            do = partial(self.method.trained, copy.deepcopy(model), self.factories[name])
            self.todo.append(Task(name, "trained", do))

    def _take(self, task: Task, end: Outcome) -> None:
        r"""Keeps the end of a task, and adds the tasks that waited for it, those of its row before all others."""
        row = self.found[task.row]
        row["failure" if end.failure else task.what] = end.failure or end.value
        if end.failure or task.what != "trained":
            return
        pair, scorer = (end.value.model, end.value.guide), self.method.scorer
        if not self._shares_w(end.value):
            self.todo.appendleft(Task(task.row, "w", partial(scorer.of_w, *pair)))
        else:
            row["w"] = None
        self.todo.appendleft(Task(task.row, "q", partial(scorer.of_q, *pair)))
        if task.row == self.first:
            self._train(list(self.factories)[1:], copy.deepcopy(end.value.model).requires_grad_(False))

    def _shares_w(self, trained: Trained) -> bool:
        r"""Whether log p(x | w) is that of the first row: its w is the same, and there are no global latents."""
        of_w = self.found[self.first]["trained"] if self.first else trained
        if of_w is trained or not all(given_globals(t.model, t.guide)[0] is t.model for t in (of_w, trained)):
            return False
        state, other = of_w.model.state_dict(), trained.model.state_dict()
        return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)

    def _complete(self, name: str) -> bool:
        row = self.found[name]
        if "failure" in row:
            raise RunError(f"{name} failed: {row['failure']}")
        return {"trained", "q", "w"} <= row.keys()

    def _joined(self, name: str) -> Made:
        row = self.found[name] if name == self.first else self.found.pop(name)
        w = row["w"] or self.found[self.first]["w"]._replace(seconds=0.0)
        return Made(row["trained"].history, self.method.scorer.joined(w, row["q"]), row["q"].pair)
