"""What would be wrong in silence around a program with more than t and x: it is right, or refused by name."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from pyro_dlgm import DLGM, PPCA, Points, compare, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.snapshot import Snapshot

N, P, D = 12, 5, 2
BIAS = "likelihood.net.body.1.bias"


def model(net=None) -> DLGM:
    return DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net or nets.Linear(D, P), 0.7))


def amortized() -> guides.Amortized:
    return guides.Amortized(nets.MLP(P, 6, hidden=()), D, init_scale=0.5)


@pytest.fixture
def x():
    return torch.randn(N, P)


# A Bayesian w, and a likelihood that samples


def twins():
    """A model with a Bayesian w, the draw that holds it, and the model with that w."""
    plain = model()
    net = nets.Linear(D, P)
    m = DLGM(plain.prior, likelihoods.FixedNormal(priors.bayesian(net), 0.7))
    held = {
        BIAS: plain.likelihood.net.body[1].bias.detach(),
        BIAS.replace("bias", "weight"): plain.likelihood.net.body[1].weight.detach(),
    }
    return m, held, plain


ASKED = {
    "reconstruct": lambda m, g, x: evaluate.reconstruct(m, g, x),
    "impute": lambda m, g, x: evaluate.impute(m, g, x, mask=x > 0, seed=0),
    "ais": lambda m, g, x: evaluate.ais(m, g, x, num_chains=2, num_temperatures=3, seed=0).log_px,
    "bdmc": lambda m, g, x: evaluate.bdmc(m, g, 9, 2, 3, seed=0).upper,
    "quadrature": lambda m, g, x: evaluate.quadrature(m, x),
    "elbo": lambda m, g, x: evaluate.elbo(m, g, x, seed=0),
    "samples": lambda m, g, x: Snapshot(m, g, x.reshape(N, P, 1, 1)).means(),
    "calibration": lambda m, g, x: evaluate.check_calibration(m, g, num_points=50, seed=0).pit,
}


@pytest.mark.parametrize("name", ASKED)
def test_a_bayesian_w_is_refused_bare_and_right_where_it_is_held(x, name):
    m, held, plain = twins()
    guide = amortized()
    with pytest.raises(ValueError, match=r"samples 'likelihood\.net\.body\.1"):
        ASKED[name](m, guide, x)
    with poutine.condition(data=held):
        found = ASKED[name](m, guide, x)
    torch.testing.assert_close(found, ASKED[name](plain, guide, x), rtol=1e-4, atol=1e-4)


def test_a_likelihood_that_samples_is_refused_wherever_it_is_asked(x):
    class Dropped(likelihoods.FixedNormal):
        def forward(self, t, mask=None, given=None):
            return super().forward(t * pyro.sample("keep", dist.Bernoulli(0.5)).unsqueeze(-1), mask, given)

    m = DLGM(priors.StandardNormal(D), Dropped(nets.Linear(D, P), 0.7))
    for name, ask in ASKED.items():
        with pytest.raises(ValueError, match="samples 'keep'"):
            ask(m, amortized(), x)
            pytest.fail(name)


def test_a_w_in_a_plate_of_points_is_refused_by_name(x):
    m, _, _ = twins()

    def program():
        with pyro.plate("data", 10 * N, subsample=torch.arange(N)):
            m.datum(x)

    with pytest.raises(ValueError, match=r"drawn for each point of the plate 'data'.*global_latents\(\) before"):
        poutine.trace(program).get_trace()


# A site more


class WithOutcome(DLGM):
    """p(t) p(x | t) p(y | t), with y given."""

    def datum(self, x=None, mask=None, *, given=None, t=None):
        t = pyro.sample("t", self.prior()) if t is None else t
        pyro.sample("y", dist.Normal(t[..., 0], 0.1), obs=given.squeeze(-1))
        return super().datum(x, mask, t=t)


def test_points_of_a_larger_story_are_not_simulated_by_half(x):
    m = WithOutcome(model().prior, model().likelihood)
    y = torch.randn(N, 1)
    for ask in (
        lambda: evaluate.bdmc(m, None, 9, 2, 3, given=y),
        lambda: evaluate.check_calibration(m, amortized(), num_points=50, given=y),
        lambda: evaluate.gaps(m, amortized(), x, given=y, num_simulated=4, num_samples=30),
        lambda: evaluate.diagnose(m, amortized(), x, given=y, num_simulated=60),
    ):
        with pytest.raises(ValueError, match=r"the model observes 'y' beside 'x'.* cannot be simulated"):
            ask()


def test_a_larger_story_is_predicted_and_kept_on_disk(x, tmp_path):
    m, y = WithOutcome(model().prior, model().likelihood), torch.randn(N, 1)
    guide = amortized()
    fit(m, guide, Points(x, given=y), epochs=2, out=tmp_path / "run", seed=0)
    t = guide.posterior(x).mean
    torch.testing.assert_close(evaluate.reconstruct(m, guide, x, given=y), m.likelihood(t).mean)
    torch.testing.assert_close(m.emission(t, given=y).mean, m.likelihood(t).mean)


def test_plates_inside_of_a_point_are_summed(x):
    class Repeated(DLGM):
        def datum(self, x=None, mask=None, *, given=None, t=None):
            t = pyro.sample("t", self.prior()) if t is None else t
            with pyro.plate("times", 4, dim=-2):
                pyro.sample("y", dist.Normal(t[..., 0], 1.0), obs=given.T)
            return super().datum(x, mask, t=t)

    m, y, t = Repeated(model().prior, model().likelihood), torch.randn(N, 4), torch.randn(N, D)
    expected = m.prior().log_prob(t) + m.likelihood(t).log_prob(x) + dist.Normal(t[:, :1], 1.0).log_prob(y).sum(1)
    torch.testing.assert_close(m.log_joint(x, t, given=y), expected)


def test_a_site_with_an_axis_too_many_is_refused(x):
    class Wide(DLGM):
        def datum(self, x=None, mask=None, *, given=None, t=None):
            pyro.sample("y", dist.Normal(torch.zeros(5, N), 1.0), obs=torch.zeros(5, N))
            return super().datum(x, mask, given=given, t=t)

    with pytest.raises(ValueError, match=r"site 'y' has no log-density for each point \(shape \(5, 12\)"):
        Wide(model().prior, model().likelihood).log_joint(x, torch.zeros(N, D))


# Guides of Pyro


@pytest.mark.parametrize("made", [AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoDiagonalNormal])
def test_a_q_of_points_that_is_no_site_of_theirs_is_refused(x, made):
    m = model()
    guide = made(m)
    guide(x)
    with pytest.raises(ValueError, match="has no log-density for each point"):
        evaluate.elbo(m, guide, x)


def test_a_q_of_a_bayesian_w_and_of_points_together_is_refused(x):
    m, _, _ = twins()
    guide = AutoMultivariateNormal(m)
    guide(x)
    with pytest.raises(ValueError, match="'_AutoMultivariateNormal_latent' has no log-density for each point"):
        evaluate.elbo(m, guide, x)


def test_weights_that_a_guide_does_not_heed_are_refused(x):
    with pytest.raises(ValueError, match=r"'t.*' has another scale in AutoNormal"):
        fit(m := model(), AutoNormal(m), Points(x, weight=torch.full((N,), 2.0)), epochs=1, batch_size=N)
    even = fit(m := model(), AutoNormal(m), Points(x, weight=torch.ones(N)), epochs=1, batch_size=N)
    assert len(even.history) == 1


def test_validation_points_do_not_get_the_rows_of_others(x):
    with pytest.raises(ValueError, match=r"AutoNormal has rows for the training points.*guides.auto"):
        fit(m := model(), AutoNormal(m), x, x_val=x + 1, epochs=1, batch_size=N)


def test_a_plate_that_both_draw_is_left_alone(x):
    """Pyro's own idiom: a subsample that the guide draws and the model takes."""

    class Program(pyro.nn.PyroModule):
        def __init__(self, guide):
            super().__init__("guide" if guide else "model")
            self.guide, self.loc, self.inner = guide, nn.Parameter(torch.zeros(N, D)), model().likelihood

        def forward(self, x=None, index=None, *, mask=None, size=None):
            with pyro.plate("rows", N, subsample_size=4, dim=-1) as rows:
                t = pyro.sample("t", dist.Normal(self.loc[rows] if self.guide else torch.zeros(D), 1.0).to_event(1))
                if not self.guide:
                    pyro.sample("x", self.inner(t), obs=x[rows])

    assert len(fit(Program(False), Program(True), x, epochs=2, batch_size=N).history) == 2


def test_a_guide_that_holds_an_autoguide_trains_it(x):
    m, _, _ = twins()

    class Joint(guides.Guide):
        def __init__(self):
            super().__init__()
            self.w, self.inner = AutoNormal(poutine.block(m, hide=["t"])), amortized()

        def forward(self, x=None, index=None, *, mask=None, size=None):
            self.w(x, index, size=size)
            return self.inner(x, index, size=size)

        def posterior(self, x=None, index=None, mask=None):
            return self.inner.posterior(x)

    guide = Joint()
    fit(m, guide, x, epochs=20, lr=0.05, batch_size=4, seed=0)
    assert all(p.abs().max() > 1e-3 for n, p in guide.w.named_parameters() if "locs" in n)


# What comes with points


def test_a_masked_pixel_reaches_no_row_of_a_comparison(x):
    mask = torch.rand(N, P) < 0.7
    factories = {"mean-field": lambda m, n: guides.MeanField(n, D)}
    tables = []
    for hidden in (x, x.masked_fill(~mask, 100.0)):
        points = Points(hidden, mask=mask)
        rows = compare(model, factories, points, points, gradients=2, num_samples=30, ppca=2)
        tables.append([row.test_elbo for row in rows])
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.randn(N), r"given is \(12,\)"),
        (torch.randn(1, 3), r"given is \(1, 3\).*\(12, C\)"),
        (torch.randn(7, 3), r"expected real numbers \(12, C\)"),
    ],
)
def test_what_is_given_is_checked_where_the_stock_svi_enters(x, given, words):
    m, guide = model(nets.Linear(D + 3, P)), guides.Amortized(nets.MLP(P, 6, hidden=()), D, given_dim=3)
    for program in (m, guide):
        with pytest.raises(ValueError, match=words):
            program(x, given=given)


def test_another_dtype_is_named(x):
    m = model(nets.Linear(D + 3, P))
    with pytest.raises(ValueError, match=r"given has dtype torch.float64 and x torch.float32.*given.to\(x.dtype\)"):
        evaluate.elbo(m, guides.MeanField(N, D), x, torch.arange(N), given=torch.randn(N, 3).double())


def test_points_are_taken_by_rows_and_moved_by_dtype(x):
    points = Points(x, torch.arange(N), x > 0, torch.randn(N, 2), torch.ones(N))
    double = points.to(torch.float64)
    assert (double.x.dtype, double.given.dtype, double.weight.dtype) == (torch.float64,) * 3
    assert (double.index.dtype, double.mask.dtype) == (torch.int64, torch.bool)
    with pytest.raises(TypeError, match=r"expected rows, points\[3:4\]"):
        points[3]
    with pytest.raises(TypeError):
        iter(points)


def test_history_is_a_mean_by_weights(x):
    exact = PPCA.fit(x.double(), D)
    weight = torch.rand(N).double()
    record = fit(exact, guides.Exact(exact), Points(x.double(), weight=weight), epochs=1, lr=1e-30, batch_size=5)
    expected = (weight * exact.log_prob(x.double())).sum() / weight.sum()
    assert record.history[0]["elbo"] == pytest.approx(float(expected), rel=1e-6)


class NoMoments(nn.Module):
    """N(0, I) that does not say its moments."""

    def forward(self):
        d = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        return type("Bare", (type(d),), {"mean": property(_not_said), "stddev": property(_not_said)})(d.base_dist, 1)


def _not_said(self):
    raise NotImplementedError


def test_quadrature_of_a_prior_without_moments_uses_one_grid():
    net = nets.Linear(1, P)
    plain = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(net, 0.1))
    bare = DLGM(NoMoments(), likelihoods.FixedNormal(net, 0.1))
    x = plain(size=30).detach()
    assert (evaluate.quadrature(bare, x) - evaluate.quadrature(plain, x)).abs().max() < 2e-3


# Sources


class Endless(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter([Points(self.x, torch.arange(len(self.x)))])


def test_a_loader_of_what_has_no_length_trains(x):
    loader = DataLoader(Endless(x), batch_size=None)
    assert len(fit(model(), amortized(), loader, size=N, steps=3).history) == 3


def test_a_default_argument_of_a_source_is_no_epoch(x):
    source = lambda rows=x: [Points(rows, torch.arange(N))]  # noqa: E731
    assert len(fit(model(), amortized(), source, size=N, steps=2).history) == 2


def test_a_loader_with_a_generator_of_its_own_is_not_called_sought(x):
    from pyro_dlgm.data.source import Source

    def loader():
        own = torch.Generator().manual_seed(3)
        together = lambda rows: Points(x[rows], torch.tensor(rows))  # noqa: E731
        return DataLoader(range(N), batch_size=4, shuffle=True, generator=own, collate_fn=together)

    made = loader()
    before = made.generator.get_state()
    first = Source(made, N)
    assert torch.equal(made.generator.get_state(), before)
    next(iter(first))
    second = Source(loader(), N)
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="cannot be sought"):
        list(second)
