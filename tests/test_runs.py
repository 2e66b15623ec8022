"""Runs on disk: killed and resumed bit for bit, damaged files refused, nothing lost."""

import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pyro_dlgm import DLGM, checkpoint, fit, guides, likelihoods, nets, priors
from pyro_dlgm.checkpoint import Run, RunError
from pyro_dlgm.files import whole
from pyro_dlgm.loading import load
from pyro_dlgm.recipes import Recipe
from pyro_dlgm.training import Training

N, D, SHAPE, EPOCHS = 60, 2, (1, 5, 4), 40
KINDS = ("mean_field", "amortized", "auto_normal")
HERE = Path(__file__)


def pair(kind):
    torch.manual_seed(1)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, SHAPE, (8,)), 0.5))
    if kind == "amortized":
        return model, guides.Amortized(nets.MLP(SHAPE, 8, (8,)), D)
    return model, guides.MeanField(N, D) if kind == "mean_field" else guides.auto(model, "AutoNormal", N)


def points():
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))


def train(kind, out, resume=False, epochs=EPOCHS, **settings):
    settings = {"batch_size": 20, "schedule": "cosine", "transform": jitter, "seed": 3} | settings
    return fit(*pair(kind), points(), epochs=epochs, out=out, resume=resume, **settings)


def jitter(x):
    return x + 0.01 * torch.rand_like(x)


def aloud(kind, out):
    r"""What the subprocesses do: a training that says each step, with checkpoints all the time."""
    count, checkpoint.EVERY = Training._count, 0.002

    def said(self, step):
        count(self, step)
        print(step.step, flush=True)
        time.sleep(0.002)

    Training._count = said
    train(kind, out, resume=True)


def killed(kind, out, step, delay):
    r"""Starts a training, kills it a moment after that step, and returns the step of the checkpoint."""
    code = (
        f"import sys; sys.path.insert(0, {str(HERE.parent)!r}); import test_runs as t; t.aloud({kind!r}, {str(out)!r})"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        while int(process.stdout.readline()) < step:
            pass
        time.sleep(delay)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    return Run(out).load()["step"]


def weights(folder):
    state = Run(folder).load()
    return {f"{part}.{k}": v for part in ("model", "guide") for k, v in state[part].items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logged(folder, name="train/loss"):
    board = EventAccumulator(str(folder))
    board.Reload()
    return [event.step for event in board.Scalars(name)]


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
    copy = tmp_path / "run"
    copy.mkdir()
    for file in finished.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_killed_three_times_and_resumed_is_as_if_never_interrupted(kind, tmp_path):
    torch.set_num_threads(1)
    whole_runs = [tmp_path / "a", tmp_path / "b"]
    for folder in whole_runs:
        train(kind, folder)
    assert same(*map(weights, whole_runs))
    moments = random.Random(f"moments of {kind}")
    for third in range(3):
        step = moments.randrange(third * EPOCHS, third * EPOCHS + 30) + 2
        assert step - 2 <= killed(kind, tmp_path / "killed", step, moments.uniform(0, 0.01)) < EPOCHS * 3
    train(kind, tmp_path / "killed", resume=True)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "killed"))
    expected = [(r["epoch"], r["step"], r["elbo"]) for r in records(tmp_path / "a")]
    assert [(r["epoch"], r["step"], r["elbo"]) for r in records(tmp_path / "killed")] == expected
    shown = logged(tmp_path / "killed")
    assert shown == list(range(3, EPOCHS * 3 + 1, 3))
    assert not list((tmp_path / "killed").glob(".*"))  # what was left unfinished is gone


def test_ctrl_c_saves_between_epochs_and_goes_on(tmp_path, monkeypatch):
    train("amortized", tmp_path / "a", epochs=4)
    count = Training._count

    def interrupted(self, step):
        count(self, step)
        if step.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="saved at step 5"):
        patch.setattr(Training, "_count", interrupted)
        train("amortized", tmp_path / "b", epochs=4)
    assert Run(tmp_path / "b").load()["step"] == 5 and signal.getsignal(signal.SIGINT) is before
    result = train("amortized", tmp_path / "b", epochs=4, resume=True)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert [h["epoch"] for h in result.history] == [1, 2, 3, 4]
    assert logged(tmp_path / "b") == [3, 6, 9, 12]


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
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    with pytest.raises(RunError, match=words) as error:
        load(run, **dict(zip(("model", "guide"), pair("mean_field"), strict=True)))
    assert "\n" not in str(error.value) and str(run) in str(error.value)
    if name not in ("missing", "no config"):
        with pytest.raises(RunError):
            train("mean_field", run, epochs=2, resume=True)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


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
    with pytest.raises(RunError, match=r"the guide of .* is another one than the \w+ given: rows.weight is \(60, 4\)"):
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


def test_another_configuration_is_refused_with_each_difference(run):
    with pytest.raises(RunError, match=r"fit\.epochs was 2, now 5; fit\.lr was 0.001, now 0.5$"):
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


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
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


@pytest.mark.parametrize("warmup", [0, 1])
def test_tensorboard_names_what_it_shows(warmup, tmp_path):
    train("mean_field", tmp_path, epochs=2, warmup=warmup, x_val=points()[:10])
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    scalars = set(board.Tags()["scalars"])
    train_bound = {"train/tempered_elbo", "train/elbo"} if warmup else {"train/elbo"}
    assert train_bound <= scalars and {"train/loss", "val/elbo", "q/rate_kl", "q/distortion", "q/iwae_20"} <= scalars
    assert {"images/samples"} <= set(board.Tags()["images"])
