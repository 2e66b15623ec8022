r"""The options of fit, said once: signature, docstring, check, command line, config.json, compare."""

import inspect
import json
import math

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pyro_dlgm import compare, fit
from pyro_dlgm.cli.main import main
from pyro_dlgm.cli.options import DEFAULTS
from pyro_dlgm.cli.types import CountOr
from pyro_dlgm.comparison.columns import Row
from pyro_dlgm.comparison.comparison import rows
from pyro_dlgm.optim.row_adam import RowAdam
from pyro_dlgm.optim.svi import adam
from pyro_dlgm.training.options import (
    BATCH,
    CHECKS,
    COMPILE,
    COUNT,
    E_STEPS,
    NEEDED,
    NOT_NEGATIVE,
    POSITIVE,
    PRECISION,
    SCHEDULE,
    WHOLE,
    check,
    options_of,
)

OPTIONS = options_of(fit)
VALUES = {name: option.default for name, option in OPTIONS.items()}
SHELL = {p.name: p for p in main.commands["fit"].params if isinstance(p, click.Option)}


def test_every_check_is_of_a_parameter_that_has_a_meaning():
    assert list(OPTIONS) == list(CHECKS)
    for option in OPTIONS.values():
        assert len(option.meaning) > 10 and option.meaning[0].isupper() and "`" not in option.meaning
        assert option.default is inspect.signature(fit).parameters[option.name].default


def test_none_says_nothing_where_there_is_a_default():
    assert list(NEEDED) == [name for name, option in OPTIONS.items() if option.default is not None]
    check(VALUES)
    for name in NEEDED:
        with pytest.raises(ValueError, match=f"{name} is None; expected"):
            check(VALUES | {name: None})


def test_numbers_of_numpy_and_parts_of_an_epoch_are_numbers():
    check(VALUES | {"lr": np.float32(1e-3), "steps": np.int64(3), "warmup": 0.5})


def test_a_meaning_goes_on_over_lines_and_ends_before_the_next_one():
    assert OPTIONS["patience"].meaning.endswith("and restore the best epoch.")
    assert OPTIONS["epochs"].meaning == "Passes through the training points."


def test_the_command_line_has_them_with_their_defaults_meanings_and_checks():
    assert [name for name in CHECKS if name not in SHELL] == ["steps"]
    for name in CHECKS.keys() & SHELL.keys():
        assert SHELL[name].default == DEFAULTS.get(name, OPTIONS[name].default), name
        assert OPTIONS[name].meaning.startswith(SHELL[name].help.partition(".")[0]), name
        kind = dict.fromkeys((COUNT, WHOLE, NOT_NEGATIVE), click.IntRange)
        kind |= {POSITIVE: click.FloatRange, SCHEDULE: click.Choice, E_STEPS: CountOr}
        kind |= {COMPILE: click.types.BoolParamType, PRECISION: click.Choice}
        assert isinstance(SHELL[name].type, kind[CHECKS[name]]), name
    assert DEFAULTS.keys() == {"epochs", "batch_size", "seed"} and DEFAULTS["batch_size"] == BATCH
    assert all(OPTIONS[name].default is None for name in DEFAULTS)


def test_compare_has_the_defaults_of_fit():
    ours, theirs = inspect.signature(compare).parameters, inspect.signature(fit).parameters
    shared = (ours.keys() & theirs.keys()) - {"seed"}
    assert shared >= {"lr", "row_lr", "schedule", "batch_size", "transform", "progress"}
    for name in shared:
        assert ours[name].default == theirs[name].default, name


def test_optimizers_made_by_hand_have_the_learning_rates_of_fit():
    ours = inspect.signature(adam).parameters
    assert {name: ours[name].default for name in ("lr", "row_lr")} == {
        "lr": OPTIONS["lr"].default,
        "row_lr": OPTIONS["row_lr"].default,
    }
    assert inspect.signature(RowAdam).parameters["lr"].default == ours["row_lr"].default


def test_compare_has_the_signature_of_its_rows_and_says_that_it_returns_them():
    ours = inspect.signature(compare)
    assert ours.parameters == inspect.signature(rows).parameters and ours.return_annotation == list[Row]
    assert "Returns:\n        A `Row` for each method" in compare.__doc__ and "Yields" not in compare.__doc__
    assert compare.__name__ == "compare" and "returns their rows" in compare.__doc__.splitlines()[0]


def test_the_command_compare_has_the_defaults_of_compare():
    shell = {p.name: p.default for p in main.commands["compare"].params}
    ours = inspect.signature(compare).parameters
    named = {"gradients": "gradients", "num_samples": "samples", "seed": "seed"}
    assert {ours[name].default == shell[option] for name, option in named.items()} == {True}


def test_config_json_holds_them(tmp_path):
    command = ["fit", "--likelihood", "factor-analysis", "--latents", "2", "--epochs", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(main, command).exit_code == 0
    kept = json.loads((tmp_path / "config.json").read_text())["fit"]
    assert list(kept)[: len(CHECKS)] == list(CHECKS)
    unset = {name: kept[name] for name in CHECKS if name not in ("epochs", "batch_size", "seed")}
    assert unset == {name: OPTIONS[name].default for name in unset}
    assert (kept["epochs"], kept["batch_size"], kept["seed"]) == (1, 100, 0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", 0, "epochs is 0; expected a whole number, at least 1"),
        ("epochs", 2.0, "epochs is 2.0; expected a whole number"),
        ("warmup", -1, "warmup is -1; expected a finite number >= 0"),
        ("warmup", math.inf, "warmup is inf; expected a finite number >= 0"),
        ("lr", math.inf, "lr is inf; expected a finite number > 0"),
        ("lr", 0, "lr is 0; expected a finite number > 0"),
        ("row_lr", "0.1", "row_lr is '0.1'; expected a finite number > 0"),
        ("clip_norm", -1.0, "clip_norm is -1.0; expected a finite number > 0"),
        ("schedule", "step", "schedule is 'step'; expected one of 'constant', 'linear', 'cosine', or a function"),
        ("seed", -1, "seed is -1; expected a whole number >= 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(name, value, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace("|", r"\|")):
        check(VALUES | {name: value})


def test_values_that_make_sense_pass():
    check(VALUES)
    check(VALUES | {"schedule": lambda done: 1.0, "epochs": 3, "lr": 1, "clip_norm": 0.5})


def test_the_signature_shows_types_and_defaults():
    parameters = inspect.signature(fit).parameters
    assert all(
        p.annotation is not inspect.Parameter.empty for p in parameters.values() if p.name not in ("model", "guide")
    )
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    assert parameters["lr"].default == 2e-3 and parameters["lr"].annotation == "float"


def test_one_gpu_check_for_fit_and_the_command_line():
    with pytest.raises(ValueError, match="torch sees"):
        fit(torch.nn.Identity(), torch.nn.Identity(), torch.zeros(2, 2), epochs=1, device="cuda:99")
    said = CliRunner().invoke(main, ["fit", "--device", "cuda:99"])
    assert said.exit_code == 2 and "torch sees" in said.stderr and "use --device cpu" in said.stderr
