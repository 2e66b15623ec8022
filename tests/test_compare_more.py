"""compare takes what fit takes: any likelihood, rows of a table, counts, masks; its exact row is over their points."""

import json

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from pyro_dlgm import DLGM, PPCA, Points, compare, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.cli import compare as compare_command
from pyro_dlgm.cli import evaluate as command
from pyro_dlgm.cli.main import main
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.data.dataset import Dataset
from pyro_dlgm.recipes import pairs
from pyro_dlgm.runs.fingerprint import described

QUICK = ["--gradients", "2", "--samples", "25", "--guides", "mean-field,amortized"]
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(40, 5)).astype(np.float32)
DATA = {
    "rows": (ROWS, ["fixed", "factor-analysis"]),
    "rows of zeros and ones": ((ROWS > 0).astype(np.float32), ["bernoulli"]),
    "counts of 8 bits": (RNG.integers(0, 9, (40, 5)), ["bernoulli"]),
    "images": (RNG.random((30, 1, 8, 8), dtype=np.float32), ["continuous-bernoulli"]),
    "images of 8 bits": (RNG.integers(0, 256, (30, 1, 8, 8), dtype=np.uint8), ["discretized-logistic"]),
}
TAKEN = [(data, likelihood) for data, (_, names) in DATA.items() for likelihood in names]


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(("data", "likelihood"), TAKEN)
def test_the_command_compares_on_any_data_and_likelihood_that_fit_takes(data, likelihood, tmp_path):
    np.save(tmp_path / "x.npy", DATA[data][0])
    asked = ["--data", tmp_path / "x.npy", "--likelihood", likelihood]
    said = call("compare", *asked, *QUICK, "--out", tmp_path / "out")
    assert said.exit_code == 0, said.output
    rows = json.loads((tmp_path / "out" / "compare.json").read_text())
    masses = likelihood in ("bernoulli", "discretized-logistic")
    assert [row["guide"] for row in rows] == ["Exact"] * (not masses) + ["mean-field", "amortized"]
    assert all(row["test_elbo"] is not None for row in rows)
    network = "" if likelihood == "factor-analysis" else "conv-" if data.startswith("images") else "mlp-"
    assert {row["model"] for row in rows[-2:]} == {network + likelihood}
    if not masses:
        assert rows[0]["model"] == ("PPCA-16" if data.startswith("images") else "PPCA-4")  # less than the 5 columns
    assert ("a probability is no density" in said.output) == masses
    assert (tmp_path / "out" / "report.html").exists() and (tmp_path / "out" / "compare.png").exists()


def test_the_command_offers_every_likelihood():
    (option,) = (p for p in main.commands["compare"].params if p.name == "likelihood")
    assert list(option.type.choices) == list(pairs.LIKELIHOODS)


class Poisson(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nets.MLP(2, (5,))

    def forward(self, t, mask=None):
        p = dist.Poisson(self.net(t).exp())
        return (p if mask is None else p.mask(mask)).to_event(1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_counts_are_compared_whatever_the_guide(dtype):
    x = torch.as_tensor(RNG.poisson(3.0, (50, 5))).to(dtype)
    factories = {
        "mean-field": lambda model, N: guides.MeanField(N, 2),
        "amortized": lambda model, N: guides.Amortized(nets.MLP((5,), 8), 2),
        "masked": lambda model, N: guides.Amortized(nets.MLP((10,), 8), 2, mask_input=True),
        "chain": lambda model, N: guides.Chain(model, N, 2, burn_in=2, num_leapfrog=1),
        "hybrid": lambda model, N: guides.Hybrid(model, guides.Amortized(nets.MLP((5,), 8), 2), num_leapfrog=1),
    }
    rows = compare(
        lambda: DLGM(priors.StandardNormal(2), Poisson()), factories, x[:30], x[30:], gradients=5, num_samples=25
    )
    assert [row.guide for row in rows] == list(factories)
    assert all(row.test_elbo is not None or row.reasons["test_elbo"] for row in rows)


def linear():
    return DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Linear(2, 5), 1.0))


MEAN_FIELD = {"mean-field": lambda model, N: guides.MeanField(N, 2)}


def test_the_exact_row_sees_what_is_observed():
    x = torch.as_tensor(ROWS)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) > 0.2
    hidden = Points(torch.where(mask, x, torch.nan), mask=mask)
    row, other = compare(linear, MEAN_FIELD, hidden[:30], hidden[30:], gradients=2, num_samples=25, ppca=2)
    model = PPCA.fit(x[:30].double(), 2, mask=mask[:30])
    assert row.test_elbo == pytest.approx(float(model.log_prob(x[30:].double(), mask[30:]).mean().detach()), abs=1e-6)
    assert other.test_elbo is not None


def test_log_px_of_the_exact_row_is_over_the_points_of_the_others():
    x = torch.as_tensor(ROWS)
    certify = Certify(points=4, num_chains=2, num_temperatures=5, num_samples=50)
    settings = {"gradients": 2, "num_samples": 25, "ppca": 2}
    exact, other = compare(linear, MEAN_FIELD, x[:25], x[25:], certify=certify, **settings)
    log_px = PPCA.fit(x[:25].double(), 2).log_prob(x[25:].double()).detach()
    assert exact.test_log_px == pytest.approx(float(log_px[:4].mean()))
    assert exact.certified_points == other.certified_points == 4
    assert exact.standard_errors["test_log_px"] == pytest.approx(float(log_px[:4].std()) / 2)
    assert exact.test_elbo == pytest.approx(float(log_px.mean()))  # as F(q) of the others, over all of them
    uncertified, _ = compare(linear, MEAN_FIELD, x[:25], x[25:], **settings)
    assert uncertified.test_log_px == uncertified.test_elbo


# The words of the command line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "two.npz", a=ROWS, b=ROWS)
    np.save(folder / "square.npy", RNG.random((20, 5, 6, 5), dtype=np.float32))
    np.save(folder / "rows.npy", ROWS)
    np.savez(folder / "rows.npz", x=ROWS, y=np.arange(len(ROWS)) % 4)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words", "never"),
    [
        (["--data", "two.npz"], ["--key is not given", "'a', 'b'"], ["key is None"]),
        (["--data", "two.npz", "--key", "c"], ["--key is 'c'"], []),
        (["--data", "square.npy"], ["--layout NCHW"], ["layout="]),
        (["--data", "rows.npy", "--layout", "NCHW"], ["--layout"], [" layout 'NCHW'"]),
        (["--data", "rows.npy", "--num-test", "90"], ["--num-test is 90"], ["num_test"]),
        (["--data", "rows.npy", "--stretch"], ["--stretch", "--resume"], ["True", "False"]),
        (["--data", "rows.npy", "--batch-size", "30", "--lr", "1e30"], ["--row-lr", "--clip-norm"], ["row_lr"]),
    ],
)
def test_messages_speak_the_language_of_the_command_line(arguments, words, never, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    said = call("fit", *arguments, "--epochs", "9", "--latents", "2", "--out", tmp_path / "out")
    assert said.exit_code == 2, said.output
    assert all(word in said.output for word in words), said.output
    assert not any(word in said.output for word in never), said.output


def test_a_folder_with_a_run_says_how_to_go_on(files, tmp_path):
    command = ["fit", "--data", files / "rows.npy", "--epochs", "1", "--latents", "2", "--out", tmp_path / "out"]
    assert call(*command).exit_code == 0
    said = call(*command)
    assert said.exit_code == 2 and "go on with it with --resume" in said.output, said.output
    other = call(*command, "--resume", "--lr", "0.5", "--epochs", "1")
    assert "fit.lr was 0.002, now 0.5" in other.output, other.output


@pytest.mark.parametrize("options", [["--temperatures", "5"], ["--ais", "--chains", "2", "--temperatures", "5"]])
def test_what_cannot_be_certified_fails_before_anything_is_scored(options, files, tmp_path, monkeypatch):
    made = ["fit", "--data", files / "rows.npy", "--epochs", "1", "--latents", "2", "--out", tmp_path / "out"]
    assert call(*made).exit_code == 0
    monkeypatch.setattr(command, "_scored", lambda *_: pytest.fail("it was scored"))
    monkeypatch.setattr("pyro_dlgm.evaluate.marginal.evidence.check", refuse)
    said = call("evaluate", tmp_path / "out", *options)
    assert said.exit_code == 2 and "temperatures" in said.output, said.output
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.fixture
def asked(files, monkeypatch):
    r"""A function that gives what ``compare`` with these arguments would work on, and what it prints first."""
    seen = []
    monkeypatch.setattr(compare_command, "_rows", lambda *given: seen.append(given) or iter(()))
    monkeypatch.setattr(compare_command, "_say", lambda *_: None)
    monkeypatch.setattr(compare_command, "_write", lambda *_: [])

    def called(*arguments):
        said = call("compare", "--data", files / "rows.npz", "--labels", "y", "--key", "x", *arguments)
        return (seen.pop() if seen else None), said

    return called


@pytest.mark.parametrize(
    ("arguments", "certify"),
    [
        ([], Certify(True, 4, 4, 30)),  # a tenth of the 40 points test
        (["--no-gaps"], Certify(False, 4, 4, 30)),
        (["--no-ais"], None),
        (["--certified", 2, "--chains", 3, "--temperatures", 7], Certify(True, 2, 3, 7)),
        (["--tol", 0.3], Certify(True, 4, 4, tol=0.3)),
    ],
)
def test_compare_certifies_what_is_asked_for_and_shows_its_columns(arguments, certify, asked):
    (_, _, found, _), said = asked(*arguments)
    assert found == certify
    assert ("log p(x)" in said.output) == (certify is not None)
    assert ("approx. gap" in said.output) == (certify is not None and certify.gaps)


def test_compare_works_on_the_first_points_with_its_budget(asked):
    (_, data, certify, budget), _ = asked("--points", 3, "--seed", 5, "--samples", 30, "--gradients", 7)
    assert len(data.test) == len(data.test_labels) == certify.points == 3
    assert budget == {"gradients": 7, "num_samples": 30, "seed": 5, "ppca": 4}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tol", 0.3, "--temperatures", 7], "leave out --temperatures, or --tol"),
        (["--no-ais", "--chains", 3], "--chains is for AIS, which was not asked for"),
        (["--no-ais", "--tol", 0.3], "--tol is for AIS, which was not asked for"),
    ],
)
def test_settings_of_nothing_are_refused(arguments, words, asked):
    seen, said = asked(*arguments)
    assert seen is None and said.exit_code == 2 and words in said.output, said.output


@pytest.mark.parametrize(
    ("arguments", "certify"),
    [
        ([], None),
        (["--ais"], Certify(False, 64, 4)),
        (["--gaps"], Certify(True, 64, 4)),
        (["--gaps", "--certified", 5, "--chains", 3, "--temperatures", 6], Certify(True, 5, 3, 6)),
        (["--ais", "--tol", 0.3], Certify(False, 64, 4, tol=0.3)),
    ],
)
def test_evaluate_certifies_what_is_asked_for(arguments, certify, tmp_path, monkeypatch):
    x, seen = torch.as_tensor(ROWS), []
    kept = {"fit": {"objective": described(objectives.IWAE(5))}}
    pair = linear(), guides.MeanField(30, 2)
    monkeypatch.setattr("pyro_dlgm.runs.load.load", lambda *_, **__: (*pair, kept))
    monkeypatch.setattr("pyro_dlgm.comparison.certificates.sections", lambda *a, **k: seen.append((a, k)) or {})
    monkeypatch.setattr(command.config, "consented", lambda *_: [])
    monkeypatch.setattr(command.config, "data_of", lambda *_: Dataset("rows", train=x[:30], val=x[:0], test=x[30:]))
    for name in ("_scored", "_add"):
        monkeypatch.setattr(command, name, lambda *_: {})
    said = call("evaluate", tmp_path, "--seed", 9, *arguments)
    assert said.exit_code == 0, said.output
    assert [given[3:] for given, _ in seen] == ([] if certify is None else [(certify, 9)])
    assert all("IWAE" in how["objective"] for _, how in seen)


def refuse(*_, **__):
    raise ValueError("num_temperatures is 5; expected more")
