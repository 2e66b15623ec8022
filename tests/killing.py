r"""Trainings that are killed at random moments, or run out of disk, and are resumed, beside one that never was."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pyro_dlgm import DLGM, fit, guides, likelihoods, nets, priors
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.run import Run
from pyro_dlgm.training import autosave
from pyro_dlgm.training.loop import Training

N, D, SHAPE, EPOCHS, BATCHES = 60, 2, (1, 5, 4), 40, 3
KINDS = ("mean_field", "amortized", "auto_normal", "in_files")
FILES = {"weight": 2 * N * D, "visits": N, "exp_avg": 2 * N * D, "exp_avg_sq": 2 * N * D}  # numbers
PAUSE = 0.002  # seconds after each step, so that a kill hits a given one


def pair(kind, out=None):
    r"""A small model with the guide of that kind, always from the same start; rows in files are in the run's folder."""
    torch.manual_seed(1)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, SHAPE, (8,)), 0.5))
    make = {
        "mean_field": lambda: guides.MeanField(N, D),
        "in_files": lambda: guides.MeanField(N, D, folder=out, block=16),
        "auto_normal": lambda: guides.auto(model, "AutoNormal", N),
        "amortized": encoder,
        "chain": lambda: guides.Chain(model, N, D, num_states=2, num_leapfrog=2),
        "hybrid": lambda: guides.Hybrid(model, encoder(), num_leapfrog=2),
        "semi_amortized": lambda: guides.SemiAmortized(model, encoder(), 2),
        "flow": lambda: guides.Flow(nets.MLP(SHAPE, 8, (8,)), D),
        "flow_rows": lambda: guides.FlowRows(N, D),
    }
    return model, make[kind]()


def encoder():
    r"""q(t | x)."""
    return guides.Amortized(nets.MLP(SHAPE, 8, (8,)), D)


def points():
    r"""The data."""
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))


def train(kind, out, resume=False, epochs=EPOCHS, **settings):
    r"""A training with all that a checkpoint has to keep: order of the data, schedule, noise of the transform."""
    settings = {"batch_size": N // BATCHES, "schedule": "cosine", "transform": jitter, "seed": 3} | settings
    return fit(*pair(kind, out), points(), epochs=epochs, out=out, resume=resume, **settings)


def jitter(x):
    r"""x with noise that is drawn afresh."""
    return x + 0.01 * torch.rand_like(x)


def aloud(kind, out, epochs):
    r"""What the processes do that are killed: a training that says each step, with checkpoints all the time."""
    count, autosave.EVERY = Training._count, PAUSE

    def said(self, step):
        count(self, step)
        print(step.step, flush=True)
        time.sleep(PAUSE)

    Training._count = said
    train(kind, out, resume=True, epochs=epochs)


def killed(kind, out, step, delay, epochs=EPOCHS):
    r"""Starts or resumes a training, kills it a moment after that step, and returns the step of its checkpoint."""
    folder = str(Path(__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); import killing; killing.aloud({kind!r}, {str(out)!r}, {epochs})"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        while int(process.stdout.readline()) < step:
            pass
        time.sleep(delay)
        process.kill()
    assert process.returncode == -signal.SIGKILL, f"the process ended by itself, with {process.returncode}"
    return Run(out).load()["step"]


def moments(kind, kills, epochs, seed=0):
    r"""Random (step, seconds after it), one in the first three quarters of each of so many parts of the training."""
    draws, part = random.Random(f"{kind} {seed}"), epochs * BATCHES / kills
    return [(int(k * part + draws.uniform(0, 0.75 * part)) + 2, draws.uniform(0, 5 * PAUSE)) for k in range(kills)]


def faults(kind, folder, kills, epochs=EPOCHS, seed=0):
    r"""What is wrong with a training that was killed so many times: nothing, that is [].

    Two trainings that nobody disturbs must agree, and the killed one with them: in weights, bit for bit, in records,
    and in the steps that TensorBoard shows. Each kill must leave a checkpoint that can be read, from the step before
    the kill or later.
    """
    a, b, broken = (folder / f"{kind}-{name}" for name in ("a", "b", "killed"))
    for out in (a, b):
        train(kind, out, epochs=epochs)
    found = [] if same(weights(a), weights(b)) else ["two undisturbed trainings differ"]
    for step, delay in moments(kind, kills, epochs, seed):
        kept = killed(kind, broken, step, delay, epochs)
        if not step - 2 <= kept < epochs * BATCHES:
            found.append(f"killed after step {step}, the checkpoint is of step {kept}")
    train(kind, broken, resume=True, epochs=epochs)
    if not same(weights(a), weights(broken)):
        found.append("the weights differ")
    if said(a) != said(broken):
        found.append("metrics.jsonl differs")
    steps = list(range(BATCHES, epochs * BATCHES + 1, BATCHES))
    found += [f"TensorBoard shows other steps of {name}" for name, shown in logged(broken).items() if shown != steps]
    return found + [f"{file.name} was left" for file in broken.glob(".*")]


def weights(folder):
    r"""All tensors of model and guide in a run's checkpoint, and what is in files beside it."""
    state = Run(folder).load()
    held = {
        f"{part}.{k}": v for part in ("model", "guide") for k, v in state[part].items() if isinstance(v, torch.Tensor)
    }
    return held | {
        name: torch.from_file(str(folder / f"rows.{name}"), size=size)
        for name, size in FILES.items()
        if (folder / f"rows.{name}").exists()
    }


def same(a, b):
    r"""Whether two dictionaries of tensors agree bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def records(folder):
    r"""The lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def said(folder):
    r"""The same without what clocks say."""
    clocks = ("time", "seconds", "points_per_second")
    return [{k: v for k, v in record.items() if k not in clocks} for record in records(folder)]


def logged(folder):
    r"""The steps that TensorBoard shows of each scalar."""
    board = EventAccumulator(str(folder))
    board.Reload()
    return {name: [event.step for event in board.Scalars(name)] for name in board.Tags()["scalars"]}


def on_a_full_disk(disk, step, kind="mean_field", every=0.0):
    r"""Trains on a disk that is full from that step on, checks what is left, makes room, and resumes."""
    out, filler, count = disk / f"run-{step}", disk / "filler", Training._count
    kept = step - 1 if every == 0 else 0  # the step of the last checkpoint

    def filling(self, done):
        count(self, done)
        if done.step == step:
            fill(filler)

    autosave.EVERY, Training._count = every, filling
    try:
        train(kind, out, epochs=6)
    except RunError as error:
        message = str(error)
    assert "make room and resume" in message, message
    assert Run(out).load()["step"] == kept
    assert [r["step"] for r in records(out) if r["step"] < step] == list(range(BATCHES, step, BATCHES))
    assert not list(out.glob(".*"))
    filler.unlink()
    Training._count = count
    train(kind, out, epochs=6, resume=True)
    train(kind, disk / f"whole-{step}", epochs=6)
    assert same(weights(out), weights(disk / f"whole-{step}")) and said(out) == said(disk / f"whole-{step}")


def fill(file):
    r"""Writes until there is no room."""
    with file.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))


class Killed(Exception):
    pass


def broken_off(kind, out, step, monkeypatch, every: float = 0.0, **settings):
    r"""Runs a training into an error after that step, with a checkpoint every so many seconds: of each step before."""
    count = Training._count

    def stopped(self, done):
        count(self, done)
        if done.step == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(autosave, "EVERY", every)
        patch.setattr(Training, "_count", stopped)
        train(kind, out, **settings)
