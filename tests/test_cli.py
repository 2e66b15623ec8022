"""The commands fit, evaluate and sample: files, numbers, resuming, wrong values."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.shell_completion import BashComplete
from click.testing import CliRunner
from PIL import Image

from pyro_dlgm import data, evaluate, fit, nets
from pyro_dlgm.cli import config, help, options, types
from pyro_dlgm.cli.fit import Lines
from pyro_dlgm.cli.main import main
from pyro_dlgm.recipes import datasets, pairs
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.load import load
from pyro_dlgm.runs.run import Run

TINY = ["--epochs", "2", "--latents", "2", "--likelihood", "factor-analysis"]


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def succeed(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "deep" / "x"
    return out, succeed("fit", *TINY, "--out", out)


def test_fit_keeps_a_run_and_says_what_comes_next(run):
    out, output = run
    assert {"config.json", "metrics.jsonl", "checkpoint.pt"} <= {file.name for file in out.iterdir()}
    assert output.splitlines()[0].startswith("epoch 1, step 12: elbo ")
    assert output.splitlines()[-1] == f"Next: pyro-dlgm evaluate {out}"
    config = json.loads((out / "config.json").read_text())
    assert config["data"]["name"] == "digits" and "stratified" in config["data"]["protocol"]
    assert config["recipe"] == {
        "likelihood": "factor-analysis",
        "guide": "amortized",
        "latents": 2,
        "image_shape": [1, 8, 8],
        "num_points": 1200,
    }
    assert config["fit"]["epochs"] == 2 and config["fit"]["lr"] == 2e-3


def test_a_run_of_the_command_line_loads(run):
    model, guide, config = load(run[0])
    assert guide.posterior(data.digits().test[:3]).mean.shape == (3, 2)
    assert config["device"] == "cpu" and model.prior.latent_dim == 2


def test_evaluate_gives_the_numbers_of_the_library_and_keeps_other_sections(run):
    out, _ = run
    (out / "evaluation.json").write_text('{"mine": 1}')
    output = succeed("evaluate", out, "--iwae", 30, "--points", 100, "--seed", 4)
    written = json.loads((out / "evaluation.json").read_text())
    model, guide, _ = load(out)
    x = data.digits().test[:100]
    table = evaluate.log_weights(model, guide, x, num_samples=30, seed=4)
    assert written["mine"] == 1 and written["test"]["points"] == 100 and written["test"]["step"] == 24
    assert written["test"]["elbo"]["mean"] == pytest.approx(float(table.mean()), abs=1e-4)
    iwae = evaluate.log_mean_exp(table)
    assert written["test"]["iwae"]["mean"] == pytest.approx(float(iwae.mean()), abs=1e-4)
    assert written["test"]["iwae"]["standard_error"] == pytest.approx(float(iwae.std()) / 10, rel=1e-4)
    bits = data.Dequantize(17).bits_per_dim(float(table.mean()), 64)
    assert written["test"]["elbo"]["bits_per_dim"] == pytest.approx(bits, abs=1e-5)
    assert set(written["test"]["ess"]) == set(written["test"]["pareto_k"]) == {"0.05", "0.5", "0.95"}
    assert "ELBO" in output and "IWAE-30" in output and "bits per dimension" in output


@pytest.mark.parametrize("guide", ["mean-field", "hard-em"])
def test_guides_with_rows_make_an_e_step_on_the_test_points(guide, tmp_path):
    succeed("fit", *TINY, "--guide", guide, "--out", tmp_path)
    output = succeed("evaluate", tmp_path, "--iwae", 25, "--points", 20)
    scores = json.loads((tmp_path / "evaluation.json").read_text())["test"]
    assert scores["points"] == 20 and "unconverged" in scores
    if guide == "hard-em":
        assert "elbo" not in scores and "point mass" in scores["reasons"]["elbo"] and "point mass" in output
        assert scores["log_joint"]["standard_error"] > 0
    else:
        assert scores["elbo"]["mean"] <= scores["iwae"]["mean"]


def test_sample_writes_a_picture_and_the_same_one_again(run, tmp_path):
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    for file, seed in ((a, 0), (b, 0), (c, 1)):
        assert succeed("sample", run[0], "--out", file, "--num", 9, "--seed", seed).strip() == f"Written: {file}"
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()
    assert min(Image.open(a).size) >= 3 * 56


def test_resume_needs_only_the_folder_and_ends_where_an_uninterrupted_run_does(run, tmp_path):
    out = tmp_path / "x"
    command = [sys.executable, "-m", "pyro_dlgm", "fit", *TINY, "--epochs", "40", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout.readline().startswith("epoch 1,")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.count("\n") == 1 and f"go on with: pyro-dlgm fit --out {out} --resume" in said
    step = Run(out).load()["step"]
    assert 12 <= step < 480 and f"saved at step {step}" in said
    succeed("fit", "--out", out, "--resume")
    succeed("fit", *TINY, "--epochs", "40", "--out", tmp_path / "whole")
    a, b = Run(out).load(), Run(tmp_path / "whole").load()
    assert a["step"] == b["step"] == 480
    assert all(torch.equal(a[part][key], b[part][key]) for part in ("model", "guide") for key in a[part])


def test_resume_begins_where_there_is_no_run(tmp_path):
    assert "Done: epoch 2" in succeed("fit", *TINY, "--out", tmp_path / "new", "--resume")


def test_patience_uses_validation_points(tmp_path):
    output = succeed("fit", *TINY, "--patience", "1", "--out", tmp_path)
    assert "val_elbo" in output and "val_elbo" in (tmp_path / "metrics.jsonl").read_text()


def test_digits_are_validated_whether_or_not_there_is_patience(run):
    records = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2 and all("val_elbo" in record for record in records) and "val_elbo" in run[1]


def test_a_run_that_was_made_without_validation_goes_on_without(tmp_path, monkeypatch):
    digits = config.dataset

    def unvalidated(*arguments, **settings):
        found, kept = digits(*arguments, **settings)
        return replace(found, val=found.val[:0]), kept

    with monkeypatch.context() as patch:
        patch.setattr(config, "dataset", unvalidated)
        succeed("fit", *TINY, "--schedule", "constant", "--out", tmp_path)
    output = succeed("fit", "--epochs", "3", "--resume", "--out", tmp_path)
    assert "Done: epoch 3" in output and "val_elbo" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_long_training_takes_about_twenty_lines():
    said = []
    lines = Lines(1000, said.append)
    for epoch in range(1, 1001):
        lines.after(None, None)
        lines.after(None, {"epoch": epoch, "step": epoch, "elbo": 0.0, "seconds": 1.0})
    assert len(said) == 21


WRONG = [
    (["fit", "--data", "letters"], "digits"),
    (["fit", "--data", "mnist", "--out", "OUT"], "give --data-root"),
    (["fit", "--data", "mnist", "--data-root", "/nowhere", "--out", "OUT"], "no MNIST under /nowhere"),
    (["fit", "--likelihood", "gauss"], "diagonal"),
    (["fit", "--likelihood", "bernoulli", "--out", "OUT"], "bernoulli does not fit digits"),
    (["fit", "--guide", "meanfield"], "mean-field"),
    (["fit", "--latents", "0"], "0 is not in the range"),
    (["fit", "--latents", "two"], "not a valid integer"),
    (["fit", "--epochs", "-3"], "-3 is not in the range"),
    (["fit", "--batch-size", "0"], "0 is not in the range"),
    (["fit", "--lr", "0"], "0.0 is not in the range"),
    (["fit", "--lr", "nan", "--out", "OUT"], "lr is nan"),
    (["fit", "--row-lr", "inf", "--out", "OUT"], "--row-lr is inf"),
    (["fit", "--schedule", "step"], "cosine"),
    (["fit", "--e-steps", "0"], "0 is not in the range"),
    (["fit", "--warmup", "-1"], "-1 is not in the range"),
    (["fit", "--clip-norm", "-1"], "-1.0 is not in the range"),
    (["fit", "--patience", "0"], "0 is not in the range"),
    (["fit", "--seed", "-1"], "-1 is not in the range"),
    (["fit", "--device", "tpu9"], "no device"),
    (["fit", "--device", "meta"], "'meta' is no device; expected cpu, cuda or cuda:0"),
    (["fit", "--device", "cuda:99"], "use --device cpu"),
    (["fit", "--size", "0"], "'0' is no size"),
    (["fit", "--size", "8x"], "'8x' is no size"),
    (["fit", "--split-seed", "-1"], "'-1' is no seed"),
    (["fit", "--num-test", "0"], "0 is not in the range"),
    (["fit", "--num-val", "-1"], "-1 is not in the range"),
    (["fit", "--workers", "0"], "0 is not in the range"),
    (["fit", "--size", "8", "--out", "OUT"], "--size: not for digits"),
    (["fit", "--layout", "HWC"], "NHWC"),
    (["fit", "--data", "cifar10", "--out", "OUT"], "cifar10 is in files"),
    (["fit", "--data", "mnist", "--data-root", "/nowhere", "--num-test", "5", "--out", "OUT"], "not for mnist"),
    (["fit", "--config", "/nowhere"], "cannot read /nowhere"),
    (["fit", "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
    (["fit", "--out", "RUN"], "holds a run already"),
    (["fit", "--out", "RUN", "--resume", "--lr", "0.5", "--latents", "3"], "fit.lr was 0.002, now 0.5; recipe.latents"),
    (["fit", "--epoch", "3"], "No such option"),
    (["report", "RUN"], "expected compare, evaluate, fit or sample (report.html is written by"),
    (["fit", "--data", "letters.npy"], "--data is 'letters.npy', which is not there"),
    (["evaluate"], "Missing argument 'RUN'"),
    (["evaluate", "/nowhere"], "/nowhere is not a run"),
    (["evaluate", "RUN", "--iwae", "5"], "5 is not in the range"),
    (["evaluate", "RUN", "--points", "0"], "0 is not in the range"),
    (["evaluate", "RUN", "--device", "cuda:99"], "use --device cpu"),
    (["sample", "/nowhere"], "/nowhere is not a run"),
    (["sample", "RUN", "--num", "0"], "0 is not in the range"),
    (["sample", "RUN", "--out", "/proc/x.png"], "cannot write /proc/x.png"),
    (["sample", "RUN", "--out", "OUT.xyz"], "xyz"),
]


def test_a_guide_named_twice_is_compared_once():
    assert types.guides(None, None, "hard-em, amortized,hard-em") == ["hard-em", "amortized"]


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_wrong_value_gets_one_line_and_status_2(arguments, words, run, tmp_path):
    places = {"RUN": run[0], "OUT": tmp_path / "out", "OUT.xyz": tmp_path / "out.xyz"}
    before = {file: file.read_bytes() for file in run[0].rglob("*") if file.is_file()}
    result = call(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2 and words in result.stderr, result.output
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("Error: ")
    assert {file: file.read_bytes() for file in run[0].rglob("*") if file.is_file()} == before


def test_ctrl_c_ends_with_the_command_that_goes_on(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt("saved at step 3; continue with resume")

    monkeypatch.setattr("pyro_dlgm.cli.fit._train", stopped)
    result = call("fit", *TINY, "--out", tmp_path / "x")
    said = f"Interrupted: saved at step 3; go on with: pyro-dlgm fit --out {tmp_path / 'x'} --resume\n"
    assert result.exit_code == 130 and result.stderr == said  # to be copied, without a dot


def test_resuming_where_there_is_no_run_says_that_a_new_one_begins(tmp_path):
    asked = "fit", *TINY, "--epochs", "1", "--out", tmp_path / "new"
    assert f"Note: there is no run in {tmp_path / 'new'} to go on with" in call(*asked, "--resume").stderr
    assert "Note" not in call(*asked, "--resume").stderr


def test_a_run_made_in_python_says_so(tmp_path):
    Run(tmp_path).create({"fit": {}})
    Run(tmp_path).save({"step": 0})
    assert "was made in Python" in call("fit", "--out", tmp_path, "--resume").stderr


def test_a_run_of_the_command_line_says_so_in_python(run):
    model, guide, config = load(run[0])
    resumed = {"epochs": 1, "out": run[0], "resume": True}
    with pytest.raises(RunError) as error:
        fit(model, guide, torch.rand(20, 1, 8, 8), **resumed)
    said = str(error.value)
    assert said.startswith(f"{run[0]} was made by the command line: ") and ", now " not in said
    assert f"pyro-dlgm fit --out {run[0]} --resume" in said
    kept = {name: config[name] for name in ("data", "recipe", "device")}
    with pytest.raises(RunError, match=r"another configuration: .*fit\.epochs was 2, now 1"):  # as from there
        fit(model, guide, torch.rand(20, 1, 8, 8), **resumed, config=kept)


@pytest.mark.parametrize("command", ["fit", "evaluate", "sample", "compare"])
def test_every_option_has_help_and_says_its_default(command):
    for option in main.commands[command].params:
        if isinstance(option, click.Option) and not option.is_flag and option.name != "data_root":
            assert option.help and (option.default is not None or "[default:" in option.help), option.name
    output = call(command, "--help").output
    assert "default" in output and "\\b" not in output


@pytest.mark.parametrize("command", list(main.commands))
def test_every_option_is_under_a_heading(command):
    headed = [name for names in help.HEADINGS.values() for name in names]
    params = [p for p in main.commands[command].params if isinstance(p, click.Option)]
    assert {p.name for p in params} <= set(headed) and len(headed) == len(set(headed))
    listed = call(command, "--help").output.partition("\nData:\n")[2]
    for option in (p.opts[0] for p in params):
        assert len(re.findall(rf"^  {option} ", listed, re.MULTILINE)) == 1, option
    assert "\nOptimization:\n" in listed or command in ("evaluate", "sample")


@pytest.mark.parametrize("command", list(main.commands))
def test_examples_are_commands_that_there_are(command):
    taught, output = main.commands[command], call(command, "--help").output
    for line in taught.examples:
        program, name, *arguments = shlex.split(line)
        assert (program, name) == ("pyro-dlgm", command) and f"\n  {line}\n" in output
        taught.make_context(name, arguments, resilient_parsing=True)


def test_summaries_of_commands_are_whole():
    listed = " ".join(call("--help").output.partition("Commands:")[2].split())
    assert "..." not in listed and "on one generative model, in one table: the main job. evaluate" in listed


# Data of one's own


@pytest.fixture
def places(tmp_path):
    r"""A file of rows, one of colour images, and a folder of images, each with the options that it needs."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "rows.npy", rng.standard_normal((40, 5)))
    np.savez(tmp_path / "colours.npz", v=images, y=np.arange(40))
    (tmp_path / "pets").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "pets" / f"{i:02}.png")
    return {
        "rows.npy": ["--split-seed", "none"],
        "colours.npz": ["--key", "v", "--labels", "y", "--likelihood", "low-rank"],
        "pets": ["--size", "6x5", "--grey", "--workers", "1", "--likelihood", "discretized-logistic"],
    }


def weights(out):
    return [v for part in ("model", "guide") for v in Run(out).load()[part].values()]


@pytest.mark.parametrize("name", ["rows.npy", "colours.npz", "pets"])
def test_a_path_is_fitted_kept_resumed_and_scored(name, places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*places[name], "--latents", "2", "--batch-size", "8", "--num-test", "10"]
    output = succeed("fit", "--data", name, *options, "--epochs", "2", "--patience", "9", "--out", "x")
    config = Run("x").config()
    assert config["data"]["root"] == str(tmp_path / name) and config["data"]["protocol"] in output
    assert "20 / 10 / 10 points" in config["data"]["protocol"] and config["recipe"]["num_points"] == 20
    monkeypatch.chdir("/")
    out = tmp_path / "x"
    assert "Done: epoch 2" in succeed("fit", "--out", out, "--resume")
    output = succeed("evaluate", out, "--iwae", 25)
    assert f"10 test points of {Path(name).stem}: {config['data']['protocol']}" in output
    bits = json.loads((out / "evaluation.json").read_text())["test"]["elbo"].get("bits_per_dim")
    assert (bits is None) == (name == "rows.npy")
    assert {"rows.npy": nets.MLP}.get(name, nets.ConvEncoder) is type(load(out)[1].encoder)


@pytest.mark.parametrize("name", ["rows.npy", "pets"])
def test_data_that_have_moved_are_found_again(name, places, tmp_path):
    options = [*places[name], "--latents", "2", "--epochs", "2", "--out", tmp_path / "x"]
    succeed("fit", "--data", tmp_path / name, *options)
    before = succeed("evaluate", tmp_path / "x", "--iwae", 25)
    new = tmp_path / "elsewhere" / name
    new.parent.mkdir()
    (tmp_path / name).rename(new)
    assert "is not there" in call("fit", "--out", tmp_path / "x", "--resume").stderr
    assert succeed("evaluate", tmp_path / "x", "--iwae", 25, "--data-root", new) == before
    assert "Done: epoch 2" in succeed("fit", "--out", tmp_path / "x", "--resume", "--data", new)


def test_streamed_images_train_the_weights_of_those_in_memory(places, tmp_path):
    options = ["--size", "6", "--latents", "2", "--epochs", "2", "--batch-size", "8", "--num-val", "3"]
    for out, more in (("memory", []), ("streamed", ["--workers", "2"])):
        succeed("fit", "--data", tmp_path / "pets", *options, *more, "--out", tmp_path / out)
    pairs = zip(weights(tmp_path / "memory"), weights(tmp_path / "streamed"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert "val_elbo" in (tmp_path / "memory" / "metrics.jsonl").read_text()


def test_points_that_are_no_pictures_are_not_drawn(places, tmp_path):
    succeed("fit", "--data", tmp_path / "rows.npy", "--epochs", "1", "--latents", "2", "--out", tmp_path / "x")
    result = call("sample", tmp_path / "x", "--out", tmp_path / "x.png")
    assert result.exit_code == 2 and "have shape (5,) and are no pictures" in result.stderr


@pytest.mark.parametrize("name", ["rows.npy", "colours.npz"])
def test_compare_takes_data_of_ones_own(name, places, tmp_path):
    options = ["--guides", "amortized", "--gradients", "1", "--samples", "25", "--latents", "2", "--points", "3"]
    result = call("compare", "--data", tmp_path / name, *places[name], *options, "--out", tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["data"]["root"] == str(tmp_path / name) and "over 3 points" in result.output


# A file of options


@pytest.fixture
def options_file(tmp_path):
    r"""A function that writes a file of options and fits with it; it gives the run's options."""

    def fitted(held, *arguments):
        (tmp_path / "fit.json").write_text(held if isinstance(held, str) else json.dumps(held))
        result = call("fit", "--config", tmp_path / "fit.json", *arguments)
        return result.stderr if result.exit_code else config.options_of(tmp_path / "x")

    return fitted


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(options_file, tmp_path):
    held = {"epochs": 1, "latents": 3, "batch-size": 300, "row_lr": 0.5, "likelihood": "factor-analysis"}
    held |= {"out": str(tmp_path / "x"), "clip-norm": None, "download": False}
    options = options_file(held, "--latents", "2")
    wanted = {"epochs": 1, "latents": 2, "batch_size": 300, "row_lr": 0.5, "lr": 2e-3, "clip_norm": None}
    assert {name: options[name] for name in wanted} == wanted


def test_the_config_of_a_run_makes_it_again(run, options_file, tmp_path):
    options = options_file((run[0] / "config.json").read_text(), "--out", tmp_path / "x")
    assert options == config.options_of(run[0])
    assert all(torch.equal(a, b) for a, b in zip(weights(run[0]), weights(tmp_path / "x"), strict=True))


def test_the_config_of_a_run_on_a_file_makes_it_again(places, options_file, tmp_path):
    given = [*places["colours.npz"], "--epochs", "1", "--latents", "2"]
    succeed("fit", "--data", tmp_path / "colours.npz", *given, "--out", tmp_path / "first")
    options = options_file((tmp_path / "first" / "config.json").read_text(), "--out", tmp_path / "x")
    assert options == config.options_of(tmp_path / "first")


def test_a_file_counts_as_given_on_resume(options_file, tmp_path):
    options_file({"epochs": 1, "likelihood": "factor-analysis", "out": str(tmp_path / "x")})
    said = options_file({"lr": 0.5, "out": str(tmp_path / "x")}, "--resume")
    assert "fit.lr was 0.002, now 0.5" in said and "epochs" not in said


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"epoch": 3, "lattents": 2, "lr": 0.1}, "has epoch, lattents; expected some of data, data-root,"),
        ({"resume": True}, "has resume"),
        ({"config": "other.json"}, "has config"),
        ({"epochs": 2.5}, "'2.5' is not a valid integer"),
        ({"epochs": True}, "'True' is not a valid integer"),
        ({"epochs": 0}, "0 is not in the range"),
        ({"guide": "meanfield"}, "mean-field"),
        ({"device": "tpu9"}, "no device"),
        ({"epochs": [1, 2]}, "epochs in"),
        ({"data": {"name": "digits"}}, "data in"),
        ([1], "holds a list; expected one object of options"),
        ("{", "is not JSON"),
    ],
)
def test_what_is_wrong_in_a_file_of_options_gets_one_line(held, words, options_file):
    said = options_file(held)
    assert words in said and said.count("\n") == 1 and said.startswith("Error: ")


# The shell


def completed(*words):
    return [
        (item.type, item.value)
        for item in BashComplete(main, {}, "pyro-dlgm", "_PYRO_DLGM_COMPLETE").get_completions(
            list(words[:-1]), words[-1]
        )
    ]


def test_the_shell_completes_commands_options_choices_and_paths():
    assert ("plain", "compare") in completed("comp")
    assert completed("fit", "--conf") == [("plain", "--config")]
    assert ("plain", "mean-field") in completed("fit", "--guide", "m")
    assert completed("fit", "--data", "mni") == [("plain", "mnist"), ("file", "mni")]
    assert completed("fit", "--config", "a") == completed("evaluate", "a") == [("file", "a")]


def test_the_program_speaks_to_the_shell():
    def said(**variables):
        return CliRunner().invoke(main, env=variables, prog_name="pyro-dlgm").stdout

    assert "complete -o nosort -F" in said(_PYRO_DLGM_COMPLETE="bash_source")
    variables = {"COMP_WORDS": "pyro-dlgm fit --schedule co", "COMP_CWORD": "3"}
    assert said(_PYRO_DLGM_COMPLETE="bash_complete", **variables).split() == ["plain,constant", "plain,cosine"]


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized-logistic", "fixed"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_each_likelihood_gets_the_pixels_that_it_takes(name, likelihood, data_file, tmp_path):
    folder = "MNIST" if name == "mnist" else "FashionMNIST"
    root = data_file(folder).parent
    shutil.copytree(root / folder, tmp_path / folder)  # torchvision unpacks beside the packed files
    dataset = datasets.dataset(name, str(tmp_path), likelihood, validate=True, download=True)
    x = dataset.test[:50]
    assert len(dataset.val) == datasets.VALIDATION and len(dataset.train) == 55_000
    pairs.model(likelihood, 3, dataset.image_shape).check(x)
    assert set(x.unique().tolist()) == {0.0, 1.0} if likelihood == "bernoulli" else len(x.unique()) > 2


def test_temperatures_are_given_or_found(run):
    both = call("evaluate", run[0], "--ais", "--tol", "0.5", "--temperatures", "20")
    assert both.exit_code == 2 and "leave out --temperatures, or --tol" in both.output
    assert options.annealed(None, None) == {"num_temperatures": None}
    assert options.annealed(None, None, 30) == {"num_temperatures": 30}
    assert options.annealed(7, None, 30) == {"num_temperatures": 7} and options.annealed(None, 0.5) == {"tol": 0.5}


@pytest.mark.parametrize("option", ["certified", "chains", "temperatures", "tol"])
def test_an_option_of_ais_without_ais_is_an_error(run, option):
    for command in (("evaluate", run[0]), ("compare", "--data", "digits", "--no-ais")):
        result = call(*command, f"--{option}", "5")
        assert result.exit_code == 2
        assert f"--{option} is for AIS" in result.output and "add --ais, or --gaps" in result.output
