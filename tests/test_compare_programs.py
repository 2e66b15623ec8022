r"""`compare` of guides on a program of one's own: the same table, scored given the globals."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dlgm import compare, guides, nets
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.comparison.table import footnotes

N, P = 80, 3


def program(x=None, index=None, *, size=None):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(P), 10.0).to_event(1))
    n = size or len(x)
    with pyro.plate("cells", n, subsample=None if x is None else index, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        return pyro.sample("x", dist.Normal(loc + z.unsqueeze(-1), 0.5).to_event(1), obs=x)


def exact(x, loc):
    covariance = 0.25 * torch.eye(P) + torch.ones(P, P)
    return dist.MultivariateNormal(loc, covariance).log_prob(x)


FACTORIES = {
    "rows": lambda model, n: guides.AutoPerPoint(model, n, plate="cells"),
    "encoder": lambda model, n: guides.AutoAmortized(model, nets.MLP(P, 16), plate="cells"),
    "chains": lambda model, n: guides.AutoLocal(
        model, lambda local: guides.Chain(local, n, local.latent_dim, burn_in=20), plate="cells"
    ),
}


@pytest.fixture(scope="module")
def table():
    torch.manual_seed(0)
    x = 2.0 + torch.randn(N + 8, 1) + 0.5 * torch.randn(N + 8, P)
    certify = Certify(points=5, num_chains=4, num_temperatures=30, num_samples=200)
    settings = {"gradients": 60, "batch_size": 20, "lr": 0.01, "num_samples": 200, "seed": 0}
    return x[N:], compare(lambda: program, FACTORIES, x[:N], x[N:], certify=certify, **settings)


def test_each_row_is_scored_given_the_globals_at_the_centre_of_q(table):
    x, rows = table
    for row in rows:
        assert row.conditions == "loc at the centre of q" and row.plain()["conditions"] == row.conditions
        truth = exact(x, row.pair[1].centre()["loc"])
        assert row.test_log_px == pytest.approx(float(truth[:5].mean()), abs=0.05)
    named = {row.guide: row for row in rows}
    truth = exact(x, named["rows"].pair[1].centre()["loc"])
    assert named["rows"].test_elbo == pytest.approx(float(truth.mean()), abs=0.02)
    assert named["chains"].test_elbo is None and "density" in named["chains"].reasons["test_elbo"]


def test_the_table_says_what_is_held(table):
    class Data:
        test, transform = table[0], None

    notes = footnotes(table[1], Data, 200)
    assert notes.count("Scored given global latents: loc at the centre of q.") == 1
