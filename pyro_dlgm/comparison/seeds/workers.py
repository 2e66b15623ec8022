r"""Tasks in processes with one thread each. A task that fails, and a process that dies, end nothing but themselves."""

import contextlib
import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection

import joblib
import torch

from ...messages import line

Task = Callable[[], None]


def run(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, str | None]]:
    r"""Calls each task in one of at most ``jobs`` processes, in their order, and yields those that have ended.

    Processes are spawned, and each has one thread of torch. When this generator is closed, as by Ctrl-C, they end.

    Arguments:
        tasks: functions without arguments; lambdas and what they hold may be sent.
        jobs: how many processes there are at a time, at least 1.

    Yields:
        The task, and `None`, or why it failed, in one line.
    """
    waiting, busy = deque(tasks), {}
    free = [Worker() for _ in range(min(jobs, len(waiting)))]
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker, task = free.pop() if free else Worker(), waiting.popleft()
                busy[worker.pipe] = worker, task
                worker.give(task)
            for pipe in connection.wait(list(busy)):
                worker, task = busy.pop(pipe)
                said = worker.answer()
                if worker.process.is_alive():
                    free.append(worker)
                yield task, said
    finally:
        for worker in (*free, *(worker for worker, _ in busy.values())):
            worker.end()


class Worker:
    r"""Creates a process that waits for tasks at the other end of a pipe."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def give(self, task: Task) -> None:
        r"""Sends a task; a process that has died says so in `answer`."""
        message = sent(task)
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(message)

    def answer(self) -> str | None:
        r"""Waits for the end of the task: `None`, or why it failed."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return _ended(self.process.exitcode)

    def end(self) -> None:
        r"""Ends the process, whatever it is doing."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _ended(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    # Errors of tasks are answers: so this is one of the script, which a new process reads before it serves.
    hint = 'a script calls this under `if __name__ == "__main__":`'
    return f"its process ended with status {code} and has said why above; {hint}"


def serve(pipe) -> None:
    r"""Calls the tasks that arrive, until the pipe ends, and answers each with `None` or with its error in one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(outcome(pipe.recv_bytes()))


def sent(task: Task) -> bytes:
    r"""Returns a task as bytes; functions of a notebook or a script, which no module has, go by value."""
    return pickle.dumps(joblib.wrap_non_picklable_objects(task))


def outcome(received: bytes) -> str | None:
    r"""Calls a task that was sent; returns `None`, or its error in one line."""
    try:
        pickle.loads(received)()
    except Exception as error:
        return f"{type(error).__name__}: {line(error)}"
    return None
