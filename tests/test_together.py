r"""Trainings of several seeds in vectorized steps: the numbers of one after the other, and a word where it fails."""

import warnings

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_dlgm import DLGM, SVI, compare_seeds, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.comparison.method import Method
from pyro_dlgm.comparison.workers import pool, serving
from pyro_dlgm.optim.compiled import vectorized
from pyro_dlgm.optim.compiled.together import Together
from pyro_dlgm.training.together import fit_together

D, N, SHAPE, SEEDS = 2, 26, (1, 6, 6), (3, 4, 5)
HOW = {"epochs": 3, "batch_size": 13, "clip_norm": 1.0}
RAGGED = {"epochs": 3, "batch_size": 10}  # the last batch has 6 points


def mlp(heads=1):
    return nets.MLP(D, SHAPE, (9,), heads=heads)


def decoder(heads=1):
    return nets.ConvDecoder(D, SHAPE, heads=heads, widths=(8, 8))


GUIDES = {
    "encoder": lambda: guides.Amortized(nets.MLP(SHAPE, 2 * D, (7,)), D),
    "conv encoder": lambda: guides.Amortized(nets.ConvEncoder(SHAPE, 8, widths=(8,)), D),
    "rows": lambda: guides.MeanField(N, D),
    "full-rank rows": lambda: guides.FullRank(N, D),
    "points": lambda: guides.PointEstimate(N, D),
}
LIKELIHOODS = {
    "one σ": lambda: likelihoods.FixedNormal(mlp()),
    "σ²(t)": lambda: likelihoods.DiagonalNormal(decoder(heads=2)),
    "bits": lambda: likelihoods.Bernoulli(mlp()),
}


def pair(likelihood="one σ", guide="encoder", seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DLGM(priors.StandardNormal(D), LIKELIHOODS[likelihood]()), GUIDES[guide]()


def pairs(*names):
    return [pair(*names, seed=seed) for seed in SEEDS]


def data():
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0)).round()


def noisy(x):
    return 0.9 * x + 0.1 * torch.rand_like(x).round()


def weights(model, guide):
    return [v.detach() for part in (model, guide) for v in (*part.parameters(), *part.buffers())]


def alike(ours, alone):
    for one, two in zip(ours, alone, strict=True):
        for a, b in zip(weights(one.model, one.guide), weights(two.model, two.guide), strict=True):
            torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)
        for record, other in zip(one.history, two.history, strict=True):
            same = record.keys() - {"seconds", "points_per_second"}
            assert record.keys() == other.keys()
            assert {k: record[k] for k in same} == pytest.approx({k: other[k] for k in same}, rel=1e-4)


@pytest.mark.filterwarnings("error:.*one after the other")
@pytest.mark.parametrize("guide", GUIDES)
def test_numbers_are_those_of_one_after_the_other(guide):
    how = RAGGED if guide == "rows" else HOW
    alone = [fit(*pair("one σ", guide, seed), data(), seed=seed, transform=noisy, **how) for seed in SEEDS]
    ours = fit_together(pairs("one σ", guide), data(), seeds=SEEDS, transform=noisy, **how)
    alike(ours, alone)
    assert len({result.history[-1]["elbo" if guide != "points" else "log_joint"] for result in ours}) == len(SEEDS)


@pytest.mark.filterwarnings("error:.*one after the other")
@pytest.mark.parametrize(("likelihood", "objective"), [("bits", None), ("σ²(t)", objectives.IWAE(3))])
def test_so_are_those_of_other_likelihoods_and_objectives(likelihood, objective):
    how = HOW | {"objective": objective, "x_val": data()[:8], "warmup": 1 if objective is None else 0}
    alone = [fit(*pair(likelihood, seed=seed), data(), seed=seed, **how) for seed in SEEDS]
    alike(fit_together(pairs(likelihood), data(), seeds=SEEDS, **how), alone)


@pytest.mark.filterwarnings("error:.*one after the other")
def test_a_compiled_step_is_the_same():
    ours, alone = (fit_together(pairs(), data(), seeds=SEEDS, compile=how, **HOW) for how in ("aot_eager", False))
    alike(ours, alone)


def test_afterwards_each_has_its_own_tensors_and_takes_its_own_steps():
    state = torch.get_rng_state()
    results = fit_together(pairs(), data(), seeds=SEEDS, **HOW)
    assert torch.equal(state, torch.get_rng_state())
    for result in results:
        for p in weights(result.model, result.guide):
            assert p.untyped_storage().nbytes() == p.nbytes
    other = results[1].model.likelihood.net.state_dict()
    before = {name: v.clone() for name, v in other.items()}
    fit(results[0].model, results[0].guide, data(), epochs=1, seed=0)
    assert all(torch.equal(v, before[name]) for name, v in other.items())


def test_what_cannot_be_captured_is_trained_one_after_the_other():
    def chains():
        torch.manual_seed(0)
        models = [pair(seed=seed)[0] for seed in SEEDS]
        return [(m, guides.Chain(m, N, D, num_states=1, num_transitions=1, num_leapfrog=1, burn_in=0)) for m in models]

    how = HOW | {"epochs": 1}
    alone = [fit(*one, data(), seed=seed, **how) for one, seed in zip(chains(), SEEDS, strict=True)]
    with pytest.warns(UserWarning, match="3 trainings take their steps one after the other: Chain moves by itself"):
        ours = fit_together(chains(), data(), seeds=SEEDS, **how)
    alike(ours, alone)


class Odd(likelihoods.FixedNormal):
    r"""A likelihood whose third step is not the first one's function: a number of Python is in it."""

    seen = 0

    def pixels(self, t, given=None):
        Odd.seen += 1
        return super().pixels(t + Odd.seen)


def test_a_step_whose_loss_is_not_the_eager_one_is_undone():
    r"""The steps in the queue are taken eagerly, from where they began, with the draws that they had."""

    def made():
        torch.manual_seed(0)
        return [(DLGM(priors.StandardNormal(D), Odd(mlp(), 1.0)), GUIDES["encoder"]()) for _ in SEEDS]

    batch = {"x": data()[:5], "index": torch.arange(5), "size": N}
    ours = made()
    svis = [SVI(*one) for one in ours]
    together = Together(svis)
    Odd.seen = 1_000
    losses = [svi.step(**batch) for svi in svis]
    assert [svi.backward_passes for svi in svis] == [1, 1, 1]
    generators = torch.get_rng_state()
    before = [v.clone() for one in ours for v in weights(*one)]
    seen = []
    take = SVI.take

    def watched(svi, attempt):
        seen.append([v.clone() for v in weights(svi.model, svi.guide)])
        return take(svi, attempt)

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="one after the other: its loss is .*"):
        patch.setattr(
            SVI,
            "take",
            lambda svi, a: (seen.append([v.clone() for v in weights(svi.model, svi.guide)]), take(svi, a))[1],
        )
        together.take()
    assert torch.equal(generators, torch.get_rng_state())
    assert [svi.backward_passes for svi in svis] == [1, 1, 1] and all(svi.compiler is None for svi in svis)
    assert all(torch.equal(a, b) for a, b in zip([v for each in seen for v in each], before, strict=True))
    assert len({float(loss) for loss in losses}) == 3 and all(loss.isfinite() and loss != 0 for loss in losses)


def test_a_step_on_q_alone_leaves_w_as_it_is():
    made = pairs()
    svis = [SVI(*one) for one in made]
    Together(svis)
    before = [v.clone() for model, _ in made for v in weights(model, model)]
    with pytest.warns(UserWarning, match="one after the other: a step on q alone"):
        losses = [svi.e_step(data()[:5], torch.arange(5), size=N) for svi in svis]
    assert all(loss.isfinite() for loss in losses)
    assert all(map(torch.equal, [v for model, _ in made for v in weights(model, model)], before))


def test_a_step_that_fails_midway_is_taken_by_each(monkeypatch):
    r"""The queue is redone with the same draws: nothing is lost, and no step is taken twice."""
    alone = [fit(*pair(seed=seed), data(), seed=seed, **HOW) for seed in SEEDS]
    taken = vectorized.Vectorized._taken

    def fails(self, queue):
        taken(self, queue)
        raise RuntimeError("no such operation")

    monkeypatch.setattr(vectorized.Vectorized, "_taken", fails)
    with pytest.warns(UserWarning, match="one after the other: RuntimeError: no such operation"):
        ours = fit_together(pairs(), data(), seeds=SEEDS, **HOW)
    alike(ours, alone)


def test_pairs_that_differ_are_trained_one_after_the_other():
    made = [pair(), (DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(mlp(), 2.0)), GUIDES["conv encoder"]())]
    with pytest.warns(UserWarning, match="2 trainings take their steps one after the other"):
        ours = fit_together(made, data(), seeds=(0, 1), **HOW)
    assert all(len(result.history) == 3 for result in ours)


def test_a_loss_without_a_number_ends_all_and_names_the_step():
    made = pairs()
    with pytest.raises(FloatingPointError, match=r"training 1 of 3: .* at step 2"):
        fit_together(made, data(), seeds=SEEDS, **HOW | {"lr": 1e30})
    for model, guide in made:
        assert all(p.untyped_storage().nbytes() == p.nbytes for p in weights(model, guide))


def test_only_the_training_whose_loss_had_no_number_stops():
    r"""With readings far apart, as on a GPU: its flag stays up, and its parameters stay where they were."""
    made = pairs("one σ", "rows")
    svis = [SVI(*one, check_every=5) for one in made]
    together, before = Together(svis), [[v.clone() for v in weights(*one)] for one in made]
    for number in range(3):
        batches = [data()[:5], data()[:5], data()[:5] * (1 if number else 1e25)]
        losses = [svi.step(x, torch.arange(5), size=N) for svi, x in zip(svis, batches, strict=True)]
        together.take()
        assert [bool(loss.isfinite()) for loss in losses] == [True, True, number > 0]
    moved = [
        any(not torch.equal(a, b) for a, b in zip(weights(*one), was, strict=True))
        for one, was in zip(made, before, strict=True)
    ]
    assert moved == [True, True, False]
    for svi in svis[:2]:
        svi.check()
    with pytest.raises(FloatingPointError, match="at step 1"):
        svis[2].check()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"out": "runs/x"}, "out is 'runs/x'"),
        ({"e_steps": 2}, "e_steps is 2"),
        ({"patience": 3}, "patience is 3"),
        ({"seeds": (1, 2)}, "3 pairs and 2 seeds"),
        ({"seed": 2}, "seed is 2"),
    ],
)
def test_what_is_of_one_training_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        fit_together(pairs(), data(), **{"seeds": SEEDS} | HOW | settings)


def model():
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, (4,), (6,)), 0.5))


METHODS = {
    "rows": lambda model, N: guides.MeanField(N, D),
    "encoder": lambda model, N: guides.Amortized(nets.MLP((4,), 2 * D, (6,)), D),
}


@pytest.fixture
def in_processes(monkeypatch):
    monkeypatch.setattr(pool, "run", lambda tasks, jobs: ((task, serving.Outcome(task())) for task in tasks))


def looks(row):
    return [record["val_elbo"] for record in row.get("history", ()) if "val_elbo" in record]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.filterwarnings("error:.*one after the other")
def test_a_comparison_over_seeds_has_the_same_rows(frozen, in_processes, tmp_path):
    x, x_test = torch.randn(20, 4), torch.randn(8, 4)
    how = {
        "seeds": 3,
        "gradients": 3,
        "batch_size": 10,
        "num_samples": 25,
        "ppca": 1,
        "frozen": frozen,
        "x_val": x_test,
    }
    ours, theirs = (compare_seeds(model, METHODS, x, x_test, together=together, **how) for together in (True, False))
    assert [row.name for row in ours] == ["PPCA-1", "rows", "encoder"]
    for one, two in zip(ours, theirs, strict=True):
        assert sorted(one.rows) == [0, 1, 2] and not one.failed and one.w == two.w
        for seed, row in one.rows.items():
            other = two.rows[seed]
            assert row["test_elbo"] == pytest.approx(other["test_elbo"], rel=1e-3)
            assert looks(row) == pytest.approx(looks(other), rel=1e-3) and bool(looks(row)) != one.reference
            assert [r.keys() for r in row.get("history", ())] == [r.keys() for r in other.get("history", ())]


class Named(PyroModule):
    r"""A program without a name of its own: its parameters have the same names in each copy."""

    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](1, 4)

    def forward(self, x=None, index=None, *, size=None):
        with pyro.plate("data", size or len(x), subsample=None if x is None else index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(self.net(z.unsqueeze(-1)), 1.0).to_event(1), obs=x)


def test_programs_that_share_names_are_trained_one_after_the_other(in_processes):
    x = torch.randn(20, 4)
    how = {"seeds": 2, "gradients": 3, "num_samples": 25, "batch_size": 10}
    made = {"q": lambda model, N: guides.AutoAmortized(model, nets.MLP(4, 2), plate="data")}
    with pytest.warns(UserWarning, match="one after the other: ValueError: two of these trainings have programs"):
        (ours,) = compare_seeds(Named, made, x, x[:8], together=True, **how)
    (theirs,) = compare_seeds(Named, made, x, x[:8], together=False, **how)
    assert all(ours.rows[s]["test_elbo"] == pytest.approx(theirs.rows[s]["test_elbo"]) for s in (0, 1))


def test_names_of_parameters_in_modules_below_count(in_processes):
    pairs = []
    for _ in range(2):
        held = nn.Module()
        held.program = PyroModule()
        held.program.scale = PyroParam(torch.tensor(1.0))
        held.forward = lambda x, index, size=None: None
        pairs.append((held, guides.MeanField(20, 1)))
    with pytest.raises(ValueError, match="two of these trainings have programs of one name"):
        fit_together(pairs, torch.randn(20, 4), seeds=(0, 1), epochs=1)


def test_where_one_seed_fails_the_others_go_on(in_processes):
    def broken(model, N):
        if torch.initial_seed() == 1:
            raise ValueError("no such guide")
        return METHODS["encoder"](model, N)

    x = torch.randn(20, 4)
    how = {"seeds": 3, "together": True, "gradients": 2, "num_samples": 25, "batch_size": 10}
    (row,) = compare_seeds(model, {"broken": broken}, x, x[:8], **how)
    assert sorted(row.rows) == [0, 2] and row.failed == {1: "ValueError: no such guide"}


def test_trainings_in_steps_for_all_are_quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_together(pairs(), data(), seeds=SEEDS, **HOW)


def test_modules_of_the_user_are_vectorized_as_well():
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.W = nn.Parameter(torch.randn(D, 36))
            self.register_buffer("shift", torch.randn(36))

        def forward(self, t):
            return (t.tanh() @ self.W + self.shift).unflatten(-1, SHAPE)

    def made():
        found = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            found.append((DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(Body())), GUIDES["encoder"]()))
        return found

    alone = [fit(*one, data(), seed=seed, **HOW) for one, seed in zip(made(), SEEDS, strict=True)]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*one after the other")
        ours = fit_together(made(), data(), seeds=SEEDS, **HOW)
    alike(ours, alone)


class Normed(nn.Module):
    r"""An encoder with the running means of batches."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 2 * D))

    def forward(self, x):
        return self.body(x)


@pytest.mark.filterwarnings("error:.*one after the other")
def test_running_means_are_those_of_one_after_the_other():
    def made(seed):
        torch.manual_seed(seed)
        return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(mlp())), guides.Amortized(Normed(), D)

    alone = [fit(*made(seed), data(), seed=seed, **RAGGED) for seed in SEEDS]
    ours = fit_together([made(seed) for seed in SEEDS], data(), seeds=SEEDS, **RAGGED)
    alike(ours, alone)
    counted = [int(m.num_batches_tracked) for r in ours for m in r.guide.modules() if isinstance(m, nn.BatchNorm1d)]
    assert counted == [9, 9, 9]


class Projected(nn.Module):
    r"""A decoder with a tensor that is neither parameter nor buffer, or in nothing but a function."""

    def __init__(self, kind):
        super().__init__()
        self.gain, held = nn.Parameter(torch.zeros(())), torch.randn(D, 36)
        self.P = held if kind == "attribute" else None
        self.get = lambda: held

    def forward(self, t):
        return (t @ (self.get() if self.P is None else self.P) * (1 + self.gain)).unflatten(-1, SHAPE)


@pytest.mark.parametrize("kind", ["attribute", "closure"])
def test_tensors_of_one_are_not_taken_for_those_of_another(kind):
    def made(seed):
        torch.manual_seed(seed)
        return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(Projected(kind))), GUIDES["encoder"]()

    alone = [fit(*made(seed), data(), seed=seed, lr=1e-4, **HOW) for seed in SEEDS]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = fit_together([made(seed) for seed in SEEDS], data(), seeds=SEEDS, lr=1e-4, **HOW)
    alike(ours, alone)
    assert any("one after the other" in str(w.message) for w in said) == (kind == "closure")


def test_settings_of_modules_are_alike_or_each_takes_its_own():
    def made():
        found = [pair(seed=seed) for seed in SEEDS]
        found[2][0].likelihood.net.factor = 2.0
        found[1][0].likelihood.net.factor = 1.0
        found[0][0].likelihood.net.factor = 1.0
        return found

    with pytest.warns(UserWarning, match="not of one kind"):
        fit_together(made(), data(), seeds=SEEDS, **HOW)


def test_whole_numbers_have_losses_with_fractions():
    def made(seed):
        torch.manual_seed(seed)
        return DLGM(priors.StandardNormal(D), likelihoods.Poisson(mlp())), GUIDES["encoder"]()

    x = (5 * data()).long()
    alone = [fit(*made(seed), x, seed=seed, **HOW) for seed in SEEDS]
    alike(fit_together([made(seed) for seed in SEEDS], x, seeds=SEEDS, **HOW), alone)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = mlp(), 0

    def forward(self, t):
        self.calls += 1
        return self.net(t)


def test_a_module_that_counts_its_calls_is_not_captured_at_each_of_them(monkeypatch):
    captured = []
    step = vectorized.TensorStep
    monkeypatch.setattr(vectorized, "TensorStep", lambda *given: captured.append(1) or step(*given))
    made = [(DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(Counting())), GUIDES["encoder"]()) for _ in SEEDS]
    with pytest.warns(UserWarning, match="one after the other: (they are not of one kind|there are more than 8 kinds)"):
        fit_together(made, data(), seeds=SEEDS, **HOW | {"epochs": 8})
    assert len(captured) <= 8


def test_a_buffer_that_is_replaced_is_no_state_of_the_step():
    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nets.MLP(SHAPE, 2 * D, ())
            self.register_buffer("m", torch.zeros(2 * D))

        def forward(self, x):
            h = self.net(x)
            self.m = 0.9 * self.m + 0.1 * h.detach().mean(0)
            return h - self.m

    def made(seed):
        torch.manual_seed(seed)
        return pair(seed=seed)[0], guides.Amortized(Moving(), D)

    alone = [fit(*made(seed), data(), seed=seed, **HOW) for seed in SEEDS]
    with pytest.warns(UserWarning, match="it replaces the tensor 'm'"):
        ours = fit_together([made(seed) for seed in SEEDS], data(), seeds=SEEDS, **HOW)
    alike(ours, alone)
    with pytest.warns(UserWarning, match="without compiling it: it replaces the tensor 'm'"):
        result = fit(*made(SEEDS[0]), data(), seed=SEEDS[0], compile="eager", **HOW)
    alike([result], alone[:1])


class Cloned(nn.Module):
    r"""A network that copies into an empty tensor and goes on to change the copy."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, t):
        y = self.net(t)
        copy = torch.empty_like(y).copy_(y)
        return y + copy.mul_(2)


@pytest.mark.filterwarnings("error:.*(without compiling|one after the other)")
def test_copies_of_a_program_stay_copies():
    def made():
        torch.manual_seed(0)
        return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(Cloned())), GUIDES["encoder"]()

    eager, compiled = (fit(*made(), data(), seed=0, compile=how, **HOW) for how in (False, "eager"))
    alike([compiled], [eager])


def test_what_factories_return_for_all_seeds_is_copied(in_processes):
    encoder, pretrained = GUIDES["encoder"](), pair()[0]
    before = [v.clone() for v in weights(pretrained, encoder)]
    how = {"seeds": 3, "gradients": 3, "batch_size": 13, "num_samples": 25}
    given = lambda: pretrained, {"encoder": lambda model, N: encoder}, data(), data()
    (ours,) = compare_seeds(*given, together=True, **how)
    assert all(torch.equal(a, b) for a, b in zip(weights(pretrained, encoder), before, strict=True))
    assert not ours.failed and len({row["test_elbo"] for row in ours.rows.values()}) == 3


def test_a_score_that_fails_is_a_failure_of_its_seed_alone(in_processes, monkeypatch):
    scored = Method.scored
    trained = []

    def fails(self, ended):
        trained.append(self.settings["seed"])
        if self.settings["seed"] == 1:
            raise ValueError("cannot be scored")
        return scored(self, ended)

    monkeypatch.setattr(Method, "scored", fails)
    x = torch.randn(20, 4)
    how = {"seeds": 3, "together": True, "gradients": 2, "num_samples": 25, "batch_size": 10}
    (row,) = compare_seeds(model, {"encoder": METHODS["encoder"]}, x, x[:8], **how)
    assert trained == [0, 1, 2] and sorted(row.rows) == [0, 2]
    assert row.failed == {1: "ValueError: cannot be scored"}


def test_processes_and_together_exclude_each_other():
    x = torch.randn(20, 4)
    with pytest.raises(ValueError, match="jobs is 2 and together True"):
        compare_seeds(model, METHODS, x, x, seeds=2, jobs=2, together=True)
    with pytest.raises(TypeError, match="learning_rate"):
        fit_together(pairs(), data(), seeds=SEEDS, learning_rate=1.0)
