r"""Which estimate of log p(x) is taken, what each of them draws, and what annealing says of itself."""

import importlib
import math

import pytest
import torch
from torch import nn

from pyro_dlgm import DLGM, PPCA, evaluate, guides, likelihoods, priors
from pyro_dlgm.evaluate.estimates import Estimate
from pyro_dlgm.evaluate.marginal.estimate import Evidence

module = importlib.import_module("pyro_dlgm.evaluate.marginal.evidence")
bdmc_module = importlib.import_module("pyro_dlgm.evaluate.marginal.annealing.bdmc")
N = 100


def taken(annealed: tuple[float, float], weighted: tuple[float, float]) -> str:
    r"""What is taken of two estimates, each a value and a standard error of all N points."""
    both = [Estimate(torch.full((N,), v), torch.full((N,), error)) for v, error in (annealed, weighted)]
    found = Evidence(annealed=both[0], weighted=both[1], num_samples=7, certificate=None)
    assert found.log_px is both[found.summary()["log_px_by"] != "AIS"]
    return found.summary()["log_px_by"]


@pytest.mark.parametrize(
    ("annealed", "weighted", "by"),
    [
        ((0.01, 0.1), (0.0, 0.05), "IWAE-7"),  # 0.01 is one error of a mean over 100 points
        ((0.0, 0.05), (0.01, 0.1), "AIS"),
        ((0.5, 0.2), (0.0, 0.05), "AIS"),  # far apart: both are lower bounds
        ((0.0, 0.05), (0.5, 0.2), "IWAE-7"),
        ((0.0, math.nan), (-0.5, 0.1), "AIS"),  # an unknown error decides nothing
        ((-0.5, math.nan), (0.0, 0.1), "IWAE-7"),
    ],
)
def test_within_errors_the_estimate_with_the_smaller_error_is_taken(annealed, weighted, by):
    assert taken(annealed, weighted) == by


def test_the_choice_does_not_lift_the_estimate():
    found, generator = [], torch.Generator().manual_seed(0)
    for _ in range(2000):
        one, two = (torch.randn(10, generator=generator, dtype=torch.float64) * s for s in (0.10, 0.11))
        pair = Estimate(one, torch.full((10,), 0.10)), Estimate(two, torch.full((10,), 0.11))
        found.append(Evidence(annealed=pair[0], weighted=pair[1], num_samples=7, certificate=None).log_px.value.mean())
    values = torch.stack(found)
    # The larger of the two is too large by 0.019; what is beyond two errors of the difference, one in 20, by less.
    assert abs(float(values.mean())) < 0.004


def linear(P=8, D=3, scale=0.7):
    ppca = PPCA(D, P, scale).double()
    ppca.set(torch.randn(P, D).double(), torch.randn(P).double(), ppca.sigma2.detach())
    return ppca, ppca(size=6).detach()


def test_acceptance_without_a_transition_is_not_a_number():
    ppca, x = linear()
    assert evaluate.ais(ppca, None, x, None, 3, 1, seed=0).acceptance.isnan().all()
    assert (evaluate.ais(ppca, None, x, None, 3, 2, seed=0).acceptance > 0).all()


class Bent(nn.Module):
    def forward(self, t):
        return torch.cat([t, 3 * t.square(), (5 * t).sin()], -1)


def test_annealing_that_diverges_warns():
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(Bent(), 1e-3, floor=1e-6))
    x = model(size=4).detach()
    with pytest.warns(UserWarning, match=r"diverged at 4 of 4 points \(rows \[0, 1, 2, 3\]\)") as caught:
        found = evaluate.ais(model, None, x, None, 2, 20, seed=0)
    assert [w.filename for w in caught] == [__file__] and (found.divergences > 0).all()
    with pytest.warns(UserWarning, match="diverged at"):
        evaluate.bdmc(model, None, 4, 2, 20, seed=0)


@pytest.mark.filterwarnings("error")
def test_transitions_that_diverge_and_cost_nothing_are_not_warned_of():
    r"""Near the largest step that is stable, some diverge; walks that agree say that it does not matter."""
    ppca, x = linear()
    found = evaluate.ais(ppca, guides.Exact(ppca), x, None, 4, 20, seed=0)
    assert found.divergences.any()
    torch.testing.assert_close(found.log_px, ppca.log_prob(x).detach())
    evaluate.bdmc(ppca, guides.Exact(ppca), 4, 4, 20, seed=0)


# Random numbers that must not be shared


def spied(monkeypatch, where, names):
    r"""The seeds with which the functions of a module are called, by name."""
    seen = {}
    for name in names:
        plain = getattr(where, name)

        def call(*args, _plain=plain, _name=name, **settings):
            seen.setdefault(_name, []).append(settings["seed"])
            return _plain(*args, **settings)

        monkeypatch.setattr(where, name, call)
    return seen


def test_iwae_ais_and_bdmc_share_no_seed(monkeypatch):
    seen = spied(monkeypatch, module, ("log_weights", "ais", "bdmc"))
    ppca, x = linear()
    settings = {"num_samples": 10, "num_chains": 2, "num_temperatures": 2, "num_simulated": 2}
    evaluate.evidence(ppca, guides.Exact(ppca), x, **settings, seed=0)
    assert len({seed for seeds in seen.values() for seed in seeds}) == 3 == len(seen)


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_points_rows_and_walks_of_bdmc_share_no_seed(monkeypatch):
    seen = spied(monkeypatch, bdmc_module, ("quiet", "infer", "annealing"))
    ppca, _ = linear()
    evaluate.bdmc(ppca, guides.MeanField(1, 3).double(), 3, 2, 2, seed=0)
    assert len({seed for seeds in seen.values() for seed in seeds}) == 3 == len(seen)


def test_walks_of_bdmc_do_not_start_at_the_codes_of_its_points(monkeypatch):
    r"""From the prior, a walk under the seed of the points would begin at their very codes."""
    blocks, starts = importlib.import_module("pyro_dlgm.evaluate.marginal.annealing.blocks"), []
    plain = blocks.Annealer._draws
    monkeypatch.setattr(blocks.Annealer, "_draws", lambda self, n: starts.append(plain(self, n)) or starts[-1])
    ppca, _ = linear()
    found = evaluate.bdmc(ppca, None, 50, 1, 1, seed=0)
    for t in starts:
        assert torch.corrcoef(torch.stack([t.flatten(), found.t.flatten()]))[0, 1].abs() < 0.4
