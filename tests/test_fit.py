"""The loop: budgets, seeds, schedules, warm-up, early stopping, masks, errors."""

import copy
import itertools

import pytest
import torch

from pyro_dlgm import DLGM, PPCA, SVI, data, evaluate, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.optim.svi import adam
from pyro_dlgm.training import validation
from pyro_dlgm.training.loop import em

N, P, D = 70, 6, 2


@pytest.fixture
def x():
    return torch.randn(N, D) @ torch.randn(D, P) + 0.3 * torch.randn(N, P)


@pytest.fixture
def model():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (16,)), 0.5))


def weights(*modules):
    return torch.cat([p.detach().flatten() for m in modules for p in m.parameters()])


def test_exact_em_by_gradients_reaches_the_maximum(x):
    x = x.double()
    ppca = PPCA(D, P).double()
    fit(ppca, guides.Exact(ppca), x, epochs=1500, batch_size=N, lr=3e-2, schedule="cosine", seed=0)
    assert abs(ppca.log_prob(x).mean() - PPCA.fit(x, D).log_prob(x).mean()) < 1e-4


@pytest.mark.parametrize("make", [guides.MeanField, guides.FullRank])
def test_variational_em_on_ppca_approaches_the_evidence(x, make):
    ppca = PPCA(D, P)
    guide = make(N, D)
    result = fit(ppca, guide, x, epochs=800, batch_size=N, lr=1e-2, row_lr=5e-2, schedule="cosine", seed=0)
    best = PPCA.fit(x, D).log_prob(x).mean()
    assert best - 0.15 < evaluate.elbo(ppca, guide, x, torch.arange(N), 500, seed=0).mean() < best + 0.02
    assert result.history[-1]["elbo"] > result.history[0]["elbo"] + 1


def test_history_counts_gradients_and_steps(x, model):
    result = fit(model, guides.MeanField(N, D), x, epochs=3, batch_size=32, e_steps=4, seed=0)
    assert [h["step"] for h in result.history] == [3, 6, 9]
    assert [h["gradients_per_point"] for h in result.history] == [4.0, 8.0, 12.0]


def test_particles_and_e_steps_count_as_gradients(x, model):
    loss = objectives.ELBO(num_particles=4)
    result = fit(model, guides.MeanField(N, D), x, epochs=1, e_steps=3, objective=loss)
    assert result.history[0]["gradients_per_point"] == 12
    ppca = PPCA(D, P)
    assert fit(ppca, guides.Exact(ppca), x, epochs=1, e_steps=3).history[0]["gradients_per_point"] == 1


def test_e_steps_move_q_as_often_as_asked(x, model):
    guide = guides.MeanField(N, D)
    optimizers = adam(model, guide)
    svi = SVI(model, guide, optimizers)
    list(itertools.islice(em(svi, data.Batches(x, N), e_steps=5), 2))
    assert optimizers[1].state[guide.rows.weight]["visits"].unique().tolist() == [10]


def test_steps_may_end_within_an_epoch(x, model):
    result = fit(model, guides.MeanField(N, D), x, steps=4, batch_size=32, seed=0)
    assert [(h["epoch"], h["step"]) for h in result.history] == [(1, 3), (2, 4)]


def test_history_weighs_points_not_batches(x):
    """A ragged last batch counts by its points; with learning rates near 0 the mean is exact."""
    ppca = PPCA.fit(x.double(), D)
    guide = guides.Exact(ppca)
    result = fit(ppca, guide, x.double(), epochs=1, batch_size=N - 1, lr=1e-12, seed=0)
    assert result.history[0]["elbo"] == pytest.approx(float(ppca.log_prob(x.double()).mean().detach()), abs=1e-8)


def test_a_seed_decides_everything_and_leaves_the_generator(x, model):
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (16,)), 0.5))
        g = guides.MeanField(N, D)
        before = torch.get_rng_state()
        torch.randn(len(runs))  # another state of the global generator
        state = torch.get_rng_state()
        fit(m, g, x, epochs=2, batch_size=32, seed=7, transform=lambda v: v + 0.01 * torch.rand_like(v))
        assert torch.equal(torch.get_rng_state(), state) and (torch.equal(before, state) or runs)
        runs.append(weights(m, g))
    assert torch.equal(*runs)


def test_e_steps_leave_w_alone(x, model):
    guide = guides.MeanField(N, D)
    svi = SVI(model, guide)
    w, q = weights(model), weights(guide)
    svi.e_step(x, torch.arange(N), size=N, factor=1 / N)
    assert torch.equal(weights(model), w) and not torch.equal(weights(guide), q)


def test_warm_up_raises_beta_to_one(x, model):
    seen, loss = [], objectives.ELBO()
    transform = lambda v: (seen.append(loss.beta), v)[1]  # noqa: E731
    fit(model, guides.MeanField(N, D), x, epochs=4, batch_size=35, warmup=2, objective=loss, transform=transform)
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]


def test_a_step_is_made_at_the_rate_of_the_fraction_done_before_it(x, model, monkeypatch):
    rates, update = [], SVI._update

    def spied(svi):
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in svi.optimizers])
        update(svi)

    monkeypatch.setattr(SVI, "_update", spied)
    fit(model, guides.MeanField(N, D), x, steps=5, batch_size=35, lr=1.0e-3, row_lr=2.0e-2, schedule="linear", seed=0)
    assert rates == [pytest.approx([1e-3 * (1 - k / 5), 2e-2 * (1 - k / 5)]) for k in range(5)]


def test_schedule_ends_at_zero(x, model):
    guide = guides.MeanField(N, D)
    half = fit(model, guide, x, epochs=2, batch_size=N, schedule=lambda done: float(done == 0), seed=0)
    assert half.history[0]["elbo"] != half.history[1]["elbo"]
    w = weights(model, guide)
    fit(model, guide, x, epochs=2, batch_size=N, schedule=lambda done: 0.0, seed=0)
    assert torch.equal(weights(model, guide), w)


@pytest.mark.parametrize("kind", ["amortized", "per point", "point mass"])
def test_early_stopping_goes_back_to_the_best_epoch(x, model, kind):
    guide = {
        "amortized": lambda: guides.Amortized(nets.MLP(P, 16), D),
        "per point": lambda: guides.MeanField(20, D),
        "point mass": lambda: guides.PointEstimate(20, D),
    }[kind]()
    result = fit(model, guide, x[:20], epochs=400, lr=3e-2, x_val=x[20:], patience=5, seed=0)
    name = "val_log_joint" if kind == "point mass" else "val_elbo"
    values = [h[name] for h in result.history]
    assert result.stopped_early and len(values) < 400
    assert max(range(len(values)), key=values.__getitem__) == len(values) - 6
    if kind == "amortized":
        judge = evaluate.elbo(model, guide, x[20:], None, 200, seed=0).mean()
        assert abs(judge - max(values)) < abs(judge - values[-1]) + 0.5


def test_validation_changes_nothing_of_the_run(x, model):
    runs = []
    for x_val in (None, torch.randn(9, P)):
        torch.manual_seed(0)
        m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (16,)), 0.5))
        g = guides.MeanField(N, D)
        fit(m, g, x, epochs=3, batch_size=32, x_val=x_val, seed=1)
        runs.append(weights(m, g))
    assert torch.equal(*runs)


def test_validation_says_elbo_iwae_rate_and_distortion(x):
    x = x.double()
    ppca = PPCA.fit(x[:50], D)
    settings = {"epochs": 1, "lr": 1e-12, "x_val": x[50:], "seed": 0}
    (record,) = fit(ppca, guides.Exact(ppca), x[:50], **settings).history
    evidence, q = ppca.log_prob(x[50:]).mean().item(), ppca.posterior(x[50:])
    rate = torch.distributions.kl_divergence(
        q, torch.distributions.MultivariateNormal(q.mean * 0, torch.eye(D).double())
    )
    expected = {"val_elbo": evidence, "val_iwae_10": evidence, "val_rate": rate.mean().item()}
    expected["val_distortion"] = -(evidence + expected["val_rate"])
    assert {k: v for k, v in record.items() if k.startswith("val_")} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["per point", "autoguide", "point mass"])
def test_validation_says_what_there_is(x, model, kind):
    make = {
        "per point": lambda: guides.FullRank(N, D),
        "autoguide": lambda: guides.auto(model, "AutoNormal", N),
        "point mass": lambda: guides.PointEstimate(N, D),
    }[kind]
    (record,) = fit(model, make(), x, epochs=1, x_val=x[:20], mask_val=torch.rand(20, P) > 0.3, seed=0).history
    found = {k.removeprefix("val_"): v for k, v in record.items() if k.startswith("val_")}
    if kind == "point mass":
        assert list(found) == ["log_joint"]
    else:
        assert list(found) == ["elbo", "iwae_10", "rate", "distortion"]
        assert found["elbo"] < found["iwae_10"] and found["rate"] > 0
        assert found["elbo"] == pytest.approx(-(found["rate"] + found["distortion"]))


def test_a_batch_has_100_points_or_all(x, model):
    assert len(fit(model, guides.MeanField(N, D), x, epochs=1).history) == 1
    many = x.repeat(3, 1)
    assert fit(model, guides.MeanField(3 * N, D), many, epochs=1).history[0]["step"] == 3
    with pytest.raises(ValueError, match="leave it out for 100"):
        fit(model, guides.MeanField(3 * N, D), many, epochs=1, batch_size=3 * N + 1)


def test_masked_training_ignores_what_is_masked(x, model):
    mask = torch.rand(N, P) > 0.3
    runs = []
    for value in (float("nan"), 1e30):
        torch.manual_seed(0)
        m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (16,)), 0.5))
        g = guides.MeanField(N, D)
        fit(m, g, x.masked_fill(~mask, value), mask=mask, epochs=3, batch_size=32, seed=1)
        runs.append(weights(m, g))
    assert torch.equal(*runs)


def test_clipping_bounds_the_dense_gradient(x, model):
    svi = SVI(model, guides.Amortized(nets.MLP(P, 8), D), [torch.optim.SGD(model.parameters(), lr=1.0)], clip_norm=1e-3)
    w = weights(model)
    svi.step(100 * x)
    assert (weights(model) - w).norm() == pytest.approx(1e-3, rel=1e-2)


def test_fit_clips(x, monkeypatch):
    seen, clip = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, norm: (seen.append(norm), clip(p, norm))[1])
    m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (16,)), 0.5))
    fit(m, guides.MeanField(N, D), x, steps=2, clip_norm=0.7)
    assert seen == [0.7, 0.7]


def test_rows_of_an_autoguide_have_the_rate_of_rows(model):
    (dense,) = adam(model, guides.auto(model, "AutoNormal", N), lr=1e-3, row_lr=5e-2)
    assert [group["lr"] for group in dense.param_groups] == [1e-3, 5e-2]


def test_validation_rows_follow_w(x, model):
    guide = guides.MeanField(50, D)
    result = fit(model, guide, x[:50], epochs=30, lr=1e-2, x_val=x[50:], seed=0)
    best = evaluate.elbo(model, evaluate.infer(model, guide, x[50:], seed=0), x[50:], torch.arange(20), 500, seed=0)
    assert abs(result.history[-1]["val_elbo"] - best.mean()) < 0.3


def test_epochs_of_a_warm_up_do_not_count_against_patience(x, model, monkeypatch):
    counted = []
    plain = validation.Validation.scores
    monkeypatch.setattr(
        validation.Validation, "scores", lambda self, *, counts: (counted.append(counts), plain(self, counts=counts))[1]
    )
    fit(model, guides.MeanField(50, D), x[:50], epochs=5, warmup=3, patience=9, x_val=x[50:], seed=0)
    assert counted == [False, False, True, True, True]


def test_validation_goes_on_where_it_was(x, model):
    def make():
        return validation.Validation(model, guides.MeanField(50, D), x[50:])

    first, second = make(), make()
    first.scores()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.scores() == first.scores()
    assert torch.equal(second.guide.rows.weight, first.guide.rows.weight)


def test_validation_points_may_lack_what_their_mask_hides(x, model):
    x_val = x[50:].clone()
    x_val[3, 1], mask = float("nan"), torch.ones(20, P, dtype=torch.bool)
    mask[3, 1] = False
    assert fit(model, guides.MeanField(50, D), x[:50], epochs=1, x_val=x_val, mask_val=mask, seed=0).history
    with pytest.raises(ValueError, match=r"x_val has values that are not finite in rows \[3\]"):
        fit(model, guides.MeanField(50, D), x[:50], epochs=1, x_val=x_val, seed=0)


class Climbing(guides.MeanField):
    r"""Starts with a step on its rows."""

    def start(self, points):
        made = super().start(points)
        (made.rows.weight**2).sum().backward()
        return made


def test_a_guide_may_climb_where_it_starts(x, model):
    assert "val_elbo" in fit(model, Climbing(50, D), x[:50], epochs=1, x_val=x[50:], seed=0).history[0]


def test_a_warm_up_gives_beta_back_and_its_epochs_are_called_tempered(x, model):
    loss = objectives.ELBO(beta=0.25)
    with pytest.warns(UserWarning, match=r"warmup is 2 epochs and the training has 1: β ends at 0.5") as caught:
        fit(model, guides.MeanField(N, D), x, epochs=1, warmup=2, objective=loss)
    assert loss.beta == 0.25 and caught[0].filename == __file__
    result = fit(model, guides.MeanField(N, D), x, epochs=3, warmup=1)
    assert ["tempered_elbo" in h for h in result.history] == [True, False, False]


def test_fit_and_infer_work_without_gradients_around_them(x, model):
    w = weights(model)
    with torch.no_grad():
        fit(model, guides.MeanField(N, D), x, epochs=1)
        q = evaluate.infer(model, guides.MeanField(N, D), x, seed=0)
    again = evaluate.infer(model, guides.MeanField(N, D), x, seed=0)
    assert not torch.equal(weights(model), w)
    assert torch.equal(q.rows.weight, again.rows.weight)


def test_bad_rows_are_named_before_training(x, model):
    x[37, 2] = float("nan")
    with pytest.raises(ValueError, match=r"rows \[37\]"):
        fit(model, guides.MeanField(N, D), x, epochs=1, batch_size=8)
    binary = DLGM(priors.StandardNormal(D), likelihoods.Bernoulli(nets.MLP(D, P, (16,))))
    grey = torch.zeros(N, P).index_fill(0, torch.tensor([66]), 0.5)
    with pytest.raises(ValueError, match=r"rows \[66\].*binarize"):
        fit(binary, guides.MeanField(N, D), grey, epochs=1, batch_size=8)


def test_bad_validation_rows_are_named(x, model):
    with pytest.raises(ValueError, match=r"x_val has values that are not finite in rows \[1\]"):
        fit(
            model,
            guides.MeanField(N, D),
            x,
            epochs=1,
            x_val=torch.full((2, P), 0.0).index_fill(0, torch.tensor([1]), torch.nan),
        )


def test_checking_the_data_touches_neither_the_model_nor_the_generator(x):
    net = torch.nn.Sequential(torch.nn.Linear(D, P), torch.nn.BatchNorm1d(P), torch.nn.Dropout(0.5))
    m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.Net(D, P, net)))
    guide = guides.MeanField(3, D)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="rows for 3 points"):
        fit(m, guide, x, epochs=1, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert int(net[1].num_batches_tracked) == 0


def test_inference_mode_is_refused(x, model):
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="inference_mode"):
            fit(model, guides.MeanField(N, D), x, epochs=1)
        with pytest.raises(RuntimeError, match="inference_mode"):
            evaluate.infer(model, guides.MeanField(N, D), x)


def test_one_vector_is_no_data(x, model):
    with pytest.raises(ValueError, match="one axis of points"):
        fit(model, guides.MeanField(N, D), x[0], epochs=1)
    with pytest.raises(ValueError, match="reshape x"):
        model.log_joint(x[0], torch.zeros(3, D))
    with pytest.raises(ValueError, match="one index for each"):
        evaluate.elbo(model, guides.MeanField(N, D), x[:1], torch.arange(5))


def test_an_axis_too_many_is_refused(x, model):
    with pytest.raises(ValueError, match="reshape x"):
        fit(model, guides.MeanField(N, D), x.unsqueeze(1), epochs=1)
    with pytest.raises(ValueError, match="reshape x"):
        model.log_joint(x.unsqueeze(1), torch.zeros(N, D))


def test_the_loop_sees_each_point_once_an_epoch(x, model):
    batches = data.Batches(x, 32)
    svi = SVI(model, guide := guides.MeanField(N, D), adam(model, guide))
    steps = list(itertools.islice(em(svi, batches), 6))
    assert [s.points for s in steps] == [32, 32, 6] * 2 and [s.ends_epoch for s in steps] == [False, False, True] * 2
    assert sorted(torch.cat([points.index for points in batches]).tolist()) == list(range(N))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one"),
        ({"epochs": 1, "steps": 1}, "exactly one"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1, "batch_size": 0}, "batch_size"),
        ({"epochs": 1, "batch_size": 128}, "batch_size is 128 and there are 70 points; expected at most 70"),
        ({"epochs": 1, "lr": -1.0}, "lr is -1"),
        ({"epochs": 1, "row_lr": float("nan")}, "row_lr"),
        ({"epochs": 1, "e_steps": 0}, "e_steps"),
        ({"epochs": 1, "schedule": "cosin"}, "'cosine'"),
        ({"epochs": 1, "clip_norm": 0.0}, "clip_norm"),
        ({"epochs": 1, "warmup": -1}, "warmup"),
        ({"epochs": 1, "patience": 3}, "x_val"),
        ({"epochs": 1, "mask": torch.ones(N, P)}, "torch.bool"),
        ({"epochs": 1, "mask": torch.ones(N, 2, dtype=torch.bool)}, "mask has shape"),
    ],
)
def test_bad_arguments_are_named(x, model, arguments, words):
    with pytest.raises(ValueError, match=words):
        fit(model, guides.MeanField(N, D), x, **arguments)


def test_a_guide_for_other_points_is_refused(x, model):
    with pytest.raises(ValueError, match="rows for 10 points"):
        fit(model, guides.MeanField(10, D), x, epochs=1)
