r"""Newton steps, curvatures and the Fisher information against what is known exactly."""

import math
from functools import partial

import cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dlgm import DLGM, Points, likelihoods, nets, priors
from pyro_dlgm.distributions import fisher
from pyro_dlgm.likelihoods.bernoulli import ContinuousBernoulliPixels
from pyro_dlgm.likelihoods.discretized_logistic import DiscretizedLogisticPixels
from pyro_dlgm.modes import newton
from pyro_dlgm.modes.curvature import FLAT, inverse_factor, repaired
from pyro_dlgm.modes.joint import Joint, quietly
from pyro_dlgm.modes.newton import Look, climb

B, D, P = 5, 3, 7

# The Fisher information


def parameters(kind: str, n: int = 40):
    r"""Parameters of n pixels in float64, and the distribution that they have."""
    mu, s = torch.randn(n).double(), 0.1 + torch.rand(n).double()
    return {
        "normal": ((mu, s), dist.Normal),
        "bernoulli": ((3 * mu,), lambda l: dist.Bernoulli(logits=l)),
        "continuous_bernoulli": ((3 * mu,), ContinuousBernoulliPixels),
        "logistic": ((mu + 0.5, s), partial(DiscretizedLogisticPixels, levels=9)),
        "logistic_of_bytes": ((mu + 0.5, s / 9), partial(DiscretizedLogisticPixels, levels=256)),
    }[kind]


def values(kind: str) -> tuple[torch.Tensor, bool]:
    r"""Places in x for an expectation, and whether they are all there are."""
    if kind == "normal":
        return torch.linspace(-20, 20, 100_001, dtype=torch.float64), False
    if kind == "continuous_bernoulli":
        return (torch.arange(20_000).double() + 0.5) / 20_000, False
    levels = {"bernoulli": 2, "logistic": 9, "logistic_of_bytes": 256}[kind]
    return torch.arange(levels).double() / (levels - 1), True


@pytest.mark.parametrize("kind", ["normal", "bernoulli", "continuous_bernoulli", "logistic", "logistic_of_bytes"])
def test_the_information_is_the_mean_of_the_squared_score(kind):
    theta, make = parameters(kind)
    found = fisher(make(*theta).to_event(1))
    torch.testing.assert_close(found.parameters, torch.stack(theta, -1))
    x, whole = values(kind)
    for n in range(0, 40, 8):
        each = [v[n].expand_as(x).clone().requires_grad_() for v in theta]
        log_p = make(*each).log_prob(x)
        score = torch.stack(torch.autograd.grad(log_p.sum(), each), -1)
        weight = log_p.detach().exp() * (1.0 if whole else x[1] - x[0])
        expected = torch.einsum("k,ki,kj->ij", weight, score, score)
        torch.testing.assert_close(found.information[n], expected, rtol=1e-5, atol=1e-9)


def test_the_information_of_a_saturated_level_is_a_number_in_float32():
    mu, s = torch.tensor([-0.4, 0.0, 0.5, 1.0, 1.6]), torch.full((5,), 5e-4)
    single, double = (fisher(DiscretizedLogisticPixels(mu.to(t), s.to(t), 256)) for t in (torch.float32, torch.float64))
    torch.testing.assert_close(single.information.double(), double.information, rtol=1e-3, atol=1e-3)


def test_what_says_nothing_has_no_information():
    assert fisher(dist.Laplace(torch.zeros(3), 1.0).to_event(1)) is None
    assert fisher(dist.Normal(torch.zeros(3), 1.0).mask(torch.ones(3).bool()).to_event(1)) is None


# Curvatures


def linear(likelihood=likelihoods.Bernoulli, **settings) -> DLGM:
    return DLGM(priors.StandardNormal(D), likelihood(nets.Linear(D, P), **settings)).double()


def exact(model, points, t):
    r"""−∂² log p(x, t | w) by autograd, point by point."""

    def density(b, v):
        one = points[b : b + 1]
        return model.log_joint(one.x, v.unsqueeze(0), one.mask).sum()

    return -torch.stack([torch.autograd.functional.hessian(partial(density, b), t[b]) for b in range(len(t))])


def looked(model, points, t):
    joint, rows = Joint(model, points), torch.arange(len(t))
    with quietly():
        value, gradient = joint.value_and_gradient(t, rows)
        return Look(value, gradient, *joint.curvature(t, rows, value)), joint


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [likelihoods.Bernoulli, likelihoods.ContinuousBernoulli, likelihoods.FixedNormal])
def test_gauss_newton_is_exact_where_parameters_are_linear(kind, masked):
    model = linear(kind)
    x = cases.points(model, B).double()
    mask = torch.rand(B, P) < 0.5 if masked else None
    points, t = Points(x if mask is None else x.masked_fill(~mask, math.nan), mask=mask), torch.randn(B, D).double()
    look, joint = looked(model, points, t)
    filled = Points(x, mask=mask)
    torch.testing.assert_close(look.curvature, exact(model, filled, t))
    torch.testing.assert_close(look.value, model.log_joint(x, t, mask).detach())
    assert joint.gradients == B * (1 + D) and not look.repaired.any()


def test_a_likelihood_without_information_has_the_exact_curvature():
    model = cases.conv(likelihood="low_rank").double()
    points, t = Points(model(size=B).detach()), 0.3 * torch.randn(B, D).double()
    look, joint = looked(model, points, t)
    H = exact(model, points, t)
    fine = torch.linalg.eigvalsh(H).amin(-1) > FLAT
    assert torch.equal(~fine, look.repaired) and joint.gradients == B * (1 + 2 * D)
    torch.testing.assert_close(look.curvature[fine], H[fine])


class Watched(DLGM):
    r"""A model with a second thing that is observed: y ~ N(2 t_1, 0.1²), at 0."""

    def datum(self, x=None, mask=None, *, given=None, t=None):
        t = pyro.sample(self.latent, self.prior()) if t is None else t
        x = pyro.sample(self.observed, self.likelihood(t, mask), obs=x)
        pyro.sample("y", dist.Normal(2 * t[..., 0], 0.1), obs=torch.zeros_like(t[..., 0]))
        return x


def test_a_further_site_counts_in_the_curvature():
    model = Watched(priors.StandardNormal(D), likelihoods.FixedNormal(nets.Linear(D, P))).double()
    points, t = Points(torch.randn(B, P).double()), torch.randn(B, D).double()
    look, _ = looked(model, points, t)
    torch.testing.assert_close(look.curvature, exact(model, points, t))
    assert (look.curvature[:, 0, 0] > 400).all()


class Student(nn.Module):
    r"""p(t) with heavy tails: convex in them."""

    def forward(self, given=None):
        return dist.StudentT(3.0, torch.zeros(1).double(), torch.ones(1).double()).to_event(1)


def test_a_prior_that_is_no_normal_has_its_own_curvature():
    model = DLGM(Student(), likelihoods.FixedNormal(nets.Linear(1, 2), 3.0)).double()
    points, t = Points(torch.zeros(B, 2).double()), torch.tensor([[0.0], [0.5], [1.0], [4.0], [9.0]]).double()
    look, _ = looked(model, points, t)
    H = exact(model, points, t)
    fine = ~look.repaired
    assert fine.any() and not fine.all()
    torch.testing.assert_close(look.curvature[fine], H[fine])
    assert (look.curvature[~fine] >= FLAT / 3 - 1e-9).all()  # the prior's variance is 3


def test_negative_and_flat_eigenvalues_are_repaired():
    C = torch.diag_embed(torch.tensor([[4.0, 2.0], [-4.0, 2.0], [0.001, 2.0], [math.nan, 2.0]]))
    found, wrong = repaired(C, torch.ones(4, 2))
    assert wrong.tolist() == [False, True, True, False]
    expected = torch.tensor([[4.0, 2.0], [4.0, 2.0], [FLAT, 2.0]]).double()
    torch.testing.assert_close(found.diagonal(dim1=-2, dim2=-1)[:3], expected)
    scaled, wrong = repaired(C[:1], torch.tensor([[0.1, 1.0]]))  # next to nothing, where the prior's curvature is 100
    assert wrong.tolist() == [True] and scaled[0, 0, 0] == pytest.approx(100 * FLAT)


def test_the_factor_is_that_of_the_inverse():
    A = torch.randn(B, D, D).double()
    C = A @ A.mT + torch.eye(D)
    T = inverse_factor(C)
    torch.testing.assert_close(T @ T.mT, torch.linalg.inv(C))
    assert torch.equal(T, T.tril()) and inverse_factor(-C).isnan().all()


# Newton steps


class Parabola:
    r"""f = −½ (t − m)ᵀ A (t − m), asked for and counted."""

    def __init__(self, n=4):
        A = torch.randn(n, D, D).double()
        self.A, self.m, self.bends = A @ A.mT + torch.eye(D), torch.randn(n, D).double(), 0

    def value_and_gradient(self, t, rows):
        d = (t - self.m[rows]).unsqueeze(-1)
        g = -(self.A[rows] @ d)
        return 0.5 * (d.mT @ g).flatten(), g.squeeze(-1)

    def curvature(self, t, rows, value):
        self.bends += 1
        return self.A[rows].clone(), torch.zeros_like(rows).bool()


def test_a_parabola_is_climbed_at_once():
    f = Parabola()
    top = climb(f, torch.zeros(4, D).double(), max_steps=20, tol=1e-4)
    torch.testing.assert_close(top.t, f.m)
    torch.testing.assert_close(top.value, torch.zeros(4).double())
    assert top.converged.all() and f.bends == 2  # where it starts, and where it ends


def test_damping_goes_down_where_the_model_is_right(monkeypatch):
    r"""From a damping of 1e6, at which a step goes a millionth of the way."""
    monkeypatch.setattr(newton, "DAMPING", 1e6)
    f = Parabola()
    top = climb(f, torch.zeros(4, D).double(), max_steps=20, tol=1e-4)
    assert top.converged.all() and f.bends == 2


class Valley(Parabola):
    r"""The ridge of Rosenbrock, f = −(100 (t_2 − t_1²)² + (1 − t_1)²), whose steps must be damped; NaN beyond 10."""

    def value_and_gradient(self, t, rows):
        a, b = t.unbind(-1)
        value = torch.where(t.abs().amax(-1) > 10, math.nan, -(100 * (b - a**2) ** 2 + (1 - a) ** 2))
        return value, torch.stack([400 * a * (b - a**2) + 2 * (1 - a), -200 * (b - a**2)], -1)

    def curvature(self, t, rows, value):
        self.bends += 1
        zero, a = torch.zeros_like(value), t[:, 0]
        J = torch.stack([torch.stack([-20 * a, 10 + zero], -1), torch.stack([-1 + zero, zero], -1)], -2)
        return 2 * J.mT @ J, zero.bool()


def test_a_curved_ridge_is_climbed_and_never_left():
    f, start = Valley(), torch.tensor([[-1.2, 1.0], [3.0, -4.0], [0.0, 9.0], [1.0, 1.0]]).double()
    top = climb(f, start, max_steps=200, tol=1e-10)
    torch.testing.assert_close(top.t, torch.ones(4, 2).double(), rtol=1e-4, atol=1e-4)
    assert top.converged.all()
    before, _ = f.value_and_gradient(start, None)
    for steps in range(1, 8):
        now = climb(f, start, max_steps=steps, tol=1e-10).last.value
        assert (now >= before - 1e-12).all()
        before = now


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_curvature_is_always_that_of_the_last_place(steps):
    f, start = Valley(), torch.tensor([[-1.2, 1.0], [0.0, 9.0], [0.9, 0.8]]).double()
    top = climb(f, start, max_steps=steps, tol=1e-12)
    before = torch.where(top.converged.unsqueeze(-1), math.nan, top.t)  # the last step of others is taken after it
    expected, _ = f.curvature(before, torch.arange(3), before[:, 0])
    going = ~top.converged
    assert going.any()
    torch.testing.assert_close(top.last.curvature[going], expected[going])


def test_who_does_not_arrive_is_told():
    f, start = Valley(), torch.tensor([[-1.2, 1.0], [1.0, 1.0]]).double()
    top = climb(f, start, max_steps=2, tol=1e-8)
    assert top.converged.tolist() == [False, True]
    assert torch.equal(top.t[1], start[1])


def test_a_function_without_a_number_has_not_arrived():
    top = climb(Valley(), torch.full((1, 2), 20.0).double(), max_steps=5, tol=1e-4)
    assert not top.converged.any()
