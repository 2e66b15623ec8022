"""AIS and BDMC against what is known exactly; and estimators that fail say so."""

import importlib
import math
import warnings

import cases
import pyro
import pytest
import torch
from pyro_dlgm.guides import families

from pyro_dlgm import DLGM, PPCA, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.blocks import chunks
from pyro_dlgm.evaluate.marginal.annealing import gap, path
from pyro_dlgm.evaluate.marginal.annealing.ais import AIS, ais
from pyro_dlgm.evaluate.marginal.annealing.bdmc import bdmc
from pyro_dlgm.evaluate.marginal.annealing.blocks import rows_that_fit
from pyro_dlgm.evaluate.marginal.annealing.path import schedule
from pyro_dlgm.evaluate.marginal.quadrature import quadrature

annealers, bdmc_module = (
    importlib.import_module(f"pyro_dlgm.evaluate.marginal.annealing.{name}") for name in ("blocks", "bdmc")
)
N, D = 60, 6


def linear(D=D, P=12, N=N, scale=0.7):
    """PPCA with a random W, which no factorized q fits, points of it, and their log p(x | w), in float64."""
    ppca = PPCA(D, P, scale).double()
    ppca.set(torch.randn(P, D).double(), torch.randn(P).double(), ppca.sigma2.detach())
    x = ppca(size=N).detach()
    return ppca, x, ppca.log_prob(x).detach()


@torch.no_grad()
def factorized(ppca, x, mask=None, width=1.0):
    """Rows of q(t_j) = N(m_j, width² / Λ_jj), with m and Λ the posterior's mean and precision: width 1 is q*."""
    q = ppca.posterior(x, mask)
    log_scale = math.log(width) - 0.5 * q.precision_matrix.diagonal(dim1=-2, dim2=-1).log()
    rows = torch.cat([q.mean, log_scale.expand_as(q.mean)], 1)
    return guides.MeanField(*q.mean.shape).double().set_rows(rows), torch.arange(len(x))


def z(values):
    """The mean over points in standard errors."""
    return float(values.mean() / values.std() * len(values) ** 0.5)


# AIS on PPCA. The full size, with its own tolerance of 0.02 nats, is benchmarks/ais.py.


def test_the_estimate_is_the_evidence():
    ppca, x, exact = linear()
    guide, index = factorized(ppca, x)
    assert (exact - evaluate.elbo(ppca, guide, x, index, seed=0)).mean() > 0.3  # q alone is far away
    found = ais(ppca, guide, x, index, num_temperatures=100, seed=0)
    error = found.log_px - exact
    # sd(w) / mean(w) is 0.3 here: 16 chains and 60 points leave 0.3 / √960 = 0.01, and the bias −½ 0.3² / 16 = −0.003.
    assert abs(error.mean()) < 0.035
    assert error.std() / N**0.5 < 0.015
    assert 0.5 < found.acceptance.mean() < 0.8


def test_errors_are_covered_by_the_standard_errors():
    """The delta method with 16 chains is a t interval of 15 degrees of freedom: 93.6 % lie within 2 standard errors.

    Where few weights carry everything, it does not see what it has not drawn: see the next test.
    """
    ppca, x, exact = linear(4, 8, 100)
    found = ais(ppca, *with_x(ppca, x), num_temperatures=100, seed=1)
    covered = ((found.log_px - exact).abs() < 2 * found.stderr).double().mean()
    assert covered > 0.936 - 3 * (0.936 * 0.064 / 100) ** 0.5
    score = (found.log_px - exact) / found.stderr
    assert 0.6 < score.std() < 2.0  # the errors are not hugely overstated, either


def with_x(ppca, x):
    guide, index = factorized(ppca, x)
    return guide, x, index


def test_too_few_temperatures_from_the_prior_are_biased_downwards_and_the_standard_errors_do_not_know():
    ppca, x, exact = linear()
    found = ais(ppca, None, x, num_chains=4, num_temperatures=5, seed=0)
    error = found.log_px - exact
    assert z(error) < -4
    assert (error.abs() < 2 * found.stderr).double().mean() < 0.7


def test_from_the_prior_with_more_temperatures():
    ppca, x, exact = linear(2, 6)
    found = ais(ppca, None, x, num_temperatures=100, seed=0)
    error = found.log_px - exact
    assert abs(error.mean()) < 4 * error.std() / N**0.5 + 0.05
    assert error.std() / N**0.5 < 0.05


def test_a_mask_marginalizes():
    ppca, x, whole = linear(3, 8)
    mask = torch.rand_like(x) > 0.4
    exact = ppca.log_prob(x, mask).detach()
    guide, index = factorized(ppca, x, mask)
    hole = x.masked_fill(~mask, math.nan)
    found = ais(ppca, guide, hole, index, num_temperatures=60, mask=mask, seed=0)
    assert abs((found.log_px - exact).mean()) < 0.03 < abs((whole - exact).mean())
    points = torch.arange(N) % 2 == 0
    found = ais(ppca, None, x, mask=points, num_temperatures=30, seed=0)
    assert found.log_px[~points].abs().max() < 1e-6  # nothing observed: p(x) is 1, and every weight says so


@pytest.mark.parametrize("start", ["q", "prior"])
def test_weights_are_unbiased_with_three_temperatures(start):
    """E w = p(x | w) for any number of temperatures: each point's mean of w / p(x | w) is 1."""
    ppca, x, exact = linear(2, 5, 12, scale=2.0)
    guide, index = factorized(ppca, x, width=1.2) if start == "q" else (None, None)
    found = ais(ppca, guide, x, index, 4000, 3, num_leapfrog=3, seed=0)
    ratio = (found.log_weights - exact).exp()
    score = (ratio.mean(0) - 1) / (ratio.std(0) / 4000**0.5)
    assert ratio.std(0).min() > 0.01 and score.abs().max() < 4
    assert found.acceptance.mean() < 0.99


def test_a_wrong_path_would_be_seen(monkeypatch):
    """The same with transitions that leave something else invariant: the test above is able to fail."""
    transition = annealers.Annealer.transition
    monkeypatch.setattr(
        annealers.Annealer, "transition", lambda self, s, beta, step: transition(self, s, 1 - beta, step)
    )
    with pytest.raises(AssertionError):
        test_weights_are_unbiased_with_three_temperatures("prior")


def test_one_temperature_is_importance_sampling(monkeypatch):
    ppca, x, _ = linear()
    guide, index = factorized(ppca, x)
    drawn = []
    monkeypatch.setattr(annealers.Annealer, "_draws", lambda self, n: drawn.append(self.q.sample((n,))) or drawn[-1])
    found = ais(ppca, guide, x, index, 7, 1, seed=0)
    t = drawn[-1]
    expected = ppca.log_joint(x, t) - guide.posterior(x, index).log_prob(t)
    torch.testing.assert_close(found.log_weights, expected)
    torch.testing.assert_close(found.log_px, expected.exp().mean(0).log())


def test_the_standard_error_is_the_delta_method():
    table = torch.randn(5000, 4, dtype=torch.float64) * 0.5 - 1000
    w = (table + 1000).exp()
    found = AIS(table, torch.ones(4), torch.zeros(4), 0)
    torch.testing.assert_close(found.stderr, w.std(0) / w.mean(0) / 5000**0.5)
    assert AIS(table[:1], torch.ones(4), torch.zeros(4), 0).stderr.isnan().all()


def test_the_schedule_goes_from_0_to_1_and_is_symmetric():
    for T in (1, 2, 7, 100):
        betas = schedule(T)
        assert len(betas) == T + 1 and betas[0] == 0 and betas[-1] == 1 and (betas.diff() > 0).all()
        torch.testing.assert_close(betas + betas.flip(0), torch.ones_like(betas))


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_a_conv_decoder_agrees_with_quadrature():
    model = cases.conv(latent_dim=2).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    x = model(size=8).detach()
    exact = quadrature(model, x)
    assert (exact - quadrature(model, x, tol=1e-9)).abs().max() < 1e-3  # finer changes nothing
    q = evaluate.infer(model, guides.FullRank(1, 2).double(), x, max_steps=200, tol=0.1, seed=0)
    found = ais(model, q, x, torch.arange(8), 32, 100, num_leapfrog=4, seed=0)
    assert abs((found.log_px - exact).mean()) < 0.02


# Blocks, seeds and what stays as it was


def test_blocks_change_nothing_but_the_random_numbers(monkeypatch):
    ppca, x, exact = linear(2, 6, 5)
    guide, index = factorized(ppca, x, width=0.8)
    rows = 7
    shapes = []
    monkeypatch.setattr(annealers, "rows_that_fit", lambda *args: rows)
    joint = PPCA.log_joint
    monkeypatch.setattr(
        PPCA, "log_joint", lambda self, x, t, mask=None: shapes.append(t.shape) or joint(self, x, t, mask)
    )
    found = ais(ppca, guide, x, index, 16, 20, num_leapfrog=4, seed=0)
    assert found.log_weights.shape == (16, 5)
    assert max(C * B for C, B, _ in shapes) <= rows
    assert ((found.log_px - exact) / found.stderr).abs().max() < 4
    assert (found.log_px - exact).abs().max() < 0.2


def test_little_memory_means_small_blocks():
    model = cases.conv()
    x, t = torch.rand(1, 1, 5, 7), torch.zeros(1, 1, cases.D)
    log_density = lambda t: model.log_joint(x, t)  # noqa: E731
    small, large = (rows_that_fit(log_density, t, memory) for memory in (2**18, 2**24))
    assert rows_that_fit(log_density, t, 1) == 1 and large == pytest.approx(64 * small, rel=0.1)
    one, two = ([*chunks(5, 4, rows)] for rows in (2, 8))
    assert [(s.start, s.stop) for s, _ in one] == [(i, i + 1) for i in range(5)]
    assert all(counts == [2, 2] for _, counts in one)
    assert [(s.start, s.stop) for s, _ in two] == [(0, 2), (2, 4), (4, 5)] and all(c == [4] for _, c in two)


def test_weights_of_a_network_are_kept_once_and_not_for_each_row():
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.MLP(2, 5, (200, 200))))
    x, t = torch.rand(1, 5), torch.zeros(1, 1, 2)
    rows = rows_that_fit(lambda t: model.log_joint(x, t), t, 2**24)
    # In so much memory the weights would fit 35 times with all that is kept three times.
    assert rows > 10 * 2**24 / (3 * 4 * 200 * 200)


def test_a_seed_decides_and_no_seed_starts_at_the_global_generator():
    ppca, x, _ = linear(2, 6, 5)
    run = lambda seed: ais(ppca, None, x, None, 3, 5, seed=seed).log_weights  # noqa: E731
    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    assert torch.equal(run(None), run(None))
    one = run(None)
    torch.rand(1)
    assert not torch.equal(run(None), one)


@pytest.mark.parametrize("name", ["exact", "mean_field", "full_rank", "amortized", "auto_normal"])
@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_annealing_touches_nothing(name, monkeypatch):
    monkeypatch.setattr(bdmc_module, "infer", lambda *args, **kw: evaluate.infer(*args, **kw, window=2, max_steps=4))
    case = cases.make(name)
    case.model.eval()
    case.model.likelihood.train()
    for p in case.model.parameters():
        p.grad = torch.ones_like(p)
    modules = [*case.model.modules(), *case.guide.modules()]
    for judge in (
        lambda: ais(case.model, case.guide, *case.args, 3, 4),
        lambda: ais(case.model, None, case.x, None, 3, 4, seed=3),
        lambda: bdmc(case.model, case.guide, 3, 2, 4, seed=3),
        *([lambda: quadrature(case.model, case.x)] if name == "exact" else []),
    ):
        held, flags = [*cases.tensors(case.model, case.guide), *case.args], [m.training for m in modules]
        held, store = [v.clone() for v in held], set(pyro.get_param_store().keys())
        generator, settings = torch.get_rng_state(), pyro.settings.get()
        judge()
        assert cases.same(held, [*cases.tensors(case.model, case.guide), *case.args])
        assert all((p.grad == 1).all() for p in case.model.parameters())
        assert torch.equal(generator, torch.get_rng_state())
        assert flags == [m.training for m in modules] and settings == pyro.settings.get()
        assert set(pyro.get_param_store().keys()) == store


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_books_are_kept_in_float64(dtype):
    ppca = cases.ppca().to(dtype)
    x = ppca(size=4).detach()
    found, both = ais(ppca, None, x, None, 3, 4, seed=0), bdmc(ppca, None, 3, 2, 3, seed=0)
    assert {v.dtype for v in (found.log_weights, found.log_px, found.stderr, both.lower, both.upper)} == {torch.float64}
    assert not any(v.requires_grad for v in (found.log_weights, both.lower, both.upper))
    assert both.x.dtype == dtype


def test_gradient_evaluations_are_counted(monkeypatch):
    ppca, x, _ = linear(2, 6, 4)
    guide, index = factorized(ppca, x)
    spent, joint = [], PPCA.log_joint

    def counted(self, x, t, mask=None):
        spent.append(t.shape[0] * t.requires_grad)
        return joint(self, x, t, mask)

    monkeypatch.setattr(annealers, "rows_that_fit", lambda *args: 10**6)
    monkeypatch.setattr(PPCA, "log_joint", counted)
    found = ais(ppca, guide, x, index, 5, 20, num_leapfrog=3, seed=0)
    assert found.gradients_per_point == sum(spent)


def test_a_point_that_diverges_is_counted_and_disturbs_no_other(monkeypatch):
    ppca, x, _ = linear(2, 6, 6)
    joint = PPCA.log_joint

    def broken(self, x, t, mask=None):
        factor = torch.ones_like(t[..., 0])
        if t.shape[-2] == 6:
            factor[..., 2] = torch.where(t[..., 2, 0] > 0, math.nan, 1.0)
        return joint(self, x, t, mask) * factor

    calm = ais(ppca, None, x, None, 4, 10, seed=0)
    monkeypatch.setattr(PPCA, "log_joint", broken)
    found = ais(ppca, None, x, None, 4, 10, seed=0)
    others = torch.arange(6) != 2
    assert torch.equal(found.log_weights[:, others], calm.log_weights[:, others])
    assert found.divergences[2] > calm.divergences[2]


# Refusals


def test_a_point_mass_is_refused_with_the_way_out():
    for name in ("point", "auto_delta"):
        case = cases.make(name)
        for judge in (lambda c=case: ais(c.model, c.guide, *c.args), lambda c=case: bdmc(c.model, c.guide)):
            with pytest.raises(TypeError, match=r"guide=None.*evaluate\.infer"):
                judge()
    with pytest.raises(TypeError, match="posterior"):
        ais(case.model, lambda x: x, case.x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_chains": 0}, "num_chains is 0"),
        ({"num_temperatures": 0}, "num_temperatures is 0"),
        ({"num_leapfrog": 0}, "num_leapfrog is 0"),
        ({"memory": 0}, "memory is 0"),
        ({"target_acceptance": 1.0}, "target_acceptance is 1"),
        ({"target_acceptance": math.nan}, "target_acceptance is nan"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, words):
    ppca, x, _ = linear(2, 6, 3)
    with pytest.raises(ValueError, match=words):
        ais(ppca, None, x, **options)
    with pytest.raises(ValueError, match=words):
        bdmc(ppca, None, 3, **options)


def test_points_that_make_no_sense_are_refused():
    ppca, x, _ = linear(2, 6, 4)
    guide = guides.MeanField(4, 2).double()
    for index, words in (
        (torch.arange(4) - 1, "index goes from -1"),
        (torch.arange(4) + 1, r"expected 0\.\.3"),
        (torch.arange(3), "4 points and index 3"),
        (None, "got no index"),
    ):
        with pytest.raises(ValueError, match=words):
            ais(ppca, guide, x, index)
    for points, mask, words in (
        (x[:0], None, "no points"),
        (x[:, :5], None, "shape"),
        (x.float(), None, "dtype"),
        (x.tolist(), None, "tensor"),
        (x.masked_fill(x > 0, math.nan), None, "mask them"),
        (x, torch.ones(4, 5, dtype=torch.bool), "mask has shape"),
        (x, torch.ones(4, 6), "torch.bool"),
    ):
        with pytest.raises(ValueError, match=words):
            ais(ppca, None, points, mask=mask)
    with pytest.raises(ValueError, match="num_points is 1"):
        bdmc(ppca, None, 1)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        ais(ppca, None, x)


# Bidirectional Monte Carlo


def bracket(T, guide=None, seed=0, **options):
    torch.manual_seed(0)
    ppca, _, _ = linear(3, 8)
    return ppca, bdmc(ppca, guide, 100, 4, T, num_leapfrog=5, seed=seed, **options)


def test_bounds_hold_the_truth_between_them_and_close_in():
    gaps = []
    for T in (2, 10, 50):
        ppca, found = bracket(T)
        exact = ppca.log_prob(found.x).detach()
        below, above = exact - found.lower, found.upper - exact
        assert z(below) > -3 and z(above) > -3
        if T == 2:  # a poor start and few temperatures: both bounds are far off, on their sides
            assert z(below) > 4 and z(above) > 4
        assert found.gap == pytest.approx(float(found.gaps.mean()))
        assert found.stderr == pytest.approx(float(found.gaps.std()) / 10)
        assert abs(z(below + above - found.gaps)) < 4
        gaps.append(found.gap)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0


def test_upper_weights_are_unbiased_too():
    """E 1/w = 1 / p(x | w) downwards from an exact draw: over simulated points, p(x | w) / upper has mean 1."""
    ppca, _, _ = linear(1, 3, scale=2.0)
    found = bdmc(ppca, None, 4000, 3, 3, num_leapfrog=3, seed=0)
    ratio = (ppca.log_prob(found.x).detach() - found.upper).exp()
    assert ratio.std() > 0.05 and abs(z(ratio - 1)) < 4


@pytest.mark.parametrize("T", [1, 3, 24])
def test_the_control_variate_has_mean_0(T):
    r"""Of pairs of walks that agree (24 temperatures, and most of its noise is gone) and that do not."""
    ppca, _, _ = linear(1, 3, scale=2.0)
    found = bdmc(ppca, None, 6000, 3, T, num_leapfrog=3, seed=0)
    plain = found.upper - found.lower
    control = plain - found.gaps
    assert abs(z(control)) < 4 and control.std() > 0.05
    assert -math.exp(3) < control.min() and control.max() <= 1
    share = float(found.gaps.std() / plain.std())
    assert share < (0.4 if T == 24 else 1)


def gaps(up, down):
    r"""Those of BDMC from these log-weights."""
    walks = (path.Walk(each, torch.ones_like(each), torch.zeros_like(each[:1])) for each in (up, down))
    return bdmc_module.bounds(None, *walks, None, None).gaps


def test_the_control_variate_is_the_mean_over_all_pairs():
    up, down = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.5], [9.0], [-2.5]]).double()
    # Gaps 0.5, 9, -2.5 of the first walk upwards, -0.5, 8, -3.5 of the second: 9 and 8 are too large for their 1.
    each = [1 - math.exp(-0.5), -math.exp(-9), 1 - math.exp(2.5), 1 - math.exp(0.5), -math.exp(-8), 1]
    assert float(gap.control(up, down)) == pytest.approx(sum(each) / 6)
    lower, upper = math.log((1 + math.e) / 2), -math.log(sum(math.exp(-d) for d in (0.5, 9.0, -2.5)) / 3)
    assert float(gaps(up, down)) == pytest.approx(upper - lower - sum(each) / 6)


def test_walks_that_never_end_leave_a_gap_without_bound():
    up, down = torch.tensor([[-math.inf, 0.0, 0.0]]), torch.tensor([[0.0, math.nan, -math.inf]])
    found = gaps(up, down)
    assert found[0] == math.inf and found[1].isnan() and found[2] == -math.inf


@pytest.mark.parametrize(("T", "transitions"), [(1, 0), (4, 3), (30, 10)])
def test_walks_downwards_start_at_other_draws_of_the_posterior(monkeypatch, T, transitions):
    ppca, _, _ = linear(2, 6)
    started, plain = [], path.Annealer.sweep

    def sweep(self, state, betas):
        if betas[0] == 1:
            started.append(state.t)
        return plain(self, state, betas)

    monkeypatch.setattr(path.Annealer, "sweep", sweep)
    found = bdmc(ppca, None, 500, 3, T, num_leapfrog=3, seed=0)
    assert path.Settings(3, T, 3, 0.65, 1).fresh == transitions
    (t,) = started  # float64, in one block
    moved = (t - found.t).abs().amax(-1) > 0
    apart = (t[0] - t[1]).abs().amax(-1) > 0
    assert apart.double().mean() > 0.9 if transitions else not apart.any()
    assert moved.double().mean() > 0.9 if transitions else not moved.any()
    q = ppca.posterior(found.x)
    white = torch.linalg.solve_triangular(q.scale_tril.expand(500, 2, 2), (t[0] - q.mean).unsqueeze(-1), upper=False)
    assert abs(z(white.square().sum((-1, -2)).detach() - 2)) < 4


def test_the_bar_ends_where_the_walks_of_all_blocks_end(monkeypatch):
    monkeypatch.setattr(annealers, "rows_that_fit", lambda *args: 3)
    seen = []

    class Told(annealers.Bar):
        def __init__(self, total, **options):
            super().__init__(total, shown=False, **{k: v for k, v in options.items() if k != "shown"})
            self.ticks = [total, 0]
            seen.append(self.ticks)

        def tick(self):
            self.ticks[1] += 1

    monkeypatch.setattr(annealers, "Bar", Told)
    ppca, _, _ = linear(2, 6)
    bdmc(ppca, None, 4, 5, 12, num_leapfrog=1, seed=0)
    assert all(total == done > 0 for total, done in seen) and seen


def test_the_exact_posterior_leaves_no_gap():
    ppca, _, _ = linear(3, 8)
    found = bdmc(ppca, guides.Exact(ppca), 5, 2, 3, seed=0)
    exact = ppca.log_prob(found.x).detach()
    assert (found.lower - exact).abs().max() < 1e-9 and (found.upper - exact).abs().max() < 1e-9


def test_a_guide_with_rows_gets_rows_for_the_simulated_points():
    torch.manual_seed(0)
    ppca, _, _ = linear(3, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a few points that are late
        found = bdmc(ppca, guides.FullRank(7, 3).double(), 40, 4, 5, num_leapfrog=5, seed=0)
    exact = ppca.log_prob(found.x).detach()
    # From the prior this takes a hundred temperatures.
    assert abs((found.lower - exact).mean()) < 0.05 and abs((found.upper - exact).mean()) < 0.05


def test_rows_do_not_start_at_the_codes_that_they_shall_find(monkeypatch):
    started = []

    class Recorded(guides.MeanField):
        def start(self, points):
            started.append(super().start(points))
            return started[-1]

    monkeypatch.setattr(bdmc_module, "infer", lambda model, guide, points, *, seed: only_start(guide, points, seed))
    ppca = cases.ppca(8, 3)
    for seed in (0, None):
        found = bdmc(ppca, Recorded(1, 3), 20, 1, 1, seed=seed)
        means = started[-1].posterior(index=torch.arange(20)).mean.flatten()
        assert torch.corrcoef(torch.stack([means, found.t.flatten()]))[0, 1].abs() < 0.5


def only_start(guide, points, seed):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        if seed is not None:
            torch.manual_seed(seed)
        return guide.start(points)


def test_bdmc_takes_masks_and_seeds():
    ppca, _, _ = linear(2, 6, scale=3.0)
    mask = torch.tensor([True, False, True, True, False, True])
    one, two = (bdmc(ppca, None, 40, 4, 40, num_leapfrog=5, mask=mask, seed=0) for _ in range(2))
    exact = ppca.log_prob(one.x, mask.expand(40, 6)).detach()
    assert torch.equal(one.lower, two.lower) and torch.equal(one.x, two.x)
    assert (one.lower - exact).abs().mean() < 0.15 and (one.upper - exact).abs().mean() < 0.15
    assert (ppca.log_prob(one.x) - exact).abs().min() > 1


@pytest.mark.parametrize("rows", [3, 9])
def test_bdmc_of_blocks_goes_down_from_each_point_s_own_code(monkeypatch, rows):
    monkeypatch.setattr(annealers, "rows_that_fit", lambda *args: rows)
    ppca, _, _ = linear(2, 6)
    found = bdmc(ppca, None, 7, 4, 1, seed=0)
    # In one step from the posterior to the prior, 1/w is p(t) / p(x, t) for all chains.
    torch.testing.assert_close(found.upper, ppca.likelihood(found.t).log_prob(found.x).detach())
    assert found.lower.shape == (7,) and found.lower.isfinite().all()


# Estimators that fail say so


def narrow(s, latents=1, num=20):
    """PPCA with q = the posterior narrowed to s of its scale."""
    ppca, x, exact = linear(latents, 6, num)
    q = ppca.posterior(x)
    narrowed = pyro.distributions.MultivariateNormal(q.mean, scale_tril=s * q.scale_tril)
    rows = families.full_rank.of(narrowed).detach()
    return ppca, guides.FullRank(num, latents).double().set_rows(rows), x, torch.arange(num), exact


@pytest.mark.parametrize("latents", [1, 3])
def test_a_narrow_q_has_the_tail_that_theory_says(latents):
    """w ∝ exp(½ (1/s² − 1) z²) for t = s z: its tail is a power of index 1/k with k = 1 − s², for any D."""
    s, K = 0.4, 10_000
    ppca, guide, x, index, exact = narrow(s, latents)
    table = evaluate.log_weights(ppca, guide, x, index, K, seed=0)
    k = evaluate.pareto_k(table)
    assert abs(k.mean() - (1 - s**2)) < 0.06 + 3 * k.std() / len(k) ** 0.5
    assert (k > 0.7).double().mean() > 0.75
    # The variance of the weights is infinite: their effective number grows slower than K, and the bound is missed.
    share = evaluate.ess(table).mean() / K, evaluate.ess(table[:100]).mean() / 100
    assert share[0] < share[1] < 0.5
    with pytest.warns(UserWarning, match=r"of 20 points.*evaluate\.ais") as caught:
        bound = evaluate.iwae(ppca, guide, x, index, 50, seed=0)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert z(bound - exact) < -3
    # ... and what the warning names mends it.
    error = ais(ppca, guide, x, index, 32, 60, num_leapfrog=5, seed=0).log_px - exact
    assert abs(error.mean()) < 0.1 * abs((bound - exact).mean()) + 3 * error.std() / len(error) ** 0.5


@pytest.mark.parametrize("s", [1.0, 1.5])
def test_a_q_that_is_wide_enough_is_not_warned_of(s):
    ppca, guide, x, index, exact = narrow(s, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound = evaluate.iwae(ppca, guide, x, index, 500, seed=0)
        evaluate.iwae(ppca, narrow(0.4, 2)[1], x, index, 24, seed=0)  # too few weights for a tail
    assert (bound - exact).abs().max() < 0.3


def test_one_point_in_many_is_not_worth_a_warning():
    ppca, guide, x, index, _ = narrow(1.0, 1, 50)
    rows = guide.rows.weight.detach().clone()
    rows[:2, 1] += math.log(0.4)
    guide.set_rows(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate.iwae(ppca, guide, x, index, 2000, seed=0)
