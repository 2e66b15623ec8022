"""Side information: a conditional model p(x | t, c) gives what a hand-written subclass gives, everywhere."""

import dataclasses
import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dlgm import DLGM, Points, compare, evaluate, fit, guides, likelihoods, load, nets, priors
from pyro_dlgm.evaluate.snapshot import Snapshot
from pyro_dlgm.latents import asked

N, P, D, C = 40, 6, 2, 3


def model(scale: float = 0.5, prior=None) -> DLGM:
    net = nets.MLP(D + C, P, hidden=(8,))
    return DLGM(prior or priors.StandardNormal(D), likelihoods.FixedNormal(net, scale))


def encoder() -> nn.Module:
    return nets.MLP(P, 8, hidden=(8,))


@pytest.fixture
def points():
    given = nn.functional.one_hot(torch.arange(N) % C, C).float()
    return Points(torch.randn(N, P) + 2 * given.repeat(1, 2), given=given)


class ByHand(DLGM):
    """The same model, with the labels kept inside and found by the rows of x: no argument of the package is used."""

    def __init__(self, likelihood, points):
        super().__init__(priors.StandardNormal(D), likelihood)
        self.points = points

    def look_up(self, x):
        rows = (x.unsqueeze(-2) == self.points.x).all(-1).float().argmax(-1)
        return self.points.given[rows]

    def datum(self, x=None, mask=None, **ignored):
        t = pyro.sample("t", self.prior())
        code = torch.cat([t, self.look_up(x).expand(*t.shape[:-1], C)], -1)
        return pyro.sample("x", dist.Normal(self.likelihood.net(code), self.likelihood.scale).to_event(1), obs=x)


class EncoderByHand(guides.Guide):
    """The same encoder, that finds its labels itself."""

    def __init__(self, guide, model):
        super().__init__()
        self.inner, self.look_up = guide, model.look_up

    def posterior(self, x=None, index=None, mask=None):
        return self.inner.family(self.inner.head(torch.cat([self.inner.encoder(x), self.look_up(x)], -1)))


def pairs(points, family="mean_field"):
    """The conditional pair, and the one by hand with the same weights."""
    one = model()
    guide = guides.Amortized(encoder(), D, family, given_dim=C)
    hand = ByHand(model().likelihood, points)
    hand.likelihood.load_state_dict(one.likelihood.state_dict())
    other = guides.Amortized(encoder(), D, family, given_dim=C)
    other.load_state_dict(guide.state_dict())
    return (one, guide), (hand, EncoderByHand(other, hand))


def test_training_is_that_of_a_subclass_by_hand(points):
    ours, by_hand = pairs(points)
    settings = {"epochs": 3, "batch_size": 16, "seed": 1}
    found = fit(*ours, points, x_val=points, **settings).history
    expected = fit(*by_hand, points.x, x_val=points.x, **settings).history
    for name in ("elbo", "val_elbo", "val_iwae_10", "gradient_norm"):
        assert [r[name] for r in found] == pytest.approx([r[name] for r in expected], rel=1e-5)


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_scores_are_those_of_a_subclass_by_hand(points, family):
    ours, by_hand = pairs(points, family)
    few, x = points[:6], points.x[:6]
    walk = {"num_chains": 2, "num_temperatures": 5, "num_leapfrog": 2, "seed": 3}
    for found, expected in (
        (evaluate.elbo(*ours, few, num_samples=7, seed=2), evaluate.elbo(*by_hand, x, num_samples=7, seed=2)),
        (
            evaluate.iwae(*ours, x, num_samples=7, given=few.given, seed=2),
            evaluate.iwae(*by_hand, x, num_samples=7, seed=2),
        ),
        (evaluate.log_joint(*ours, few, seed=2), evaluate.log_joint(*by_hand, x, seed=2)),
        (evaluate.ais(*ours, few, **walk).log_px, evaluate.ais(*by_hand, x, **walk).log_px),
        (evaluate.quadrature(ours[0], few), evaluate.quadrature(by_hand[0], x)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    short = {"num_samples": 30, "num_chains": 2, "num_temperatures": 5, "num_simulated": 0, "seed": 3}
    # What is written by hand says p(x | t) of an x alone: no modes of it are sought.
    found = evaluate.gaps(*ours, few, judge=ours[1], **short)
    expected = evaluate.gaps(*by_hand, x, judge=by_hand[1], **short)
    torch.testing.assert_close(found.reached.value, expected.reached.value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.total.value, expected.total.value, rtol=1e-2, atol=5e-2)


def test_what_is_given_matters(points):
    (m, guide), _ = pairs(points)
    other = Points(points.x, given=points.given.roll(1, 0))
    assert not torch.allclose(evaluate.elbo(m, guide, points, seed=0), evaluate.elbo(m, guide, other, seed=0))
    assert not torch.allclose(evaluate.reconstruct(m, guide, points), evaluate.reconstruct(m, guide, other))
    mask = torch.rand(N, P) < 0.5
    holes = [evaluate.impute(m, guide, p.x, mask=mask, given=p.given, seed=0) for p in (points, other)]
    assert torch.equal(holes[0][mask], points.x[mask]) and not torch.allclose(*holes)


@pytest.mark.parametrize("name", ["mean_field", "full_rank", "point", "laplace", "chain", "hybrid"])
def test_every_guide_takes_what_is_given(points, name):
    m = model()
    made = {
        "mean_field": lambda: guides.MeanField(N, D),
        "full_rank": lambda: guides.FullRank(N, D),
        "point": lambda: guides.PointEstimate(N, D),
        "laplace": lambda: guides.Laplace(m, max_steps=3),
        "chain": lambda: guides.Chain(m, N, D, num_states=2, num_leapfrog=2, burn_in=2),
        "hybrid": lambda: guides.Hybrid(m, guides.Amortized(encoder(), D, given_dim=C), num_states=2),
    }[name]()
    result = fit(m, made, points, x_val=points, epochs=2, batch_size=16, seed=0)
    assert len(result.history) == 2
    blind = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, hidden=(8,)), 0.5))
    with pytest.raises(ValueError, match=r"decodes 2 numbers and gets 2 latents and 3 given numbers"):
        fit(blind, guides.MeanField(N, D), points, epochs=1)


def test_what_is_missing_is_named(points):
    (m, guide), _ = pairs(points)
    with pytest.raises(ValueError, match=r"expected given of shape \(B, 3\)"):
        evaluate.elbo(m, guides.MeanField(N, D), points.x, torch.arange(N))
    with pytest.raises(ValueError, match=r"given is None; expected \(B, C\) with C = 3"):
        guide.posterior(points.x)
    with pytest.raises(ValueError, match=r"given is \(40,\) of torch.int64; expected real numbers \(40, C\)"):
        evaluate.elbo(m, guide, points.x, given=torch.arange(N))
    with pytest.raises(ValueError, match="given has NaN"):
        evaluate.elbo(m, guide, points.x, given=points.given.log().log())
    with pytest.raises(ValueError, match="x is Points and given came with it"):
        evaluate.elbo(m, guide, points, given=points.given)


class Conditional(nn.Module):
    """p(t | c) = N(A c, 0.5²), with a mean that depends on the label."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(C, D)

    def forward(self, given):
        return dist.Normal(self.map(given), 0.5).to_event(1)


def test_a_conditional_prior_goes_through_training_and_scores(points):
    m = model(prior=Conditional())
    guide = guides.Amortized(encoder(), D, given_dim=C)
    fit(m, guide, points, x_val=points, epochs=2, batch_size=16, seed=0)
    few = points[:5]
    exact = evaluate.quadrature(m, few)
    walks = evaluate.ais(m, guide, few, num_chains=8, num_temperatures=50, seed=0)
    assert ((walks.log_px - exact).abs() < 5 * walks.stderr + 0.05).all()
    from_prior = evaluate.ais(m, None, few, num_chains=8, num_temperatures=100, seed=0)
    assert ((from_prior.log_px - exact).abs() < 5 * from_prior.stderr + 0.1).all()
    chain = evaluate.infer(m, guides.Chain(m, 1, D, num_leapfrog=4, burn_in=20), few, max_steps=200, seed=0)
    assert chain.states.isfinite().all()
    d = evaluate.diagnose(m, guide, points, num_simulated=60, seed=0)
    torch.testing.assert_close(d.prior_mean, m.prior(points.given).mean.mean(0))


def test_the_number_of_latents_is_that_of_prior_or_guide(points):
    assert asked.latent_dim(model()) == D
    conditional = model(prior=Conditional())
    guide = guides.Amortized(encoder(), D, given_dim=C)
    assert asked.latent_dim(conditional, guide) == D and guides.Hybrid(conditional, guide).start(points).latent_dim == D
    with pytest.raises(ValueError, match=r"Conditional depends on what is given.* expected a prior with .* latent_dim"):
        guides.Laplace(conditional).cost(1)
    conditional.prior.latent_dim = D + 1  # the prior's own number comes first
    assert asked.latent_dim(conditional, guide) == D + 1
    with pytest.raises(ValueError, match=f"latent_dim is {D}; expected {D + 1}"):
        guides.Chain(conditional, N, D)


def test_simulated_points_get_theirs_from_the_data(points):
    m = model(scale=0.05)
    seen = []
    m.likelihood.register_forward_pre_hook(lambda net, args, kwargs: seen.append(kwargs.get("given")), with_kwargs=True)
    evaluate.bdmc(m, None, 7, 1, 1, given=points.given, seed=0)
    assert torch.equal(seen[0], points.given[torch.arange(7)])
    seen.clear()
    evaluate.check_calibration(
        m, guides.Amortized(encoder(), D, given_dim=C), num_points=90, given=points.given, seed=0
    )
    assert torch.equal(seen[0], points.given[torch.arange(90) % N])


def test_bdmc_brackets_the_conditional_evidence(points):
    m = model()
    found = evaluate.bdmc(m, None, 40, 8, 60, given=points.given, seed=0)
    exact = evaluate.quadrature(m, found.x, given=points.given)
    assert (found.lower - exact).mean() < 0.1 and (found.upper - exact).mean() > -0.1 and found.gap < 1.0


def test_compare_takes_points(points):
    factories = {"amortized": lambda m, n: guides.Amortized(encoder(), D, given_dim=C)}
    factories["mean-field"] = lambda m, n: guides.MeanField(n, D)
    rows = compare(model, factories, points, points[:8], gradients=3, num_samples=30, ppca=1)
    assert [row.guide for row in rows] == ["Exact", "amortized", "mean-field"]
    m, guide = rows[1].pair
    expected = evaluate.elbo(m, guide, points[:8].numbered(), num_samples=30, seed=0).mean()
    assert rows[1].test_elbo == pytest.approx(float(expected))


def test_pictures_get_what_is_given():
    net = nets.MLP(D + C, (1, 4, 4), hidden=(8,))
    m = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net, 0.5))
    given = nn.functional.one_hot(torch.arange(N) % C, C).float()
    look = Snapshot(m, guides.MeanField(N, D), Points(torch.rand(N, 1, 4, 4), given=given))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        t = torch.randn(7, D)
    expected = m.likelihood(t, given=given[:7]).mean.detach()
    torch.testing.assert_close(look.samples(7, seed=5), expected)
    most, made = look.traversals(2, 3)
    assert made.shape == (2, 3, 1, 4, 4) and look.reconstructions(4).shape == (4, 1, 4, 4)
    code = look.means()[0].clone()
    code[most[0]] = 3.0
    torch.testing.assert_close(made[0, -1], m.likelihood(code, given=given[0]).mean.detach())


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = rng.random((60, 1, 8, 8)).astype("f4") * 0.2 + labels.reshape(-1, 1, 1, 1).astype("f4") * 0.3
    path = tmp_path / "rows.npz"
    np.savez(path, x=x, y=labels, hours=rng.random((60, 2)))
    return path


def run(*arguments) -> str:
    from click.testing import CliRunner

    from pyro_dlgm.cli.main import main

    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(("key", "columns"), [("y", 3), ("hours", 2)])
def test_a_run_on_disk_keeps_what_was_given(file, tmp_path, key, columns):
    out = tmp_path / "run"
    settings = ("--key", "x", "--latents", 2, "--epochs", 2, "--batch-size", 20, "--num-val", 6)
    said = run("fit", "--data", file, "--given", key, *settings, "--out", out)
    assert f"given {key} ({columns} columns)" in said
    config = json.loads((out / "config.json").read_text())
    assert config["data"]["given"] == key and config["recipe"]["given_dim"] == columns
    m, guide, _ = load(out)
    assert m.likelihood.net.in_shape == (2 + columns,) and guide.given_dim == columns
    run("evaluate", out, "--iwae", 25, "--gaps", "--certified", 2, "--chains", 2, "--temperatures", 2)
    run("sample", out, "--out", tmp_path / "samples.png", "--num", 6)
    run("fit", "--out", out, "--resume")
    assert (out / "report.html").exists() and (tmp_path / "samples.png").exists()


def test_compare_from_the_command_line_takes_what_is_given(file, tmp_path):
    settings = ("--gradients", 2, "--samples", 25, "--latents", 2, "--guides", "amortized,mean-field")
    said = run("compare", "--data", file, "--key", "x", "--given", "y", *settings, "--out", tmp_path / "c")
    assert "mean-field" in said and json.loads((tmp_path / "c/config.json").read_text())["data"]["given"] == "y"


@pytest.mark.parametrize(("bad", "words"), [("x", "has shape"), ("nowhere", "holds")])
def test_an_array_that_can_not_be_given_is_named(file, tmp_path, bad, words):
    from pyro_dlgm.data import arrays

    with pytest.raises(ValueError, match=words):
        arrays(file, "x", num_test=5, given=bad)


def test_resume_on_other_side_information_is_refused(points, tmp_path):
    from pyro_dlgm.runs.files import RunError

    def train(given, **more):
        torch.manual_seed(0)
        m, guide = model(), guides.MeanField(N, D)
        return fit(m, guide, points.x, given=given, epochs=1, seed=0, out=tmp_path / "run", **more)

    train(points.given)
    with pytest.raises(RunError, match=r"fit\.given was"):
        train(points.given * 2, resume=True)


def test_a_forward_of_the_instance_is_read_each_time():
    @dataclasses.dataclass
    class Forward:
        r"""Equal to others, and so without a hash."""

        def __call__(self, given):
            return priors.StandardNormal(2)()

    prior = priors.StandardNormal(2)
    assert not priors.needs_given(prior)
    prior.forward = Forward()
    assert priors.needs_given(prior)
    del prior.forward
    assert not priors.needs_given(prior)
