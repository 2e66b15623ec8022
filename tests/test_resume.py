"""Resuming: what is counted goes on, other data are noticed, more epochs are taken."""

import functools
import json
import operator
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from killing import SHAPE, N, broken_off, logged, pair, points, records, same, train, weights
from PIL import Image
from pyro.infer import Trace_ELBO

from pyro_dlgm import DLGM, SVI, fit, guides, likelihoods, load, nets, priors
from pyro_dlgm.cli.main import main
from pyro_dlgm.data.streamed_images import Files, Streamed
from pyro_dlgm.optim.optimizers import lay_out
from pyro_dlgm.runs.digest import digest
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.fingerprint import described, differences, fingerprint
from pyro_dlgm.runs.run import Run
from pyro_dlgm.seeding import forked
from pyro_dlgm.training.loop import Training


def call(*arguments):
    r"""The command line, run in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


# Moments


def test_moments_get_the_layout_of_weights_that_lie_otherwise_now(tmp_path):
    # torch's fused Adam goes through memory, and would pair weights with moments of others, without a word.
    def trained(folder, layout=torch.contiguous_format, **settings):
        with forked(0):
            model = DLGM(priors.StandardNormal(2), likelihoods.Bernoulli(nets.ConvDecoder(2, (1, 8, 8), widths=(4, 8))))
            guide = guides.Amortized(nets.ConvEncoder((1, 8, 8), 16, widths=(4, 8)), 2)
        for part in (model, guide):
            part.to(memory_format=layout)
        x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
        fit(model, guide, x, batch_size=20, seed=0, out=tmp_path / folder, schedule="constant", resume=True, **settings)
        return torch.cat([p.detach().reshape(-1) for p in (*model.parameters(), *guide.parameters())])

    whole = trained("whole", epochs=4)
    layouts = torch.contiguous_format, torch.channels_last
    for first, then in (layouts, layouts[::-1]):
        folder = str(first)
        begun = trained(folder, first, epochs=2)
        ended = trained(folder, then, epochs=4)
        torch.testing.assert_close(ended, whole, rtol=0, atol=2e-5)
        assert (ended - begun).abs().max() > 1e-3


def test_moments_keep_their_precision_in_another_layout():
    p = torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.bfloat16))
    optimizer = torch.optim.Adam([p])
    moments = torch.rand(2, 3).T + 1
    optimizer.state[p] = {"step": torch.tensor(1.0), "exp_avg": moments, "exp_avg_sq": moments.to_sparse()}
    lay_out(optimizer)
    state = optimizer.state[p]
    assert state["exp_avg"].stride() == p.stride() and torch.equal(state["exp_avg"], moments)
    assert state["exp_avg_sq"].is_sparse


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


@pytest.mark.parametrize("kind", ["semi_amortized", "flow", "flow_rows"])
def test_refined_and_flowing_guides_go_on_bit_for_bit(kind, tmp_path, monkeypatch):
    if kind.startswith("flow"):
        pytest.importorskip("zuko", reason="zuko is not installed: the extra flow")
    train(kind, tmp_path / "whole", epochs=3)
    broken_off(kind, tmp_path / "cut", 4, monkeypatch, epochs=3)
    train(kind, tmp_path / "cut", resume=True, epochs=3)
    whole, cut = (weights(tmp_path / name) for name in ("whole", "cut"))
    assert same(whole, cut)
    # What is compared moves: w and the guide's own numbers. A flow has constants as well.
    train(kind, tmp_path / "one", epochs=1)
    once = weights(tmp_path / "one")
    for part in ("model", "guide"):
        assert not same(*({k: v for k, v in held.items() if k.startswith(part)} for held in (once, whole)))


def test_points_per_second_are_those_of_the_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pyro_dlgm.training.loop.training.time.perf_counter", lambda: now[0])
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


def test_tensorboard_reads_a_resumed_run_without_a_word(tmp_path, monkeypatch, caplog):
    broken_off("amortized", tmp_path / "run", 8, monkeypatch, every=1e9, epochs=4)
    assert logged(tmp_path / "run")["train/loss"] == [3, 6] and Run(tmp_path / "run").load()["step"] == 0
    train("amortized", tmp_path / "run", epochs=4, resume=True)
    caplog.clear()
    assert logged(tmp_path / "run")["train/loss"] == [3, 6, 9, 12]
    assert "out of order" not in caplog.text


# On what


def settings_with(name, value):
    mask, given = torch.arange(N) % 4 < 2, torch.arange(2.0 * N).reshape(N, 2)
    named = {"x": points(), "mask": mask, "given": given, "weight": torch.linspace(0.5, 1.5, N)}
    return fingerprint(None, None, named | {name: value(named[name])})


OTHERS = {
    "rows in another order": ("x", lambda v: v.flip(0)),
    "columns in another order": ("x", lambda v: v.flip(-1)),
    "two values with the sum they had": ("x", lambda v: v + torch.tensor([0.25, -0.25] + [0.0] * 1198).view_as(v)),
    "a mask of other points": ("mask", lambda v: v ^ (torch.arange(N) % 2 == 0)),
    "what is given, in another order": ("given", lambda v: v.flip(0)),
    "weights of other points": ("weight", lambda v: v.flip(0)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_data_with_the_same_sum_are_other_data(what):
    name, change = OTHERS[what]
    one, other = settings_with(name, lambda v: v), settings_with(name, change)
    assert one == settings_with(name, torch.clone) and one[name] != other[name]
    assert {k: v for k, v in one.items() if k != name} == {k: v for k, v in other.items() if k != name}


def test_a_resume_on_permuted_rows_is_refused(tmp_path):
    fit(*pair("mean_field"), points(), epochs=1, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"fit\.x was '\(60, 1, 5, 4\) torch.float32 blake2b"):
        fit(*pair("mean_field"), points().flip(0), epochs=1, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8, torch.bool, torch.int64])
def test_a_hash_is_one_of_the_values_whatever_the_layout_and_the_blocks(dtype, monkeypatch):
    v = (torch.rand(50, 3, 4) * 200 - 100).clamp_min(0).to(dtype)
    whole = digest(v)
    assert digest(v.transpose(1, 2).contiguous().transpose(1, 2)) == whole != digest(v.flip(0))
    monkeypatch.setattr("pyro_dlgm.runs.digest.BLOCK", 100)
    assert digest(v) == whole


def test_a_memory_map_is_read_block_by_block(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((4000, 100), dtype=np.float32))
    mapped = torch.from_numpy(np.lib.format.open_memmap(tmp_path / "x.npy", mode="c"))
    monkeypatch.setattr("pyro_dlgm.runs.digest.BLOCK", 2**14)
    largest, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda v: largest.append(v.nbytes) or cpu(v))
    assert digest(mapped) and max(largest) <= 2**14


def images(folder, colours):
    (folder / "a").mkdir(parents=True)
    for i, colour in enumerate(colours):
        Image.new("RGB", (4 + i, 4), colour).save(folder / "a" / f"{i}.bmp")
    return Streamed(Files(sorted((folder / "a").glob("*.bmp")), (4, 4), 3))


def test_streamed_images_are_known_by_their_files_and_may_move(tmp_path, monkeypatch):
    one = images(tmp_path / "one", ["red", "green", "blue"])
    moved = images(tmp_path / "moved", ["red", "green", "blue"])
    monkeypatch.setattr(Streamed, "batches", lambda *_: pytest.fail("images were decoded"))
    said = [fingerprint(None, None, {"x": v})["x"] for v in (one, moved, one.part(torch.tensor([1, 0, 2])))]
    assert said[0] == said[1] != said[2]
    smaller = Streamed(Files(one.files.paths, (3, 3), 3))
    assert fingerprint(None, None, {"x": smaller})["x"] != said[0]


def scaled(by):
    return lambda v: v * by


def shifted(v, *, by=0.0):
    return v + by


class Noise:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, v):
        return v + self.scale * torch.randn_like(v)

    def twice(self, v):
        return self(self(v))


LOOK_ALIKE = [
    (lambda v: v + 1, lambda v: v + 2),
    (lambda v: v + 1, lambda v: v - 1),
    (lambda v: v.sin(), lambda v: v.cos()),
    (lambda v: (lambda u: u + 1)(v), lambda v: (lambda u: u + 2)(v)),
    (scaled(2), scaled(3)),
    (scaled(torch.ones(2)), scaled(torch.zeros(2))),
    (functools.partial(shifted, by=1.0), functools.partial(shifted, by=2.0)),
    (functools.partial(shifted, by=1.0), functools.partial(operator.mul, 1.0)),
    (Noise(0.1), Noise(0.2)),
    (Noise(0.1).twice, Noise(0.2).twice),
    (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
    (Trace_ELBO(2), Trace_ELBO(3)),
]


@pytest.mark.parametrize("number", range(len(LOOK_ALIKE)))
def test_two_functions_that_look_alike_are_told_apart(number):
    one, other = LOOK_ALIKE[number]
    assert described(one) == described(one) != described(other)


def test_a_function_is_described_the_same_in_another_process():
    code = "from test_resume import LOOK_ALIKE, described; print([described(one) for one, _ in LOOK_ALIKE[:5]])"
    here = Path(__file__).parent
    said = [
        subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert said[0] == said[1] == f"{[described(one) for one, _ in LOOK_ALIKE[:5]]}\n"


def test_another_python_compiles_a_function_otherwise():
    said = described(LOOK_ALIKE[0][0])
    earlier = re.sub(r"\w+ of Python [\d.]+", "0123456789ab of Python 3.9", said)
    assert differences({"transform": earlier}, {"transform": said}) == []
    assert differences({"transform": earlier.replace("lambda", "other")}, {"transform": said})


def test_a_run_with_the_fingerprint_of_before_goes_on(tmp_path, monkeypatch):
    settings = {"x_val": points()[:7], "schedule": scaled(1.0), "epochs": 2}
    broken_off("mean_field", tmp_path / "run", 5, monkeypatch, **settings)
    config = Run(tmp_path / "run").config()
    config["fit"] |= {"x": f"(60, 1, 5, 4) torch.float32 {float(points().double().sum())!r}", "transform": "jitter"}
    config["fit"] |= {"x_val": f"(7, 1, 5, 4) torch.float32 {float(points()[:7].double().sum())!r}"}
    config["fit"] |= {"schedule": "scaled.<locals>.<lambda>"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert len(train("mean_field", tmp_path / "run", resume=True, **settings).history) == 2
    with pytest.raises(RunError, match=r"fit\.x_val was"):
        train("mean_field", tmp_path / "run", resume=True, **settings | {"x_val": points()[1:8]})


# For how long


def whole_and_longer(kind, tmp_path, short, **settings):
    r"""The weights of a training, and of one that was to be shorter and went on."""
    train(kind, tmp_path / "whole", epochs=None, steps=12, **settings)
    train(kind, tmp_path / "longer", epochs=None, steps=short, **settings)
    result = train(kind, tmp_path / "longer", resume=True, epochs=None, steps=12, **settings)
    assert [r["step"] for r in records(tmp_path / "longer")] == [h["step"] for h in result.history]
    assert Run(tmp_path / "longer").config()["fit"]["steps"] == 12
    return weights(tmp_path / "whole"), weights(tmp_path / "longer")


@pytest.mark.parametrize("kind", ["mean_field", "amortized", "chain"])
@pytest.mark.parametrize("short", [6, 7])
def test_under_a_constant_schedule_a_run_goes_on_for_more_epochs(kind, short, tmp_path):
    settings = {"schedule": "constant", "warmup": 3, "x_val": points()[:9]}
    assert same(*whole_and_longer(kind, tmp_path, short, **settings))


def test_a_run_that_went_on_goes_on_and_shows_each_step_once(tmp_path):
    for epochs in (2, 3, 5):
        result = train("amortized", tmp_path / "run", resume=True, epochs=epochs, schedule="constant")
    assert [h["epoch"] for h in result.history] == [1, 2, 3, 4, 5]
    assert logged(tmp_path / "run")["train/loss"] == [3, 6, 9, 12, 15]
    model, guide = pair("amortized")
    assert load(tmp_path / "run", model=model, guide=guide)[2]["fit"]["epochs"] == 5


@pytest.mark.parametrize("schedule", ["cosine", "linear", scaled(0.5)])
def test_another_schedule_ends_with_the_run_unless_it_is_stretched(schedule, tmp_path):
    train("amortized", tmp_path / "run", epochs=2, schedule=schedule)
    more = {"epochs": 4, "schedule": schedule, "resume": True}
    with pytest.raises(RunError, match=r"fit\.epochs was 2, now 4: .* stretch=True"):
        train("amortized", tmp_path / "run", **more)
    with pytest.warns(UserWarning, match=r"stretched from 6 to 12 steps, of which 6 are done"):
        assert len(train("amortized", tmp_path / "run", stretch=True, **more).history) == 4
    assert Run(tmp_path / "run").config()["fit"]["epochs"] == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is stretched now
        train("amortized", tmp_path / "run", **more)


def test_a_stretched_schedule_is_that_of_the_longer_run(tmp_path, monkeypatch):
    rates, update = [], SVI._update

    def spied(svi):
        if svi.watch is not None:
            rates.append(svi.optimizers[0].param_groups[0]["lr"])
        update(svi)

    monkeypatch.setattr(SVI, "_update", spied)
    train("amortized", tmp_path / "run", epochs=2, schedule="linear", lr=1e-2)
    with pytest.warns(UserWarning, match="stretched"):
        train("amortized", tmp_path / "run", epochs=4, schedule="linear", lr=1e-2, resume=True, stretch=True)
    assert rates == pytest.approx([1e-2 * (1 - k / 6) for k in range(6)] + [1e-2 * (1 - k / 12) for k in range(6, 12)])


@pytest.mark.parametrize("settings", [{}, {"stretch": True}])
def test_a_run_does_not_become_shorter(settings, tmp_path):
    train("amortized", tmp_path / "run", epochs=3, schedule="constant")
    with pytest.raises(RunError, match=r"fit\.epochs was 3, now 2: a run can only become longer"):
        train("amortized", tmp_path / "run", epochs=2, schedule="constant", resume=True, **settings)


def test_what_else_differs_is_refused_beside_more_epochs(tmp_path):
    train("amortized", tmp_path / "run", epochs=1, schedule="constant")
    with pytest.raises(RunError, match=r"fit\.lr was 0.002, now 0.1$"):
        train("amortized", tmp_path / "run", epochs=2, lr=0.1, schedule="constant", resume=True)
    assert Run(tmp_path / "run").config()["fit"]["epochs"] == 1


def test_stretching_is_for_a_resume():
    with pytest.raises(ValueError, match="stretch is True and resume is False"):
        fit(*pair("amortized"), points(), epochs=1, stretch=True)


@pytest.mark.parametrize(("schedule", "options"), [("constant", []), ("cosine", ["--stretch"])])
def test_the_command_line_goes_on_for_more_epochs(schedule, options, tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((30, 4), dtype=np.float32))
    command = [
        "fit",
        "--data",
        tmp_path / "rows.npy",
        "--latents",
        "1",
        "--schedule",
        schedule,
        "--out",
        tmp_path / "run",
    ]
    assert call(*command, "--epochs", "1").exit_code == 0
    more = ["fit", "--out", tmp_path / "run", "--data", tmp_path / "rows.npy", "--epochs", "3", "--resume"]
    if options:
        said = call(*more)
        assert said.exit_code == 2 and "--stretch" in said.output and "stretch=True" not in said.output
    said = call(*more, *options)
    assert said.exit_code == 0 and "Done: epoch 3" in said.output, said.output
    assert ("stretched from 1 to 3 steps" in said.output) == bool(options)
