"""compare and its command: the same w, the same budget, reasons for what is missing, files."""

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from pyro_dlgm import DLGM, compare, data, guides, likelihoods, nets, priors
from pyro_dlgm.cli.main import main
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.comparison.scoring import scales_at_floor
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.evaluate.marginal.annealing.path import Settings

D, SHAPE = 2, (1, 5, 4)
FACTORIES = {
    "hard-em": lambda model, N: guides.PointEstimate(N, D),
    "mean-field": lambda model, N: guides.MeanField(N, D),
    "amortized": lambda model, N: guides.Amortized(nets.MLP(SHAPE, 16), D),
}


def model():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.ConvDecoder(D, SHAPE, widths=(8, 8)), 0.3))


@pytest.fixture(scope="module")
def rows():
    x = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(0))
    certify = Certify(num_chains=4, num_temperatures=30, num_samples=25, num_simulated=4)
    settings = {"batch_size": 20, "num_samples": 50, "ppca": D, "certify": certify}
    return compare(model, FACTORIES, x[:40], x[40:], gradients=3, **settings)


def test_rows_come_in_order_and_the_baseline_is_another_model(rows):
    assert [row.guide for row in rows] == ["Exact", *FACTORIES]
    assert rows[0].model == "PPCA-2" and {row.model for row in rows[1:]} == {"DLGM"}
    assert rows[0].test_elbo == rows[0].test_log_px and rows[0].approximation_gap == 0


def test_every_row_spends_the_budget(rows):
    assert [row.gradients_per_point for row in rows[1:]] == [3, 3, 3]
    assert rows[2].test_gradients_per_point > 0 and rows[3].test_gradients_per_point == 0


def test_every_row_starts_from_the_same_w():
    x, seen = torch.rand(20, *SHAPE), []

    def spy(name):
        def factory(model, N):
            seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
            return FACTORIES[name](model, N)

        return factory

    names = ["hard-em", "amortized"]
    compare(model, {n: spy(n) for n in names}, x, x, gradients=2, num_samples=25)
    assert torch.equal(*seen)


def test_an_empty_cell_says_why(rows):
    for row in rows:
        plain = row.plain()
        assert "pair" not in plain
        empty = {key for key, value in plain.items() if value is None}
        assert empty <= set(row.reasons), row.guide
    assert "no density" in rows[1].reasons["test_elbo"]


def test_differences_are_paired_with_the_first_guide(rows):
    assert rows[1].difference == {"mean": 0.0, "standard_error": 0.0, "to": "hard-em"}
    assert rows[2].difference["mean"] == pytest.approx(rows[2].test_log_px - rows[1].test_log_px, abs=1e-4)
    assert rows[2].difference["standard_error"] < rows[2].standard_errors["test_log_px"]


def test_what_certifying_costs_is_in_the_row(rows):
    r"""Short walks that choose, walks, IWAE, and walks both ways for as many of the 4 simulated points as there are."""
    few, walked = (Settings(4, num, 3, 0.65, 2**28) for num in (10, 30))
    least = few.gradients(1) + walked.gradients(1) + 25 + (few.gradients(1) + walked.gradients(2)) * 4 / 20
    assert all(row.certifying_gradients_per_point > least for row in rows[1:])


def test_a_row_does_not_depend_on_those_before_it(rows):
    x = torch.rand(60, *SHAPE, generator=torch.Generator().manual_seed(0))
    settings = {"gradients": 3, "batch_size": 20, "num_samples": 50}
    (alone,) = compare(model, {"amortized": FACTORIES["amortized"]}, x[:40], x[40:], **settings)
    assert alone.test_elbo == rows[3].test_elbo


def test_standard_errors_are_those_of_the_mean_and_paired():
    a, b = torch.randn(40), torch.randn(40)
    assert Mean.of(a - b).standard_error == pytest.approx(float((a - b).std()) / 40**0.5)
    assert Mean.of(a) == pytest.approx((float(a.mean()), float(a.std()) / 40**0.5))
    assert Mean.of(a[:1]).standard_error is None


def test_training_points_go_through_the_transform():
    x, seen = torch.rand(20, *SHAPE), []
    transform = lambda v: (seen.append(len(v)), v)[1]  # noqa: E731
    settings = {"gradients": 3, "batch_size": 10, "num_samples": 25, "transform": transform}
    compare(model, {"amortized": FACTORIES["amortized"]}, x, x, **settings)
    assert seen[-6:] == [10] * 6


@pytest.mark.parametrize(("scale", "count"), [(0.3, 0), (1.0005e-3, 20)])
def test_scales_at_the_floor_are_counted(scale, count):
    likelihood = likelihoods.FixedNormal(nets.Linear(D, SHAPE), torch.full(SHAPE, scale), floor=1e-3)
    assert scales_at_floor(DLGM(priors.StandardNormal(D), likelihood), torch.zeros(3, D)) == count


def test_rows_are_plain_json(rows):
    json.dumps([row.plain() for row in rows], allow_nan=False)


def test_compare_leaves_the_generator():
    x, state = torch.rand(20, *SHAPE), torch.get_rng_state()
    compare(model, {"mean-field": FACTORIES["mean-field"]}, x, x, gradients=1, num_samples=25, ppca=2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "deep" / "compare"
    arguments = ["compare", "--guides", "hard-em,amortized", "--gradients", "2", "--samples", "25", "--out", str(out)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return out, result.output


def test_the_command_writes_its_files(folder):
    out, _ = folder
    rows = json.loads((out / "compare.json").read_text())
    wanted = {"guide", "model", "test_elbo", "test_iwae", "test_log_px", "approximation_gap", "amortization_gap"}
    assert all(wanted | {"gradients_per_point", "seconds"} <= row.keys() for row in rows)
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "config.json").read_text())["gradients"] == 2
    assert rows[1]["history"][-1]["val_log_joint"] < 0 and rows[2]["history"][-1]["val_elbo"] < 0
    assert "There is no validation curve" not in (out / "report.html").read_text()
    assert sorted(p.name for p in out.iterdir()) == ["compare.json", "compare.png", "config.json", "report.html"]


def test_the_command_prints_a_row_for_each_guide_and_the_reasons(folder):
    _, output = folder
    over, *lines = output.splitlines()[:5]
    assert [line.split()[0] for line in lines] == ["method", "PPCA-16", "hard-em", "amortized"]
    assert lines[1].split()[1] == "reference" and all(name in over for name in ("q of the row", "w alone", "spent"))
    assert "no winner is named" in output and "point mass" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--guides", "meanfield"], "mean-field"),
        (["--guides", ","], "nothing is no guide"),
        (["--data", "letters"], "digits"),
        (["--gradients", "0"], "0 is not in the range"),
        (["--latents", "64"], "1<=x<=63"),
        (["--likelihood", "gauss"], "diagonal"),
        (["--out", "/proc/nowhere"], "choose another folder"),
    ],
)
def test_a_wrong_value_is_named_and_ends_with_status_2(arguments, words):
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exit_code == 2 and words in result.output


def test_help_teaches():
    for arguments in ([], ["compare"]):
        output = CliRunner().invoke(main, [*arguments, "--help"]).output
        assert "guide" in output and ("∫" in output or "E-step" in output)


def test_the_module_runs_as_a_command():
    run = subprocess.run([sys.executable, "-m", "pyro_dlgm", "--version"], capture_output=True, text=True, check=True)
    assert "0.1.0" in run.stdout


def test_a_failed_write_leaves_the_old_file(tmp_path):
    from pyro_dlgm.runs.files import whole

    (tmp_path / "a.json").write_text("old")
    with pytest.raises(RuntimeError), whole(tmp_path / "a.json") as path:
        path.write_text("half")
        raise RuntimeError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_digits_fit_the_recipes():
    from pyro_dlgm.recipes import pairs

    dataset = data.digits()
    for name in pairs.LIKELIHOODS:
        m = pairs.model(name, 3, dataset.image_shape)
        for guide in pairs.GUIDES:
            q = pairs.guide(guide, 3, dataset.image_shape)(m, 5)
            assert q(dataset.test[:5], torch.arange(5)).shape == (5, 3)
