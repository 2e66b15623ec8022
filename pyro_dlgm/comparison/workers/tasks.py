r"""The rows of a comparison as tasks: trainings, scores of q, and scores of w, in turn or several at once."""

import contextlib
import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from ...guides.rows import in_files
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
    r"""Does the tasks here, one after the other, scores before trainings; as `pool.run`, but errors are raised."""
    while tasks:
        task = next((task for task in tasks if task.what != "trained"), tasks[0])
        tasks.remove(task)
        yield task, Outcome(task())


def trained_copy(method: Method, model, factory: Callable) -> Trained:
    r"""Returns a trained copy of the model, with its guide; rows in files are scored here, where they are open."""
    made = method.trained(copy.deepcopy(model), factory)
    if not in_files(made.model, made.guide):
        return made
    return made._replace(guide=None, q=method.scorer.of_q(made.model, made.guide))


class Tasks:
    r"""Creates the tasks of the rows, which grow: each training that has ended adds the scores of its row.

    No process waits long for the last row: its training comes before the scores of others, and scores of q and of w do
    not need each other. Frozen, the first row comes first, its w is that of the others, and it is scored once.

    Arguments:
        method: trains and scores.
        factories: of guides, by the names of the rows.
        model: the model to start from.
        frozen: whether the w that the first method has trained serves all rows.
    """

    def __init__(self, method: Method, factories: dict[str, Callable], model, frozen: bool):
        self.method, self.factories, self.frozen, self.names = method, factories, frozen, list(factories)
        self.todo, self.found = deque(), {name: {} for name in factories}
        self.model, self.w = None, None  # of the first row, and the score of its w
        self._train(self.names[:1] if frozen else self.names, model)

    def made(self, run: Callable) -> Iterator[Made]:
        r"""Yields what each method has made, in the order of the rows.

        Arguments:
            run: does the tasks of a deque that grows, `in_turn` or as `pool.run`.

        Raises:
            RunError: if a task of the row failed.
        """
        with contextlib.closing(run(self.todo)) as ends:
            for name in self.names:
                while not self._complete(name):
                    self._take(*next(ends))
                yield self._joined(name)

    def _train(self, names: list[str], model) -> None:
        self.todo.extend(
            Task(n, "trained", partial(trained_copy, self.method, model, self.factories[n])) for n in names
        )

    def _take(self, task: Task, end: Outcome) -> None:
        r"""Keeps the end of a task, and adds the tasks that waited for it."""
        row = self.found[task.row]
        if end.failure:
            row["failure"] = end.failure
        elif task.what != "trained":
            row[task.what] = end.value
        else:
            row["history"] = end.value.history
            self._score(task.row, end.value)

    def _score(self, name: str, trained: Trained) -> None:
        r"""Adds the scores of a row, and, of the first row if frozen, the other trainings."""
        scorer = self.method.scorer
        if trained.q is not None:
            self.found[name]["q"] = trained.q
        else:
            self.todo.append(Task(name, "q", partial(scorer.of_q, trained.model, trained.guide)))
        if self._shares_w(trained):
            self.found[name]["w"] = None
        else:
            self.todo.append(Task(name, "w", partial(scorer.of_w, trained.given)))
        if self.frozen and name == self.names[0]:
            self.model = trained.model if trained.given is trained.model else None
            self._train(self.names[1:], copy.deepcopy(trained.model).requires_grad_(False))
        self._sort()

    def _sort(self) -> None:
        r"""Sorts the tasks: scores by rows, then trainings; at the end the last training, scores of q, scores of w."""
        trainings = [task for task in self.todo if task.what == "trained"]
        late = len(trainings) < 2
        scores = [task for task in self.todo if task.what != "trained"]
        scores.sort(key=lambda task: (late and task.what == "w", self.names.index(task.row)))
        self.todo.clear()
        self.todo.extend((*trainings, *scores) if late else (*scores, *trainings))

    def _shares_w(self, trained: Trained) -> bool:
        r"""Whether log p(x | w) is that of the first row: its w is the same, and there are no global latents."""
        if self.model is None or trained.given is not trained.model:
            return False
        state, other = self.model.state_dict(), trained.model.state_dict()
        return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)

    def _complete(self, name: str) -> bool:
        row = self.found[name]
        if "failure" in row:
            raise RunError(f"{name} failed: {row['failure']}")
        return {"history", "q", "w"} <= row.keys()

    def _joined(self, name: str) -> Made:
        row = self.found.pop(name)
        w = row["w"] or self.w._replace(seconds=0.0)
        self.w = self.w or w
        return Made(row["history"], self.method.scorer.joined(w, row["q"]), row["q"].pair)
