"""Runs on disk: killed and resumed bit for bit, damaged files refused, nothing lost."""

import itertools
import json
import os
import pickle
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killing import KINDS, SHAPE, D, N, broken_off, faults, logged, pair, records, same, train, weights

from pyro_dlgm import fit, guides
from pyro_dlgm.optim import nan_guard
from pyro_dlgm.recipes.pairs import Recipe
from pyro_dlgm.runs import checkpoint
from pyro_dlgm.runs.files import RunError, whole
from pyro_dlgm.runs.load import load
from pyro_dlgm.runs.run import Run
from pyro_dlgm.training import autosave
from pyro_dlgm.training.loop import Training


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train("mean_field", folder, epochs=2)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    r"""A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_three_times_and_resumed_is_as_if_never_interrupted(kind, tmp_path):
    assert faults(kind, tmp_path, kills=3) == []


@pytest.mark.parametrize("kind", ["amortized", "chain", "hybrid"])
def test_ctrl_c_saves_within_an_epoch_and_goes_on(kind, tmp_path, monkeypatch):
    train(kind, tmp_path / "a", epochs=4)
    count = Training._count

    def interrupted(self, step):
        count(self, step)
        if step.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="saved at step 5"):
        patch.setattr(Training, "_count", interrupted)
        train(kind, tmp_path / "b", epochs=4)
    assert Run(tmp_path / "b").load()["step"] == 5 and signal.getsignal(signal.SIGINT) is before
    result = train(kind, tmp_path / "b", epochs=4, resume=True)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert [h["epoch"] for h in result.history] == [1, 2, 3, 4]
    assert logged(tmp_path / "b")["train/loss"] == [3, 6, 9, 12]


class Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (Path(self.file),)


def bomb(run):
    torch.save({"format": checkpoint.FORMAT, "model": Bomb(run / "executed")}, run / "checkpoint.pt")


def bare_bomb(run):
    (run / "checkpoint.pt").write_bytes(pickle.dumps(Bomb(run / "executed")))


def cut(run):
    file = run / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "truncated": (cut, "truncated or damaged"),
    "empty": (lambda run: (run / "checkpoint.pt").write_bytes(b""), "truncated or damaged"),
    "garbage": (lambda run: (run / "checkpoint.pt").write_bytes(random.Random(0).randbytes(5000)), "damaged"),
    "foreign": (lambda run: torch.save({"weights": torch.ones(3)}, run / "checkpoint.pt"), "another program"),
    "a list": (lambda run: torch.save([1, 2], run / "checkpoint.pt"), "another program"),
    "bomb": (bomb, "nothing was executed"),
    "bare bomb": (bare_bomb, "nothing was executed"),
    "missing": (lambda run: (run / "checkpoint.pt").unlink(), "no checkpoint.pt"),
    "no config": (lambda run: (run / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda run: (run / "config.json").write_text("{"), "not the JSON of a run"),
    "config is a list": (lambda run: (run / "config.json").write_text("[]"), "not the JSON of a run"),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_refused_in_one_line_and_not_touched(name, run):
    damage, words = DAMAGE[name]
    damage(run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(RunError, match=words) as error:
        load(run, **dict(zip(("model", "guide"), pair("mean_field"), strict=True)))
    assert "\n" not in str(error.value) and str(run) in str(error.value)
    if name not in ("missing", "no config"):
        with pytest.raises(RunError):
            train("mean_field", run, epochs=2, resume=True)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_every_truncation_is_refused(run):
    file, moments = run / "checkpoint.pt", random.Random(1)
    content = file.read_bytes()
    for _ in range(40):
        file.write_bytes(content[: moments.randrange(len(content))])
        with pytest.raises(RunError):
            Run(run).load()


def test_flipped_bits_in_a_weight_are_noticed(run):
    file, weight = run / "checkpoint.pt", Run(run).load()["guide"]["rows.weight"]
    content, part = file.read_bytes(), weight.numpy().tobytes()
    at = content.index(part) + len(part) // 2
    file.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    with pytest.raises(RunError, match="it is damaged"):
        Run(run).load()


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        load(tmp_path / "nowhere")


def test_own_networks_load_into_a_given_pair(run):
    model, guide = pair("mean_field")
    with pytest.raises(RunError, match=r"your own: build the pair .* model=\.\.\."):
        load(run)
    back, q, config = load(run, model=model, guide=guide)
    assert back is model and q is guide and config["fit"]["epochs"] == 2
    assert same(
        weights(run),
        {f"model.{k}": v for k, v in model.state_dict().items()}
        | {f"guide.{k}": v for k, v in guide.state_dict().items()},
    )


@pytest.mark.parametrize("other", [guides.MeanField(N + 1, D), guides.FullRank(N, D)])
def test_weights_of_another_pair_are_refused_and_nothing_is_overwritten(other, run):
    model, _ = pair("mean_field")
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RunError, match=r"the guide of .* is not the \w+ given: rows.weight is \(60, 4\)"):
        load(run, model=model, guide=other)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_recipe_needs_no_pair_and_leaves_the_generator(tmp_path):
    plain = {"likelihood": "fixed", "guide": "mean-field", "latents": 2, "image_shape": [1, 8, 8], "num_points": 30}
    recipe = Recipe(**plain)
    model = recipe.new_model()
    guide = recipe.new_guide(model)
    fit(model, guide, torch.rand(30, 1, 8, 8), epochs=1, out=tmp_path / "run", config={"recipe": plain})
    state = torch.get_rng_state()
    _, q, _ = load(tmp_path / "run")
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(q.rows.weight, guide.rows.weight)


def test_a_recipe_that_cannot_be_read_is_named(run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"recipe": {"likelihood": "gauss"}}))
    with pytest.raises(RunError, match="recipe that cannot be read"):
        load(run)


def test_after_early_stopping_the_run_is_at_its_best_epoch(tmp_path):
    x_val = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(5))
    settings = {"epochs": 200, "lr": 0.3, "schedule": "constant", "x_val": x_val, "patience": 2}
    result = train("amortized", tmp_path / "run", **settings)
    assert result.stopped_early and len(result.history) < 200
    model, guide = pair("amortized")
    load(tmp_path / "run", model=model, guide=guide)
    for module, trained in ((model, result.model), (guide, result.guide)):
        assert all(map(torch.equal, module.state_dict().values(), trained.state_dict().values()))
    # Going on with a run that is at its end changes nothing.
    before = weights(tmp_path / "run")
    assert train("amortized", tmp_path / "run", resume=True, **settings).stopped_early
    assert same(before, weights(tmp_path / "run"))


def test_a_run_with_patience_that_was_killed_loads_with_its_best_weights(tmp_path, monkeypatch):
    settings = {"lr": 0.1, "schedule": "constant", "x_val": torch.rand(20, *SHAPE), "patience": 50}
    broken_off("amortized", tmp_path / "killed", 20, monkeypatch, epochs=60, **settings)
    bounds = [r["val_elbo"] for r in records(tmp_path / "killed")]
    best = bounds.index(max(bounds)) + 1
    assert 1 <= best < len(bounds) == 6  # so that the best weights are not the last ones
    model, guide = pair("amortized")
    load(tmp_path / "killed", model=model, guide=guide)
    train("amortized", tmp_path / "best", epochs=best, lr=0.1, schedule="constant")
    loaded = {f"model.{k}": v for k, v in model.state_dict().items()}
    loaded |= {f"guide.{k}": v for k, v in guide.state_dict().items()}
    assert same(loaded, weights(tmp_path / "best")) and not same(loaded, weights(tmp_path / "killed"))


def test_without_patience_the_last_weights_are_loaded(tmp_path, monkeypatch):
    settings = {"lr": 0.1, "schedule": "constant", "x_val": torch.rand(20, *SHAPE)}
    broken_off("amortized", tmp_path / "killed", 20, monkeypatch, epochs=60, **settings)
    model, guide = pair("amortized")
    load(tmp_path / "killed", model=model, guide=guide)
    assert all(map(torch.equal, guide.state_dict().values(), Run(tmp_path / "killed").load()["guide"].values()))


def test_another_configuration_is_refused_with_each_difference(run):
    with pytest.raises(RunError, match=r"fit\.epochs was 2, now 5; fit\.lr was 0.002, now 0.5$"):
        train("mean_field", run, epochs=5, lr=0.5, resume=True)


def test_a_run_is_not_overwritten(run):
    before = (run / "checkpoint.pt").read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        train("mean_field", run, epochs=2)
    assert (run / "checkpoint.pt").read_bytes() == before


def test_one_process_writes_at_a_time(run):
    holder = Run(run)
    holder.lock()
    with pytest.raises(RunError, match="another process is writing"):
        train("mean_field", run, epochs=2, resume=True)
    holder.unlock()
    train("mean_field", run, epochs=2, resume=True)


@pytest.mark.parametrize("name", ["/proc/nowhere", "file"])
def test_a_folder_that_cannot_be_written_is_refused(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another folder"):
        train("mean_field", tmp_path / name)


def test_a_failing_write_keeps_the_checkpoint_before_it(run):
    before, state = (run / "checkpoint.pt").read_bytes(), Run(run).load()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk: a write of more bytes fails
        with pytest.raises(RunError, match="make room and resume; the one before it is kept"):
            Run(run).save(state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (run / "checkpoint.pt").read_bytes() == before and not list(run.glob(".*"))


def on_a_small_disk(folder, code):
    r"""Runs the code in a process that sees a disk of 2 MB at the folder; skips where none can be mounted."""
    mounted = f"mount -t tmpfs -o size=2m none {shlex.quote(str(folder))} && "
    for private in (["unshare", "--map-root-user", "--mount"], ["unshare", "--mount"]):
        try:
            tried = subprocess.run(
                [*private, "sh", "-c", f"{mounted} true"], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            pytest.skip("there is no unshare here, to mount a small disk")
        if tried.returncode == 0:
            command = f"{mounted} exec {shlex.join([sys.executable, '-c', code])}"
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            return subprocess.run([*private, "sh", "-c", command], capture_output=True, text=True, env=environment)
    pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip()}")


@pytest.mark.parametrize(("kind", "every"), [("mean_field", 0.0), ("in_files", 0.0), ("in_files", 1e9)])
def test_a_full_disk_keeps_the_run_and_room_lets_it_go_on(kind, every, tmp_path):
    here, disk = str(Path(__file__).parent), str(tmp_path)
    code = f"import sys, pathlib; sys.path.insert(0, {here!r}); import killing\n"
    code += f"for step in (8, 9): killing.on_a_full_disk(pathlib.Path({disk!r}), step, {kind!r}, {every})\n"
    code += "print('as it should be')"
    done = on_a_small_disk(tmp_path, code)
    assert done.stdout.endswith("as it should be\n"), done.stderr


def test_what_a_killed_write_left_is_removed(run):
    left = run / ".checkpoint-ab12_xyz.pt"
    left.write_bytes(b"half")
    train("mean_field", run, epochs=2, resume=True)
    assert not left.exists()


@pytest.mark.parametrize(("value", "where"), [(Path("x"), r"state\['a'\]\[1\] is a"), (torch.float32, "dtype")])
def test_a_checkpoint_takes_plain_values_only(value, where, tmp_path):
    with pytest.raises(TypeError, match=where):
        Run(tmp_path).save({"a": [1, value]})
    assert not list(tmp_path.iterdir())


def test_metrics_are_cut_to_the_checkpoint(run):
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines + json.dumps({"epoch": 3, "step": 9}) + "\n" + '{"epoch": 4, "st')
    train("mean_field", run, epochs=2, resume=True)
    assert (run / "metrics.jsonl").read_text() == lines
    assert all({"step", "epoch", "time", "elbo"} <= record.keys() for record in records(run))


def spoilt_at(step):
    r"""The transform that spoils the batch of that step; TensorBoard, which looks at all points, is not counted."""
    batches = itertools.count(1)
    return lambda x: x * torch.nan if len(x) < N and next(batches) == step else x


@pytest.mark.parametrize("interval", [1, 50])
def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(interval, tmp_path, monkeypatch):
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    monkeypatch.setitem(nan_guard.INTERVALS, "cpu", interval)
    with pytest.raises(FloatingPointError, match="at step 8"):
        train("mean_field", tmp_path / "run", transform=spoilt_at(8), schedule="constant")
    # Read every 50 steps, the flag is still read before a checkpoint: none is of a state after it.
    assert Run(tmp_path / "run").load()["step"] == 7
    assert [r["step"] for r in records(tmp_path / "run")] == [3, 6]
    train("mean_field", tmp_path / "good", transform=lambda x: x, schedule="constant", epochs=None, steps=7)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "good"))


def test_no_record_is_made_of_an_epoch_with_a_flag(tmp_path, monkeypatch):
    monkeypatch.setitem(nan_guard.INTERVALS, "cpu", 50)
    with pytest.raises(FloatingPointError, match="at step 4"):
        train("mean_field", tmp_path / "run", transform=spoilt_at(4))
    assert [r["step"] for r in records(tmp_path / "run")] == [3] and Run(tmp_path / "run").load()["step"] == 0


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(autosave, "EVERY", 0.0)
    count = Training._count

    def broken(self, step):
        count(self, step)
        if step.step == 4:
            with torch.no_grad():
                next(self.svi.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Training, "_count", broken)
    with pytest.raises(FloatingPointError):
        train("amortized", tmp_path / "run")
    assert Run(tmp_path / "run").load()["step"] <= 4
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_failed_write_leaves_no_temporary_file(tmp_path):
    with pytest.raises(OSError), whole(tmp_path / "a.json") as path:
        path.write_text("half")
        raise OSError
    assert not list(tmp_path.iterdir())
