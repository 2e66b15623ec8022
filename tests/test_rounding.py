"""log q at q's own draws: a q that rounding spoils is never reported without a warning, and no other raises one."""

import math
import re
import warnings

import cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions import Normal
from pyro_dlgm.guides import families
from torch.distributions import Independent, Laplace, LowRankMultivariateNormal

from pyro_dlgm import DLGM, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.importance import report, strays
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.optim.svi import SVI, adam

B, D = 6, 64
WORDS = r"log q is wrong by up to .* nats .* at 2 of 6 points \(rows \[1, 4\]\).*double\(\)"


def model_of(latents=D, pixels=100):
    """A linear Bernoulli model with logits of both signs, and points of it, in float32."""
    model = DLGM(priors.StandardNormal(latents), likelihoods.Bernoulli(nets.Linear(latents, pixels)))
    with torch.no_grad():
        model.likelihood.net.body[-1].weight.mul_(8)
    return model, model(size=B).detach(), torch.arange(B)


def spoiled():
    """A full-rank guide whose rows 1 and 4 have L = s (I + A), A = −0.6 below the diagonal: ‖L⁻¹‖ grows as 1.6^D."""
    guide = guides.FullRank(B, D)
    rows = guide.rows.weight.detach().clone()
    rows[[1, 4], 2 * D :] = -0.6 * math.sqrt(D)
    return guide.set_rows(rows)


def silent(judge):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return judge()


def test_steps_at_a_high_rate_leave_a_full_rank_q_a_density():
    """Were L itself the raw numbers, ten steps would make log q wrong by 1e6 nats in float32."""
    model, x, index = model_of()
    guide = guides.FullRank(B, D)
    svi = SVI(model, guide, adam(guide, row_lr=0.1), ELBO())
    for steps in (5, 5, 10):
        for _ in range(steps):
            svi.e_step(x, index)
        q, K = guide.posterior(x, index), 100
        with torch.no_grad():
            torch.manual_seed(1)
            log_q = q.log_prob(q.sample((K,)))
            torch.manual_seed(1)
            noise = torch.randn(K, B, D)  # what the sampler of q has used
            log_scale = q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        exact = -0.5 * noise.square().sum(-1) - log_scale - D / 2 * math.log(2 * math.pi)
        assert (log_q - exact).abs().max() < 1e-3
        assert (guide.rows.weight[:, 2 * D :].abs() > 0.1).double().mean() > 0.5  # q has moved
    silent(lambda: evaluate.elbo(model, guide, x, index, seed=0))


@pytest.mark.filterwarnings("ignore:IWAE is not to be trusted")
@pytest.mark.parametrize("K", [1, 10, 500])
@pytest.mark.parametrize("judge", [evaluate.log_weights, evaluate.elbo, evaluate.iwae])
def test_a_bound_from_a_q_that_rounding_spoils_is_warned_of(judge, K):
    model, x, index = model_of()
    with pytest.warns(UserWarning, match=WORDS) as caught:
        judge(model, spoiled(), x, index, K, seed=0)
    assert [w.filename for w in caught if "log q" in str(w.message)] == [__file__]


@pytest.mark.parametrize("K", [1, 10])
def test_blocks_keep_the_numbers_of_their_points(K, monkeypatch):
    model, x, index = model_of()
    monkeypatch.setattr(evaluate.bounds.blocks, "__defaults__", (400,))  # four points or samples at a time
    with pytest.warns(UserWarning, match=WORDS):
        evaluate.elbo(model, spoiled(), x, index, K, seed=0)


def test_annealing_from_a_q_that_rounding_spoils_is_warned_of():
    model, x, index = model_of()
    for memory in (2**28, 2**16):
        with pytest.warns(UserWarning, match=WORDS) as caught:
            evaluate.ais(model, spoiled(), x, index, 4, 2, num_leapfrog=1, memory=memory, seed=0)
        said = [w for w in caught if re.search(WORDS, str(w.message))]  # transitions diverge as well
        assert [w.filename for w in said] == [__file__]


def test_a_scale_below_the_rounding_of_the_mean_is_warned_of():
    """m + s ε = m: log q is −Σ log s at every draw, and D/2 nats are missing."""
    model, x, index = model_of()
    guide = guides.MeanField(B, D)
    rows = guide.rows.weight.detach().clone()
    rows[[1, 4], :D], rows[[1, 4], D:] = 3.0, math.log(1e-9)
    with pytest.warns(UserWarning, match=r"log q is wrong by up to 32 nats .* at 2 of 6"):
        evaluate.elbo(model, guide.set_rows(rows), x, index, 200, seed=0)


def test_what_the_warning_says_mends_it():
    model, x, index = model_of()
    silent(lambda: evaluate.elbo(model.double(), spoiled().double(), x.double(), index, 200, seed=0))


@pytest.mark.parametrize("name", cases.DENSE)
@pytest.mark.parametrize("K", [1, 24])
def test_other_guides_are_not_warned_of(name, K):
    case = cases.make(name)
    silent(lambda: evaluate.elbo(case.model, case.guide, *case.args, K, seed=0))
    silent(lambda: evaluate.ais(case.model, case.guide, *case.args, K, 2, seed=0))


@settings(max_examples=30, derandomize=True, deadline=None, database=None)
@given(st.sampled_from([1, 2, 16, 64]), st.sampled_from([1, 2, 30]), st.booleans(), st.integers(0, 2**16))
def test_chance_raises_no_alarm(latents, K, dense, seed):
    """1000 sound q at a time, with scales from 1e-3 to 1e3 and correlations, in float32."""
    torch.manual_seed(seed)
    scale, mean = (7 * (2 * torch.rand(1000, latents) - 1)).exp(), torch.randn(1000, latents)
    q = Normal(mean, scale).to_event(1)
    if dense:
        raw = torch.cat([mean, scale.log(), torch.randn(1000, latents * (latents - 1) // 2)], 1)
        q = families.full_rank(raw)
    assert (strays(q, q.log_prob(q.sample((K,)))) == 0).all()


@pytest.mark.parametrize(("latents", "K", "dtype"), [(1, 1, torch.float32), (64, 10, torch.float64), (16, 2000, None)])
def test_what_is_reported_is_the_distance_and_all_that_is_beyond_chance(latents, K, dtype):
    q = Normal(torch.zeros(3, latents, dtype=dtype), 1.0).to_event(1)
    log_q = q.log_prob(q.sample((K,)))
    reach = math.sqrt(25 * latents / K) + 25 / K
    for error in (2.5 * reach, -2.5 * reach):
        off = strays(q, log_q + torch.tensor([0.0, error, 0.0]).to(log_q))
        assert (off[[0, 2]] == 0).all() and off[1] == pytest.approx(2.5 * reach, abs=reach) and off.dtype == log_q.dtype
    assert strays(q, log_q.index_fill(1, torch.tensor(1), -math.inf))[1] == math.inf


def test_low_rank_gaussians_are_looked_at_and_other_families_are_not():
    low = LowRankMultivariateNormal(torch.zeros(2, 3), torch.ones(2, 3, 1), torch.ones(2, 3))
    log_q = low.log_prob(low.sample((100,)))
    assert (strays(low, log_q) == 0).all() and (strays(low, log_q - 100) > 0).all()
    other = Laplace(torch.zeros(2, 3), 1.0)
    assert (strays(Independent(other, 1), log_q - 100) == 0).all()


def test_many_rows_are_counted_and_ten_are_shown():
    with pytest.warns(UserWarning, match=r"at 15 of 20 points \(rows \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\] and 5 more\)"):
        report(torch.tensor([3.0] * 15 + [0.0] * 5), 1)
    silent(lambda: report(torch.zeros(4), 1))
