r"""Rows and encoders for the latents of any program: losses, scales, what moves, what is reached, copies and runs."""

import copy
import warnings
from functools import partial

import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import conv, encoder, tensors, unmoved
from programs import INDEX, ONE, PROGRAMS, B, N, T, pair, real
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch.distributions import MultivariateNormal, normal
from torch.distributions import multivariate_normal as mvn

from pyro_dlgm import DLGM, SVI, Points, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.latents.call import accepting
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.objectives.sites import is_drawn
from pyro_dlgm.optim.svi import adam

BATCHES = torch.randperm(N, generator=torch.Generator().manual_seed(0)).split(4)  # the last one is shorter
CONTINUOUS = [name for name in programs.NAMES if name not in programs.DISCRETE]
WITH_GLOBALS = ["normal", "gamma_poisson", "turned", "fixed"]


class Noise:
    r"""The noise of each point, whatever batch it comes in; what is not of points has one as well."""

    def __init__(self, monkeypatch, width: int):
        self.eps, self.rows, self.others = torch.randn(N, width).double(), torch.arange(N), {}
        for module in (normal, mvn):
            monkeypatch.setattr(module, "_standard_normal", self.draw)

    def draw(self, shape, dtype, device):
        shape = torch.Size(shape)
        if shape == (len(self.rows), self.eps.shape[1]):
            return self.eps[self.rows]
        assert len(self.rows) not in shape[:1] or len(shape) < 2, shape
        return self.others.setdefault(shape, torch.randn(shape).double())


def draws_of_guide(made, noise, rows) -> tuple[dict, torch.Tensor, torch.Tensor]:
    r"""Values of the globals, their log q − log p at these, and u of the rows, for the noise that there is."""
    trace = poutine.trace(made.guide).get_trace(*made.call(rows)[0], **made.call(rows)[1])
    model = poutine.trace(poutine.replay(accepting(made.model), trace=trace)).get_trace(
        *made.call(rows)[0], **made.call(rows)[1]
    )
    total, values = torch.zeros(()).double(), {}
    for t, sign in ((trace, 1), (model, -1)):
        for name, site in t.nodes.items():
            outside = all(f.name != "data" for f in site.get("cond_indep_stack", ()))
            if is_drawn(site) and outside:
                total = total + sign * site["fn"].log_prob(site["value"]).sum()
                values[name] = site["value"]
    q = made.guide.posterior(
        *made.call(rows)[0], **{k: v for k, v in made.call(rows)[1].items() if k in ("mask", "given")}
    )
    L = q.scale_tril if isinstance(q, MultivariateNormal) else q.stddev.diag_embed()
    u = q.mean + (L @ noise.eps[rows].unsqueeze(-1)).squeeze(-1)
    names = made.guide.local.global_names
    return {name: values[name] for name in names}, total, u, q


def by_hand(made, noise, rows, weight=None):
    r"""log q(globals) − log p(globals) + Σ_i w_i [log q(u_i) − log p(x_i, u_i | globals)]."""
    values, total, u, q = draws_of_guide(made, noise, rows)
    local = made.guide.local
    with local.given(values):
        local.globals = values  # with their graphs
        terms = q.log_prob(u) - local.log_joint(made.points[rows], u)
    return total + (terms if weight is None else weight[rows] * terms).sum()


def loss_of(made, noise, rows, objective=None, **settings):
    noise.rows = rows
    args, kwargs = made.call(rows, **settings)
    return (objective or Trace_ELBO(max_plate_nesting=2)).differentiable_loss(
        accepting(made.model), made.guide, *args, **kwargs
    )


# Losses of batches


@pytest.mark.parametrize("kind", ["rows", "encoder"])
@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_losses_of_batches_sum_to_that_of_all_points(name, family, kind, monkeypatch):
    made = pair(name, kind, family)
    noise = Noise(monkeypatch, made.guide.local.latent_dim)
    shares = [1.0 if name == "alone" else len(rows) / N for rows in BATCHES]  # of x alone, the scale is 1
    parts = [share * loss_of(made, noise, rows) for share, rows in zip(shares, BATCHES, strict=True)]
    full = loss_of(made, noise, torch.arange(N))
    torch.testing.assert_close(sum(parts), full, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(full, by_hand(made, noise, torch.arange(N)), rtol=1e-11, atol=1e-11)
    for rows in BATCHES[1:2]:  # our objective is that of Pyro: the closed form of KL is none of its sums
        torch.testing.assert_close(
            loss_of(made, noise, rows, ELBO(analytic_kl=False, max_plate_nesting=2)),
            loss_of(made, noise, rows),
            rtol=1e-12,
            atol=1e-12,
        )


@pytest.mark.parametrize("name", ["normal", "gamma_poisson", "turned", "simplex"])
def test_gradients_of_batches_sum_to_that_of_all_points(name, monkeypatch):
    made = pair(name)
    noise = Noise(monkeypatch, made.guide.local.latent_dim)
    parameters = list(made.guide.parameters())
    if isinstance(made.model, torch.nn.Module):
        parameters += list(made.model.parameters())
    parts = sum(len(rows) / N * loss_of(made, noise, rows) for rows in BATCHES)
    expected = torch.autograd.grad(loss_of(made, noise, torch.arange(N)), parameters)
    torch.testing.assert_close(torch.autograd.grad(parts, parameters), expected, rtol=1e-9, atol=1e-12)


WEIGHT = real(0.1, 2.0, 1.0, 0.3, 5.0, 1.0, 0.2, 1.0, 2.5, 1.0)  # a scale of 0 is refused by Pyro


def weighed_pair(dim: int, kind: str = "rows"):
    torch.manual_seed(0)
    model, x = programs.weighing(dim), torch.randn(N, T).double()
    guide = programs.MAKE[kind](model, x)
    return programs.Pair(PROGRAMS["series"], model, guide.setup(x, torch.arange(N)), Points(x, torch.arange(N)))


@pytest.mark.parametrize("kind", ["rows", "encoder"])
@pytest.mark.parametrize("dim", [-1, -2])
def test_weights_scale_a_point_on_both_sides(dim, kind, monkeypatch):
    made = weighed_pair(dim, kind)
    noise = Noise(monkeypatch, 1 + T)
    full = loss_of(made, noise, torch.arange(N), weight=WEIGHT)
    torch.testing.assert_close(full, by_hand(made, noise, torch.arange(N), WEIGHT), rtol=1e-12, atol=1e-12)
    parts = [len(rows) / N * loss_of(made, noise, rows, weight=WEIGHT[rows]) for rows in BATCHES]
    torch.testing.assert_close(sum(parts), full, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [-1, -2])
def test_fit_takes_weights_wherever_the_points_are(dim):
    made = weighed_pair(dim)
    fit(made.model, made.guide, Points(made.x, weight=WEIGHT), steps=3, batch_size=4, seed=0)


def test_weights_for_a_program_that_takes_none_are_refused():
    made = pair("normal")
    with pytest.raises(ValueError, match="weight was given, and normal takes no weight"):
        fit(made.model, made.guide, Points(made.x, weight=WEIGHT), steps=1)


@pytest.mark.parametrize("name", ["normal", "turned", "series"])
def test_beta_tempers_the_latents_of_points_and_no_others(name, monkeypatch):
    made = pair(name)
    noise, rows = Noise(monkeypatch, made.guide.local.latent_dim), BATCHES[0]
    found = {b: loss_of(made, noise, rows, ELBO(beta=b, max_plate_nesting=2)) for b in (0.0, 0.5, 1.0)}
    torch.testing.assert_close(found[0.5], 0.5 * (found[0.0] + found[1.0]), rtol=1e-12, atol=1e-12)
    values, total, u, _ = draws_of_guide(made, noise, rows)
    local = made.guide.local.at(values)
    emitted = local.log_joint(made.points[rows], u) - local.log_prior(made.points[rows], u)
    torch.testing.assert_close(found[0.0], total - N / len(rows) * emitted.sum(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["normal", "turned", "series", "matrix"])
def test_several_particles_at_a_time(name):
    made = pair(name)
    args, kwargs = made.call()
    torch.manual_seed(1)
    many = ELBO(400, max_plate_nesting=2).loss(made.model, made.guide, *args, **kwargs)
    ones = torch.tensor([ELBO(max_plate_nesting=2).loss(made.model, made.guide, *args, **kwargs) for _ in range(200)])
    assert many == pytest.approx(float(ones.mean()), abs=5 * float(ones.std()) * (1 / 200 + 1 / 400) ** 0.5)


# Scales and sites


@pytest.mark.parametrize("kind", ["rows", "encoder"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_scales_are_equal_on_both_sides(name, kind):
    made = pair(name, kind)
    args, kwargs = made.call()
    expected = 1.0 if name == "alone" else N / B
    guide = poutine.trace(made.guide).get_trace(*args, **kwargs)
    model = (
        poutine.trace(poutine.replay(made.model, trace=guide)).get_trace(*args, **kwargs) if name != "alone" else None
    )
    model = model or poutine.trace(poutine.replay(made.model, trace=guide)).get_trace(args[0])
    for trace in (guide, model):
        for site in trace.nodes.values():
            if is_drawn(site):
                here = any(f.name == "data" for f in site["cond_indep_stack"])
                assert float(site["scale"]) == pytest.approx(expected if here else 1.0), site["name"]
    latents = [n for n, s in model.nodes.items() if is_drawn(s) and not s["is_observed"]]
    for latent in latents:
        p, q = model.nodes[latent], guide.nodes[latent]
        assert q["value"].shape == p["value"].shape and q["fn"].event_shape == p["fn"].event_shape
        frames = [{(f.name, f.dim, f.size) for f in s["cond_indep_stack"]} for s in (p, q)]
        assert frames[0] == frames[1]
        assert p["fn"].support.check(p["value"]).all()


@pytest.mark.parametrize("kind", ["rows", "encoder"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_pyro_finds_nothing_to_warn_of(name, kind):
    made = pair(name, kind)
    args, kwargs = made.call()
    with warnings.catch_warnings(), pyro.validation_enabled(True):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*trained without sparse gradients.*")
        model = made.model if name != "alone" else lambda x, index: made.model(x)
        assert torch.isfinite(torch.tensor(Trace_ELBO(max_plate_nesting=2).loss(model, made.guide, *args, **kwargs)))


@pytest.mark.parametrize("first", [1, 3, N])
@pytest.mark.parametrize("name", ["normal", "fixed", "turned"])
def test_the_scale_is_right_whatever_the_first_batch_was(name, first):
    case = PROGRAMS[name]
    some, model = case.points(N), case.make()
    guide = guides.AutoPerPoint(model, N)
    guide.setup(some[:first], **case.size)
    trace = poutine.trace(guide).get_trace(some.x[INDEX], INDEX, **case.size)
    assert float(trace.nodes["data_latents"]["scale"]) == N / B


def test_the_points_of_both_plates_are_those_of_the_batch():
    made = pair("fixed")
    args, kwargs = made.call()
    traces = [poutine.trace(p).get_trace(*args, **kwargs) for p in (made.model, made.guide)]
    assert all(torch.equal(t.nodes["data"]["value"], INDEX) for t in traces)


# What moves


@pytest.mark.parametrize("name", CONTINUOUS)
def test_only_the_rows_of_a_batch_move(name):
    made = pair(name)
    args, kwargs = made.call()
    svi = SVI(made.model, made.guide)
    before = made.guide.inner.rows.weight.detach().clone()
    for _ in range(3):
        svi.step(*args, **kwargs)
    moved = (made.guide.inner.rows.weight.detach() != before).any(1)
    assert sorted(moved.nonzero().flatten().tolist()) == sorted(INDEX.tolist())
    dense = made.guide.dense
    assert dense is None or all(p.grad is None for p in dense.parameters())


@pytest.mark.parametrize("name", WITH_GLOBALS)
def test_rows_have_their_rate_and_globals_that_of_networks(name):
    made = pair(name)
    found = {
        id(p): g["lr"]
        for o in adam(made.model, made.guide, lr=0.001, row_lr=0.2)
        for g in o.param_groups
        for p in g["params"]
    }
    assert found.pop(id(made.guide.inner.rows.weight)) == 0.2
    dense = [*made.guide.dense.parameters()]
    dense += list(made.model.parameters()) if isinstance(made.model, torch.nn.Module) else []
    assert {id(p) for p in dense} == set(found) and set(found.values()) == {0.001}


@pytest.mark.parametrize("name", WITH_GLOBALS)
def test_the_globals_train(name):
    made = pair(name)
    before = tensors(made.guide.dense)
    fit(made.model, made.guide, made.x, steps=2, batch_size=4, seed=0)
    assert unmoved(made.guide.dense, before) == []


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["normal", "series", "simplex", "gamma_poisson"])
def test_the_stock_svi_works_and_says_once_that_it_is_dense(name):
    made = pair(name)
    args, kwargs = made.call()
    before = [tensors(made.guide)]
    svi = pyro.infer.SVI(made.model, made.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO(max_plate_nesting=2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        losses = [svi.step(*args, **kwargs) for _ in range(100)]
    said = [str(w.message) for w in said if "sparse" in str(w.message)]
    assert len(said) == 1 and f"updates all {N} rows" in said[0]
    assert sum(losses[-20:]) < sum(losses[:20])
    assert unmoved(made.guide, before[0]) == []


@pytest.mark.filterwarnings("error")
def test_our_own_loops_do_not_say_it():
    made = pair("normal")
    args, kwargs = made.call()
    SVI(made.model, made.guide).step(*args, **kwargs)
    fit(made.model, made.guide, made.x, steps=2, seed=0)
    evaluate.elbo(made.model, made.guide, made.x, torch.arange(N), 3)
    evaluate.infer(made.model, made.guide, made.x, max_steps=100, tol=10.0, window=10)


# A DLGM is the case u = t


def standard(likelihood: str = "fixed") -> DLGM:
    torch.manual_seed(0)
    return conv(likelihood=likelihood)


@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO(3), ELBO(analytic_kl=False), Trace_ELBO()], ids=["closed", "three", "sampled", "stock"]
)
@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_rows_of_a_dlgm_are_its_per_point_guide(family, objective):
    model, x = standard(), torch.rand(N, 1, 5, 7)
    plain = {"mean_field": guides.MeanField, "full_rank": guides.FullRank}[family](N, 3)
    auto = guides.AutoPerPoint(model, N, family=family).setup(x, torch.arange(N))
    auto.inner.set_rows(plain.rows.weight.detach())
    check_equal(model, plain, auto, plain.rows.weight, auto.inner.rows.weight, x, objective)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(3), Trace_ELBO()], ids=["closed", "three", "stock"])
@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_an_encoder_of_a_dlgm_is_its_amortized_guide(family, objective):
    model, x = standard(), torch.rand(N, 1, 5, 7)
    plain = guides.Amortized(encoder(model), 3, family, init_scale=0.5)
    auto = guides.AutoAmortized(model, copy.deepcopy(plain.encoder), family=family, init_scale=0.5).setup(x)
    auto.inner.load_state_dict(plain.state_dict())
    check_equal(model, plain, auto, plain.head.weight, auto.inner.head.weight, x, objective)


def check_equal(model, plain, auto, one, two, x, objective):
    found = []
    for guide, parameter in ((plain, one), (auto, two)):
        torch.manual_seed(5)
        loss = objective.differentiable_loss(model, guide, x[INDEX], INDEX, size=N)
        found.append((loss, *torch.autograd.grad(loss, [parameter, *model.parameters()])))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(5)
    first = evaluate.log_weights(model, plain, x[INDEX], INDEX, 7, seed=1)
    assert torch.equal(first, evaluate.log_weights(model, auto, x[INDEX], INDEX, 7, seed=1))


def test_training_a_dlgm_is_the_same_with_either_guide():
    ends = []
    for make in (lambda model: guides.MeanField(N, 3), lambda model: guides.AutoPerPoint(model, N)):
        model, x = standard(), torch.rand(N, 1, 5, 7)
        guide = make(model)
        if isinstance(guide, guides.AutoPerPoint):
            guide.setup(x, torch.arange(N))
        rows = getattr(guide, "inner", guide)
        torch.manual_seed(3)
        rows.set_rows(0.1 * torch.randn(N, 6))
        fit(model, guide, x, steps=6, batch_size=4, seed=0)
        ends.append((*model.parameters(), rows.rows.weight))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def bayesian():
    torch.manual_seed(0)
    return DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(priors.bayesian(nets.Linear(2, 3)), 0.5))


def test_a_bayesian_w_is_held_where_points_are_scored():
    model, x = bayesian(), torch.randn(N, 3)
    guide = guides.AutoPerPoint(model, N).setup(x, torch.arange(N))
    assert len(guide.local.global_names) == 2 and guide.local.layout.is_one_vector
    held = {name: torch.randn_like(v) for name, v in guide.centre().items()}
    pair = evaluate.given_globals(model, guide, held)
    points, t = Points(x[:B], torch.arange(B)), torch.randn(5, B, 2)
    from pyro_dlgm.latents.asked import log_joint

    W = next(v for v in held.values() if v.dim() == 2)
    b = next(v for v in held.values() if v.dim() == 1)
    expected = dist.Normal(0.0, 1.0).log_prob(t).sum(-1) + dist.Normal(t @ W.mT + b, 0.5).log_prob(points.x).sum(-1)
    torch.testing.assert_close(log_joint(pair[0], points, t), expected, rtol=1e-5, atol=1e-4)
    first, second = (evaluate.elbo(*pair, x, torch.arange(N), 50, seed=0) for _ in range(2))
    assert torch.equal(first, second)
    fit(model, guide, x, steps=5, batch_size=4, seed=0)
    assert evaluate.elbo(model, guide, x, torch.arange(N), 20, seed=0).isfinite().all()


# Programs that do not do what they say


def unheeding(dim: int, x, index=None, *, size=None, weight=None):
    r"""It takes size and weight, and leaves both aside."""
    with pyro.plate("data", len(x), dim=dim):
        z = pyro.sample("z", dist.Normal(0 * ONE, ONE))
        with pyro.plate("time", T, dim=-3 - dim):
            pyro.sample("x", dist.Normal(z, ONE), obs=x.mT if dim == -1 else x)


@pytest.mark.parametrize("made_before", [False, True])
@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"weight": WEIGHT}], ids=["size", "weight"])
@pytest.mark.parametrize("dim", [-1, -2])
def test_a_program_that_heeds_no_scale_is_refused_each_time(dim, settings, made_before):
    model, x = partial(unheeding, dim), torch.randn(N, T).double()
    guide = guides.AutoPerPoint(model, N)
    if made_before:
        guide.setup(x, torch.arange(N))
    for _ in range(2):
        with pytest.raises(ValueError, match="has another scale in AutoPerPoint than in the model"):
            fit(model, guide, x, steps=1, seed=0, **settings)
