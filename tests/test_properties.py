r"""Properties that hold for any shape, batch size and mask: hypothesis looks for examples where they do not."""

import math

import cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.distributions import Normal
from pyro_dlgm.guides import families
from pyro_dlgm.guides.rows import Rows, sparse_gradients
from torch.distributions import MultivariateNormal

from pyro_dlgm import DLGM, PPCA, data, fit, guides, likelihoods, nets, priors
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.optim.row_adam import RowAdam

few = settings(max_examples=15, derandomize=True, deadline=None, database=None)
seeds = st.integers(0, 2**16)
leads = st.lists(st.integers(1, 3), max_size=3).map(tuple)
kinds = st.sampled_from(sorted(cases.LIKELIHOODS))
junk = st.sampled_from([math.nan, math.inf, -math.inf, 1e30, -7.0])


@st.composite
def batched(draw):
    r"""A number of points and a batch size, of 1 to all of them."""
    N = draw(st.integers(1, 11))
    return N, draw(st.integers(1, N))


def observed(*shape):
    r"""A random mask; each point misses between nothing and everything."""
    return torch.rand(*shape) < torch.rand(shape[0], *[1] * (len(shape) - 1)) * 1.2


# Batches


def pair(name: str, N: int):
    r"""A linear model with a guide whose loss is not random, in double."""
    model = PPCA(2, 5, scale=0.7).double()
    return model, {"exact": lambda: guides.Exact(model), "point": lambda: guides.PointEstimate(N, 2).double()}[name]()


def gradient(model, guide, *args, **kwargs):
    r"""The loss per point and its gradient with respect to all parameters, as one vector."""
    model.zero_grad(), guide.zero_grad()
    N = kwargs["size"]
    loss = ELBO().differentiable_loss(model, guide, *args, **kwargs) / N
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in (*model.parameters(), *guide.parameters())])


@few
@given(batched(), st.sampled_from(["exact", "point"]), st.booleans(), seeds)
def test_an_epoch_of_ragged_batches_has_the_loss_and_the_gradient_of_all_points(numbers, name, masked, seed):
    N, size = numbers
    torch.manual_seed(seed)
    model, guide = pair(name, N)
    x, mask = torch.randn(N, 5).double(), observed(N, 5) if masked else None
    full = gradient(model, guide, x, torch.arange(N), mask=mask, size=N)
    loss, total = 0.0, 0.0
    for batch, index, m in (points.seen for points in data.Batches(x, size, mask=mask)):
        part, slope = gradient(model, guide, batch, index, mask=m, size=N)
        # A batch of B points stands for all N: it weighs B/N.
        loss, total = loss + len(index) / N * part, total + len(index) / N * slope
    assert loss == pytest.approx(full[0], rel=1e-9)
    torch.testing.assert_close(total, full[1], rtol=1e-7, atol=1e-10)


@few
@given(batched(), seeds)
def test_the_history_weighs_points_not_batches(numbers, seed):
    N, size = numbers
    torch.manual_seed(seed)
    model, guide = pair("exact", N)
    x = torch.randn(N, 5).double() * torch.arange(1, N + 1).unsqueeze(1)
    evidence = model.log_prob(x).mean().item()
    result = fit(model, guide, x, epochs=1, batch_size=size, lr=1e-12, seed=seed)
    assert result.history[-1]["elbo"] == pytest.approx(evidence, rel=1e-8)


@few
@given(batched(), st.integers(1, 3), seeds)
def test_each_pass_yields_each_point_once(numbers, passes, seed):
    N, size = numbers
    torch.manual_seed(seed)
    x, mask = torch.rand(N, 3), torch.rand(N, 3) < 0.5
    batches = data.Batches(x, size, mask=mask)
    for _ in range(passes):
        made = [points.seen for points in batches]
        assert len(made) == len(batches) == math.ceil(N / size)
        assert [len(index) for _, index, _ in made[:-1]] == [size] * (len(made) - 1)
        assert torch.cat([index for _, index, _ in made]).sort().values.tolist() == list(range(N))
        assert all(torch.equal(b, x[i]) and torch.equal(m, mask[i]) for b, i, m in made)


@few
@given(batched(), st.sampled_from(cases.GAUSSIAN), seeds)
def test_the_plate_scales_by_all_over_the_batch_on_both_sides(numbers, name, seed):
    N, size = numbers
    torch.manual_seed(seed)
    model = cases.conv()
    guide, x, index = cases.FACTORIES[name](model, N), torch.rand(size, 1, 5, 7), torch.randperm(N)[:size]
    for program, sites in ((model, ("t", "x")), (guide, ("t",))):
        for given_size, scale in ((N, N / size), (None, 1.0)):
            trace = poutine.trace(program).get_trace(x, index, size=given_size)
            assert all(trace.nodes[site]["scale"] == pytest.approx(scale, rel=1e-12) for site in sites)
            trace.compute_log_prob()
            total = scale * trace.nodes["t"]["unscaled_log_prob"].sum()
            torch.testing.assert_close(trace.nodes["t"]["log_prob_sum"], total)


# Masks


@few
@given(kinds, junk, leads, seeds)
def test_what_stands_at_a_masked_pixel_never_matters(kind, value, lead, seed):
    torch.manual_seed(seed)
    model, B = cases.conv((2, 4, 5), kind), 3
    x, t, mask = cases.points(model, B), torch.randn(*lead, B, cases.D), observed(B, 2, 4, 5)
    spoiled = torch.where(mask, x, value)
    torch.testing.assert_close(model.log_joint(spoiled, t, mask), model.log_joint(x, t, mask), rtol=0, atol=0)
    for guide in (cases.amortized(model), cases.amortized(model, "full_rank", mask_input=True)):
        q, other = (guide.posterior(v, mask=mask) for v in (x, spoiled))
        torch.testing.assert_close(other.mean, q.mean, rtol=0, atol=0)
        torch.testing.assert_close(other.variance, q.variance, rtol=0, atol=0)
        losses = []
        for v in (x, spoiled):
            torch.manual_seed(seed)
            losses.append(ELBO().loss(model, guide, v, mask=mask))
        assert losses[0] == losses[1] and math.isfinite(losses[0])


@few
@given(kinds, junk, leads, seeds)
def test_a_point_that_is_missing_has_the_prior_alone(kind, value, lead, seed):
    torch.manual_seed(seed)
    model, B = cases.conv((1, 4, 5), kind), 3
    x, t, there = cases.points(model, B), torch.randn(*lead, B, cases.D), torch.tensor([True, False, True])
    x[1] = value
    joint, prior = model.log_joint(x, t, there), model.prior().log_prob(t)
    torch.testing.assert_close(joint[..., 1], prior[..., 1])
    assert (joint[..., ::2] != prior[..., ::2]).all()


@few
@given(junk, st.integers(1, 4), st.integers(2, 7), seeds)
def test_ppca_with_missing_pixels_is_the_dense_marginal(value, D, P, seed):
    torch.manual_seed(seed)
    D = min(D, P - 1)
    model, mask = PPCA(D, P, scale=0.5).double(), observed(4, P)
    x = torch.randn(4, P).double()
    W, mu, sigma2 = model.W.detach(), model.mu.detach(), model.sigma2.detach()
    covariance, eye = W @ W.mT + sigma2 * torch.eye(P).double(), torch.eye(D).double()
    log_prob, q = (f(torch.where(mask, x, value), mask) for f in (model.log_prob, model.posterior))
    for i, m in enumerate(mask):
        r, w = (x[i] - mu)[m], W[m]
        dense = MultivariateNormal(mu[m], covariance[m][:, m]).log_prob(x[i, m]).item() if m.any() else 0.0
        assert log_prob[i].item() == pytest.approx(dense, rel=1e-9, abs=1e-9)
        precision = eye + w.mT @ w / sigma2
        torch.testing.assert_close(q.covariance_matrix[i], precision.inverse())
        torch.testing.assert_close(q.mean[i], precision.inverse() @ w.mT @ r / sigma2)


@few
@given(junk, st.tuples(*[st.integers(1, 3)] * 3), st.integers(1, 4), leads, seeds)
def test_low_rank_pixels_with_missing_ones_are_the_dense_marginal(value, shape, rank, lead, seed):
    torch.manual_seed(seed)
    P, B, D = math.prod(shape), 3, 2
    net = nets.Linear(D, shape, heads=2 + rank)
    model = DLGM(priors.StandardNormal(D), likelihoods.LowRankNormal(net, rank, floor=0.1)).double()
    x, t, mask = torch.randn(B, *shape).double(), torch.randn(*lead, B, D).double(), observed(B, *shape)
    found = model.log_joint(torch.where(mask, x, value), t, mask) - model.prior().log_prob(t)
    mu, r, *F = (v.detach().flatten(-3) for v in net(t))
    F, scale = torch.stack(F, -1), 0.1 + torch.nn.functional.softplus(r)
    covariance = F @ F.mT + (scale**2).diag_embed()
    for i, m in enumerate(mask.flatten(1)):
        q = MultivariateNormal(mu[..., i, :][..., m], covariance[..., i, :, :][..., m, :][..., m]) if m.any() else None
        dense = torch.zeros(lead).double() if q is None else q.log_prob(x[i].flatten()[m])
        torch.testing.assert_close(found[..., i].detach(), dense, rtol=1e-8, atol=1e-8)
    assert F.shape[-2:] == (P, rank)


# Shapes


@few
@given(kinds, leads, st.sampled_from([(1, 4, 4), (2, 5, 4), (3, 4, 7)]), seeds)
def test_the_batch_shape_of_a_likelihood_is_the_leading_shape_of_its_codes(kind, lead, shape, seed):
    torch.manual_seed(seed)
    p = cases.conv(shape, kind).likelihood(torch.randn(*lead, cases.D))
    assert (p.batch_shape, p.event_shape) == (lead, shape)
    x = p.sample((2,))
    assert x.shape == (2, *lead, *shape) and p.support.check(x).all()
    assert p.log_prob(x).shape == (2, *lead) and p.mean.shape == (*lead, *shape)


@settings(few, max_examples=60)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 17), st.integers(1, 17)), st.integers(1, 4), st.integers(1, 3), leads
)
def test_networks_give_the_shape_that_was_asked_for_or_refuse_it(shape, stages, heads, lead):
    widths = (4, 2, 3, 5)[:stages]
    made = [nets.MLP(shape, 6, (4,)), nets.Linear(shape, 6)]
    if min(shape[1:]) < 4:
        for refused in (lambda: nets.ConvEncoder(shape, 6), lambda: nets.ConvDecoder(2, shape)):
            with pytest.raises(ValueError, match=f"image of {shape[1]}x{shape[2]}.*at least 4x4: use nets.MLP"):
                refused()
    else:
        made.append(nets.ConvEncoder(shape, 6, widths=widths))
        outputs = nets.ConvDecoder(2, shape, widths=widths, heads=heads)(torch.randn(*lead, 2))
        outputs = (outputs,) if heads == 1 else outputs
        assert [tuple(y.shape) for y in outputs] == [(*lead, *shape)] * heads
    assert all(net(torch.randn(*lead, *shape)).shape == (*lead, 6) for net in made)


# Rows and families


@few
@given(st.integers(2, 9), st.integers(1, 3), st.lists(st.lists(st.integers(0, 8), min_size=1), min_size=1), seeds)
def test_row_adam_leaves_rows_that_were_not_asked_for_bit_for_bit(N, width, visits, seed):
    torch.manual_seed(seed)
    table = Rows(torch.randn(N, width))
    optimizer = RowAdam(table.parameters(), lr=0.1)
    for visit in visits:
        index = torch.tensor(visit) % N
        before, others = table.weight.detach().clone(), torch.ones(N).bool()
        others[index] = False
        with sparse_gradients():
            table(index).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        assert torch.equal(table.weight[others], before[others])
        assert (table.weight[~others] != before[~others]).all()


@few
@given(
    st.sampled_from([families.mean_field, families.full_rank, families.point]),
    st.integers(1, 24),
    leads,
    st.floats(0.01, 9.0),
)
def test_a_family_starts_at_the_mean_and_scale_that_were_asked_for(family, D, lead, scale):
    mean = torch.randn(*lead, D).double()
    raw = family.start(mean, families.log_scale(scale))
    q = family(raw)
    assert raw.shape == (*lead, family.width(D))
    assert (q.batch_shape, q.event_shape) == (lead, (D,)) and torch.equal(q.mean, mean)
    if family.has_density:
        torch.testing.assert_close(q.stddev, torch.full_like(mean, scale))


@few
@given(st.integers(1, 24), leads, seeds)
def test_full_rank_rows_are_scales_times_a_unit_triangle(D, lead, seed):
    """L = diag(s) (I + A/√D), and the raw numbers of A go row by row."""
    torch.manual_seed(seed)
    mean, log_scale, below = (torch.randn(*lead, n).double() for n in (D, D, D * (D - 1) // 2))
    q = families.full_rank(torch.cat([mean, log_scale, below], -1))
    A, numbers = torch.zeros(*lead, D, D).double(), iter(below.unbind(-1))
    for i in range(D):
        for j in range(i):
            A[..., i, j] = next(numbers)
    torch.testing.assert_close(q.scale_tril, log_scale.exp().diag_embed() @ (torch.eye(D) + A / math.sqrt(D)))
    assert torch.equal(q.mean, mean)


@few
@given(st.integers(1, 24), leads, st.booleans(), seeds)
def test_full_rank_rows_of_any_gaussian_give_it_back(D, lead, dense, seed):
    torch.manual_seed(seed)
    mean, scale = torch.randn(*lead, D).double(), torch.randn(*lead, D).double().exp()
    L = scale.diag_embed() + dense * 3 * torch.randn(*lead, D, D).double().tril(-1)
    q = MultivariateNormal(mean, scale_tril=L) if dense else Normal(mean, scale).to_event(1)
    found = families.full_rank(families.full_rank.of(q))
    torch.testing.assert_close((found.mean, found.scale_tril), (mean, L), rtol=1e-12, atol=1e-12)


# Values


@few
@given(st.integers(2, 1000), seeds)
def test_levels_come_back_from_the_grid_and_from_noise(levels, seed):
    torch.manual_seed(seed)
    v = torch.arange(levels).double()
    data.Grid(levels).check(v), data.Dequantize(levels).check(v)
    on_grid, noisy = data.Grid(levels)(v), data.Dequantize(levels)(v)
    assert torch.equal((on_grid * (levels - 1)).round(), v) and on_grid[0] == 0 and on_grid[-1] == 1
    assert torch.equal((noisy * levels).floor(), v) and noisy.min() >= 0 and noisy.max() < 1
    support = likelihoods.discretized_logistic.Levels(levels)
    assert support.check(on_grid).all() and support.check(on_grid.float()).all()
    assert not support.check(on_grid[:-1] + 0.5 / (levels - 1)).any()


@few
@given(st.integers(2, 1000), st.integers(1, 5000), st.floats(-1e4, 1e4))
def test_bits_per_dimension_come_back_to_nats(levels, pixels, log_p):
    noise, net = data.Dequantize(levels), nets.Linear(1, 1, heads=2)
    back = pixels * (math.log(levels) - noise.bits_per_dim(log_p, pixels) * math.log(2))
    assert back == pytest.approx(log_p, rel=1e-9, abs=1e-6)
    # The density that is 1 everywhere, and the mass that is alike at all levels, need log2(levels) bits.
    uniform = likelihoods.DiscretizedLogistic(net, levels=levels).bits_per_dim(-pixels * math.log(levels), pixels)
    assert noise.bits_per_dim(0.0, pixels) == pytest.approx(math.log2(levels)) == uniform
