r"""Trainings on several processes, against one process on the same batches, and against themselves after a break."""

import contextlib
import copy
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from killing import records, same
from pyro_dlgm.guides.rows import Rows
from ranks import (
    KINDS,
    OF_RUN,
    SIZE,
    WEIGHT,
    D,
    N,
    P,
    moments,
    of_bad_step,
    of_command,
    of_draws,
    of_failure,
    of_full_disk,
    of_one_batch_in_parts,
    of_other_arguments,
    of_other_state,
    of_run,
    of_vanishing_gradient,
    on_ranks,
    pair,
    points,
    replayed,
)
from torch import nn
from torch.distributions import normal

from pyro_dlgm import SVI, Points, fit, guides, load, objectives
from pyro_dlgm.cli.main import main
from pyro_dlgm.optim.svi import adam
from pyro_dlgm.ranks.batches import RankBatches, parts
from pyro_dlgm.ranks.group import Alone
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.run import Run
from pyro_dlgm.storage import orders
from pyro_dlgm.training import session

# The gradient of one process


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_take_the_steps_of_one_on_the_union_of_their_batches(kind, tmp_path, monkeypatch):
    (one, steps, (dense, rows), weights, history), (other, same_steps, (same_dense, more_rows), _, same_history) = (
        on_ranks(2, tmp_path / "ranks", of_one_batch_in_parts, kind)
    )
    assert steps == same_steps and all(map(torch.equal, dense, same_dense)) and history == same_history

    monkeypatch.setattr(normal, "_standard_normal", replayed)
    model, guide = (part.double() for part in pair(kind))
    x = points(torch.float64)
    guide.prepare(lambda: Points(x))
    svi = SVI(model, guide, adam(model, guide), objectives.ELBO(), clip_norm=3.0, check_every=1)
    unions = [torch.cat(pair) for pair in zip(one, other, strict=True)]
    total = 0
    for (e_step, step), (loss, norm, num) in zip(zip(unions[::2], unions[1::2], strict=True), steps, strict=True):
        assert torch.equal(e_step, step)
        batch = {"weight": WEIGHT[step], "size": N, "factor": 1 / N}
        svi.e_step(x[step], step, **batch)
        expected = svi.step(x[step], step, **batch)
        assert float(expected) == pytest.approx(loss, abs=1e-9)
        assert float(svi.gradient_norm) == pytest.approx(norm, abs=1e-9) and num == len(step)
        total += float(expected) * num
    visited = torch.cat(unions[::2])
    assert torch.equal(visited.sort().values, torch.arange(N))
    assert history[0]["elbo"] == pytest.approx(-total / float(WEIGHT.sum()), abs=1e-6)
    expected_dense, expected_rows = moments(svi.optimizers)
    torch.testing.assert_close(dense, expected_dense, rtol=0, atol=1e-6)
    torch.testing.assert_close([torch.cat(both) for both in zip(rows, more_rows, strict=True)], expected_rows)
    torch.testing.assert_close(weights[0], next(model.parameters()).detach(), rtol=0, atol=1e-6)


def test_a_gradient_that_exists_in_no_process_moves_nothing(tmp_path):
    r"""Adam moves a parameter whose gradient is 0 by its momentum, and leaves one without a gradient where it is."""
    (shifts, counted), (same_shifts, same_counted) = on_ranks(2, tmp_path / "ranks", of_vanishing_gradient)
    assert all(map(torch.equal, shifts, same_shifts)) and counted == same_counted
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(shifts)]
    assert sum(moved) == counted - 1 and moved == sorted(moved, reverse=True) and 1 < counted < 7


# Points and draws of each process


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize(("N", "size"), [(21, 6), (30, 30), (100, 7), (9, 3)])
def test_parts_of_batches_are_disjoint_and_together_all_points(N, size, num, monkeypatch):
    for whole in (2**20, 3):  # orders as permutations, and from seeds
        monkeypatch.setattr("pyro_dlgm.data.batches.WHOLE", whole)
        monkeypatch.setattr(orders, "CHUNK", 4)
        made = [RankBatches(torch.arange(N).unsqueeze(1), size, rank=rank, num=num) for rank in range(num)]
        for _ in range(2):
            passes = [list(part) for part in made]
            assert {len(batches) for batches in passes} == {-(-N // size)}
            unions = [torch.cat([b.index for b in batches]) for batches in zip(*passes, strict=True)]
            assert max(map(len, unions)) <= size + num - 1
            assert torch.equal(torch.cat(unions).sort().values, torch.arange(N))
            assert [{*b.index.tolist()} <= {*parts(N, num)[r]} for r in range(num) for b in passes[r]].count(False) == 0


@pytest.mark.parametrize("whole", [2**20, 3])
def test_a_part_goes_on_from_any_step_and_knows_the_union(whole, monkeypatch):
    monkeypatch.setattr("pyro_dlgm.data.batches.WHOLE", whole)
    made = [RankBatches(points(), SIZE, rank=rank, num=2) for rank in range(2)]
    passes = [[(b.index, part.together(b), part.state_dict()) for b in part] for part in made]
    for both in zip(*passes, strict=True):
        assert {together for _, together, _ in both} == {sum(len(index) for index, _, _ in both)}
    for rank, batches in enumerate(passes):  # two of the four batches of 10 points are longer, three of 11
        for step, (_, _, state) in enumerate(batches[:-1]):
            again = RankBatches(points(), SIZE, rank=rank, num=2)
            again.load_state_dict(state)
            left = [b.index for b in again]
            assert all(torch.equal(a, b) for a, (b, _, _) in zip(left, batches[step + 1 :], strict=True))


def test_processes_draw_different_numbers_for_one_model(tmp_path):
    r"""Also where the user has seeded all of them alike, which the group of these processes does."""
    (a, w, after), (b, same_w, after_b) = on_ranks(2, tmp_path / "seed", of_draws, 3)
    (c, *_), (d, *_) = on_ranks(2, tmp_path / "none", of_draws, None)
    draws = torch.cat([a, b, c, d])
    assert len(draws.unique()) == len(draws)
    assert len(w) == 3 and all(map(torch.equal, w, same_w)) and torch.equal(after, after_b)


# Runs on disk


def state(out):
    r"""All tensors of model, guide and optimizers in a run's checkpoint."""
    found = Run(out).load()
    moments = [v for o in found["optimizers"] for held in o["state"].values() for v in held.values()]
    return dict(enumerate([*found["model"].values(), *found["guide"].values(), *moments]))


def test_a_run_goes_on_with_as_many_processes_as_if_it_had_never_stopped(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    histories = on_ranks(2, tmp_path / "a", of_run, whole)
    assert histories[0] == histories[1] and [r["epoch"] for r in histories[0]] == [1, 2, 3]
    assert "val_elbo" in histories[0][0]
    assert on_ranks(2, tmp_path / "b", of_run, broken, 3, 7) == ["broken", "broken"]
    assert Run(broken).load()["step"] == 6
    other = tmp_path / "other"
    shutil.copytree(broken, other)

    assert on_ranks(2, tmp_path / "c", of_run, broken) == histories
    assert same(state(broken), state(whole))
    assert [r["elbo"] for r in records(broken)] == [r["elbo"] for r in histories[0]]
    files = {file.name for file in broken.glob("checkpoint*")}
    assert files == {"checkpoint.pt", *Run(broken).load()["parts"]}
    # Files of rows have new names, so that a kill in between leaves those that the former checkpoint names.
    assert Run(broken).load()["saves"] > Run(other).load()["saves"] > 1

    goes_on_with_others(other, tmp_path)


def goes_on_with_others(out, folder):
    r"""A run of two processes on three, and then on one: rows and moments are where they were, and all steps come."""
    before = [h["elbo"] for h in records(out)]
    histories = on_ranks(3, folder / "d", of_run, out)
    assert histories[0] == histories[2] and [h["elbo"] for h in histories[0]][: len(before)] == before
    assert len(histories[0]) == 3
    held = state(out)
    assert on_ranks(2, folder / "e", of_run, out)[1] == histories[0]  # takes no step
    assert same(held, state(out)) and len(Run(out).load()["ranks"]) == 2
    model, guide = pair("mean_field")
    fit(model, guide, points(), **OF_RUN, epochs=3, out=out, resume=True)
    assert same(held, state(out)) and {file.name for file in out.glob("checkpoint*")} == {"checkpoint.pt"}
    assert on_ranks(2, folder / "f", of_run, out)[1] == histories[0]  # and back
    assert same(held, state(out))
    read = load(out, model=model, guide=copy.deepcopy(guide))[1]
    assert all(map(torch.equal, read.state_dict().values(), guide.state_dict().values()))


def test_a_checkpoint_stays_whole_if_a_process_cannot_write_the_next_one(tmp_path):
    first, second = on_ranks(2, tmp_path / "ranks", of_full_disk, tmp_path / "x")
    assert second == "no room" and "process 1 ended with RunError: no room" in first
    assert (tmp_path / "x" / "checkpoint-2-0-of-2.pt").exists() and Run(tmp_path / "x").load()["saves"] == 1
    assert len(on_ranks(2, tmp_path / "again", of_run, tmp_path / "x")[0]) == 3
    assert not list((tmp_path / "x").glob("checkpoint-2-*"))


def test_a_checkpoint_without_the_rows_of_a_process_is_refused(tmp_path):
    on_ranks(2, tmp_path / "ranks", of_run, tmp_path / "x", 1)
    next((tmp_path / "x").glob("checkpoint-*-1-of-2.pt")).unlink()
    with pytest.raises(RunError, match=r"1-of-2.pt is not there, which .*checkpoint.pt needs; copy the whole folder"):
        load(tmp_path / "x", model=pair("mean_field")[0], guide=guides.MeanField(N, D))


# Errors


@pytest.mark.parametrize("bad", ["row", "loss"])
def test_no_process_takes_a_step_that_is_not_finite_in_one(bad, tmp_path):
    (innocent, w), (guilty, same_w) = on_ranks(2, tmp_path / "ranks", of_bad_step, bad)
    assert "at step 3" in guilty and "at step 3" in innocent
    assert "finite in this process: the error of another one says more" in innocent
    assert ("guide.rows.weight" if bad == "row" else r"site 'x' is not finite in rows [1") in guilty
    assert all(map(torch.equal, w, same_w)) and all(p.isfinite().all() for p in w)


REFUSED = {
    "compile is True": {"compile": True},
    "e_steps is 'converged'": {"e_steps": "converged"},
    "x is a list": {"x": [Points(points())], "size": N, "batch_size": None},
    "the objective is FreeBits": {"objective": objectives.FreeBits(0.1)},
    "BatchNorm1d has moments of the whole batch": {"net": nn.Sequential(nn.Linear(D, P), nn.BatchNorm1d(P))},
    "the guide is Chain, which moves by itself": {"guide": lambda model: guides.Chain(model, N, D)},
    "the guide is Auto, whose": {"guide": lambda model: guides.auto(model, "AutoNormal", N)},
    "patience is 2 and SeenRows has rows": {"patience": 2, "x_val": points()},
    "batch_size is 1, which takes 21 steps": {"batch_size": 1},
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_several_processes_do_not_support_is_refused_by_name(said, monkeypatch):
    two = Alone()
    two.num = 2
    monkeypatch.setattr(session, "joined", lambda *_: contextlib.nullcontext(two))
    settings = dict(REFUSED[said])
    model, guide = pair("mean_field", settings.pop("net", None))
    guide = settings.pop("guide", lambda _: guide)(model)
    with pytest.raises(ValueError, match=f"{re.escape(said)}.*; expected"):
        fit(model, guide, **{"x": points(), "epochs": 1, "batch_size": SIZE, "ranks": True} | settings)


def test_rows_in_files_are_refused(tmp_path, monkeypatch):
    two = Alone()
    two.num = 2
    monkeypatch.setattr(session, "joined", lambda *_: contextlib.nullcontext(two))
    guide = guides.MeanField(N, D, folder=tmp_path)
    with pytest.raises(ValueError, match=r"rows are in files.*leave out folder="):
        fit(pair("mean_field")[0], guide, points(), epochs=1, ranks=True)


def test_ranks_need_a_launcher_or_a_group():
    with pytest.raises(ValueError, match=r"neither a process group of torch nor RANK, .*torchrun --nproc-per-node=2"):
        fit(*pair("amortized"), points(), epochs=1, ranks=True)


def test_processes_that_were_called_differently_say_so(tmp_path):
    first, second = on_ranks(2, tmp_path / "ranks", of_other_arguments)
    assert second.startswith("epochs is 2 in process 1 and 1 in process 0")
    assert f"process 1 ended with ValueError: {second[:60]}" in first and "resume=True" in first


@pytest.mark.parametrize("where", ["work", "message"])
def test_the_error_of_one_process_is_named_in_all(where, tmp_path):
    (name, said), guilty = on_ranks(2, tmp_path / "ranks", of_failure, where)
    assert guilty == ("OutOfMemoryError", "no room for 3 GiB")
    assert name == "LostProcess" and said.startswith("process 0 has lost the others (")
    assert "): process 1 ended with OutOfMemoryError: no room for 3 GiB. Go on from the last checkpoint" in said


def test_a_checkpoint_that_does_not_fit_one_process_is_named(tmp_path):
    on_ranks(2, tmp_path / "a", of_run, tmp_path / "x", 1)
    first, second = on_ranks(2, tmp_path / "b", of_other_state, tmp_path / "x")
    assert second == f"{tmp_path}/x/checkpoint.pt is of another pair or training: 'moments'"
    assert f"process 1 ended with RunError: {second}" in first


def test_a_table_asked_for_rows_of_another_process_says_where_they_are():
    table = Rows(torch.arange(10.0).unsqueeze(1))
    table.keep(range(4, 7))
    assert table(torch.tensor([6, 4])).tolist() == [[6.0], [4.0]]
    with pytest.raises(ValueError, match=r"goes from 3 to 4, and this process has the rows of points 4 to 6.*load"):
        table(torch.tensor([3, 4]))


# The command line


def test_the_first_process_alone_says_lines_and_writes_a_report(tmp_path):
    np.save(tmp_path / "x.npy", points().numpy())
    line = f"fit --data {tmp_path}/x.npy --latents 2 --epochs 2 --batch-size 10 --out {tmp_path}/run"
    (code, said, error), (other_code, *other) = on_ranks(2, tmp_path / "ranks", of_command, line)
    assert (code, error) == (0, "") and "Done: epoch 2, step 4: elbo " in said and "Report: " in said
    assert (other_code, other) == (0, ["", ""])
    assert len(records(tmp_path / "run")) == 2 and (tmp_path / "run" / "report.html").exists()
    for code, said, error in on_ranks(2, tmp_path / "again", of_command, f"{line}2 --download"):
        assert (code, said) == (2, "") and "--download is given on several processes; expected the data" in error


LETHAL = """
import os, signal
from pyro_dlgm import likelihoods
from pyro_dlgm.training import autosave

if "RANK" in os.environ:
    autosave.EVERY = 0.0


class Fixed(likelihoods.FixedNormal):
    calls = 0

    def forward(self, t, mask=None, given=None):
        Fixed.calls += 1
        if os.environ.get("RANK") == "1" and Fixed.calls == 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(t, mask)


def lethal(net):
    return Fixed(net, 0.5)
"""


def finished(command):
    r"""Return code, output and errors of a command, which gets a signal that it passes on if it does not end."""
    settings = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings) as process:
        try:
            said = process.communicate(timeout=300)
        finally:
            process.terminate()
    return process.returncode, *said


def test_torchrun_ends_with_a_killed_process_and_its_run_goes_on_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lethal.py").write_text(LETHAL)
    np.save("x.npy", points().numpy().repeat(3, 0))
    arguments = "fit --data x.npy --likelihood lethal:lethal --guide mean-field --latents 2 --epochs 30 --out run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    code, said, errors = finished([*launcher, "-m", "pyro_dlgm", *arguments.split(), "--batch-size", "10"])
    assert code == 1 and "Signal 9 (SIGKILL)" in errors, errors
    print(errors)
    assert said.count("epoch 1, step 6:") == 1
    saved = Run("run").load()
    assert 6 < saved["step"] < 40 and saved["guide"]["rows.weight"].shape == (57, 4)
    calls = [
        "fit --out run --resume --likelihood lethal:lethal",
        "evaluate run --iwae 25 --likelihood lethal:lethal",
    ]
    for line in calls:
        said = CliRunner().invoke(main, line.split(), catch_exceptions=False)
        assert said.exit_code == 0, said.output
    assert [r["epoch"] for r in records(Path("run"))] == list(range(1, 31))
