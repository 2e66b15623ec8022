r"""Pairs of a program and its guide as objects: copies, runs on disk, starts, other q of the globals, chains."""

import copy
from functools import partial

import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import same, tensors, unmoved
from programs import INDEX, ONE, PROGRAMS, ZERO, B, N, T, pair, points
from pyro import poutine
from pyro.infer.autoguide import initialization as init
from pyro.nn import PyroModule, PyroParam

from pyro_dlgm import SVI, Points, evaluate, fit, guides, load
from pyro_dlgm.runs.files import RunError

ROWS = torch.arange(N)
WITH_GLOBALS = ["normal", "gamma_poisson", "turned"]
KINDS = ["rows", "encoder"]


class Learnt(torch.nn.Module):
    r"""`programs.normal` with an emission that is learnt."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(ONE.clone())

    def forward(self, x=None, index=None, *, size=None):
        mu = pyro.sample("mu", dist.Normal(ZERO, 2 * ONE))
        with points(x, index, size):
            z = pyro.sample("z", dist.Normal(mu, ONE))
            return pyro.sample("x", dist.Normal(self.slope * z, 0.5 * ONE), obs=x)


def learnt(kind: str = "rows", seed: int = 0):
    torch.manual_seed(seed)
    model, x = Learnt(), torch.randn(N).double()
    return model, programs.MAKE[kind](model, x), x


# Copies


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_a_pair_are_on_their_own(kind, order):
    model, guide, x = learnt(kind)
    guide.setup(x, ROWS, size=N)
    made = (model, guide)
    copied = copy.deepcopy({k: made[k] for k in order})
    before = tensors(*made)
    fit(copied[0], copied[1], x, steps=3, batch_size=4, seed=0)
    assert same(before, tensors(*made))
    assert unmoved(copied[0], tensors(model)) == [] and unmoved(copied[1].dense, tensors(guide.dense)) == []
    assert copied[1]._model[0] is copied[0] and copied[1].local.program is copied[0]
    after = tensors(*copied.values())
    fit(model, guide, x, steps=3, batch_size=4, seed=0)
    assert same(after, tensors(*copied.values())) and same(tensors(*made), tensors(copied[0], copied[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_the_guide_alone_shares_the_program(kind):
    model, guide, x = learnt(kind)
    guide.setup(x, ROWS, size=N)
    copied = copy.deepcopy(guide)
    assert copied._model[0] is model and copied.local.program is model
    before = tensors(guide)
    fit(model, copied, x, steps=2, batch_size=4, seed=0)
    assert same(before, tensors(guide)) and unmoved(model, [ONE]) == []


def test_copies_before_the_first_call_are_on_their_own():
    model, guide, x = learnt()
    other, copied = copy.deepcopy((model, guide))
    fit(other, copied, x, steps=2, batch_size=4, seed=0)
    assert not guide.is_set_up and copied.local.program is other and float(model.slope) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_two_pairs_in_one_process_train_under_the_stock_svi(kind):
    made = [learnt(kind, seed) for seed in (0, 1)]
    for _, guide, x in made:
        guide.setup(x, ROWS, size=N)
    before = [tensors(model, guide) for model, guide, _ in made]
    model, guide, x = made[1]
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    svi.step(x[INDEX], INDEX, size=N)
    assert same(before[0], tensors(*made[0][:2]))
    assert unmoved(guide.dense, before[1][-2:]) == []


# Runs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_a_run_that_is_resumed_is_the_run_that_never_stopped(kind, family, tmp_path):
    settings = {"batch_size": 4, "seed": 0, "schedule": "constant"}

    def fresh():
        torch.manual_seed(0)
        model, x = Learnt(), torch.randn(N).double()
        return model, programs.MAKE[kind](model, x, family), x

    model, guide, x = fresh()
    straight = fit(model, guide, x, epochs=4, out=tmp_path / "a", **settings)
    model, guide, x = fresh()
    fit(model, guide, x, epochs=2, out=tmp_path / "b", **settings)
    model, guide, x = fresh()
    resumed = fit(model, guide, x, epochs=4, out=tmp_path / "b", resume=True, **settings)
    assert same(tensors(straight.model, straight.guide), tensors(resumed.model, resumed.guide))
    assert [r["elbo"] for r in straight.history][-2:] == [r["elbo"] for r in resumed.history][-2:]
    model, guide, x = learnt(kind, 7)
    guide = programs.MAKE[kind](model, x, family)
    guide.setup(x, ROWS, size=N)
    loaded = load(tmp_path / "a", model=model, guide=guide)
    assert same(tensors(*loaded[:2]), tensors(straight.model, straight.guide))
    scores = [evaluate.elbo(m, g, x, ROWS, 5, seed=0) for m, g in ((straight.model, straight.guide), loaded[:2])]
    assert torch.equal(*scores)


def test_a_function_is_kept_in_a_run_as_well(tmp_path):
    made = pair("normal")
    result = fit(made.model, made.guide, made.x, epochs=2, batch_size=4, seed=0, out=tmp_path)
    other = pair("normal", seed=3)
    _, guide, _ = load(tmp_path, model=result.model, guide=other.guide)
    assert same(tensors(guide), tensors(result.guide))


def test_a_run_is_not_loaded_into_a_guide_that_has_not_seen_the_program(tmp_path):
    model, guide, x = learnt()
    fit(model, guide, x, epochs=1, seed=0, out=tmp_path)
    model, guide, x = learnt()
    with pytest.raises(RunError, match="first call") as raised:
        load(tmp_path, model=model, guide=guide)
    assert "not there in yours" in str(raised.value)


def test_validation_points_do_not_move_the_globals():
    ends = []
    for x_val in (None, torch.randn(5).double()):
        model, guide, x = learnt()
        guide.setup(x, ROWS, size=N)
        result = fit(model, guide, x, x_val=x_val, epochs=3, batch_size=4, seed=0)
        ends.append(tensors(model, guide))
    assert same(*ends) and "val_elbo" in result.history[-1]


def test_what_infer_returns_shares_the_globals_and_does_not_train_them():
    made = pair("normal")
    best = made.guide.start(Points(made.x[:3], torch.arange(3)))
    before = tensors(made.guide.dense)
    svi = SVI(made.model, best)
    svi.step(made.x[:3], torch.arange(3))
    assert same(before, tensors(made.guide.dense)) and unmoved(best, [torch.zeros(3, 2)]) == []
    again = copy.deepcopy(best)
    assert {n: float(v) for n, v in again.centre().items()} == {n: float(v) for n, v in made.guide.centre().items()}


# Where they start


STARTS = {
    "feasible": init.init_to_feasible,
    "median": init.init_to_median(num_samples=11),
    "sample": init.init_to_sample,
}


@pytest.mark.parametrize("name", programs.NAMES)
@pytest.mark.parametrize("start", STARTS)
def test_pyros_functions_say_where_the_latents_start(start, name):
    made = pair(name, init=STARTS[start])
    args, kwargs = made.call()
    raw = made.guide.inner.rows.weight[:, : made.guide.local.latent_dim]
    assert raw.isfinite().all()
    if start == "feasible":
        torch.testing.assert_close(raw, torch.zeros_like(raw), atol=1e-6, rtol=0)
        if name in WITH_GLOBALS:
            (value,) = made.guide.centre().values()
            unconstrained = value.log() if name == "gamma_poisson" else value
            torch.testing.assert_close(unconstrained, torch.zeros_like(value), atol=1e-6, rtol=0)
    if start == "sample":
        assert len(raw.unique(dim=0)) == N
    assert made.guide(*args, **kwargs)


def test_values_may_be_given_for_each_point():
    level, v = torch.randn(N).double(), torch.randn(T, N).double()
    made = pair("series", init=init.init_to_value(values={"level": level, "v": v}))
    found = made.guide.named(made.guide.posterior(index=ROWS).mean)
    torch.testing.assert_close(found["level"], level)
    torch.testing.assert_close(found["v"], v)
    made = pair("normal", init=init.init_to_value(values={"mu": 5 * ONE, "z": torch.arange(N).double()}))
    assert float(made.guide.centre()["mu"]) == pytest.approx(5.0)
    torch.testing.assert_close(made.guide.posterior(index=ROWS).mean.squeeze(-1), torch.arange(N).double())


def test_a_start_does_not_depend_on_the_first_batch():
    level = torch.randn(N).double()
    starts = []
    for rows in (ROWS, INDEX):
        torch.manual_seed(0)
        x = torch.randn(N, T).double()
        guide = guides.AutoPerPoint(programs.series, N, init=init.init_to_value(values={"level": level}))
        guide.setup(Points(x, ROWS)[rows], size=N)
        starts.append(guide.posterior(index=ROWS).mean[:, 0])
    assert torch.equal(*starts)


def test_each_row_starts_where_the_program_has_that_point():
    offset = torch.randn(N).double()

    def shifted(x, index, *, size=None):
        with points(x, index, size):
            z = pyro.sample("z", dist.Normal(offset[index], ONE))
            pyro.sample("x", dist.Normal(z, ONE), obs=x)

    guide = guides.AutoPerPoint(shifted, N, init=init.init_to_mean)
    guide.setup(torch.randn(B).double(), INDEX, size=N)
    torch.testing.assert_close(guide.posterior(index=ROWS).mean.squeeze(-1), offset)


# The q of the globals


@pytest.mark.parametrize("name", WITH_GLOBALS)
@pytest.mark.parametrize(
    "kind",
    [
        "AutoNormal",
        "AutoDiagonalNormal",
        "AutoMultivariateNormal",
        "AutoLowRankMultivariateNormal",
        "delta",
        "AutoDelta",
    ],
)
def test_any_autoguide_is_the_q_of_the_globals(kind, name):
    made = pair(name, globals=kind)
    args, kwargs = made.call()
    before = tensors(made.guide.dense)
    fit(made.model, made.guide, made.x, steps=2, batch_size=4, seed=0)
    still = (
        ["scale_tril_unconstrained"] if kind == "AutoMultivariateNormal" and name != "turned" else []
    )  # of one number
    assert unmoved(made.guide.dense, before) == still
    table = evaluate.log_weights(made.model, made.guide, made.x, ROWS, 5, seed=0)
    assert table.shape == (5, N) and table.isfinite().all()
    centre = made.guide.centre()
    draws = made.guide.draw_globals(5)
    assert {n: v.shape[0] for n, v in draws.items()} == dict.fromkeys(centre, 5)
    trace = poutine.trace(made.guide).get_trace(*args, **kwargs)
    for site in centre:
        assert trace.nodes[site]["scale"] == 1.0 and trace.nodes[site]["value"].shape == centre[site].shape


def test_a_flow_is_the_q_of_the_globals_or_says_why_not():
    made = pair("turned", globals="AutoIAFNormal")
    fit(made.model, made.guide, made.x, steps=2, batch_size=4, seed=0)
    assert evaluate.log_weights(made.model, made.guide, made.x, ROWS, 5, seed=0).isfinite().all()
    model, _ = evaluate.given_globals(made.model, made.guide, "draw", seed=0)
    assert model.globals["mu"].shape == (T,)
    with pytest.raises(ValueError, match="AutoIAFNormal has no median"):
        evaluate.given_globals(made.model, made.guide)


def test_a_function_makes_the_q_of_the_globals():
    made = pair("normal", globals=partial(pyro.infer.autoguide.AutoNormal, init_scale=0.5))
    assert float(made.guide.dense.scales.mu) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="globals is 'AutoNormals'; expected the name of one of Pyro's autoguides"):
        pair("normal", globals="AutoNormals")


def test_a_discrete_global_latent_is_named():
    def program(x, index=None):
        k = pyro.sample("k", dist.Bernoulli(0.5 * ONE))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(k, ONE))
            pyro.sample("x", dist.Normal(z, ONE), obs=x)

    with pytest.raises(ValueError, match="discrete sample site 'k'"):
        guides.AutoPerPoint(program, B).setup(torch.randn(B).double())


@pytest.mark.parametrize("family", ["point"])
@pytest.mark.parametrize("name", ["normal", "gamma_poisson", "turned", "simplex"])
def test_points_without_a_density(name, family):
    made = pair(name, family=family)
    fit(made.model, made.guide, made.x, steps=3, batch_size=4, seed=0)
    assert not made.guide.has_density
    with pytest.raises(TypeError, match="point mass"):
        evaluate.elbo(made.model, made.guide, made.x, ROWS)
    assert evaluate.log_joint(made.model, made.guide, made.x, ROWS).isfinite().all()


# Chains


def chained(model, **settings):
    settings = {"num_states": 8, "burn_in": 20} | settings
    make = lambda local: guides.Chain(local, N, local.latent_dim, **settings)  # noqa: E731
    return guides.AutoLocal(model, make, globals="delta")


def test_a_chain_moves_and_its_states_are_of_the_posterior():
    torch.manual_seed(0)
    x, guide = torch.randn(N).double(), chained(programs.normal, num_states=40)
    guide.setup(x, ROWS, size=N)
    with torch.no_grad():
        next(guide.dense.parameters()).fill_(0.7)
    guide.train()
    states = []
    with torch.no_grad():
        for k in range(60):
            guide(x, ROWS, size=N)
            if k >= 20:
                states.append(guide.posterior(x, ROWS).states.clone())
    u = torch.cat(states).squeeze(-1)
    torch.testing.assert_close(u.mean(0), (0.7 + 4 * x) / 5, atol=0.12, rtol=0)
    assert float(u.var(0).mean()) == pytest.approx(0.2, rel=0.15)
    guide.eval()
    before = guide.posterior(x, ROWS).states.clone()
    guide(x, ROWS, size=N)
    assert torch.equal(before, guide.posterior(x, ROWS).states)


@pytest.mark.parametrize("name", ["normal", "gamma_poisson", "turned", "simplex"])
def test_monte_carlo_em_of_any_program(name):
    torch.manual_seed(0)
    case = PROGRAMS[name]
    model, x = case.make(), case.points(N).x
    guide = chained(model)
    guide.setup(x, ROWS, size=N)
    before = guide.posterior(x, ROWS).states.clone()
    fit(model, guide, x, steps=4, batch_size=5, seed=0)
    assert not torch.equal(before, guide.posterior(x, ROWS).states) and guide.gradients > 0
    with pytest.raises(TypeError, match="draws of a chain"):
        evaluate.elbo(model, guide, x, ROWS)


def test_monte_carlo_em_finds_the_mean():
    torch.manual_seed(0)
    x = 1.5 + torch.randn(N).double() * 1.25**0.5
    guide = chained(programs.normal, burn_in=10)
    guide.setup(x, ROWS, size=N)
    fit(programs.normal, guide, x, epochs=120, lr=0.05, seed=0)
    expected = (x.sum() / 1.25) / (1 / 4 + N / 1.25)
    assert float(guide.centre()["mu"]) == pytest.approx(float(expected), abs=0.15)


# A PyroModule with parameters of Pyro


class Shaped(PyroModule):
    def __init__(self):
        super().__init__()
        self.scale = PyroParam(2 * ONE, constraint=dist.constraints.positive)

    def forward(self, x, index, *, size=None):
        with points(x, index, size):
            z = pyro.sample("z", dist.Normal(ZERO, self.scale))
            pyro.sample("x", dist.Normal(z, 0.5 * ONE), obs=x)


def test_constrained_parameters_of_a_program_train():
    torch.manual_seed(0)
    model, x = Shaped(), 0.1 * torch.randn(N).double()
    guide = guides.AutoPerPoint(model, N)
    fit(model, guide, x, epochs=60, batch_size=5, lr=0.05, seed=0)
    assert float(model.scale) < 1.0
