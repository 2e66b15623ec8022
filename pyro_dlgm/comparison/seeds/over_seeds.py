r"""`compare_seeds`: each row of a comparison over several seeds, in processes."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from ...points import Points
from ...progress import Bar
from ...runs.files import discard_unfinished
from ...runs.run import Run
from ..workers import pool
from .gathered import SeedRow, gathered
from .part import Done, Part
from .planned import planned
from .together import at_once

FOLDER = "seeds"  # in the folder of a comparison


def compare_seeds(
    model_factory: Callable,
    guide_factories: dict[str, Callable],
    x_train: Tensor | Points,
    x_test: Tensor | Points,
    *,
    seeds: int,
    seed: int = 0,
    jobs: int | None = None,
    together: bool | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    **settings,
) -> list[SeedRow]:
    r"""Trains and scores all methods at the seeds ``seed``, ``seed + 1``, ..., and returns their rows over seeds.

    The work is done in spawned processes with one thread each, so a script calls this function under
    ``if __name__ == "__main__":``. Each row at each seed is then what `compare` gives for it with one thread, bit for
    bit on the same machine, but for the difference to the first row: random numbers depend on the seed alone, and one
    thread adds up in one order. On a GPU, all seeds of a row are trained at once instead (``together``). If a row fails
    at a seed, the others go on, and `SeedRow.failed` says why. Rows that ``out`` holds are kept as they are, whatever
    has changed in the code of classes since.

    With S seeds and d_s the difference between two rows at seed s, its mean d̄ has the standard error sd(d) / √S and
    the 95% interval d̄ ± t sd(d) / √S, with Student's t of S − 1 degrees of freedom. A row may be called the winner on
    a score if the interval of its difference to each other row is above 0 (`winner`). Data and test points are the
    same for all seeds, so this is a statement on what training makes of these data.

    Arguments:
        model_factory, guide_factories, x_train, x_test: as in `compare`.
        seeds: the number S of seeds; with 1 there are no errors over seeds and no winner.
        seed: the first one.
        jobs: how many processes work at a time; by default one for each core that this process may use.
        together: whether all seeds of a row are trained at once in this process, in steps that are one for all of them,
            and then scored one after the other. Numbers are those of processes up to rounding, and the seconds of a
            training those of all seeds. By default where the points are on a GPU and there are no ``jobs``; on a CPU,
            processes take less time.
        out: a folder. What is finished is kept in ``out/seeds``, and not done again by another call, with more seeds or
            more guides too; with `None`, nothing is kept.
        progress: whether to show a bar that counts rows times seeds.
        settings: the other arguments of `compare`, such as ``gradients``, ``ppca``, ``certify`` and ``frozen``.

    Returns:
        A `SeedRow` for each method, a reference first.

    Raises:
        RunError: if ``out`` holds rows of another comparison or is in use, or if everything failed.
        ValueError: if ``seeds`` or ``jobs`` is below 1, there is no guide, or ``together`` comes with ``jobs``.

    Example:
        >>> import torch
        >>> from pyro_dlgm import DLGM, compare_seeds, guides, likelihoods, nets, priors
        >>> def model():
        ...     return DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(nets.Linear(1, (3,))))
        >>> q = {"encoder": lambda model, N: guides.Amortized(nets.MLP(3, 4, (8,)), 1)}
        >>> x, x_test = torch.randn(20, 3), torch.randn(9, 3)
        >>> (row,) = compare_seeds(model, q, x, x_test, seeds=2, jobs=1, gradients=2, num_samples=25)
        >>> sorted(row.rows), row.spread("test_elbo").standard_deviation > 0
        ([0, 1], True)
    """
    if together and jobs is not None:
        raise ValueError(f"jobs is {jobs} and together True; expected one of them: together, there are no processes")
    if together is None:
        together = jobs is None and getattr(Points.of(x_train).x, "is_cuda", False)
    with _folder(out) as folder:
        parts = planned(
            model_factory, guide_factories, x_train, x_test, seeds=seeds, seed=seed, folder=folder, **settings
        )
        done = []
        with Bar(len(parts), shown=progress, name="rows x seeds") as bar:
            for end in run(parts, folder, jobs, together):
                done.append(end)
                bar.tick()
        return gathered(parts, done)


@contextlib.contextmanager
def _folder(out: str | Path | None):
    if out is not None:
        yield Path(out).expanduser() / FOLDER
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def run(parts: list[Part], folder: Path, jobs: int | None = None, together: bool = False) -> Iterator[Done]:
    r"""Does the parts that are not kept yet, and yields all of them, the kept ones first.

    Arguments:
        parts: of `planned`.
        folder: where they are kept.
        jobs: how many processes work at a time; by default one for each core.
        together: whether to train all seeds of a row at once, in this process.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs is {jobs}; expected at least 1 process")
    lock = Run(folder)
    lock.lock()
    try:
        kept = {part.file: part.kept() for part in parts}
        yield from (Done(part, kept[part.file]) for part in parts if kept[part.file] is not None)
        missing = [part for part in parts if kept[part.file] is None]
        for part in missing:
            discard_unfinished(part.file)
        for phase in _phases(missing):
            yield from at_once(phase) if together else _done(phase, jobs or pool.cores())
    finally:
        lock.unlock()


def _phases(parts: list[Part]) -> list[list[Part]]:
    r"""Returns the parts that need no others, then the rest: with one w, the first row makes it for the others."""
    of_w = [part for part in parts if part.frozen == part.name]
    return [of_w, [part for part in parts if part.frozen != part.name]]


def _done(parts: list[Part], jobs: int) -> Iterator[Done]:
    for part, end in pool.run(parts, jobs):
        yield Done(part, None, end.failure) if end.failure else Done(part, part.kept())
