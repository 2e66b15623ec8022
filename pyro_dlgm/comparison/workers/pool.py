r"""Processes with few threads each, which do tasks. One that dies ends no other."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing import connection

import torch

from ...messages import line
from .serving import Outcome, Task, sent, serve


def run(tasks: Iterable[Task], jobs: int, threads: int = 1) -> Iterator[tuple[Task, Outcome]]:
    r"""Calls each task in one of at most ``jobs`` processes, in their order, and yields those that have ended.

    Processes are spawned with torch's default dtype here, and end with this generator, as by Ctrl-C, or with this
    process. Their warnings become warnings here.

    Arguments:
        tasks: functions without arguments; lambdas and what they hold may be sent. If it is a deque, it is emptied, and
            the caller may add tasks at either end when one has ended.
        jobs: how many processes there are at a time, at least 1.
        threads: of torch, in each process.

    Yields:
        The task, and its `Outcome`.
    """
    waiting, busy = tasks if isinstance(tasks, deque) else deque(tasks), {}
    free = [Worker(threads) for _ in range(min(jobs, len(waiting)))]
    try:
        while waiting or busy:
            while waiting and len(busy) < jobs:
                worker, task = free.pop() if free else Worker(threads), waiting.popleft()
                busy[worker.pipe] = worker, task
                worker.give(task)
            for pipe in connection.wait(list(busy)):
                worker, task = busy.pop(pipe)
                end = worker.answer()
                if worker.process.is_alive():
                    free.append(worker)
                for text in end.warned:
                    warnings.warn(text, stacklevel=2)
                yield task, end
    finally:
        for worker in (*free, *(worker for worker, _ in busy.values())):
            worker.end()


def cores() -> int:
    r"""Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(jobs: int) -> int:
    r"""Returns how many threads each of ``jobs`` processes has, if they share the cores."""
    return max(1, cores() // jobs)


class Worker:
    r"""Creates a process that waits for tasks at the other end of a pipe."""

    def __init__(self, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, threads, torch.get_default_dtype()), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does

    def give(self, task: Task) -> None:
        r"""Sends a task; a process that has died says so in `answer`."""
        message = sent(task)
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(message)

    def answer(self) -> Outcome:
        r"""Waits for the end of the task."""
        try:
            received = self.pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join()
            return Outcome(None, _ended(self.process.exitcode))
        try:
            return pickle.loads(received)
        except Exception as error:
            return Outcome(None, f"what it returned cannot be read here: {type(error).__name__}: {line(error)}")

    def end(self) -> None:
        r"""Ends the process, whatever it is doing."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _ended(code: int) -> str:
    if code < 0:
        memory = ", as where there is too little memory: take fewer jobs" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{memory}"
    # Errors of tasks are answers: so this is one of the script, which a new process reads before it serves.
    hint = 'a script calls this under `if __name__ == "__main__":`'
    return f"its process ended with status {code}, for a reason that stands above; {hint}"
