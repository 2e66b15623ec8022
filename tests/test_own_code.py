"""Likelihoods by name on the command line: counts, classes, tables, and code of one's own, which no file imports."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pyro_dlgm import fit, guides, likelihoods, load
from pyro_dlgm.cli.main import main
from pyro_dlgm.recipes import datasets, imports, pairs, sources, tables
from pyro_dlgm.runs.files import RunError

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(3.0, (60, 5))
AMOUNTS = (RNG.lognormal(size=(60, 4)) * (RNG.random((60, 4)) < 0.6)).astype(np.float32)
TABLE = np.concatenate(
    [RNG.normal(size=(60, 2)), RNG.poisson(3.0, (60, 1)), RNG.integers(0, 3, (60, 1)), RNG.integers(0, 2, (60, 1))], 1
).astype(np.float32)
SPEC = "diagonal=0,student_t=1,negative-binomial=2,categorical:3=3,bernoulli=4"
MINE = """
import pathlib
import pyro.distributions as dist
import torch
from torch.nn.functional import softplus
from pyro_dlgm import guides, likelihoods, nets

with open(pathlib.Path(__file__).with_name("imported"), "a") as file:
    file.write(".")


class Laplace(likelihoods.Likelihood):
    heads = 2

    def __init__(self, net):
        super().__init__()
        self.net = net

    def pixels(self, t):
        mu, r = self.net(t)
        return dist.Laplace(mu, 0.01 + softplus(r))


def narrow(num_points, latent_dim):
    return guides.MeanField(num_points, latent_dim, init_scale=0.05)


def wide(encoder, latent_dim, given_dim):
    return guides.Amortized(encoder, latent_dim, init_scale=2.0, given_dim=given_dim)


def linear(latent_dim, shape):
    return likelihoods.FixedNormal(nets.Linear(latent_dim, shape))


def wrong(net, rank):
    return None


def nothing(net):
    return 3


value = 3
"""


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def succeed(*arguments):
    said = call(*arguments)
    assert said.exit_code == 0, (said.output, said.exception)
    return said.output


def refused(*arguments):
    said = call(*arguments)
    assert said.exit_code == 2, (said.output, said.exception)
    return " ".join(said.output.split())


@pytest.fixture
def place(tmp_path, monkeypatch):
    r"""A working directory with data, and a module of a name of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"mine_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    for file, v in (("counts", COUNTS), ("table", TABLE), ("rows", TABLE[:, :2]), ("amounts", AMOUNTS)):
        np.save(tmp_path / f"{file}.npy", v)
    yield tmp_path, name
    sys.modules.pop(name, None)


QUICK = ["--epochs", "1", "--latents", "2"]


@pytest.mark.parametrize(
    ("file", "likelihood"),
    [
        ("counts", "poisson"),
        ("counts", "negative_binomial"),
        ("counts", "zero-inflated-negative-binomial"),
        ("counts", "categorical:16"),
        ("rows", "student-t"),
        ("amounts", "zero-inflated-log-normal"),
        ("amounts", "zero-inflated-log-normal=0-2,diagonal=3"),
        ("table", SPEC),
    ],
)
def test_fit_evaluate_and_compare_take_them(file, likelihood, place):
    folder, _ = place
    asked = ["--data", folder / f"{file}.npy", "--likelihood", likelihood]
    succeed("fit", *asked, *QUICK, "--out", folder / "run")
    model, guide, kept = load(folder / "run")
    assert kept["recipe"]["likelihood"] == likelihood.replace("_", "-") and kept["data"]["protocol"]
    assert "values as they are" in kept["data"]["protocol"]
    x = torch.from_numpy({"counts": COUNTS, "table": TABLE, "rows": TABLE[:, :2], "amounts": AMOUNTS}[file]).float()
    assert model.log_joint(x, guide.posterior(x).mean).isfinite().all()
    assert "ELBO" in succeed("evaluate", folder / "run", "--iwae", "25")
    quick = ["--latents", "2", "--gradients", "2", "--samples", "25", "--guides", "mean-field,amortized"]
    said = succeed("compare", *asked, *quick, "--out", folder / "compared")
    rows = json.loads((folder / "compared" / "compare.json").read_text())
    linear = likelihood == "student-t"
    assert [row["guide"] for row in rows] == ["Exact"] * linear + ["mean-field", "amortized"]
    assert all(np.isfinite(row["test_iwae"]) for row in rows) and ("no row of PPCA" in said) == (not linear)


@pytest.mark.parametrize(
    ("file", "likelihood", "words"),
    [
        ("table", "poisson", "which are real values; use fixed"),
        ("rows", "categorical:3", "which are real values; use fixed"),
        ("rows", "zero-inflated-log-normal", "outside the support of ZeroInflatedLogNormal | expected numbers >= 0"),
        ("counts", "zero-inflated-log-normal", "does not fit | 8-bit values; use fixed"),
        ("counts", "categorical", "'categorical' is not one of | categorical:K"),
        ("counts", "categorical:3", "outside the support of Categorical | whole numbers 0 to 2"),
        ("table", "diagonal=0-4,gauss=5", "'gauss' | is no likelihood of columns | categorical:K"),
        ("table", "diagonal=0-3", "names 4 columns, all of (4,)"),
        ("table", "diagonal=0-3,poisson=3-4", "expected each column once"),
        ("table", "diagonal=0-3,poisson=x", "'x' | are no columns"),
        ("table", "poisson=0,diagonal=1-4", "columns [0] of | real values"),
        ("table", "bernoulli=2,diagonal=0-1+3-4", "columns [2] of | bernoulli expects zeros and ones"),
        ("table", "factor-analysis=0-4", "no likelihood of columns"),
    ],
)
def test_what_does_not_fit_is_named(file, likelihood, words, place):
    folder, _ = place
    said = refused("fit", "--data", folder / f"{file}.npy", "--likelihood", likelihood, *QUICK, "--out", folder / "run")
    assert all(word in said for word in words.split(" | ")), said


def test_counts_beyond_8_bits_and_those_that_lie_in_real_numbers_are_taken(place):
    for v in (300 * COUNTS, (300 * COUNTS).astype(np.float64)):
        np.save("many.npy", v)
        d = datasets.dataset(*sources.locate("many.npy", None), "negative-binomial")
        assert d.train.dtype == torch.float32 and d.transform is None and d.train.max() == 300 * COUNTS.max()
        pairs.model("negative-binomial", 2, d.image_shape).check(d.train)
    np.save("many.npy", -COUNTS)
    with pytest.raises(ValueError, match=r"whole numbers from -\d+ to .*counts and classes, from 0 on"):
        datasets.dataset(*sources.locate("many.npy", None), "poisson")


def test_a_column_far_from_unit_scale_gets_a_note(place):
    np.save("far.npy", TABLE * np.float32([1, 1, 1, 1, 1]) + np.float32([4000, 0, 0, 0, 0]))
    d = datasets.dataset(*sources.locate("far.npy", None), SPEC.replace("_", "-"))
    model = pairs.model(SPEC.replace("_", "-"), 2, d.image_shape)
    with pytest.warns(UserWarning, match=r"columns \[0\] of x lie far from 0 ± 1 .*standardize"):
        fit(model, guides.PointEstimate(len(d.train), 2), d.train, steps=1)


def test_the_encoder_of_counts_takes_logarithms():
    model = pairs.model("poisson", 2, (5,))
    guide = pairs.guide("amortized", 2, (5,))(model, 10)
    x = torch.full((1, 5), 1e5)
    torch.testing.assert_close(guide.encoder(x), guide.encoder[1](x.log1p()))
    assert guide.raw(x).abs().max() < 20  # raw counts would need to be standardized


def test_a_table_gives_each_column_its_likelihood():
    table = pairs.model("diagonal=0+2,poisson=1,categorical:4=3", 2, (4,)).likelihood
    assert [type(part) for part in table.parts] == [
        likelihoods.DiagonalNormal,
        likelihoods.Poisson,
        likelihoods.Categorical,
    ]
    assert table.columns == [[0, 2], [1], [3]] and table.parts[2].num_classes == 4
    assert tables.parts("poisson=0-2+4,fixed=3", pairs.COLUMNS) == [([0, 1, 2, 4], "poisson"), ([3], "fixed")]


# Code of one's own


def test_own_code_is_trained_kept_as_a_path_and_imported_only_with_consent(place):
    folder, name = place
    own = ["--likelihood", f"{name}:Laplace", "--guide", f"{name}:narrow"]
    succeed("fit", "--data", "rows.npy", *own, *QUICK, "--out", "run")
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["recipe"]["likelihood"] == f"{name}:Laplace" and config["recipe"]["guide"] == f"{name}:narrow"
    sys.modules.pop(name)
    (folder / "imported").unlink()
    both = rf"imports=\['{name}:Laplace', '{name}:narrow'\]\)"  # what the run needs, also where one was named
    with pytest.raises(RunError, match=rf"the likelihood and the guide of run are code .*{name}:Laplace and .*{both}"):
        load("run")
    with pytest.raises(RunError, match=rf"the likelihood of run is code of your own, {name}:Laplace, .*{both}.*model="):
        load("run", imports=[f"{name}:narrow"])
    with pytest.raises(RunError, match=f"the guide of run is code .*{name}:narrow"):
        load("run", imports=[f"{name}:Laplace"])
    for command in (
        ["evaluate", "run"],
        ["evaluate", "run", *own[:2]],
        ["sample", "run"],
        ["fit", "--out", "run", "--resume"],
    ):
        said = refused(*command)
        assert f"--likelihood {name}:Laplace --guide {name}:narrow" in " ".join(said.split()) and "imports=" not in said
    assert not (folder / "imported").exists() and name not in sys.modules
    model, guide, _ = load("run", imports=[f"{name}:Laplace", f"{name}:narrow"])
    assert type(model.likelihood).__name__ == "Laplace" and guide.num_points == 54
    assert (folder / "imported").exists()
    assert "ELBO" in succeed("evaluate", "run", "--iwae", "25", *own)
    assert "Done: epoch 2" in succeed("fit", "--out", "run", "--resume", "--epochs", "2", "--stretch", *own)
    again, _, _ = load("run", model=model, guide=guide)
    assert again is model


def test_a_file_of_options_does_not_consent(place):
    folder, name = place
    (folder / "options.json").write_text(json.dumps({"data": "rows.npy", "likelihood": f"{name}:Laplace", "epochs": 1}))
    said = refused("fit", "--config", "options.json", "--out", "run")
    assert f"--likelihood {name}:Laplace" in said and not (folder / "imported").exists()
    succeed("fit", "--config", "options.json", "--likelihood", f"{name}:Laplace", "--out", "run")


def test_own_code_is_compared(place):
    folder, name = place
    rows = [
        "--guides",
        f"mean-field,{name}:narrow,{name}:wide",
        "--gradients",
        "2",
        "--samples",
        "25",
        "--latents",
        "1",
    ]
    said = succeed("compare", "--data", "rows.npy", "--likelihood", f"{name}:Laplace", *rows, "--out", "compared")
    assert "does not say whether it is one" in said
    found = json.loads((folder / "compared" / "compare.json").read_text())
    assert [row["guide"] for row in found] == ["mean-field", f"{name}:narrow", f"{name}:wide"]
    assert {row["model"] for row in found} == {"Laplace"}


def test_a_function_may_make_its_own_network(place):
    _, name = place
    model = pairs.model(f"{name}:linear", 3, (2,))
    assert model.likelihood.net.in_shape == (3,) and model.likelihood.net.out_shape == (2,)
    wide = pairs.guide(f"{name}:wide", 3, (2,), 4)(model, 10)
    assert wide.given_dim == 4


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("wrong", "needs rank | net, shape, latent_dim, given_dim | write a function"),
        ("nothing", "returned a int | a torch module"),
        ("missing", "has no missing"),
        ("value", "holds nothing to call as value"),
    ],
)
def test_what_is_no_likelihood_is_named(path, words, place):
    _, name = place
    said = refused("fit", "--data", "rows.npy", "--likelihood", f"{name}:{path}", *QUICK, "--out", "run")
    assert all(word in said for word in words.split(" | ")), said


def test_a_module_that_is_not_there_is_named(place):
    said = refused("fit", "--data", "rows.npy", "--likelihood", "nowhere.at:All", *QUICK, "--out", "run")
    assert "nowhere.at:All cannot be imported" in said and "working directory" in said
    _, name = place
    succeed("fit", "--data", "rows.npy", *QUICK, "--out", "run")
    assert "that of run is fixed" in refused("evaluate", "run", "--likelihood", f"{name}:Laplace")
    assert "is no import path" in refused("evaluate", "run", "--likelihood", "fixed")


def test_a_run_from_elsewhere_runs_no_code(place):
    """The path in config.json of a run that someone sends: nothing of it is imported, whatever it is."""
    folder, name = place
    succeed("fit", "--data", "rows.npy", *QUICK, "--out", "run")
    config = json.loads((folder / "run" / "config.json").read_text())
    for kind in ("likelihood", "guide"):
        config["recipe"] |= {"likelihood": "fixed", "guide": "amortized", kind: f"{name}:Laplace"}
        (folder / "run" / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match="not imported without your consent"):
            load("run")
    code = f"from pyro_dlgm.recipes.pairs import Recipe; Recipe('{name}:Laplace', 'a:b', 2, [2], 5)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("name", ["a:b", "a.b:C", "_a.b_1:c_2"])
def test_import_paths(name):
    assert imports.is_path(name)


@pytest.mark.parametrize(
    "name", ["categorical:3", "a:", ":b", "a.b", "a..b:c", "diagonal=0,categorical:3=1", "a:b.c", "1a:b"]
)
def test_other_names(name):
    assert not imports.is_path(name)
