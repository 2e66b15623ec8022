"""Validation points in a comparison: the curves of each row, and that nothing else moves."""

import pytest
import torch
from matplotlib.figure import Figure

from pyro_dlgm import DLGM, Points, compare, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.comparison import held_out
from pyro_dlgm.comparison.held_out import LOOKS, HeldOut
from pyro_dlgm.comparison.seeds.gathered import gathered
from pyro_dlgm.comparison.seeds.part import Done
from pyro_dlgm.comparison.seeds.planned import planned
from pyro_dlgm.comparison.seeds.sheet import histories as over_seeds
from pyro_dlgm.comparison.sheet import histories, sheet
from pyro_dlgm.plots.curves import learning_curves
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.training.loop import Training
from pyro_dlgm.training.validation import Validation

D, P = 2, 5
G = torch.Generator().manual_seed(0)
X, X_VAL = torch.rand(40, P, generator=G), torch.rand(12, P, generator=G)
FACTORIES = {
    "hard-em": lambda model, N: guides.PointEstimate(N, D),
    "mean-field": lambda model, N: guides.MeanField(N, D),
    "amortized": lambda model, N: guides.Amortized(nets.MLP(P, 6, (8,)), D),
}
SETTINGS = {"gradients": 12, "batch_size": 20, "num_samples": 25}


def model():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, (P,), (8,)), 0.3))


def pair(name):
    torch.manual_seed(1)
    made = model()
    return made, FACTORIES[name](made, len(X))


@pytest.fixture(scope="module")
def rows():
    return compare(model, {"amortized": FACTORIES["amortized"]}, X, X[:3], x_val=X_VAL, ppca=1, **SETTINGS)


@pytest.mark.parametrize(("name", "bound"), [("hard-em", "log_joint"), ("mean-field", "elbo"), ("amortized", "elbo")])
def test_five_records_have_the_bound_of_the_training_on_validation_points(name, bound):
    history = fit(*(made := pair(name)), X, epochs=12, batch_size=20, listeners=[HeldOut(*made, X_VAL, 12)]).history
    seen = [record["epoch"] for record in history if f"val_{bound}" in record]
    assert seen == [2, 4, 7, 9, 12] and len(seen) == LOOKS and bound in history[0]


def test_nothing_else_depends_on_validation_points(rows):
    without = compare(model, {row.guide: FACTORIES[row.guide] for row in rows[1:]}, X, X[:3], ppca=1, **SETTINGS)
    for row, other in zip(rows, without, strict=True):
        kept = [{name: v for name, v in r.items() if not name.startswith("val_")} for r in row.history]
        for timed in (*kept, *other.history):
            del timed["seconds"], timed["points_per_second"]
        assert kept == other.history and not any("val_elbo" in record for record in other.history)
        assert row.test_elbo == other.test_elbo and row.gradients_per_point == other.gradients_per_point
        assert row.test_iwae == other.test_iwae


def test_the_bound_of_an_encoder_is_that_of_fit():
    trained = fit(*pair("amortized"), X, epochs=12, batch_size=20, seed=0, x_val=X_VAL).history
    listener = HeldOut(*(made := pair("amortized")), X_VAL, 12)
    listened = fit(*made, X, epochs=12, batch_size=20, seed=0, listeners=[listener]).history
    for a, b in zip(trained, listened, strict=True):
        assert "val_elbo" not in b or all(a[name] == b[name] for name in a if name.startswith("val_"))


def test_time_spent_on_validation_points_is_not_of_the_training(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(held_out.time, "perf_counter", lambda: now[0])
    scores = lambda self, **_: now.__setitem__(0, now[0] + 100) or {"elbo": 0.0}  # noqa: E731
    monkeypatch.setattr(Validation, "scores", scores)
    monkeypatch.setattr(Training, "_count", _a_second(now))
    listener = HeldOut(*(made := pair("amortized")), X_VAL, 4)
    history = fit(*made, X, epochs=4, batch_size=20, seed=0, listeners=[listener]).history
    assert [record["seconds"] for record in history] == [2, 4, 6, 8] and listener.spent == 400


def _a_second(now):
    count = Training._count

    def slow(self, step):
        now[0] += 1
        count(self, step)

    return slow


def test_points_that_the_model_does_not_take_are_refused_before_the_training():
    for wrong, said in ((X_VAL[:, :3], "expects points of shape"), (X_VAL[:0], "x_val has shape .*no points")):
        with pytest.raises(ValueError, match=said):
            compare(model, FACTORIES, X, X[:3], x_val=wrong, **SETTINGS)
    with pytest.raises(ValueError, match="x_val has values that are not finite"):
        compare(model, FACTORIES, X, X[:3], x_val=X_VAL.masked_fill(X_VAL > 0.9, torch.nan), **SETTINGS)


def test_validation_points_with_holes_are_scored():
    x_val, mask = X_VAL.masked_fill(X_VAL > 0.9, torch.nan), X_VAL <= 0.9
    listener = HeldOut(*(made := pair("mean-field")), Points(x_val, mask=mask), 2)
    history = fit(*made, X, epochs=2, batch_size=20, seed=0, listeners=[listener]).history
    assert all(torch.tensor(record["val_elbo"]).isfinite() for record in history)


def styles(figure):
    return [[line.get_linestyle() for line in axis.lines] for axis in figure.axes]


def test_the_sheet_has_a_dashed_line(rows):
    figure = sheet(rows, X[:3])
    assert styles(figure)[0] == ["-", "--", ":"]
    assert "dashed: validation points" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_importance_bounds_are_dashed_in_their_own_panel():
    chosen = {"amortized": FACTORIES["amortized"]}
    settings = SETTINGS | {"gradients": 9, "objective": objectives.IWAE(3)}
    found = histories(compare(model, chosen, X, X[:9], x_val=X_VAL, **settings))
    assert {"val_iwae_3", "val_iwae_10", "val_elbo"} <= set(found["amortized"][-1])
    last = found["amortized"][-1]
    assert last["val_elbo"] < last["val_iwae_3"] < last["val_iwae_10"]
    assert styles(learning_curves(Figure(layout="constrained"), found, {})) == [["-", "--"]]
    trained = fit(*pair("amortized"), X, epochs=2, x_val=X_VAL, objective=objectives.DReG(3)).history[-1]
    assert "val_iwae_3" in trained


def test_rows_over_seeds_have_curves_on_validation_points(tmp_path):
    chosen = {"amortized": FACTORIES["amortized"]}
    parts = planned(model, chosen, X, X[:9], seeds=2, seed=0, folder=tmp_path, x_val=X_VAL, **SETTINGS)
    for part in parts:
        part()
    (row,) = gathered(parts, [Done(part, part.kept()) for part in parts])
    (mean,) = over_seeds([row]).values()
    each = [row.rows[seed]["history"][-1]["val_elbo"] for seed in (0, 1)]
    assert mean[-1]["val_elbo"] == pytest.approx(sum(each) / 2) and "val_elbo" not in mean[4]
    others = planned(model, chosen, X, X[:9], seeds=2, seed=0, folder=tmp_path, x_val=X_VAL[:6], **SETTINGS)
    with pytest.raises(RunError, match=r"another comparison: data\.val\.x was"):
        others[0].kept()
