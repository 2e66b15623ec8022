r"""Tasks in processes with few threads each. A task that fails, and a process that dies, end nothing but themselves."""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import NamedTuple

import joblib
import torch

from ..messages import line

Task = Callable[[], object]
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


class Outcome(NamedTuple):
    r"""The end of a task.

    Attributes:
        value: what it returned; `None` if it failed.
        failure: why it failed, in one line, or `None`.
        warned: the texts of its warnings.
    """

    value: object
    failure: str | None = None
    warned: tuple[str, ...] = ()


def run(tasks: Sequence[Task], jobs: int, threads: int = 1) -> Iterator[tuple[Task, Outcome]]:
    r"""Calls each task in one of at most ``jobs`` processes, in their order, and yields those that have ended.

    Processes are spawned with torch's default dtype here, and end with this generator, as by Ctrl-C, or with this
    process. Their warnings become warnings here.

    Arguments:
        tasks: functions without arguments; lambdas and what they hold may be sent.
        jobs: how many processes there are at a time, at least 1.
        threads: of torch, in each process.

    Yields:
        The task, and its `Outcome`.
    """
    waiting, busy = deque(tasks), {}
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


def serve(pipe, threads: int, dtype: torch.dtype) -> None:
    r"""Calls the tasks that arrive, until the pipe or the first process ends, and answers each with its `Outcome`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one decides
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    _keep_freed_memory()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(outcome(pipe.recv_bytes()))


def _keep_freed_memory() -> None:
    r"""Lets glibc keep arrays of less than 64 MB when they are freed, for the next ones.

    The same arrays come and go at each step. By default the pages of those above 32 MB, and what is free at the end of
    the heap, go back to the system and come again, cleared: about a twentieth of the time of a comparison. Up to 1 GB
    stays with each process instead.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # there is no glibc
        mallopt = ctypes.CDLL(None).mallopt
        # Older ones accept 32 MB at most; a threshold of the other kind alone would make small arrays slower.
        if mallopt(M_MMAP_THRESHOLD, 1 << 26) or mallopt(M_MMAP_THRESHOLD, 1 << 25):
            mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def sent(thing) -> bytes:
    r"""Returns a task or an outcome as bytes; functions and classes of a notebook or a script go by value."""
    return pickle.dumps(joblib.wrap_non_picklable_objects(thing, keep_wrapper=False))


def outcome(received: bytes) -> bytes:
    r"""Calls a task that was sent, and returns its `Outcome` as bytes."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        try:
            value, failure = pickle.loads(received)(), None
        except Exception as error:
            value, failure = None, f"{type(error).__name__}: {line(error)}"
    warned = tuple(dict.fromkeys(str(one.message) for one in seen if issubclass(one.category, UserWarning)))
    try:
        return sent(Outcome(value, failure, warned))
    except Exception as error:
        return sent(Outcome(None, f"what it returned cannot be sent: {type(error).__name__}: {line(error)}", warned))
