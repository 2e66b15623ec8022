"""The command line on data with missing values: masks, mechanisms and objectives, kept, resumed, refused."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pyro_dlgm.guides.base import adapted

from pyro_dlgm import likelihoods, objectives
from pyro_dlgm.cli.main import main
from pyro_dlgm.recipes import bounds, datasets, mechanisms, pairs
from pyro_dlgm.runs.load import load
from pyro_dlgm.runs.run import Run

TINY = ["--latents", "1", "--epochs", "2", "--likelihood", "linear", "--guide", "full-rank"]


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def succeed(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def holes(tmp_path):
    r"""A file of 60 rows of three columns and a class; of the first column, what is above 0 is missing."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    x[:, 3] = rng.integers(0, 3, 60)
    x[x[:, 0] > 0, 0] = np.nan
    np.save(tmp_path / "holes.npy", x[:, :3])
    np.save(tmp_path / "mixed.npy", x)
    return tmp_path


def parameters(out):
    return [v for part in ("model", "guide") for v in Run(out).load()[part].values()]


def test_nan_in_a_file_is_a_mask_of_all_three_parts(holes):
    d = datasets.dataset("file", str(holes / "holes.npy"), "fixed", num_test=10, num_val=10)
    assert d.has_missing and "of the values are missing" in d.protocol
    for points in (d.train_points, d.val_points, d.test_points, d.seen(5)):
        assert torch.equal(points.mask, ~points.x.isnan()) and not points.mask[:, 0].all()
    np.save(holes / "whole.npy", np.ones((9, 2)) + np.arange(2))
    whole = datasets.dataset("file", str(holes / "whole.npy"), "fixed", num_test=2)
    assert not whole.has_missing and whole.train_points.mask is None and "missing" not in whole.protocol


@pytest.mark.parametrize(("name", "sign"), [("self_masking", None), ("known", 1), ("known:low", -1)])
def test_a_known_direction_has_its_sign(name, sign):
    found = pairs.model("diagonal", 1, (3,), missingness=name).likelihood.mechanism
    assert found.sign is None if sign is None else bool((found.sign == sign).all())
    assert isinstance(pairs.model("linear", 1, (3,)).likelihood, likelihoods.FixedNormal)


@pytest.mark.parametrize("name", ["self-masking", "agnostic"])
def test_a_mechanism_is_trained_kept_resumed_and_scored(holes, name):
    out = holes / "x"
    data = ["--data", holes / "holes.npy", "--num-val", "5", "--schedule", "constant"]
    succeed("fit", *data, *TINY, "--missingness", name, "--out", out)
    succeed("fit", "--out", out, "--resume", "--epochs", "3")
    model, _, config = load(out)
    assert config["recipe"]["missingness"] == name.replace("-", "_") and config["fit"]["mask"] is not None
    found = model.likelihood.mechanism
    assert isinstance(found, likelihoods.Drawn if name == "agnostic" else likelihoods.SelfMasking)
    assert all(p.abs().max() > 0 for p in found.parameters())  # they start at 0
    succeed("evaluate", out, "--iwae", 25, "--points", 3)
    said = call("fit", "--out", out, "--resume", "--missingness", "known")
    assert said.exit_code == 2 and "recipe.missingness was" in said.stderr


def test_a_run_goes_on_for_more_epochs_as_if_it_had_never_stopped(holes):
    options = ["--data", holes / "holes.npy", *TINY, "--missingness", "agnostic", "--objective", "dreg:2"]
    options += ["--schedule", "constant"]
    succeed("fit", *options, "--out", holes / "short")
    succeed("fit", "--out", holes / "short", "--resume", "--epochs", "4")
    succeed("fit", *options, "--epochs", "4", "--out", holes / "whole")
    pairs_of = zip(parameters(holes / "short"), parameters(holes / "whole"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs_of)


def test_in_a_table_the_mechanism_is_that_of_gaussian_columns(holes):
    table = ["--likelihood", "fixed=0-1,diagonal=2,categorical:3=3", "--missingness", "self_masking"]
    succeed("fit", "--data", holes / "mixed.npy", *TINY[:4], *table, "--out", holes / "x")
    kinds = [type(part) for part in load(holes / "x")[0].likelihood.parts]
    assert kinds == [likelihoods.Missingness, likelihoods.Missingness, likelihoods.Categorical]


def test_an_objective_is_kept_shown_and_resumed(holes):
    name, K, out = "dreg:2", 2, holes / "x"
    for said, kind in (("iwae:3", objectives.IWAE), (name, objectives.DReG)):
        made = bounds.objective(said)
        assert type(made) is kind and made.num_particles == bounds.num_samples(said) == int(said[-1])
    output = succeed("fit", "--data", holes / "holes.npy", *TINY, "--objective", name, "--out", out)
    assert f"epoch 1, step 1: iwae_{K} " in output and Run(out).config()["objective"] == name
    assert "Done: epoch 2" in succeed("fit", "--out", out, "--resume")
    succeed("fit", "--config", out / "config.json", "--out", holes / "again")
    assert all(torch.equal(a, b) for a, b in zip(parameters(out), parameters(holes / "again"), strict=True))
    said = call("fit", "--out", out, "--resume", "--objective", "elbo").stderr
    assert "fit.objective was" in said and said.count("\n") == 1


def test_compare_spends_its_budget_on_samples_and_has_no_ppca_of_masks(holes):
    options = ["--data", holes / "holes.npy", *TINY[:2], "--likelihood", "linear", "--guides", "full-rank,amortized"]
    options += ["--gradients", "6", "--samples", "25", "--points", "2", "--no-ais"]
    output = succeed("compare", *options, "--missingness", "known", "--objective", "iwae:3", "--out", holes / "x")
    assert "no row of PPCA: log p(x, m)" in output and "PPCA-" not in output
    rows = json.loads((holes / "x" / "compare.json").read_text())
    assert [row["gradients_per_point"] for row in rows] == [6, 6]
    kept = json.loads((holes / "x" / "config.json").read_text())
    assert kept["missingness"] == "known" and kept["objective"] == "iwae:3"
    assert "PPCA-1" in succeed("compare", *options, "--out", holes / "y")


def test_guides_without_a_density_are_known_by_name():
    model = pairs.model("linear", 1, (3,))
    made = {name: pairs.guide(name, 1, (3,))(model, 4) for name in pairs.GUIDES}
    assert tuple(n for n, guide in made.items() if not adapted(guide).has_density) == bounds.NO_DENSITY


def test_independent_gaussians_are_known_by_name():
    for name in pairs.LIKELIHOODS:
        p = pairs.model(name, 1, (3,)).likelihood
        assert isinstance(p, likelihoods.FixedNormal | likelihoods.DiagonalNormal) == (name in mechanisms.INDEPENDENT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "--objective", "iwae"], "'iwae' is no objective; expected elbo, iwae:K or dreg:K"),
        (["fit", "--objective", "dreg:0"], "'dreg:0' is no objective"),
        (["fit", "--objective", "iwae:5", "--guide", "mcem"], "mcem has no density q"),
        (["fit", "--objective", "iwae:5", "--warmup", "1", "--out", "OUT"], "--warmup is 1, but IWAE has no beta"),
        (["compare", "--objective", "iwae:5"], "hard-em has no density q"),
        (["compare", "--objective", "iwae:9", "--guides", "flow", "--gradients", "8"], "--gradients is 8, and"),
        (["fit", "--missingness", "mcar"], "'mcar' is not one of 'self_masking', 'known', 'known:low', 'agnostic'"),
        (["fit", "--missingness", "known", "--out", "OUT"], "no value of digits is missing; expected a file with NaN"),
        (["compare", "--missingness", "known", "--likelihood", "bernoulli"], "needs Gaussian values"),
        (["fit", "--data", "FILE", "--missingness", "known", "--likelihood", "low-rank", "--out", "OUT"], "'low-rank'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_does_not_fit_gets_one_line(arguments, words, holes):
    places = {"OUT": holes / "out", "FILE": holes / "holes.npy"}
    result = call(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
