"""Counts against SciPy, exact arithmetic and conjugacy: Poisson, negative binomial, more zeros; exposures; errors."""

import math

import pytest
import torch
from scipy import special, stats

from pyro_dlgm import DLGM, SVI, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.likelihoods.counts.pixels import NegativeBinomialPixels, PoissonPixels, ZeroInflatedPixels

D, P, B = 2, 5, 6
KINDS = {
    "poisson": (likelihoods.Poisson, 1),
    "negative_binomial": (likelihoods.NegativeBinomial, 1),
    "zero_inflated": (likelihoods.ZeroInflatedNegativeBinomial, 2),
}
EACH = pytest.mark.parametrize("name", KINDS)
GRID = torch.cartesian_prod(
    torch.tensor([0.0, 1, 2, 15, 16, 17, 300]), torch.tensor([-20.0, -3, 0, 2.5, 5]), torch.tensor([-6.0, -1, 0, 2, 6])
).double()


def model_of(name, **settings) -> DLGM:
    likelihood, heads = KINDS[name]
    return DLGM(priors.StandardNormal(D), likelihood(nets.Linear(D, P, heads=heads), **settings))


def scipy_log_pmf(name, x, m, u, g):
    r = u.exp()
    if name == "poisson":
        return torch.from_numpy(stats.poisson.logpmf(x, m.exp()))
    found = torch.from_numpy(stats.nbinom.logpmf(x, r, r / (r + m.exp())))
    # SciPy is given 1 − p rounded where p is almost 1; the formula is not.
    log_n = torch.logaddexp(m, u)
    formula = torch.lgamma(x + r) - torch.lgamma(r) - torch.lgamma(x + 1)
    found = torch.where(m < u - 8, formula + r * (u - log_n) + x * (m - log_n), found)
    if name == "negative_binomial":
        return found
    zero = torch.logaddexp(g - torch.nn.functional.softplus(g), found - torch.nn.functional.softplus(g))
    return torch.where(x == 0, zero, found - torch.nn.functional.softplus(g))


@EACH
def test_the_log_probability_is_that_of_scipy(name):
    x, m, u = GRID.unbind(1)
    g = torch.linspace(-3, 3, len(x)).double()
    p = {
        "poisson": lambda: PoissonPixels(m),
        "negative_binomial": lambda: NegativeBinomialPixels(m, u),
        "zero_inflated": lambda: ZeroInflatedPixels(m, u, g),
    }[name]()
    torch.testing.assert_close(p.log_prob(x), scipy_log_pmf(name, x, m, u, g), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(p.log_prob(x.long()), p.log_prob(x))


@EACH
def test_a_likelihood_says_the_sum_over_features(name):
    model = model_of(name).double()
    t, x = torch.randn(3, B, D).double(), torch.randint(0, 9, (B, P)).double()
    y = model.likelihood.net(t)
    m, g = y if isinstance(y, tuple) else (y, torch.zeros_like(y))
    u = getattr(model.likelihood, "u", torch.zeros(P)).double().detach()
    expected = scipy_log_pmf(name, x, m.detach(), u, g.detach()).sum(-1)
    torch.testing.assert_close(model.likelihood(t).log_prob(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.log_joint(x, t), expected + model.prior().log_prob(t))


@EACH
def test_probabilities_sum_to_one_and_moments_are_theirs(name):
    p = model_of(name).double().likelihood(torch.zeros(1, D).double()).base_dist
    x = torch.arange(3000.0).double().unsqueeze(1)
    mass = p.log_prob(x).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(P).double())
    torch.testing.assert_close((mass * x).sum(0), p.mean[0])
    torch.testing.assert_close((mass * (x - p.mean).square()).sum(0), p.variance[0])
    torch.manual_seed(0)
    drawn = p.sample((40_000,))
    assert ((drawn.mean(0) - p.mean).abs() < 5 * (p.variance / 40_000).sqrt()).all()
    shares = (drawn == 0).double().mean(0) - p.log_prob(torch.zeros(P)).exp()
    assert (shares.abs() < 5 * math.sqrt(0.25 / 40_000)).all()


@EACH
@pytest.mark.parametrize("log_r", [-2.0, 0.0, 12.0])
def test_no_digits_are_lost_at_large_counts_in_float32(name, log_r):
    """lgamma alone leaves an error of a nat at 10⁶."""
    if name == "poisson":
        x = torch.tensor([1e6, 1e6 + 800, 9.0e6])

        def build(l):
            return PoissonPixels(l)
    else:
        x = torch.tensor([1e6, 2e5, 9.0e6])
        gate = [torch.full((3,), -1.0)] if name == "zero_inflated" else []
        kind = ZeroInflatedPixels if gate else NegativeBinomialPixels

        def build(l):
            return kind(l, torch.full((3,), log_r).to(l), *(g.to(l) for g in gate))

    l = torch.tensor([1e6, 1e6, 9.001e6]).log()
    single, double = build(l).log_prob(x), build(l.double()).log_prob(x.double())
    assert (single - double).abs().max() < 5e-3 + 1e-5 * double.abs().max()
    assert single.dtype == torch.float32
    naive = x * l - l.exp() - torch.lgamma(x + 1)
    if name == "poisson":
        assert (naive - double).abs().max() > 0.1  # what is avoided


@EACH
def test_tiny_rates_keep_their_digits(name):
    m = torch.tensor([-40.0, -60.0])
    p = {
        "poisson": PoissonPixels(m),
        "negative_binomial": NegativeBinomialPixels(m, torch.zeros(2)),
        "zero_inflated": ZeroInflatedPixels(m, torch.zeros(2), torch.full((2,), -200.0)),
    }[name]
    torch.testing.assert_close(p.log_prob(torch.ones(2)), m)
    torch.testing.assert_close(p.log_prob(torch.zeros(2)), -m.exp(), rtol=1e-5, atol=0)


def test_a_large_inverse_dispersion_is_poisson():
    x, m = torch.arange(50.0).double(), torch.full((50,), 2.0).double()
    for log_r in (30.0, 75.0):
        found = NegativeBinomialPixels(m, torch.tensor(log_r).double()).log_prob(x)
        torch.testing.assert_close(found, PoissonPixels(m).log_prob(x), rtol=1e-9, atol=1e-9)


def test_counts_far_below_the_inverse_dispersion_keep_their_digits_in_float32():
    """log (r + μ)/(r + x) as a difference of logarithms is off by 0.2 nats here."""
    x, m = torch.tensor([1e5, 1e6, 1.001e6]), torch.tensor([1e5, 1e6, 1e6]).log()
    for u in torch.linspace(20, 32, 50):
        single = NegativeBinomialPixels(m, u).log_prob(x)
        double = NegativeBinomialPixels(m.double(), u.double()).log_prob(x.double())
        assert (single - double).abs().max() < 5e-3


@EACH
def test_gradients_are_those_of_differences(name):
    m, u, g = (torch.randn(8).double().requires_grad_() for _ in range(3))
    x = torch.tensor([0, 0, 1, 2, 15, 16, 40, 1000]).double()
    build = {
        "poisson": lambda: PoissonPixels(m),
        "negative_binomial": lambda: NegativeBinomialPixels(m, u),
        "zero_inflated": lambda: ZeroInflatedPixels(m, u, g),
    }[name]
    inputs = (m, u, g)[: {"poisson": 1, "negative_binomial": 2, "zero_inflated": 3}[name]]
    assert torch.autograd.gradcheck(lambda *_: build().log_prob(x), inputs)
    assert torch.autograd.gradgradcheck(lambda *_: build().log_prob(x), inputs)


@EACH
def test_gradients_are_finite_at_the_ends(name):
    ends = torch.tensor([-150.0, -80, 0, 80])
    m, u = (v.clone().requires_grad_() for v in torch.cartesian_prod(ends, ends).T)
    p = PoissonPixels(m) if name == "poisson" else NegativeBinomialPixels(m, u)
    p = ZeroInflatedPixels(m, u, m) if name == "zero_inflated" else p
    for x in (0.0, 3.0, 1e6):
        value = p.log_prob(torch.tensor(x))
        found = torch.autograd.grad(value.sum(), [m, u][: 1 if name == "poisson" else 2], retain_graph=True)
        assert value.isfinite().all() and all(v.isfinite().all() for v in found)


@EACH
def test_missing_counts_add_nothing_even_as_nan(name):
    model, t = model_of(name), torch.randn(4, B, D)
    x, mask = torch.randint(0, 9, (B, P)).float(), torch.rand(B, P) < 0.5
    mask[2] = False
    holes = x.masked_fill(~mask, math.nan)
    torch.testing.assert_close(model.log_joint(holes, t, mask), model.log_joint(x, t, mask))
    torch.testing.assert_close(model.log_joint(holes, t, mask)[:, 2], model.prior().log_prob(t)[:, 2])
    each = torch.stack([model.likelihood(t, mask & (torch.arange(P) == j)).log_prob(x) for j in range(P)]).sum(0)
    torch.testing.assert_close(model.likelihood(t, mask).log_prob(x), each)
    loss = SVI(model, guides.MeanField(B, D)).objective.differentiable_loss
    guide = guides.MeanField(B, D)
    loss(model, guide, holes, torch.arange(B), mask=mask).backward()
    assert all(v.grad.isfinite().all() for v in model.parameters())


@EACH
@pytest.mark.parametrize("bad", [-1.0, 0.5, math.nan])
def test_what_is_no_count_is_refused_with_its_row(name, bad):
    model, x = model_of(name), torch.ones(B, P)
    x[4, 1] = bad
    with pytest.raises(ValueError, match=r"rows \[4\]"):
        model.check(x)
    if bad == bad:
        with pytest.raises(ValueError, match=r"whole numbers >= 0.*FixedNormal"):
            fit(model, guides.MeanField(B, D), x, epochs=1)


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8])
def test_types_of_counts_say_the_same(name, dtype):
    model = model_of(name).double()
    x, t = torch.randint(0, 9, (B, P)), torch.randn(B, D).double()
    torch.testing.assert_close(model.log_joint(x.to(dtype), t), model.log_joint(x.double(), t))
    model.check(x.to(dtype))
    made = evaluate.reconstruct(model, guides.MeanField(B, D).double(), x.to(dtype), torch.arange(B))
    assert made.shape == x.shape and made.is_floating_point()


def test_one_latent_by_quadrature():
    """x ~ Poisson(e^{b + s t}), t ~ N(0, 1), against a sum of SciPy's densities over a fine grid."""
    net = nets.Linear(1, 1)
    model = DLGM(priors.StandardNormal(1), likelihoods.Poisson(net)).double()
    with torch.no_grad():
        net.body[-1].weight.fill_(0.8), net.body[-1].bias.fill_(0.5)
    x = torch.tensor([[0.0], [3.0], [40.0]]).double()
    nodes = torch.linspace(-12, 12, 20_001).double()
    mass = torch.from_numpy(stats.poisson.pmf(x, (0.5 + 0.8 * nodes).exp()) @ stats.norm.pdf(nodes)) * 24 / 20_000
    torch.testing.assert_close(evaluate.quadrature(model, x, tol=1e-6), mass.log(), rtol=0, atol=1e-5)
    result = evaluate.ais(model, guides.FullRank(3, 1).double(), x, torch.arange(3), 200, 50, seed=0)
    assert ((result.log_px - mass.log()).abs() < 5 * result.stderr + 0.02).all()


def test_a_poisson_count_of_a_gamma_rate_is_negative_binomial():
    """∫ Poisson(x; λ) Gamma(λ; r, r/μ) dλ, by draws of the sampler's rates and by the formula."""
    r, mu = 2.5, 7.0
    nodes, weights = special.roots_genlaguerre(80, r - 1)
    x = torch.arange(30.0).double()
    mass = stats.poisson.pmf(x.unsqueeze(1), nodes * mu / r) @ weights / special.gamma(r)
    p = NegativeBinomialPixels(torch.tensor(mu).double().log(), torch.tensor(r).double().log())
    torch.testing.assert_close(p.log_prob(x).exp(), torch.from_numpy(mass))


@EACH
def test_an_exposure_multiplies_the_means(name):
    model = model_of(name, exposure=True)
    t, s = torch.randn(4, B, D), torch.rand(B, 1) * 10 + 0.1
    p, plain = model.likelihood(t, given=s), model_of(name)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(p.mean, s * plain.likelihood(t).mean)
    x = model(size=B, given=s).detach()
    result = fit(model, guides.Amortized(nets.MLP(P, 8), D), x, given=s, epochs=2, seed=0)
    assert math.isfinite(result.history[-1]["elbo"])
    for wrong in (None, -s, torch.zeros(B, 1)):
        with pytest.raises(ValueError, match="exposure > 0"):
            model.likelihood(t, given=wrong)


def test_an_exposure_leaves_other_columns_to_the_network():
    p = likelihoods.Poisson(nets.Linear(D + 2, P), exposure=True)
    t, given = torch.randn(3, D), torch.rand(3, 3) + 0.5
    expected = given[:, :1] * p.net(torch.cat([t, given[:, 1:]], 1)).exp()
    torch.testing.assert_close(p(t, given=given).mean, expected)
    image = likelihoods.Poisson(nets.ConvDecoder(D, (1, 5, 7), widths=(4, 8)), exposure=True)
    plain = likelihoods.Poisson(image.net)
    torch.testing.assert_close(
        image(t, given=given[:, :1]).mean, plain(t).mean * given[:, 0].reshape(3, 1, 1, 1), rtol=1e-5, atol=1e-5
    )


def test_dispersions_are_learned_for_each_feature():
    torch.manual_seed(0)
    net = nets.Linear(1, 2)
    model = DLGM(priors.StandardNormal(1), likelihoods.NegativeBinomial(net))
    with torch.no_grad():
        net.body[-1].weight.zero_(), net.body[-1].bias.fill_(2.0)
    truth = NegativeBinomialPixels(torch.full((2,), 2.0), torch.tensor([-1.0, 2.0]))
    optimizer, x = torch.optim.Adam([model.likelihood.u], 0.05), truth.sample((5000,))
    for _ in range(200):
        optimizer.zero_grad()
        (-model.likelihood(torch.zeros(1, 1)).log_prob(x).mean()).backward()
        optimizer.step()
    assert (model.likelihood.u - torch.tensor([-1.0, 2.0])).abs().max() < 0.15
    assert model.likelihood.inverse_dispersion.shape == (2,)
    fixed = likelihoods.NegativeBinomial(torch.nn.Linear(2, 3), 5.0, learn=False)
    assert fixed.u.shape == () and "u" not in dict(fixed.named_parameters())


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_an_inverse_dispersion_that_is_none_is_refused(bad):
    with pytest.raises(ValueError, match="numbers > 0"):
        likelihoods.NegativeBinomial(nets.Linear(2, 3), bad)


def test_heads_are_checked():
    with pytest.raises(ValueError, match="expected two"):
        likelihoods.ZeroInflatedNegativeBinomial(nets.Linear(2, 3))


def test_real_counts_train_and_the_better_likelihood_wins(data_file):
    """Single-cell counts are overdispersed: the negative binomial beats Poisson by far, PyTorch's formula agrees."""
    import numpy as np

    file = np.load(data_file("Counts", "counts_pbmc68k_reduced.npz"), allow_pickle=False)
    name = next(n for n in file.files if file[n].ndim == 2)
    x = torch.from_numpy(file[name][:, :100].astype("float32"))
    scores = {}
    for kind in ("poisson", "negative_binomial"):
        torch.manual_seed(0)
        likelihood = KINDS[kind][0](nets.Linear(5, 100))
        model, guide = DLGM(priors.StandardNormal(5), likelihood), guides.MeanField(len(x), 5)
        scores[kind] = fit(model, guide, x, epochs=30, lr=1e-2, seed=0).history[-1]["elbo"]
    assert scores["negative_binomial"] > scores["poisson"] + 1
