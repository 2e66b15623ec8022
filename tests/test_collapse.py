r"""Against posterior collapse: free bits, and E-steps until the bound stops."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_dlgm import DLGM, SVI, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.objectives import ELBO, FreeBits
from pyro_dlgm.runs.fingerprint import described
from pyro_dlgm.training import loop
from pyro_dlgm.training.loop import em

N, P, D = 200, 4, 1


class Strong(likelihoods.Likelihood):
    r"""Creates p(x | t) = N(W t + b, L Lᵀ): it can say all of Gaussian data without t, so that F needs no t."""

    def __init__(self, net: nn.Module, covariance: torch.Tensor):
        super().__init__()
        self.net, self.L = net, nn.Parameter(torch.linalg.cholesky(covariance))

    def forward(self, t, mask=None):
        return dist.MultivariateNormal(self.net(t), scale_tril=self.L.tril(-1) + self.L.diagonal().abs().diag())


@pytest.fixture(scope="module")
def x():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.randn(N, D) @ torch.randn(D, P) + 0.5 * torch.randn(N, P)


def trained(x, steps: int, **options):
    r"""A strong decoder with a deep encoder, which lags behind it; whether t is active, KL(q ‖ p), and log p(x)."""
    torch.manual_seed(1)
    model = DLGM(priors.StandardNormal(D), Strong(nets.Linear(D, P), x.T.cov()))
    guide = guides.Amortized(nets.MLP(P, 8, (8,) * 4), D)
    with torch.no_grad():
        guide.head.weight.mul_(0.01)
    options |= {"batch_size": 50, "lr": 1e-2, "schedule": "constant", "seed": 1}
    result = fit(model, guide, x, steps=steps, **options)
    found = evaluate.diagnose(model, guide, x, num_simulated=0, seed=0)
    spent = result.history[-1]["gradients_per_point"]
    return int(found.active_by_variance.sum()), found.rate, evaluate.quadrature(model, x[:50]).mean(), spent


def test_plain_steps_collapse_where_free_bits_and_converged_e_steps_do_not(x):
    r"""All of them say the same of p(x): this decoder does not need t."""
    active, kl, *_ = trained(x, 30, e_steps="converged")
    assert active == 1 and kl > 0.15
    active, kl, plain, least = trained(x, 400)
    assert active == 0 and kl < 0.01 and least == 400 * 50 / N
    active, kl, free, _ = trained(x, 200, objective=FreeBits(0.4))
    assert active == 1 and 0.35 < kl < 0.6
    assert abs(free - plain) < 0.05


# Free bits


def pair(latent_dim: int = 3):
    model = DLGM(priors.ScaledNormal(latent_dim), likelihoods.FixedNormal(nets.Linear(latent_dim, P), 0.5))
    return model, guides.Amortized(nets.Linear(P, 6), latent_dim, init_scale=0.8)


def charged(model, guide, x, free: float) -> float:
    r"""Σ_j max(λ, mean KL_j) in nats per point, by hand."""
    q, p = guide.posterior(x).base_dist, model.prior().base_dist
    return float(torch.distributions.kl_divergence(q, p).mean(0).detach().clamp_min(free).sum())


def loss(objective, model, guide, *args, **kwargs) -> float:
    with pyro.poutine.block(), torch.random.fork_rng():
        torch.manual_seed(0)
        return objective.loss(model, guide, *args, **kwargs)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_free_bits_are_charged_for_each_latent(x, particles, beta):
    model, guide = pair()
    q, p = guide.posterior(x[:20]).base_dist, model.prior().base_dist
    kl = torch.distributions.kl_divergence(q, p).mean(0).sort().values
    for free in (0.0, float(kl[:2].detach().mean()), 5.0):
        more = loss(FreeBits(free, particles, beta=beta), model, guide, x[:20])
        more -= loss(ELBO(particles, beta=beta), model, guide, x[:20])
        extra = charged(model, guide, x[:20], free) - charged(model, guide, x[:20], 0.0)
        assert more == pytest.approx(20 * beta * extra, abs=2e-3)


def test_free_bits_heed_size_weights_and_masks(x):
    model, guide = pair()
    index, some = torch.arange(20), x[:20]
    plain = loss(FreeBits(0.3), model, guide, some)
    assert loss(FreeBits(0.3), model, guide, some, index, size=N) == pytest.approx(plain * N / 20, rel=1e-5)
    twice = loss(FreeBits(0.3), model, guide, some, weight=torch.full((20,), 2.0))
    assert twice == pytest.approx(2 * plain, rel=1e-5)
    few = torch.zeros(20).index_fill(0, torch.arange(7), 1.0)
    extra = charged(model, guide, x[:7], 0.3) - charged(model, guide, x[:7], 0.0)
    more = loss(FreeBits(0.3), model, guide, some, weight=few) - loss(ELBO(), model, guide, some, weight=few)
    assert more == pytest.approx(7 * extra, abs=1e-3)


def test_latents_below_get_no_gradient_of_their_kl(x):
    model, guide = pair()
    FreeBits(100.0).loss_and_grads(model, guide, x)
    assert model.prior.log_scale.grad is None or not model.prior.log_scale.grad.any()
    FreeBits(0.0).loss_and_grads(model, guide, x)
    assert model.prior.log_scale.grad.abs().min() > 0


@pytest.mark.parametrize("which", ["mixture", "full rank", "point"])
def test_free_bits_need_independent_gaussians(x, which):
    model, guide = pair(2)
    if which == "mixture":
        model.prior = priors.MixtureOfNormals(2, 3)
    else:
        guide = {"full rank": guides.FullRank, "point": guides.PointEstimate}[which](N, 2)
    with pytest.raises(TypeError, match="free bits are charged per latent"):
        FreeBits(0.1).loss(model, guide, x, torch.arange(N))


class Factors(PyroModule):
    """Rows at dimension −2 with local latents z, columns at −1 with global ones g."""

    plate = "rows"

    def __init__(self, scale: float, observe: bool):
        super().__init__()
        self.scale, self.observe = scale, observe

    def forward(self, x):
        columns, rows = pyro.plate("columns", 3, dim=-1), pyro.plate("rows", 4, dim=-2)
        with columns:
            g = pyro.sample("g", dist.Normal(0.0, self.scale))
        with rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(4, 1, 2), self.scale).to_event(1))
        with columns, rows:
            if self.observe:
                pyro.sample("x", dist.Normal(g + z.sum(-1), 1.0), obs=x)


def test_masked_points_pay_no_free_bits(x):
    model, guide = pair()
    seen = torch.arange(20) % 4 == 0
    masked = [pyro.poutine.mask(program, seen) for program in (model, guide)]
    lowest, highest = (loss(FreeBits(free), *masked, x[:20]) for free in (0.0, 5.0))
    wanted = [5 * charged(model, guide, x[:20][seen], free) for free in (0.0, 5.0)]  # of 5 points
    assert highest - lowest == pytest.approx(wanted[1] - wanted[0], rel=1e-4)


def test_free_bits_are_those_of_the_plate_over_points_at_any_dimension():
    x, free = torch.randn(4, 3), 5.0
    p, q = Factors(1.0, True), Factors(0.5, False)
    kl = float(torch.distributions.kl_divergence(torch.distributions.Normal(0, 0.5), torch.distributions.Normal(0, 1)))
    plain, more = (loss(each, p, q, x) for each in (ELBO(max_plate_nesting=2), FreeBits(free, max_plate_nesting=2)))
    assert more - plain == pytest.approx(4 * 2 * (free - kl), rel=1e-5)


def test_free_bits_are_told_from_the_elbo_on_disk():
    assert described(FreeBits(0.1)) != described(FreeBits(0.2)) and described(FreeBits(0.1)).startswith("FreeBits(")
    with pytest.raises(ValueError, match="free is -1"):
        FreeBits(-1)


# E-steps until the bound stops


def test_they_stop_where_the_bound_does_and_leave_w_alone(x, monkeypatch):
    model, guide = pair()
    svi, batches = SVI(model, guide), data.Batches(x, 50)
    before, losses = (
        [p.detach().clone() for p in model.parameters()],
        iter([3.0] * 10 + [2.0] * 20 + [0.0]),
    )
    step, seen = svi.e_step, []

    def told(*args, **kwargs):
        step(*args, **kwargs)
        seen.append(args[1])
        return torch.tensor(next(losses))

    monkeypatch.setattr(svi, "e_step", told)
    loop.until_it_stops(svi, batches)
    assert len(seen) == 30 and all(map(torch.equal, before, model.parameters()))
    assert all(len(rows.unique()) == 50 for rows in seen) and not torch.equal(seen[0].sort()[0], seen[1].sort()[0])


def test_they_stop_after_a_hundred(x, monkeypatch):
    svi, falling = SVI(*pair()), itertools.count(0, -1)
    monkeypatch.setattr(svi, "e_step", lambda *args, **kwargs: torch.tensor(float(next(falling))))
    loop.until_it_stops(svi, data.Batches(x, 50))
    assert next(falling) == -100


def test_one_joint_step_follows_and_gradients_count_them(x):
    svi = SVI(*pair())
    (step,) = itertools.islice(em(svi, data.Batches(x, 50), e_steps="converged"), 1)
    assert step.step == 1 and step.passes > 20 and step.passes % 10 == 1


def test_a_training_with_them_resumes_bit_for_bit(x, tmp_path):
    def one(out, **options):
        torch.manual_seed(0)
        model, guide = pair()
        settings = {"batch_size": 100, "e_steps": "converged", "schedule": "constant", "seed": 3}
        fit(model, guide, x, out=out, **settings, **options)
        return [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]

    one(tmp_path / "cut", epochs=1)
    assert all(map(torch.equal, one(tmp_path / "cut", epochs=2, resume=True), one(tmp_path / "whole", epochs=2)))


def test_a_source_has_no_other_batches(x):
    with pytest.raises(ValueError, match="e_steps is 'converged', which draws batches of any points, but x yields"):
        fit(*pair(), iter([]), size=N, epochs=1, e_steps="converged")
    with pytest.raises(ValueError, match="e_steps is 'often'; expected a whole number, at least 1, or 'converged'"):
        fit(*pair(), x, epochs=1, e_steps="often")
