r"""Trainings of rows in files that kill themselves at chosen moments, each of which is resumed beside one that is not.

Run as a program with a folder, it prints one line for each moment; words after it choose moments. All is done in
forked processes, so that imports are paid once; with one thread of torch there is nothing that a fork could lose.
"""

import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from killing import same, train, weights
from pyro_dlgm.guides.per_point import PerPoint

from pyro_dlgm.runs import checkpoint
from pyro_dlgm.storage import folder, journal, row_files
from pyro_dlgm.storage.journal import Journal
from pyro_dlgm.training import autosave, tensorboard
from pyro_dlgm.training.loop import Training

EPOCHS, SAVED = 7, 5  # of 3 steps; steps from one checkpoint to the next


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def at(owner, name, number, action):
    r"""The call of that number is made by ``action(original, *args)``."""
    original, calls = getattr(owner, name), iter(range(1, 10**9))

    def called(*args, **kwargs):
        return action(original, *args, **kwargs) if next(calls) == number else original(*args, **kwargs)

    setattr(owner, name, called)


def before(original, *args, **kwargs):
    die()


def after(original, *args, **kwargs):
    original(*args, **kwargs)
    die()


def torn(size):
    r"""Of a record only its first bytes are written; ``size`` is their number, or a part of all."""

    class File:
        def __init__(self, file):
            self.seek, self.file = file.seek, file

        def write(self, content):
            self.file.write(content[: size if isinstance(size, int) else int(size * len(content))])
            die()

    def action(original, log, content):
        log._file = File(log._file)
        original(log, content)

    return action


def half(original, table, dim, rows, values):
    r"""Half of the rows are written."""
    original(table, dim, rows[: len(rows) // 2], values[: len(rows) // 2])
    die()


def half_a_file(original, state, stream):
    stream.write(b"half")
    stream.flush()
    die()


MOMENTS = {
    "in the head of a record": lambda: at(Journal, "append", 13, torn(5)),
    "after the head of a record": lambda: at(Journal, "append", 13, torn(journal.OVERHEAD)),
    "in a record": lambda: at(Journal, "append", 13, torn(0.6)),
    "in the last byte of a record": lambda: at(Journal, "append", 13, torn(-1)),
    "after a record": lambda: at(Journal, "append", 13, after),
    "in the first record": lambda: at(Journal, "append", 1, torn(0.6)),
    "after the first record": lambda: at(Journal, "append", 1, after),
    "in the visits": lambda: at(torch.Tensor, "index_copy_", 4 * 12 + 1, half),
    "in the moments": lambda: at(torch.Tensor, "index_copy_", 4 * 12 + 3, half),
    "in the table": lambda: at(torch.Tensor, "index_copy_", 4 * 12 + 4, half),
    "after the table": lambda: at(torch.Tensor, "index_copy_", 4 * 12 + 4, after),
    "in a checkpoint": lambda: at(checkpoint.torch, "save", 3, half_a_file),
    "before the first checkpoint": lambda: at(checkpoint, "write", 1, before),
    "after the first checkpoint": lambda: at(checkpoint, "write", 1, after),
    "between checkpoint and journal": lambda: at(checkpoint, "write", 3, after),
    "before a journal is emptied": lambda: at(journal, "replace", 4, before),
    "after a journal is emptied": lambda: at(journal, "replace", 4, after),
    "in a new table": lambda: at(PerPoint, "_first_rows", 3, before),
    "before the end": lambda: at(checkpoint, "write", 6, before),
    "at the end": lambda: at(checkpoint, "write", 6, after),
}
# The header is written when the table is made, when a training takes it, and twice when its optimizer begins.
for number in range(1, 5):
    for name, action in (("before", before), ("after", after)):
        MOMENTS[f"{name} header {number}"] = lambda n=number, a=action: at(folder, "replace", n, a)
for number in range(1, 4):
    MOMENTS[f"before room {number} for moments"] = lambda n=number: at(row_files, "allocate", n, before)

# While a training that was killed three steps after its checkpoint is being resumed.
BACK = {
    "before the first record is taken back": lambda: at(row_files, "put_back", 1, before),
    "after the second record is taken back": lambda: at(row_files, "put_back", 2, after),
    "in a table that is taken back": lambda: at(torch.Tensor, "index_copy_", 4 + 3, half),
    "before the journal is cut": lambda: at(Journal, "cut", 1, before),
    "after the journal is cut": lambda: at(Journal, "cut", 1, after),
}


class Silent:
    r"""Nothing in place of TensorBoard, which waits for the next second when a run is resumed."""

    def __init__(self, *_):
        pass

    def after(self, step, record):
        pass

    def close(self):
        pass


def climb(out, prepare=lambda: None, resume=True):
    r"""A training with a checkpoint every few steps."""
    count, row_files.BLOCK = Training._count, 16

    def counted(self, step):
        count(self, step)
        autosave.EVERY = 0.0 if step.step % SAVED == 0 else 1e9

    Training._count = counted
    prepare()
    train("in_files", out, resume=resume, epochs=EPOCHS)


def in_a_fork(work, *args):
    r"""The signal that ended a process which does the work; 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work(*args)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a training failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def check(home, name, *preparations):
    r"""Kills a training once for each preparation, resumes it, and prints what came of it."""
    out = home / name.replace(" ", "-")
    killed = [in_a_fork(climb, out, prepare) == signal.SIGKILL for prepare in preparations]
    in_a_fork(climb, out)
    alike = same(weights(out), weights(home / "whole"))
    left = [file.name for file in out.iterdir() if file.name.startswith(".") or file.name.endswith(".new")]
    print(f"{name}: {'as it should be' if all(killed) and alike else f'killed {killed}, alike {alike}'}{left or ''}")


def main(home, *words):
    torch.set_num_threads(1)
    tensorboard.TensorBoard = Silent
    train("mean_field", home / "warm", epochs=1)  # what is imported at the first training, the forks have
    in_a_fork(climb, home / "whole")
    kills = {name: (prepare,) for name, prepare in MOMENTS.items()}
    kills |= {name: (MOMENTS["after a record"], prepare) for name, prepare in BACK.items()}
    for name, preparations in kills.items():
        if not words or any(word in name for word in words):
            check(home, name, *preparations)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
