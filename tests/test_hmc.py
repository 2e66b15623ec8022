"""HMC on torch functions: it leaves its target invariant, point by point, and a broken kernel is found out."""

import math
import types

import cases
import pytest
import torch

from pyro_dlgm import hmc

POINTS = 3000


def normal(mean, scale):
    """log N(t; mean, scale²), dimension by dimension, for any mean and scale that broadcast."""
    return lambda t: -0.5 * ((t - mean) / scale).square().sum(-1)


def moved(parts, t, step_size, count, **options):
    """t after so many transitions, and the mean acceptance."""
    state, acceptance = hmc.start(parts, t), 0.0
    for _ in range(count):
        state, info = hmc.hmc(parts, state, torch.as_tensor(step_size), **options)
        acceptance += float(info.acceptance.mean()) / count
    return state, acceptance


def worst(values, mean, variance):
    """The largest |z| of the means and mean squares of values (n, D), independent over n, against a Gaussian's."""
    n, centred = len(values), values.double() - mean
    first = centred.mean(0) / (variance / n) ** 0.5
    second = (centred.square().mean(0) - variance) / (variance * (2 / n) ** 0.5)
    return float(torch.cat([first, second]).abs().max())


# The joint distribution test: Geweke, "Getting it right: joint distribution tests of posterior simulators" (2004)


def linear():
    """PPCA whose latents are correlated in the posterior, with a step size that is neither too small nor too large."""
    ppca = cases.ppca()
    ppca.set(torch.randn(6, 2), torch.randn(6), torch.tensor(0.5))
    return ppca, 0.35


def deep():
    """A decoder with weights large enough for the posterior to be far from the prior."""
    model = cases.conv()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    return model, 0.25


@torch.no_grad()
def successive(model, step_size, rounds=6, num_leapfrog=3):
    """(x, t) after rounds of x ~ p(x | t), t ~ kernel of p(t | x), from exact draws: they stay draws of p(x, t)."""
    t = model.prior().sample((POINTS,))
    for _ in range(rounds):
        x = model.likelihood(t).sample()
        parts = (model.prior().log_prob, lambda t, x=x: model.likelihood(t).log_prob(x))
        state, info = hmc.hmc(parts, hmc.start(parts, t), torch.tensor(step_size), num_leapfrog=num_leapfrog)
        t = state.t
    return x, t, info


@torch.no_grad()
def discrepancy(model, x, t):
    """The largest |z| of moments of t, x and both together, against as many independent draws of p(x, t)."""
    fresh = model.prior().sample((POINTS,))
    ours, theirs = functions(x, t), functions(model.likelihood(fresh).sample(), fresh)
    z = (ours.mean(0) - theirs.mean(0)) / ((ours.var(0) + theirs.var(0)) / POINTS).sqrt()
    return float(z.abs().max())


def functions(x, t):
    pixel = x.flatten(1)[:, ::5].double()  # a few of them
    t = t.double()
    both = (pixel.unsqueeze(2) * t.unsqueeze(1)).flatten(1)
    return torch.cat([t, t.square(), t.prod(-1, keepdim=True), pixel, pixel.square(), both], 1)


# Of forty standard normals one is beyond it once in a thousand tests, and seeds are fixed.
ALARM = 4.2


@pytest.mark.parametrize("build", [linear, deep])
def test_posterior_and_data_stay_jointly_invariant(build):
    model, step_size = build()
    x, t, info = successive(model, step_size)
    assert 0.5 < info.acceptance.mean() < 0.98  # the Metropolis step has something to correct
    assert not info.diverged.any()
    assert discrepancy(model, x, t) < ALARM
    assert worst(t, 0.0, 1.0) < ALARM


def always(state, proposal, gain):
    yes = torch.ones_like(gain, dtype=torch.bool)
    return proposal, hmc.Info(yes.double(), yes, ~yes)


def unkicked(weights, values):
    """Sums of log-densities as they should be, forces half as large: the momentum is kicked by half too little."""
    return values.sum(0) * (1.0 if values.dim() == 2 else 0.5)


def backwards(state, proposal, gain):
    return metropolis(state, proposal, -gain)


def forgetful(weights, values):
    """Only the first part counts, the prior: the data are forgotten."""
    return values[0]


metropolis = hmc._metropolis
BROKEN = {
    "everything is accepted": ("_metropolis", always, 0.9),
    "the ratio is upside down": ("_metropolis", backwards, 0.7),
    "the likelihood is forgotten": ("_weighted", forgetful, 0.35),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_found_out(monkeypatch, name):
    function, broken, step_size = BROKEN[name]
    model, _ = linear()
    assert discrepancy(model, *successive(model, step_size)[:2]) < ALARM  # right with that step size
    monkeypatch.setattr(hmc, function, broken)
    assert not discrepancy(model, *successive(model, step_size)[:2]) < 2 * ALARM  # NaN where it blew up


def test_half_the_force_is_still_a_valid_proposal_but_a_poor_one(monkeypatch):
    # Leapfrog with any force is reversible and keeps volumes, so that Metropolis makes it right: acceptance shows it.
    model, step_size = linear()
    right = successive(model, step_size)[2].acceptance.mean()
    monkeypatch.setattr(hmc, "_weighted", unkicked)
    x, t, info = successive(model, step_size)
    assert discrepancy(model, x, t) < ALARM
    assert info.acceptance.mean() < right - 0.1


# Gaussian targets, of which all is known


def test_a_chain_reaches_its_target_and_stays():
    scale, mean = torch.tensor([0.5, 2.0]), torch.tensor([3.0, -1.0])
    state, acceptance = moved([normal(mean, scale)], torch.zeros(POINTS, 2), 0.8 * scale, 40, num_leapfrog=2)
    assert 0.5 < acceptance < 0.99
    assert worst(state.t, mean, scale.square()) < ALARM


def test_mala_is_one_leapfrog_step():
    parts, t = [normal(0.0, 1.0)], torch.randn(50, 3)
    step_size = torch.tensor(0.7)
    torch.manual_seed(1)
    one, _ = hmc.hmc(parts, hmc.start(parts, t), step_size, num_leapfrog=1)
    torch.manual_seed(1)
    other, _ = hmc.mala(parts, hmc.start(parts, t), step_size)
    assert torch.equal(one.t, other.t)
    # ... and that is the Langevin proposal t + ½ ε² ∇ log p + ε z.
    torch.manual_seed(1)
    proposal = t - 0.5 * step_size**2 * t + step_size * torch.randn_like(t)
    accepted = (one.t != t).any(1)
    assert accepted.sum() > 30
    torch.testing.assert_close(one.t[accepted], proposal[accepted])


def test_mala_leaves_its_target_invariant():
    parts, state = [normal(1.0, 0.5)], None
    state = hmc.start(parts, 1.0 + 0.5 * torch.randn(POINTS, 2))
    for _ in range(20):
        state, info = hmc.mala(parts, state, torch.tensor(0.6))
    assert info.acceptance.mean() < 0.95
    assert worst(state.t, 1.0, 0.25) < ALARM


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.7, 0.3), (0.2, 0.8), (1.0, 1.0)])
def test_weights_make_the_geometric_mean_of_two_gaussians(weights):
    means, scales = (torch.tensor([0.0, 2.0]), torch.tensor([3.0, -1.0])), (1.0, 0.5)
    precision = sum(b / s**2 for b, s in zip(weights, scales, strict=True))
    mean = sum(b * m / s**2 for b, m, s in zip(weights, means, scales, strict=True)) / precision
    parts = [normal(m, s) for m, s in zip(means, scales, strict=True)]
    t = mean + torch.randn(POINTS, 2) / precision**0.5
    state, acceptance = moved(parts, t, 0.9 / precision**0.5, 20, weights=torch.tensor(weights), num_leapfrog=3)
    assert acceptance < 0.99
    assert worst(state.t, mean, torch.tensor(1 / precision)) < ALARM
    assert (state.t != t).any(1).float().mean() > 0.9


def test_forgotten_weights_would_be_seen(monkeypatch):
    monkeypatch.setattr(hmc, "_weighted", lambda weights, values: values.sum(0))
    with pytest.raises(AssertionError):
        test_weights_make_the_geometric_mean_of_two_gaussians((0.7, 0.3))


def test_the_state_keeps_parts_and_gradients_of_where_it_is():
    parts = [normal(0.0, 1.0), lambda t: t.cos().sum(-1)]
    state, _ = moved(parts, torch.randn(30, 3), 0.5, 5)
    again = hmc.start(parts, state.t)
    torch.testing.assert_close(state.parts, again.parts)
    torch.testing.assert_close(state.grads, again.grads)
    weights = torch.tensor([0.25, 2.0])
    torch.testing.assert_close(state.log_density(weights), 0.25 * parts[0](state.t) + 2 * parts[1](state.t))
    torch.testing.assert_close(state.force(weights), -0.25 * state.t - 2 * state.t.sin())


# Points apart


def cliff(bad, value):
    """`normal(0, 1)`, times ``value`` at t > 0.5 for one point, whose gradient breaks with it: elsewhere times 1."""

    def log_density(t):
        factor = torch.ones_like(t[..., 0])
        factor[..., bad] = torch.where(t[..., bad, 0] > 0.5, value, 1.0)
        return normal(0.0, 1.0)(t) * factor

    return log_density


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_a_point_that_diverges_stays_where_it_is_and_disturbs_no_other(value):
    bad, t = 3, torch.randn(8, 2)
    t[bad] = torch.tensor([0.0, 0.1])
    runs = []
    for log_density in (normal(0.0, 1.0), cliff(bad, value)):
        torch.manual_seed(2)
        state, diverged = hmc.start([log_density], t), torch.zeros(8, dtype=torch.long)
        for _ in range(30):
            before = state.t
            state, info = hmc.hmc([log_density], state, torch.tensor(0.8), num_leapfrog=4)
            assert torch.equal(state.t[info.diverged], before[info.diverged])
            assert not info.accepted[info.diverged].any()
            assert (info.acceptance[info.diverged] == 0).all()
            diverged += info.diverged
        runs.append((state, diverged))
    (calm, none), (broken, some) = runs
    others = torch.arange(8) != bad
    assert not none.any() and some[bad] > 5 and not some[others].any()
    assert torch.equal(calm.t[others], broken.t[others])
    assert torch.equal(calm.parts[:, others], broken.parts[:, others])
    assert broken.t[bad, 0] <= 0.5 and broken.t.isfinite().all() and broken.grads.isfinite().all()


def test_no_uniform_number_accepts_what_diverged(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    state = hmc.start([cliff(0, math.inf)], torch.zeros(1, 2))
    proposal = state._replace(t=torch.ones(1, 2))
    for gain in (-math.inf, -1e6, math.nan, math.inf):
        after, info = hmc._metropolis(state, proposal, torch.tensor([gain]))
        assert info.diverged.all() and not info.accepted.any() and torch.equal(after.t, state.t)


def test_step_sizes_go_by_point_and_dimension():
    scale = torch.logspace(-2, 2, 40).unsqueeze(1) * torch.tensor([1.0, 10.0])
    parts, t = [normal(0.0, scale)], scale * torch.randn(100, 40, 2)
    good, acceptance = moved(parts, t, 0.6 * scale, 10, num_leapfrog=3)
    assert acceptance > 0.85
    assert worst((good.t / scale).flatten(0, 1), 0.0, 1.0) < ALARM
    assert moved(parts, t, 0.6, 2, num_leapfrog=3)[1] < 0.7  # one for all is wrong for most


def test_leapfrog_is_reversible():
    """With the momentum at its end turned round, the trajectory leads back to where it began."""
    parts = [lambda t: -(t.square().sum(-1) + 0.1 * t.pow(4).sum(-1)), lambda t: t.sin().sum(-1)]
    start = hmc.start(parts, torch.randn(20, 3, dtype=torch.float64))
    step_size, count = torch.tensor(0.2, dtype=torch.float64), 7
    end, momentum = trajectory(parts, start, torch.randn_like(start.t), step_size, count)
    assert (end.t - start.t).abs().amax(1).min() > 0.1
    back, _ = trajectory(parts, end, -momentum, step_size, count)
    assert (back.t - start.t).abs().max() < 1e-12


def trajectory(parts, state, momentum, step_size, count):
    """The end of the kernel's own trajectory from that momentum, whatever Metropolis says to it."""
    found = {}
    patch = pytest.MonkeyPatch()
    with patch.context() as m:
        m.setattr(hmc.torch, "randn_like", lambda t: momentum.clone())
        m.setattr(hmc, "_metropolis", lambda state, proposal, gain: (proposal, found.update(gain=gain)))
        end, _ = hmc.hmc(parts, state, step_size, num_leapfrog=count)
    # The kernel does not say the momentum; the same leapfrog by hand does, and must end at the same place.
    one, t, p = torch.ones(len(parts), dtype=state.t.dtype), state, momentum
    for _ in range(count):
        p = p + 0.5 * step_size * t.force(one)
        t = hmc.start(parts, t.t + step_size * p)
        p = p + 0.5 * step_size * t.force(one)
    torch.testing.assert_close(t.t, end.t)
    energy = t.log_density(one) - state.log_density(one) - 0.5 * (p.square() - momentum.square()).sum(-1)
    torch.testing.assert_close(found["gain"], energy)
    return end, p


# What it costs, what it keeps


def test_the_gradient_of_all_points_is_one_call():
    calls = []

    def log_density(t):
        calls.append(t.shape)
        return -0.5 * t.square().sum(-1)

    state = hmc.start([log_density], torch.randn(5, 30, 2))
    assert calls == [(5, 30, 2)]
    hmc.hmc([log_density], state, torch.tensor(0.5), weights=torch.tensor([0.5]), num_leapfrog=6)
    assert calls == [(5, 30, 2)] * 7


def test_backward_passes_are_counted_once(monkeypatch):
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(hmc.torch.autograd, "grad", lambda *args: calls.append(1) or grad(*args))
    moved([normal(0.0, 1.0)], torch.randn(100, 2), 0.5, 3, num_leapfrog=4)
    assert len(calls) == 1 + 3 * 4


def test_parameters_gather_no_gradients():
    model, step_size = linear()
    x = model(size=10).detach()
    moved([lambda t: model.log_joint(x, t)], torch.randn(10, 2), step_size, 2)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_kept(dtype):
    state, _ = moved([normal(0.0, 1.0)], torch.randn(10, 2, dtype=dtype), 0.5, 2, weights=torch.ones(1, dtype=dtype))
    assert {v.dtype for v in state} == {dtype}


def test_autocast_rounds_no_log_density():
    state = hmc.start([normal(0.0, 1.0)], torch.full((4, 3), 40.0))
    state = state._replace(parts=state.parts - 1000.123)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, force = state.log_density(torch.ones(1)), state.force(torch.ones(1))
    torch.testing.assert_close(value, state.parts[0])
    torch.testing.assert_close(force, state.grads[0])


# Step sizes


def test_adaptation_reaches_the_target_for_each_point_apart():
    scale, target = torch.logspace(-2, 2, 12), 0.65
    parts, t = [normal(0.0, scale.unsqueeze(1))], scale.unsqueeze(1) * torch.randn(200, 12, 5)
    state, log_step = hmc.start(parts, t), torch.zeros(12)
    for _ in range(80):
        state, info = hmc.hmc(parts, state, log_step.exp().unsqueeze(1), num_leapfrog=3)
        log_step = hmc.adapted_step(log_step, info.acceptance, target=target, rate=0.3)
    acceptance = torch.stack(
        [hmc.hmc(parts, state, log_step.exp().unsqueeze(1), num_leapfrog=3)[1].acceptance.mean(0) for _ in range(10)]
    ).mean(0)
    assert (acceptance - target).abs().max() < 0.05
    # The target scales with the point, and so does its step size.
    assert (log_step - scale.log()).std() < 0.1


def test_adaptation_is_the_recursion():
    log_step, acceptance = torch.tensor([0.0, 1.0]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    found = hmc.adapted_step(log_step, acceptance, target=0.5, rate=0.2)
    torch.testing.assert_close(found, torch.tensor([0.05, 0.95]))
    torch.testing.assert_close(
        hmc.adapted_step(log_step, acceptance[0], target=0.5, rate=0.2), torch.tensor([0.1, 0.9])
    )


def test_jitter_stays_within_its_width_and_differs_by_chain():
    log_step = torch.tensor([0.0, 2.0, -1.0])
    state = types.SimpleNamespace(parts=torch.zeros(2, 500, 3))
    factor = hmc.jittered(log_step, state) / log_step.exp()
    assert factor.shape == (500, 3)
    assert factor.min() >= 0.8 - 1e-6 and factor.max() <= 1.2 + 1e-6
    assert factor.std(0).min() > 0.1 and abs(float(factor.mean()) - 1) < 0.02
