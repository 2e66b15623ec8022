"""Resuming: what is counted goes on, other data are noticed, more epochs are taken."""

import pytest
import torch
from killing import SHAPE, pair, points, records, train

from pyro_dlgm import fit
from pyro_dlgm.training import autosave
from pyro_dlgm.training.loop import Training


class Killed(Exception):
    pass


def broken_off(kind, out, step, monkeypatch, **settings):
    r"""Runs a training into an error after that step, with a checkpoint of each step before."""
    count = Training._count

    def stopped(self, done):
        count(self, done)
        if done.step == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(autosave, "EVERY", 0.0)
        patch.setattr(Training, "_count", stopped)
        train(kind, out, **settings)


# What is counted


def hybrid(**settings):
    return fit(*pair("hybrid"), points(), epochs=3, batch_size=20, seed=3, **settings)


def test_gradients_of_a_hybrid_are_those_of_its_training(tmp_path):
    x_val = torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(5))
    cost = pair("hybrid")[1].cost(1)
    for settings in ({}, {"out": tmp_path / "a"}, {"x_val": x_val}, {"out": tmp_path / "b", "x_val": x_val}):
        assert [h["gradients_per_point"] for h in hybrid(**settings).history] == [cost, 2 * cost, 3 * cost]


def test_a_listener_that_evaluates_is_not_counted():
    class Evaluates:
        def after(self, step, record):
            guide.posterior(points())

    model, guide = pair("hybrid")
    result = fit(model, guide, points(), epochs=2, batch_size=20, listeners=[Evaluates()])
    assert [h["gradients_per_point"] for h in result.history] == [guide.cost(1), guide.cost(2)]


@pytest.mark.parametrize("kind", ["hybrid", "chain"])
def test_a_resumed_run_has_counted_what_one_that_never_stopped_has(kind, tmp_path, monkeypatch):
    settings = {"epochs": 3, "schedule": "constant", "x_val": points()[:5]}
    train(kind, tmp_path / "whole", **settings)
    broken_off(kind, tmp_path / "cut", 4, monkeypatch, **settings)
    train(kind, tmp_path / "cut", resume=True, **settings)
    counted = [[r["gradients_per_point"] for r in records(tmp_path / name)] for name in ("whole", "cut")]
    assert counted[0] == counted[1] and len(counted[0]) == 3


def test_points_per_second_are_those_of_the_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pyro_dlgm.training.loop.time.perf_counter", lambda: now[0])
    step, scores = Training._count, lambda self, **_: now.__setitem__(0, now[0] + 100) or {"elbo": 0.0}

    def takes_a_second(self, done):
        now[0] += 1
        step(self, done)

    class Slow:
        def after(self, step, record):
            now[0] += 1000

    monkeypatch.setattr(Training, "_count", takes_a_second)
    monkeypatch.setattr("pyro_dlgm.training.validation.Validation.scores", scores)
    result = fit(*pair("amortized"), points(), epochs=2, batch_size=20, x_val=points(), listeners=[Slow()])
    assert [h["points_per_second"] for h in result.history] == [20, 20]
    assert result.history[1]["seconds"] > 1000  # wall time has all of it
