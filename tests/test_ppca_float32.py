r"""PPCA in float32: all that it computes is computed in float64, at its parameters as they are."""

import copy
import math

import pytest
import torch

from pyro_dlgm import PPCA, evaluate, fit, guides
from pyro_dlgm.evaluate.snapshot import Snapshot

CASES = [(10, 3, 1e-1), (10, 3, 1e-4), (10, 3, 1e-5), (784, 8, 2e-2), (784, 8, 1e-5)]  # pixels, latents, noise / signal


def points(P=10, D=3, noise=1e-4, N=200, scale=1.0):
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return ((draw(N, D) @ draw(D, P) + noise * draw(N, P)) * scale).float()


def holes(x):
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.3


def pair(P, D, noise, scale=1.0):
    r"""A model in float32 whose loadings are rotated, the same in float64, and points."""
    x = points(P, D, noise, scale=scale)
    coarse = PPCA.fit(x, D)
    R = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(2))).Q
    coarse.set(coarse.W.detach() @ R, coarse.mu.detach(), coarse.likelihood.u.detach().double().mul(2).exp())
    return coarse, copy.deepcopy(coarse).double(), x


def by_qr(ppca, x):
    r"""log p(x | w) by a QR of [V; I] in float64: no square of V is built."""
    V, r = (v.detach() / ppca.sigma2.detach().sqrt() for v in (ppca.W, x.double() - ppca.mu))
    P, D = V.shape
    Q, R = torch.linalg.qr(torch.cat([V, torch.eye(D, dtype=V.dtype)]))
    r = torch.cat([r, r.new_zeros(len(r), D)], 1)
    log_det = P * ppca.sigma2.detach().log() + 2 * R.diagonal().abs().log().sum()
    return -0.5 * (P * math.log(2 * math.pi) + log_det + (r - r @ Q @ Q.mT).square().sum(1))


@pytest.mark.parametrize("case", CASES)
def test_the_evidence_is_that_of_float64(case):
    coarse, fine, x = pair(*case)
    found = coarse.log_prob(x)
    assert found.dtype == torch.float32
    assert (fine.log_prob(x.double()) - by_qr(fine, x)).abs().max() < 1e-4
    assert (found - by_qr(fine, x)).abs().max() < 0.01
    assert (coarse.log_prob(x, holes(x)) - fine.log_prob(x.double(), holes(x))).abs().max() < 0.01


@pytest.mark.parametrize("case", CASES)
def test_a_mask_of_nothing_changes_nothing(case):
    coarse, _, x = pair(*case)
    assert (coarse.log_prob(x, torch.ones_like(x, dtype=torch.bool)) - coarse.log_prob(x)).abs().max() < 0.01


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_posterior_is_that_of_float64(case, masked):
    coarse, fine, x = pair(*case)
    mask = holes(x) if masked else None
    q, p = coarse.posterior(x, mask), fine.posterior(x.double(), mask)
    assert q.mean.dtype == q.scale_tril.dtype == torch.float32
    torch.testing.assert_close(q.mean.double(), p.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(q.scale_tril.double(), p.scale_tril, rtol=1e-6, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_that_of_float64(masked):
    coarse, fine, x = pair(10, 3, 1e-4)
    mask = holes(x) if masked else None
    ours = torch.autograd.grad(coarse.log_prob(x, mask).mean(), list(coarse.parameters()))
    theirs = torch.autograd.grad(fine.log_prob(x.double(), mask).mean(), list(fine.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


@pytest.mark.parametrize("case", [(10, 3, 1e-4), (784, 8, 2e-2)])
def test_the_elbo_of_the_exact_posterior_is_not_above_the_evidence(case):
    coarse, fine, x = pair(*case)
    bound = evaluate.elbo(coarse, guides.Exact(coarse), x, num_samples=10, seed=0)
    assert abs((bound - coarse.log_prob(x)).mean()) < 1e-3
    assert abs((bound - by_qr(fine, x)).mean()) < 1e-3


def test_what_tensorboard_and_reports_call_log_px_is_the_evidence():
    coarse, fine, x = pair(10, 3, 1e-4)
    found = Snapshot(coarse, guides.Exact(coarse), x).bounds()
    assert found["log_px"] == pytest.approx(float(by_qr(fine, x).mean()), abs=1e-3)
    assert found["elbo"] == pytest.approx(found["log_px"], abs=1e-2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", [(10, 3, 1e-4), (784, 8, 1e-3)])
def test_em_is_monotone_but_for_the_rounding_of_its_parameters(case, masked):
    x = points(*case)
    mask = holes(x) if masked else None
    torch.manual_seed(0)
    ppca = PPCA(case[1], case[0])
    path = torch.stack([ppca.em_step(x, mask) for _ in range(60)])
    assert path.dtype == torch.float32
    assert path.diff().min() > -2e-3
    best = PPCA.fit(x.double(), case[1], mask=mask)
    assert abs(path[-1] - best.log_prob(x.double(), mask).mean()) < 1e-2


def test_gradients_through_exact_reach_the_maximum():
    x = points(noise=0.3)
    torch.manual_seed(0)
    ppca = PPCA(3, 10)
    fit(ppca, guides.Exact(ppca), x, epochs=150, batch_size=50, lr=2e-2, seed=0)
    assert abs(ppca.log_prob(x).mean() - PPCA.fit(x.double(), 3).log_prob(x.double()).mean()) < 0.05


@pytest.mark.parametrize("scale", [2.0**67, 2.0**-50])  # 1e20: powers of 2 round no x anew
@pytest.mark.parametrize("noise", [1e-2, 1e-5])
def test_any_units_of_x_are_right(scale, noise):
    unit, x = PPCA.fit(points(noise=noise), 3), points(noise=noise, scale=scale)
    ppca, offset = PPCA.fit(x, 3), 10 * math.log(scale)
    assert (ppca.log_prob(x) + offset - unit.log_prob(points(noise=noise))).abs().max() < 0.01
    mask = holes(x)
    assert (ppca.log_prob(x, mask) - copy.deepcopy(ppca).double().log_prob(x.double(), mask)).abs().max() < 0.01
    q, p = ppca.posterior(x), unit.posterior(points(noise=noise))
    torch.testing.assert_close(q.mean, p.mean, rtol=1e-3, atol=1e-3)
    start = ppca.log_prob(x).mean()
    steps = [ppca.em_step(x) for _ in range(5)] + [ppca.em_step(x, mask) for _ in range(5)]
    assert torch.stack(steps).isfinite().all() and abs(steps[4] - start) < 0.01
    assert PPCA.fit(x, 3, mask=mask).log_prob(x, mask).isfinite().all()


def test_scales_too_far_apart_are_named():
    ppca = PPCA(2, 5).double()
    with torch.no_grad():
        ppca.likelihood.u.fill_(-400.0)
    with pytest.raises(torch.linalg.LinAlgError, match=r"W up to .*, σ = .*; expected .*: choose fewer latents"):
        ppca.log_prob(torch.randn(3, 5, dtype=torch.float64))
