r"""The Markov chain as a guide: its states, what it learns of each point, Monte Carlo EM, and the hybrid."""

import copy
import io

import cases
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro_dlgm.guides.chains import kernel as kernels
from pyro_dlgm.guides.chains.empirical import States

from pyro_dlgm import PPCA, SVI, Points, evaluate, fit, guides
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.optim.svi import adam

N, B, D, P = 200, 4, 2, 6
ROWS = torch.arange(N)
INDEX = torch.tensor([7, 2, 9, 0])


@pytest.fixture
def truth():
    r"""A linear model, whose posterior is known."""
    return PPCA(D, P, scale=0.5)


@pytest.fixture
def x(truth):
    return truth(size=N).detach()


def chain(model, num=10, **settings):
    quick = {"num_states": 3, "num_leapfrog": 2, "burn_in": 5} | settings
    return guides.Chain(model, num, model.prior.latent_dim, **quick)


def tables(guide) -> dict:
    return {name: table.clone() for name, table in guide.state_dict().items()}


def equal(a: dict, b: dict) -> list[str]:
    r"""The names of the tables that agree bit for bit."""
    assert a.keys() == b.keys()
    return [name for name in a if torch.equal(a[name], b[name])]


# The empirical distribution


@pytest.mark.parametrize("shape", [(6,), (2, 3), (12,)])
def test_draws_visit_each_state_equally_often(shape):
    states = torch.arange(3.0).reshape(3, 1, 1).expand(3, B, D)
    q = States(states)
    for draws in (q.sample(shape), q.expand((*shape, B)).sample(), q.expand((shape[-1], B)).sample(shape[:-1])):
        assert draws.shape == (*shape, B, D)
        counts = torch.stack([(draws[..., 0] == s).flatten(0, -2).sum(0) for s in range(3)])
        assert (counts == torch.Size(shape).numel() // 3).all()


def test_single_draws_take_any_state_of_each_point_apart():
    q = States(torch.arange(3.0).reshape(3, 1, 1).expand(3, 1000, 1))
    draws = q.sample().squeeze(-1)
    assert [(draws == s).float().mean().item() for s in range(3)] == pytest.approx([1 / 3] * 3, abs=0.07)


def test_draws_are_states_of_their_own_point():
    states = torch.randn(3, B, D)
    draws = States(states).sample((5,))
    for b in range(B):
        assert all((draws[k, b] == states[:, b]).all(-1).any() for k in range(5))


def test_moments_are_those_of_the_states():
    states = torch.randn(5, B, D)
    q = States(states)
    torch.testing.assert_close(q.mean, states.mean(0))
    torch.testing.assert_close(q.variance, (states - states.mean(0)).square().mean(0))
    torch.testing.assert_close(q.stddev, q.variance.sqrt())
    assert q.expand((7, B)).mean.shape == (7, B, D)


def test_it_has_no_density_and_no_gradient():
    states = torch.randn(3, B, D, requires_grad=True)
    q = States(states)
    draw = q.rsample()
    assert not draw.requires_grad
    assert torch.equal(q.log_prob(draw), torch.zeros(B))
    assert (q.log_prob(draw + 1) == -torch.inf).all()


# Moving


def test_training_mode_moves_the_rows_of_the_batch_only(truth, x):
    guide = chain(truth)
    before = tables(guide)
    guide(x[INDEX], INDEX)
    moved = (guide.states != before["states"]).flatten(1).any(1)
    assert sorted(moved.nonzero().flatten().tolist()) == sorted(INDEX.tolist())
    assert (guide.transitions > 0).nonzero().flatten().tolist() == sorted(INDEX.tolist())


def test_eval_mode_never_moves(truth, x):
    guide = chain(truth)
    guide(x[INDEX], INDEX)
    guide.eval()
    before = tables(guide)
    guide(x[INDEX], INDEX)
    ELBO(3).loss(truth, guide, x[INDEX], INDEX)
    guide.posterior(x[INDEX], INDEX).sample((5,))
    SVI(truth, guide).step(x[INDEX], INDEX)
    assert equal(before, tables(guide)) == list(before)


def test_the_first_visit_of_a_point_burns_in(truth, x):
    guide = chain(truth, num_transitions=2)
    mask = torch.rand(B, P) < 0.7
    guide(x[INDEX[:2]], INDEX[:2], mask=mask[:2])
    guide(x[INDEX], INDEX, mask=mask)
    assert guide.transitions[INDEX].tolist() == [9, 9, 7, 7]


def test_gradient_evaluations_are_counted(truth, x):
    guide = chain(truth, num_transitions=2)
    guide(x[INDEX], INDEX)
    assert guide.gradients == 3 * B * ((1 + 5 * 2) + (1 + 2 * 2))
    guide(x[INDEX], INDEX)
    assert guide.gradients == 3 * B * ((1 + 5 * 2) + 2 * (1 + 2 * 2))


def test_the_books_of_a_training_hold_those_of_the_chains(truth, x):
    guide = chain(truth, num=N)
    result = fit(truth, guide, x, epochs=2, batch_size=64, e_steps=2, objective=ELBO(3), seed=0)
    visits = 2 * 2
    expected = 3 * ((1 + 5 * 2) + visits * (1 + 2)) + 2 * 3
    assert result.history[-1]["gradients_per_point"] == expected
    assert "log_joint" in result.history[-1]


def test_validation_chains_follow_w(truth, x):
    far = PPCA(D, P, scale=0.5)
    guide = chain(far, num=N)
    result = fit(far, guide, x, epochs=1, lr=1e-9, x_val=x[:50], seed=0)
    expected = evaluate.log_joint(far, guides.Exact(far), x[:50], num_samples=100, seed=0).mean().item()
    assert result.history[-1]["val_log_joint"] == pytest.approx(expected, abs=0.3)


def test_steps_follow_the_acceptance_of_each_point(truth):
    r"""Points with all pixels and points with none have posteriors of other widths."""
    x, mask = truth(size=N).detach(), (ROWS % 2 == 0).unsqueeze(1).expand(N, P)
    sharp = PPCA(D, P, scale=0.05)
    guide = chain(sharp, num=N, burn_in=300, num_leapfrog=3, num_states=4)
    guide(x, ROWS, mask=mask)
    assert (guide.log_step.exp() != guide.log_step[0].exp()).sum() > N / 2
    width = guide.scale.mean(-1)
    assert width[1::2].mean().item() == pytest.approx(1.0, abs=0.1)
    exact = sharp.posterior(x[:1]).stddev.mean().item()
    assert width[0::2].mean().item() == pytest.approx(exact, rel=0.15)
    kernel = guide._kernel(Points(x, ROWS, mask))
    state, seen = kernel.start(guide.samples(ROWS)), []
    for _ in range(30):
        state, info = kernel.step(state)
        seen.append(info.acceptance)
    each = torch.stack(seen).mean((0, 1))
    assert each.mean().item() == pytest.approx(0.8, abs=0.1)
    assert each.min() > 0.5


@pytest.mark.parametrize("bad", [1e25, float("nan")])
def test_a_point_that_diverges_leaves_the_others_alone(truth, x, bad):
    guide = chain(truth, num=N)
    broken, other = x.clone(), copy.deepcopy(guide)
    broken[5] = bad
    for g, data in ((guide, x), (other, broken)):
        torch.manual_seed(1)
        g.e_step(Points(data, ROWS))
    keep = ROWS != 5
    for name in ("states", "log_step", "scale"):
        assert torch.equal(getattr(guide, name)[keep], getattr(other, name)[keep]), name
    assert other.diverged[5] == 6 * 3 and other.states[5].isfinite().all()


def test_masked_pixels_do_not_matter(truth, x):
    mask = torch.rand(N, P) < 0.5
    made = []
    for data in (x, torch.where(mask, x, torch.nan)):
        guide = chain(truth, num=N) if not made else copy.deepcopy(made[0][0])
        torch.manual_seed(1)
        fresh = copy.deepcopy(guide)
        fresh.e_step(Points(data, ROWS, mask))
        made.append((guide, fresh.states))
    assert torch.equal(made[0][1], made[1][1])


# Where it starts


def test_chains_start_at_the_prior(truth):
    states = chain(truth, num=5000).states
    assert states.mean().item() == pytest.approx(0.0, abs=0.03)
    assert states.std().item() == pytest.approx(1.0, abs=0.03)


def test_chains_start_at_an_encoder_at_the_first_visit_only(truth, x):
    encoder = cases.amortized(truth)
    guide = chain(truth, num=N, num_states=500, burn_in=0, start_from=encoder)
    q = encoder.posterior(x[INDEX])
    guide._begin(Points(x[INDEX], INDEX))
    drawn = guide.posterior(None, INDEX)
    torch.testing.assert_close(drawn.mean, q.mean, rtol=0, atol=5 * 0.5 / 500**0.5)
    torch.testing.assert_close(drawn.stddev, q.stddev, rtol=0.2, atol=0)
    torch.testing.assert_close(guide.scale[INDEX], q.stddev)
    guide(x[INDEX], INDEX)
    before = guide.states.clone()
    guide._begin(Points(x[INDEX], INDEX))
    assert torch.equal(before, guide.states)
    assert len(list(guide.parameters())) == 0 and not any("encoder" in name for name in guide.state_dict())


def test_only_a_guide_of_new_points_may_say_the_start(truth):
    for bad in (guides.MeanField(10, D), guides.Chain(truth, 10, D), torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match="start_from is a"):
            chain(truth, start_from=bad)


# Monte Carlo EM


def gap(model, x) -> float:
    r"""Nats per point below maximum likelihood."""
    with torch.no_grad():
        best = PPCA.fit(x.double(), D).log_prob(x.double()).mean()
        return float(best - model.double().log_prob(x.double()).mean())


def test_monte_carlo_em_reaches_maximum_likelihood(truth, x):
    model = PPCA(D, P)
    guide = guides.Chain(model, N, D, num_leapfrog=3, burn_in=50)
    fit(model, guide, x, steps=300, batch_size=N, lr=0.05, schedule="linear", objective=ELBO(4), seed=0)
    assert -1e-6 < gap(model, x) < 0.01


def test_monte_carlo_em_runs_under_stock_svi(truth, x):
    model = PPCA(D, P)
    guide = guides.Chain(model, N, D, num_leapfrog=3, burn_in=50)
    optimizer = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.01 ** (1 / 300)})
    svi = pyro.infer.SVI(model, guide, optimizer, Trace_ELBO(4, vectorize_particles=True))
    for _ in range(300):
        svi.step(x, ROWS)
    assert -1e-6 < gap(model, x) < 0.01


def test_the_logged_value_is_the_mean_log_joint_of_the_states(truth, x):
    guide = chain(truth, num=N)
    loss = SVI(truth, guide, loss=ELBO(3)).e_step(x, ROWS)
    expected = truth.log_joint(x, guide.samples(ROWS)).mean(0).sum()
    torch.testing.assert_close(-loss, expected.detach(), rtol=1e-5, atol=0)


def test_the_chains_have_the_moments_of_the_posterior(truth, x):
    guide = guides.Chain(truth, N, D, num_leapfrog=3, num_states=20)
    kept = []
    for _ in range(40):
        guide(x, ROWS)
        kept.append(guide.samples(ROWS))
    draws, exact = torch.cat(kept).double(), truth.posterior(x)
    z = (draws.mean(0) - exact.mean) / exact.stddev
    # At most 800 draws a point: z has a standard deviation of 0.035 or somewhat more, over 400 of them.
    assert z.square().mean().sqrt() < 0.06
    assert z.mean().abs() < 0.01
    away = draws - draws.mean(0)
    covariance = torch.einsum("sbi,sbj->ij", away, away) / (len(draws) - 1) / N
    torch.testing.assert_close(covariance, exact.covariance_matrix[0].double(), rtol=0, atol=0.005)


# Keeping


def test_the_state_of_a_chain_comes_back(truth, x):
    guide = chain(truth, num=N)
    guide(x, ROWS)
    file = io.BytesIO()
    torch.save(guide.state_dict(), file)
    file.seek(0)
    fresh = chain(truth, num=N)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    before = tables(guide)
    assert equal(before, tables(fresh)) == list(before)
    assert {"states", "log_step", "scale", "transitions", "diverged"} <= set(before)
    for g in (guide, fresh):
        torch.manual_seed(2)
        g(x, ROWS)
    after = tables(guide)
    assert equal(after, tables(fresh)) == list(after) and not torch.equal(after["states"], before["states"])


def test_a_training_goes_on_bit_for_bit(truth, x):
    def start():
        torch.manual_seed(0)
        model = PPCA(D, P)
        guide = chain(model, num=N)
        return model, guide, SVI(model, guide, adam(model, guide))

    def go(svi, steps):
        for s in steps:
            svi.step(x[s::4], ROWS[s::4])

    model, guide, svi = start()
    go(svi, range(3))
    parts = (model, guide, svi.optimizers[0])
    saved = copy.deepcopy([part.state_dict() for part in parts]), torch.get_rng_state()
    go(svi, range(1, 4))
    again_model, again_guide, again = start()
    for part, state in zip((again_model, again_guide, again.optimizers[0]), saved[0], strict=True):
        part.load_state_dict(state)
    torch.set_rng_state(saved[1])
    go(again, range(1, 4))
    assert cases.same(cases.tensors(model, guide), cases.tensors(again_model, again_guide))


def test_copies_are_independent(truth, x):
    guide = chain(truth, num=N)
    other, before = copy.deepcopy(guide), tables(guide)
    other(x, ROWS)
    assert equal(before, tables(guide)) == list(before)
    assert "states" not in equal(before, tables(other))
    assert other._model[0] is truth and other._pyro_name != guide._pyro_name


# The contract


@pytest.mark.parametrize(("size", "scale"), [(None, 1.0), (10, 2.5)])
def test_plates_and_scales_are_those_of_the_model(truth, x, size, scale):
    guide = chain(truth)
    sites = poutine.trace(guide).get_trace(x[INDEX], INDEX, size=size).nodes
    replayed = poutine.replay(truth, trace=poutine.trace(guide).get_trace(x[INDEX], INDEX, size=size))
    model_sites = poutine.trace(replayed).get_trace(x[INDEX], INDEX, size=size).nodes
    assert torch.equal(sites["data"]["value"], model_sites["data"]["value"])
    assert sites["t"]["scale"] == model_sites["t"]["scale"] == model_sites["x"]["scale"] == scale


def test_rows_and_sizes_are_checked_before_anything_moves(truth, x):
    guide = chain(truth)
    before = tables(guide)
    for args, size, message in (
        ((x[:10],), None, "index"),
        ((x[:10],), 10, "index"),
        ((x[INDEX], INDEX), 11, "size=11"),
        ((x[INDEX], INDEX), B, f"size={B}"),
        ((x[INDEX], INDEX + 3), None, "index goes from"),
        ((x[INDEX], INDEX[:2]), None, "one index for each"),
        ((None, INDEX), None, "got no x"),
    ):
        with pytest.raises(ValueError, match=message):
            guide(*args, size=size)
    with pytest.raises(ValueError, match="index"):
        guide.posterior(x[:10])
    assert equal(before, tables(guide)) == list(before)


@pytest.mark.parametrize("judge", [evaluate.log_weights, evaluate.elbo, evaluate.iwae, evaluate.ais])
@pytest.mark.parametrize("make", [chain, lambda model: guides.Hybrid(model, cases.amortized(model))])
def test_what_needs_a_density_refuses_it(truth, x, judge, make):
    with pytest.raises(TypeError, match=r"no density.*evaluate.infer\(model, guides.FullRank"):
        judge(truth, make(truth), x[INDEX], INDEX)


def test_log_joint_is_that_of_the_states(truth, x):
    guide = chain(truth)
    guide(x[INDEX], INDEX)
    expected = truth.log_joint(x[INDEX], guide.samples(INDEX)).mean(0)
    torch.testing.assert_close(evaluate.log_joint(truth, guide, x[INDEX], INDEX, 3), expected.detach())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num": 0}, "num_points is 0"),
        ({"num_states": 0}, "num_states is 0"),
        ({"num_transitions": 0}, "num_transitions is 0"),
        ({"num_leapfrog": 0}, "num_leapfrog is 0"),
        ({"burn_in": -1}, "burn_in is -1"),
        ({"target_acceptance": 1.0}, "target_acceptance is 1.0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(truth, settings, message):
    with pytest.raises(ValueError, match=message):
        chain(truth, **settings)


def test_another_number_of_latents_is_refused(truth):
    with pytest.raises(ValueError, match="latent_dim is 3; expected 2"):
        guides.Chain(truth, 10, 3)


# Running to convergence


def test_inference_runs_new_chains_to_the_posterior(truth, x):
    guide = chain(truth, num=N, num_leapfrog=3, burn_in=100)
    guide(x, ROWS)
    before = tables(guide)
    fitted = evaluate.infer(truth, guide, x[:20], seed=0)
    assert equal(before, tables(guide)) == list(before)
    assert fitted.convergence.converged.all()
    draws, exact = fitted.samples(torch.arange(20)), truth.posterior(x[:20])
    assert draws.shape == (400, 20, D)
    q = fitted.posterior(None, torch.arange(20))
    assert ((q.mean - exact.mean) / exact.stddev).abs().max() < 0.25  # 400 draws: 5 standard errors
    torch.testing.assert_close(q.stddev.mean(0), exact.stddev[0], rtol=0.05, atol=0)
    _, ess = kernels.diagnostics(draws.unflatten(0, (100, 4)))
    assert ess.median() > 200


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_inference_counts_its_gradients(truth, x):
    fitted = evaluate.infer(truth, chain(truth, num_leapfrog=3, burn_in=10), x[:3], max_steps=1, seed=0)
    # One burn-in, and one round of 100 draws after 50 transitions.
    assert fitted.convergence.gradients_per_point == 4 * ((1 + 10 * 3) + (1 + 150 * 3))


def test_inference_says_who_has_not_converged(truth, x):
    with pytest.warns(UserWarning, match="have not converged"):
        fitted = evaluate.infer(truth, chain(truth, num_leapfrog=1, target_acceptance=0.99), x[:3], max_steps=1, seed=0)
    assert not fitted.convergence.converged.any()


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_training_a_settled_chain_forgets_its_draws(truth, x):
    fitted = evaluate.infer(truth, chain(truth), x[:5], max_steps=1, seed=0)
    assert fitted.samples(torch.arange(5)).shape == (400, 5, D)
    fitted.train()(x[:5], torch.arange(5))
    assert fitted.samples(torch.arange(5)).shape == (4, 5, D)


def test_convergence_is_judged_point_by_point_in_the_worst_dimension():
    draws = torch.randn(500, 4, 5, 3)
    draws[:, 0, 1, 2] += 0.5  # one chain elsewhere
    walk = torch.randn(500, 4)
    for s in range(1, 500):
        walk[s] = 0.95 * walk[s - 1] + (1 - 0.95**2) ** 0.5 * walk[s]
    draws[:, :, 3, 0] = walk  # few effective draws
    assert kernels.converged(draws).tolist() == [True, False, True, False, True]


def test_both_thresholds_hold_in_the_worst_dimension(monkeypatch):
    found = torch.tensor([[1.0, 1.0], [1.02, 1.0], [1.0, 1.0]]), torch.tensor([[500.0, 900.0], [500, 900], [900, 300]])
    monkeypatch.setattr(kernels, "diagnostics", lambda draws: found)
    assert kernels.converged(torch.zeros(10, 4, 3, 2)).tolist() == [True, False, False]


def test_diagnostics_are_those_of_arviz_for_one_point():
    import arviz

    draws = torch.randn(100, 4, 3, 2).cumsum(0) * 0.1 + torch.randn(100, 4, 3, 2)
    r_hat, ess = kernels.diagnostics(draws)
    one = draws[:, :, 2, 1].T.double().numpy()
    assert r_hat.shape == ess.shape == (3, 2)
    assert r_hat[2, 1].item() == pytest.approx(float(arviz.rhat(one, method="rank")))
    assert ess[2, 1].item() == pytest.approx(float(arviz.ess(one, method="bulk")))


@pytest.mark.parametrize(("bound", "expected"), [(0, [100]), (449, [100]), (450, [100, 200]), (1050, [100, 200, 400])])
def test_rounds_keep_to_their_bound(bound, expected):
    assert list(kernels.rounds(bound)) == expected


# The hybrid


def hybrid(model, **settings):
    return guides.Hybrid(model, cases.amortized(model), **{"num_leapfrog": 2} | settings)


def gradients(module) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    return found


@pytest.mark.parametrize("size", [None, 2 * N])
@pytest.mark.parametrize("loss", [ELBO(), Trace_ELBO()], ids=["ours", "pyro"])
def test_the_encoder_climbs_its_own_bound_and_w_the_end_of_the_chain(truth, x, loss, size):
    guide, scale = hybrid(truth, num_states=3), 1 if size is None else 2
    torch.manual_seed(1)
    end = copy.deepcopy(guide)(x)
    (-scale * truth.log_joint(x, end)).sum().backward()
    of_w = gradients(truth)
    torch.manual_seed(1)
    q = guide.guide.posterior(x)
    t = q.rsample((3,))
    (-scale * (truth.log_joint(x, t) - q.log_prob(t)).mean(0).sum()).backward()
    of_encoder = gradients(guide)
    truth.zero_grad()
    torch.manual_seed(1)
    value = loss.differentiable_loss(truth, guide, x, size=size)
    value.backward()
    torch.testing.assert_close(-value, scale * truth.log_joint(x, end).sum(), rtol=1e-5, atol=0)
    for module, expected in ((truth, of_w), (guide, of_encoder)):
        for a, b in zip(gradients(module), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)
    assert not torch.equal(end, t[0])


def test_the_hybrid_learns_w_and_its_encoder(truth, x):
    model = PPCA(D, P)
    guide = guides.Hybrid(model, guides.Amortized(torch.nn.Linear(P, 8), D), num_states=4, num_leapfrog=3)
    fit(model, guide, x, steps=300, batch_size=N, lr=0.03, schedule="linear", objective=ELBO(4), seed=0)
    assert -1e-6 < gap(model, x) < 0.02
    model.float()
    assert (model.log_prob(x).mean() - evaluate.elbo(model, guide.guide, x, seed=0).mean()).item() < 0.1


def test_few_transitions_bring_draws_nearer_to_the_posterior(truth, x):
    exact = truth.posterior(x)
    errors = []
    for num in (1, 20):
        guide = hybrid(truth, num_transitions=num, num_states=200, num_leapfrog=3).eval()
        errors.append(((guide.posterior(x).mean - exact.mean) / exact.stddev).square().mean().item())
    assert errors[1] < 0.05 < errors[0]


def test_the_hybrid_follows_its_acceptance_in_training_only(truth, x):
    guide = hybrid(truth, num_transitions=1)
    start = guide.log_step.clone()
    guide.eval()(x)
    guide.train().posterior(x)
    assert torch.equal(guide.log_step, start)
    for _ in range(100):
        guide(x)
    acceptance = torch.cat([guide._moved(x, None, {})[2] for _ in range(20)])
    assert acceptance.mean().item() == pytest.approx(0.8, abs=0.05)


def test_the_hybrid_counts_its_gradients(truth, x):
    guide = hybrid(truth, num_states=2, num_transitions=3)
    guide(x)
    assert guide.gradients == 2 * N * (1 + 3 * 2)


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_inference_of_a_hybrid_runs_chains_from_its_encoder(truth, x):
    guide = hybrid(truth)
    fitted = evaluate.infer(truth, guide, x[:5], max_steps=1, seed=0)
    assert isinstance(fitted, guides.Chain) and fitted.samples(torch.arange(5)).shape == (400, 5, D)
    assert fitted._start_from[0] is guide.guide


def test_a_hybrid_needs_an_encoder(truth):
    for bad in (guides.MeanField(10, D), guides.PointEstimate(10, D), chain(truth)):
        with pytest.raises(TypeError, match="expected an Amortized guide"):
            guides.Hybrid(truth, bad)


def test_a_chain_learns_nothing_while_it_draws():
    r"""A chain whose steps depend on where it just was has another target: step sizes and scales stay as they are."""
    left = []
    for keep in (0, 60):
        torch.manual_seed(2)
        tuning = kernels.Tuning.start(torch.ones(B, D))
        kernel = kernels.Kernel(lambda t: -(t**2).sum(-1) / 2, tuning, 3, 0.8)
        _, draws = kernel.run(kernel.start(torch.randn(4, B, D)), 30, keep)
        assert len(draws) == keep
        left.append(
            [getattr(kernel.tuning, name) for name in ("log_step", "scale", "mean", "variance", "seen", "window")]
        )
    assert all(map(torch.equal, *left))
