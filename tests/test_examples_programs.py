r"""The examples on programs of one's own, and with scikit-learn: they run at tiny settings, and do what they say."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = ("cell_factors", "mixture_of_dlgms", "moving_digits", "noisy_twins", "credible_curves", "m2_digits")
NAMES += ("scikit_learn", "priors_on_digits", "half_hidden_digits", "scientific_table")


def loaded(name: str):
    r"""An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch, tmp_path):
    r"""A function that runs an example with options, and constants of its own, and returns the record it writes."""

    def run(name, *options, **constants):
        module = loaded(name)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        monkeypatch.setattr(sys, "argv", [name, *map(str, options), "--out", str(tmp_path)])
        module.main()
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_with_the_sentence_it_shows_and_the_command(name):
    first, _, command = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()[:3]
    assert first.startswith('r"""') and first[4].isupper() and first[-1] in ".?"
    assert command.startswith(f"    python examples/{name}.py")


SMALL_CELLS = {"GENES": 12, "LATENTS": 2, "BATCH": 16, "ANNEALED": {"num_chains": 2, "num_temperatures": 5}}
SMALL_CELLS |= {"ALONE": 50, "INFER": {"max_steps": 60}}


@pytest.mark.filterwarnings("ignore:.*(diverged|one walk|converged)")
def test_cells_that_were_held_out_get_rows(run, tmp_path):
    random = np.random.default_rng(0)
    z, sizes = random.normal(size=(70, 2)), random.integers(300, 900, 70)
    rate = np.exp(z @ random.normal(size=(2, 12)) - 4)
    counts = random.poisson(sizes[:, None] * rate).clip(0, 60000).astype(np.uint16)
    np.savez(tmp_path / "x.npz", counts=counts, total_counts=sizes, labels=np.arange(70) % 3)
    options = ("--file", tmp_path / "x.npz", "--epochs", 30, "--held-out", 20, "--annealed", 4)
    results = run("cell_factors", *options, **SMALL_CELLS)["results"]
    assert results["gain"]["mean"] > 0 and results["elbo"]["standard_error"] > 0
    assert results["rand"].keys() == {"factors", "principal components"}


@pytest.mark.filterwarnings("ignore:.*(diverged|one walk|converged)")
def test_the_bladder_cells_are_read(run, data_file):
    options = ("--file", data_file("Counts", "counts_mouse_bladder.npz"), "--epochs", 1, "--held-out", 10)
    record = run("cell_factors", *options, "--annealed", 2, **SMALL_CELLS)
    assert record["arguments"]["held_out"] == 10 and np.isfinite(record["results"]["elbo"]["mean"])


def test_clusters_are_summed_out(run):
    rand = run("mixture_of_dlgms", "--epochs", 1, "--seeds", 0, FEATURES=8, TAUGHT=20, COVARIANCES=("diag",))["rand"]
    assert rand.keys() == {"mixture of DLGMs", "q(y | x) as taught", "k-means", "Gaussians, diag"}
    assert all(-1 <= value <= 1 for values in rand.values() for value in values)


def test_a_sum_over_components_is_what_the_mixture_says(monkeypatch):
    r"""Enumeration in the model and in the guide is the sum of bounds by hand, y after y."""
    from pyro.infer import TraceEnum_ELBO

    module = loaded("mixture_of_dlgms")
    mixture, guide, x = module.Mixture(torch.rand(module.K, 64)), module.Guide(), torch.rand(7, 1, 8, 8)
    torch.manual_seed(3)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(mixture, guide, x)
    torch.manual_seed(3)
    noise, log_q, total = torch.randn(module.K, 7, module.LATENTS), guide.classifier(x).log_softmax(-1), 0.0
    for k, y in enumerate(torch.eye(module.K)):
        m, log_s = guide.head(torch.nn.functional.elu(guide.encoder(x)), y.expand(7, -1)).chunk(2, -1)
        q = torch.distributions.Normal(m, log_s.exp())
        t = m + log_s.exp() * noise[k]
        log_joint = mixture.p.log_joint(x, t, given=y.expand(7, -1)) - np.log(module.K)
        total += (log_q[:, k].exp() * (log_joint - q.log_prob(t).sum(-1) - log_q[:, k])).sum()
    torch.testing.assert_close(loss, -total, rtol=1e-4, atol=0)


def test_films_are_forecast(run):
    record = run("moving_digits", "--epochs", 1, "--films", 20, FRAMES=5, SEEN=3, HIDDEN=8, BATCH=10)
    assert "20 training films" in record["protocol"] and record["errors"].keys() > {"forecast", "last image"}
    assert all(len(values) == 2 for values in record["errors"].values())


def test_films_bounce(monkeypatch):
    module = loaded("moving_digits")
    monkeypatch.setattr(module, "NOISE", 0.0)
    x = module.films(torch.ones(1, 1, 8, 8), 6, 0)
    corner = x.flatten(2).argmax(-1)  # the first pixel of the digit
    places = torch.stack([corner // module.SIDE, corner % module.SIDE], -1)
    assert (places.diff(dim=1).abs() == 1).all() and places.amin() == 0 and places.amax() == module.SIDE - 8


@pytest.mark.filterwarnings("ignore:.*(diverged|one walk)")
def test_twins_are_made_from_each_other(run):
    small = {"HIDDEN": 8, "LATENTS": 2, "ANNEALED": {"num_chains": 2, "num_temperatures": 5}}
    record = run("noisy_twins", "--epochs", 2, "--annealed", 4, **small)
    assert "1200 training points, 300 complete" in record["protocol"]
    for found in record["results"].values():
        assert {"all points", "complete points", "ridge regression", "mean"} < found.keys()


def test_a_quarter_of_the_twins_is_complete():
    module = loaded("noisy_twins")
    mask = module.masks(torch.zeros(1200, 2, 8, 8), 0).flatten(2).all(-1)
    assert mask.all(1).sum() == 300 and mask.any(1).all() and mask.sum(0).tolist() == [750, 750]


@pytest.mark.filterwarnings("ignore:.*converged")
def test_bands_are_wider_with_fewer_flowers(run):
    results = run("credible_curves", "--steps", 30, "--flowers", 10, 40, DRAWS=20, HELD_OUT=8)["results"]
    assert results.keys() == {"10", "40"} and all(0 <= found["draws of w"] <= 1 for found in results.values())


def test_components_are_searched_by_held_out_log_likelihood(run):
    tiny = {"max_iter": 2, "num_samples": 2}
    small = {
        "GRIDS": {"wine": [1, 2], "digits": [2]},
        "OUR_GRIDS": {"wine": [1], "digits": [2]},
        "COMPONENTS": {"wine": [1], "digits": [1]},
        "SAMPLES": 3,
    }
    training = {"wine": tiny, "digits": tiny | {"image_shape": (1, 8, 8)}}
    results = run("scikit_learn", TRAINING=training, FOLDS={"wine": 2, "digits": 2}, **small)["results"]
    assert [len(rows["PCA"]["scores"]) for rows in results.values()] == [45, 450]
    for rows in results.values():
        assert rows["PPCA"]["difference"]["mean"] >= rows["PCA"]["difference"]["mean"] - 0.05
        assert rows[rows["PCA"]["beside"]]["difference"]["mean"] == 0
        assert all(
            np.isfinite(found["scores"]).all() and len(found["folds"]) == len(found["grid"]) for found in rows.values()
        )


def test_scores_of_a_pipeline_are_in_the_units_of_the_data():
    module = loaded("scikit_learn")
    x = np.random.default_rng(0).normal(size=(30, 3)) * [1, 10, 0.1]
    arguments = type("A", (), {"seed": 0, "jobs": 1})
    search = module.searched(module.GaussianMixture(reg_covar=0.0), [1], "wine", x, arguments)
    known = torch.distributions.MultivariateNormal(torch.tensor(x.mean(0)), torch.tensor(np.cov(x.T, bias=True)))
    assert np.allclose(module.scores(search, x), known.log_prob(torch.tensor(x)))


@pytest.mark.filterwarnings("ignore:.*(diverged|one walk|converged|not to be trusted)")
def test_priors_are_compared_point_by_point(run):
    setting = loaded("priors_on_digits").SETTINGS["digits"]._replace(latents=2, hidden=(8,))
    small = {"SETTINGS": {"digits": setting}, "PSEUDO_INPUTS": 10}
    results = run("priors_on_digits", "--epochs", 1, "--seeds", 0, "--points", 3, "--tol", 1, **small)["results"]
    assert results["N(0, I)"][0]["gain"]["mean"] == 0 != results["mixture"][0]["gain"]["mean"]
    assert "components" in results["VampPrior"][0]["rand"] and results.keys() == {"N(0, I)", "mixture", "VampPrior"}


@pytest.mark.filterwarnings("ignore:.*(weights of|converged)")
def test_hidden_halves_are_drawn(run):
    small = {"HIDDEN": (8, 8), "LATENTS": 2, "POINTS": 6, "E_STEPS": 20, "DRAWS": 4, "PROPOSALS": 30}
    results = run("half_hidden_digits", "--epochs", 1, **small)["results"]
    assert sum(results["images by the number of digits in their draws"]) == 6
    assert all(0 < results[name]["rmse"] < 1 for name in ("DLGM", "PPCA", "mean of each pixel"))


def test_a_half_is_hidden_of_each_image():
    module = loaded("half_hidden_digits")
    mask = module.halves(50, 0)
    assert 0.45 < float(module.pixels((50, 1, 8, 8), 0).double().mean()) < 0.55
    assert (mask.flatten(1).sum(1) == 32).all() and len(mask.flatten(1).unique(dim=0)) == 4


@pytest.mark.filterwarnings("ignore:.*(weights of|converged)")
def test_a_table_with_missing_values_is_drawn(run, tmp_path):
    rng = np.random.default_rng(0)
    v = np.exp(rng.normal(size=(240, 1)) + 0.3 * rng.normal(size=(240, 13)))
    v[rng.random(v.shape) < 0.1] = np.nan
    v[20:60, 0] = np.nan  # an analyser that fails for hours
    lines = [",".join(["time", *["" if np.isnan(value) else f"{value:.4f}" for value in row]]) for row in v]
    (tmp_path / "x.csv").write_text("\n".join(["head", *lines]))
    small = {"HIDDEN": (8,), "LATENTS": 2, "E_STEPS": 20, "DRAWS": 20, "WINDOW": 48}
    results = run("scientific_table", "--file", tmp_path / "x.csv", "--epochs", 2, "--checked", 30, **small)["results"]
    assert results["widths"].keys() == {"all other columns", "the weather alone", "nothing"}
    assert results["DLGM"]["rmse"] > 0 and results["lines in time"]["rmse"] > 0


def test_air_quality_is_read(data_file):
    x = loaded("scientific_table").table(str(data_file("Science", "air_quality.csv")))
    assert x.shape == (9357, 12) and 0.05 < float(x.isnan().double().mean()) < 0.1
    assert float(x.nanmean(0).abs().max()) < 1e-3
