"""Quadrature against what is known exactly; what it cannot do, it says."""

import importlib
import math
import warnings

import pyro
import pytest
import torch

from pyro_dlgm import DLGM, PPCA, evaluate, guides, likelihoods, masks, nets, priors
from pyro_dlgm.evaluate.marginal.annealing.ais import ais
from pyro_dlgm.evaluate.marginal.quadrature import quadrature

whole, cells = (importlib.import_module(f"pyro_dlgm.evaluate.marginal.{name}") for name in ("quadrature", "cells"))


def linear(latents, P, num, scale=0.7):
    """PPCA with a random W, points of it, and their log p(x | w), in float64."""
    ppca = PPCA(latents, P, scale).double()
    ppca.set(torch.randn(P, latents).double(), torch.randn(P).double(), ppca.sigma2.detach())
    x = ppca(size=num).detach()
    return ppca, x, ppca.log_prob(x).detach()


def record(monkeypatch, what):
    """A list of what(owner, width, u) of all cells from here on, call by call."""
    seen, log_joint = [], cells.log_joint
    monkeypatch.setattr(whole, "log_joint", lambda *args: seen.append(what(*args[3:])) or log_joint(*args))
    return seen


@pytest.mark.parametrize("latents", [1, 2, 3])
@pytest.mark.parametrize("scale", [2.0, 0.15])
def test_quadrature_is_the_evidence_of_ppca(latents, scale):
    ppca, x, exact = linear(latents, 8, 5, scale)
    assert (quadrature(ppca, x) - exact).abs().max() < 1e-3
    mask = torch.rand_like(x) > 0.3
    hole = x.masked_fill(~mask, math.nan)
    assert (quadrature(ppca, hole, mask=mask) - ppca.log_prob(x, mask)).abs().max() < 1e-3


def test_quadrature_takes_more_points_than_a_block_and_float32():
    ppca, x, exact = linear(2, 8, 50)
    found = quadrature(ppca.float(), x.float())
    assert found.dtype == torch.float64 and (found - exact).abs().max() < 2e-3


def test_quadrature_follows_a_posterior_beyond_the_grid():
    ppca, _, _ = linear(2, 8, 4, scale=0.3)
    far = (
        torch.tensor([[9.0, -1.0], [0.0, 14.0], [0.5, 0.5], [-5.9, 5.9]]).double() @ ppca.W.detach().mT
        + ppca.mu.detach()
    )
    assert (quadrature(ppca, far) - ppca.log_prob(far)).abs().max() < 1e-3


@pytest.mark.parametrize("latents", [1, 2, 3])
def test_quadrature_finds_what_is_narrow_and_far_away(latents):
    ppca, _, _ = linear(latents, 8, 4, scale=0.02)
    far = torch.tensor([[7.0, -1.0, 3.0], [0.3, 9.0, -8.0], [13.0, 0.1, -0.2], [2.9, 0.0, 0.7]]).double()
    x = far[:, :latents] @ ppca.W.detach().mT + ppca.mu.detach()
    assert (quadrature(ppca, x) - ppca.log_prob(x)).abs().max() < 1e-3


@pytest.mark.parametrize("tol", [1e-3, 1.0, 20.0])
def test_no_tolerance_hides_mass_beyond_the_grid(tol):
    ppca, _, _ = linear(2, 8, 2)
    far = torch.tensor([[14.0, 0.5], [9.0, 0.0]]).double() @ ppca.W.detach().mT + ppca.mu.detach()
    assert (quadrature(ppca, far, tol=tol) - ppca.log_prob(far)).abs().max() < tol


def test_a_point_without_density_is_reported_and_leaves_the_others_alone():
    ppca, x, exact = linear(1, 3, 4)
    x[2] = 1e160
    with pytest.warns(UserWarning, match="at 1 of 4"):
        found = quadrature(ppca, x)
    assert found[2] == -math.inf and (found - exact)[[0, 1, 3]].abs().max() < 1e-3


@pytest.mark.parametrize(("scale", "share"), [(0.05, 0), (0.03, 0.05), (0.02, 0.05), (0.01, 0.05)])
def test_ridges_between_the_nodes_keep_their_mass(scale, share, monkeypatch):
    """One number says where t is across a ridge: nodes that lie on it by chance are far above those beside the mode.

    Nothing is promised of the narrow ones. Without a second look at wide cells, more than half of them are wrong.
    """
    angles = torch.linspace(0, math.pi, 16, dtype=torch.float64)[:-1]
    x = torch.tensor([[0.1], [-0.73], [1.9]]).double()

    def wrong():
        errors = []
        for angle in angles:
            ridge = PPCA(2, 1, 1.0).double()
            direction = torch.stack([angle.cos(), angle.sin()]).unsqueeze(0)
            ridge.set(direction, torch.zeros(1).double(), torch.tensor(scale**2).double())
            errors.append(quadrature(ridge, x) - ridge.log_prob(x))
        return (torch.cat(errors).abs() > 1e-3).double().mean()

    assert wrong() <= share
    monkeypatch.setattr(whole, "_narrow", lambda h: whole.NARROW)
    assert wrong() > 0.5 if share else wrong() == 0


def test_one_point_with_too_many_cells_is_left_and_reported(monkeypatch):
    monkeypatch.setattr(whole, "CELLS", 500)
    ppca, x, _ = linear(2, 8, 3, scale=0.02)
    with pytest.warns(UserWarning, match="not settled"):
        found = quadrature(ppca, x)
    assert found.isfinite().all()


def test_quadrature_refines_no_grid_that_is_too_small(monkeypatch):
    """Mass that the edge cuts in two would be refined to the finest cells, in vain."""
    widths = record(monkeypatch, lambda owner, width, u: float(width.max()))
    ppca, _, _ = linear(2, 8, 4, scale=0.3)
    far = torch.tensor([[9.0, -1.0]]).double() @ ppca.W.detach().mT + ppca.mu.detach()
    assert (quadrature(ppca, far) - ppca.log_prob(far)).abs().max() < 1e-3
    # The cells around the first grid, which reach 12, are of width 2; those around 12 would be of width 4.
    assert widths[:3] == [1, 0.5, 2] and 4 not in widths


class Square(torch.nn.Module):
    """μ = t², which has two modes of the posterior on each axis, far apart and narrow."""

    heads = 1

    def forward(self, t):
        return 4 * t.square()


@pytest.mark.parametrize("latents", [1, 2])
def test_quadrature_finds_all_modes(latents):
    model = DLGM(priors.StandardNormal(latents), likelihoods.FixedNormal(Square(), 0.5).double()).double()
    x = torch.tensor([3.0, 7.0, 1.3, 0.0]).double().unsqueeze(1).repeat(1, latents)
    axis = torch.linspace(-8, 8, 200_001, dtype=torch.float64).reshape(-1, 1, 1)
    one = DLGM(priors.StandardNormal(1), model.likelihood).double()
    exact = one.log_joint(x[:, :1], axis.expand(-1, 4, 1)).logsumexp(0) + math.log(16 / 200_000)
    assert (quadrature(model, x) - latents * exact).abs().max() < 1e-3


class Wide(priors.StandardNormal):
    """N(1, 3² I) instead of N(0, I)."""

    def forward(self):
        return pyro.distributions.Normal(self.loc + 1, 3 * self.scale).to_event(1)


def test_quadrature_takes_the_prior_as_it_is():
    ppca, x, _ = linear(2, 8, 5)
    W, mu = ppca.W.detach(), ppca.mu.detach()
    wide = PPCA(2, 8, 0.7).double()
    wide.set(W / 3, mu - W.sum(1) / 3, wide.sigma2.detach())
    wide.prior = Wide(2).double()
    assert (quadrature(wide, x) - ppca.log_prob(x)).abs().max() < 1e-3


def test_quadrature_refuses_what_it_cannot_do_and_says_what_it_did_not_reach():
    ppca, x, _ = linear(4, 8, 3)
    with pytest.raises(ValueError, match=r"4 latents.*evaluate\.ais"):
        quadrature(ppca, x)
    ppca, x, _ = linear(2, 8, 3)
    with pytest.raises(ValueError, match="tol is 0"):
        quadrature(ppca, x, tol=0)
    with pytest.raises(ValueError, match="no points"):
        quadrature(ppca, x[:0])
    ppca, x, _ = linear(1, 8, 3, scale=1e-3)
    with pytest.warns(UserWarning, match=r"not settled to 0\.001 nats at 3 of 3"):
        quadrature(ppca, x)


# Quadrature by tables: after a Bernoulli a node is decoded once for all points of a block


class Pairwise(likelihoods.Bernoulli):
    """The same density; a class of one's own has no table."""


def twins(latents, pixels=12, gain=3.0, prior=priors.StandardNormal):
    """A Bernoulli model, the same one pair by pair, and what both share: the network and the prior."""
    net = nets.MLP(latents, (pixels,), (8,))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(gain)
    kinds = likelihoods.Bernoulli, Pairwise
    return [DLGM(prior(latents), kind(net)).double() for kind in kinds]


STANDARD = priors.StandardNormal


@pytest.mark.parametrize(
    ("latents", "num", "prior"), [(1, 23, STANDARD), (2, 23, STANDARD), (3, 3, STANDARD), (2, 9, Wide)]
)
@pytest.mark.parametrize("missing", [None, "pixels", "points"])
def test_tables_change_no_value(latents, num, prior, missing, monkeypatch):
    monkeypatch.setattr(whole, "POINTS", 4 if num > 4 else 2)
    monkeypatch.setattr(cells, "NODES", 50 if latents < 3 else 500)
    model, pairwise = twins(latents, prior=prior)
    x = model(size=num).detach()
    mask = {None: None, "pixels": torch.rand_like(x) > 0.3, "points": torch.arange(num) % 4 != 1}[missing]
    hole = x if mask is None else x.masked_fill(~masks.pixelwise(mask, 2), math.nan)
    found, expected = quadrature(model, hole, mask=mask), quadrature(pairwise, hole, mask=mask)
    assert expected.unique().numel() > num // 4
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    order = torch.randperm(num)
    again = quadrature(model, hole[order], mask=None if mask is None else mask[order])
    torch.testing.assert_close(again, found[order], rtol=0, atol=1e-8)


@pytest.mark.parametrize("missing", [False, True])
def test_a_block_with_too_many_cells_goes_on_in_halves_and_changes_no_value(missing, monkeypatch):
    model, _ = twins(2)
    x = model(size=21).detach()
    mask = torch.rand_like(x) > 0.3 if missing else None
    expected = quadrature(model, x, mask=mask)
    calls = record(monkeypatch, lambda owner, width, u: len(owner) if width.max() < 1 else 0)
    assert torch.equal(quadrature(model, x, mask=mask), expected)
    most = max(calls) // 3
    calls.clear()
    monkeypatch.setattr(whole, "CELLS", most)
    torch.testing.assert_close(quadrature(model, x, mask=mask), expected, rtol=0, atol=1e-8)
    assert most // 4 < max(calls) <= most


class Steep(torch.nn.Module):
    """l_j = 4 (t_1 − 9) for all pixels, and nothing of the other latents."""

    heads = 1

    def forward(self, t):
        return (4 * (t[..., :1] - 9)).expand(*t.shape[:-1], 30)


@pytest.mark.parametrize("latents", [1, 2])
def test_tables_follow_a_posterior_beyond_the_grid(latents, monkeypatch):
    reaches = record(monkeypatch, lambda owner, width, u: float(u.abs().max()))
    models = [
        DLGM(priors.StandardNormal(latents), kind(Steep())).double() for kind in (likelihoods.Bernoulli, Pairwise)
    ]
    x = torch.stack([torch.ones(30), torch.zeros(30), torch.ones(30)]).double()
    x[2, :15] = 0.0
    found, expected = (quadrature(model, x) for model in models)
    assert max(reaches) > whole.HALF_WIDTH
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    one = DLGM(priors.StandardNormal(1), models[0].likelihood).double()
    torch.testing.assert_close(found, summed(one, x), rtol=0, atol=1e-3)


def summed(model, x):
    """log p(x | w) of a model with one latent, on a fine grid."""
    axis = torch.linspace(-20, 20, 40_001, dtype=torch.float64).reshape(-1, 1, 1).expand(-1, len(x), 1)
    return model.log_joint(x, axis).logsumexp(0).detach() + math.log(40 / 40_000)


class Tempered(likelihoods.Bernoulli):
    """Half of the logits."""

    def pixels(self, t):
        return pyro.distributions.Bernoulli(logits=self.net(t) / 2)


class Weighted(DLGM):
    """The prior counts twice."""

    def log_joint(self, x, t, mask=None):
        return super().log_joint(x, t, mask) + self.prior().log_prob(t)


def test_what_has_another_density_gets_its_own_answer():
    model, _ = twins(1)
    x = model(size=6).detach()
    tempered = DLGM(model.prior, Tempered(model.likelihood.net))
    weighted = Weighted(model.prior, model.likelihood)
    assigned = DLGM(model.prior, model.likelihood)
    assigned.log_joint = weighted.log_joint
    values = [summed(model, x)]
    for other in (tempered, weighted, assigned):
        values.append(summed(other, x))
        torch.testing.assert_close(quadrature(other, x), values[-1], rtol=0, atol=1e-3)
    assert ((values[0] - torch.stack(values[1:])).abs() > 0.1).any(1).all()


def test_a_node_is_decoded_once_for_the_points_of_a_block(monkeypatch):
    def decoded(model):
        rows = []
        handle = model.likelihood.net.register_forward_hook(lambda net, inputs, output: rows.append(len(inputs[0])))
        quadrature(model, x)
        handle.remove()
        return sum(rows), max(rows)

    model, pairwise = twins(2)
    x = model(size=40).detach()
    assert 5 * decoded(model)[0] < decoded(pairwise)[0]
    monkeypatch.setattr(cells, "NUMBERS", 60 * x.shape[1])
    assert decoded(model)[1] <= 60 and decoded(pairwise)[1] <= 60


@pytest.mark.parametrize("latents", [1, 2, 3])
def test_no_two_cells_have_one_place_and_those_of_a_cube_stand_together(latents):
    most = round(whole.WIDEST / whole.FINEST)
    edge = torch.tensor([-most, -most + 1, -17, -16, -1, 0, 1, 15, 16, most - 1])
    lattice = [
        torch.cartesian_prod(*[edge] * latents).reshape(-1, latents),
        torch.randint(-most, most, (50_000, latents)),
    ]
    lattice = torch.cat(lattice).unique(dim=0)
    places = places_of(lattice, whole.FINEST)
    assert places.min() >= 0 and places.unique().numel() == len(lattice)
    cubes, within = lattice.div(cells.SIDE, rounding_mode="floor"), places // cells.SIDE**latents
    assert cubes.unique(dim=0).shape[0] == within.unique().numel()
    assert (cubes[within.argsort(stable=True)].diff(dim=0) != 0).any(1).sum() == within.unique().numel() - 1
    inner = lattice[(lattice >= -6).all(1) & (lattice < 6).all(1)]
    widths = [2.0**k for k in range(-9, 3)]
    assert torch.cat([places_of(inner, width) for width in widths]).unique().numel() == len(widths) * len(inner)


def places_of(lattice, width):
    """Places of the cells of a width whose lower corners are at the points of a lattice, in units of the width."""
    u = (lattice + 0.5).float() * width
    return cells._places(torch.full_like(u[:, 0], width), u)


@pytest.mark.parametrize("make", [lambda: twins(1)[0], lambda: twins(1)[1]])
def test_quadrature_refuses_points_that_the_likelihood_does_not_take(make):
    model = make()
    x = model(size=4).detach()
    half, nan, wide = x.clone(), x.clone(), x[:, :5]
    half[2, 3], nan[1, 0] = 0.5, math.nan
    for points, words in (
        (half, r"outside the support of \w+ in rows \[2\] \(x goes from 0 to 1\): binarize x"),
        (nan, r"rows \[1\], NaN"),
        (wide, r"x has shape \(4, 5\); this likelihood expects points of shape \(12,\)"),
        (x.unsqueeze(1), r"x has shape \(4, 1, 12\)"),
        (x[0], r"x has shape \(12,\)"),
        (x.bool(), "dtype torch.bool"),
    ):
        with pytest.raises(ValueError, match=words):
            quadrature(model, points)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[2, 3] = False
    assert quadrature(model, half, mask=mask).isfinite().all()
    with pytest.raises(ValueError, match="mask has shape"):
        quadrature(model, x, mask=mask[:, :5])


def test_a_mode_that_q_does_not_know_is_known_to_quadrature_and_to_ais_from_the_prior():
    """k̂ cannot see what no sample has met: q on one of two modes is silent, half of p(x | w) is missing."""
    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(Square(), 0.5)).double()
    x = torch.full((10, 1), 9.0, dtype=torch.float64)
    exact = quadrature(model, x)
    q = guides.MeanField(10, 1).double().set_rows(torch.tensor([[1.5, math.log(0.06)]]).double().repeat(10, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = evaluate.iwae(model, q, x, torch.arange(10), 1000, seed=0)
    assert (one - exact + math.log(2)).abs().max() < 0.1
    found = ais(model, None, x, num_chains=64, num_temperatures=100, num_leapfrog=5, seed=0)
    assert abs((found.log_px - exact).mean()) < 0.1


def test_a_change_that_is_small_by_chance_settles_nothing():
    r"""A mode at m that the midpoints of width 1 and of width ½ miss by as much: both are wrong by 1.4 nats."""
    s, axis = 0.05, torch.arange(-12, 12, dtype=torch.float64)

    def mass(m, h):
        u = h * (axis + 0.5)
        return h * (-0.5 * ((u - m) / s) ** 2).exp().sum()

    low, high = 0.6, 0.7  # where the wider cells, and where the narrower ones have more
    for _ in range(60):
        m = (low + high) / 2
        low, high = (m, high) if mass(m, 1.0) > mass(m, 0.5) else (low, m)
    missed = mass(m, 1.0).log() - math.log(s * (2 * math.pi) ** 0.5)
    ppca = PPCA(1, 1, 1.0).double()
    variance = torch.tensor(1 / (1 / s**2 - 1)).double()
    ppca.set(torch.ones(1, 1).double(), torch.zeros(1).double(), variance)
    x = torch.tensor([[m * (1 + float(variance))]]).double()
    assert float(ppca.posterior(x).mean) == pytest.approx(m) and abs(missed) > 1
    assert abs(float(quadrature(ppca, x, tol=1e-3) - ppca.log_prob(x))) < 1e-3
