r"""Which sites are those of points: by the plate of the program, or by the last axis."""

from functools import partial
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_dlgm import evaluate
from pyro_dlgm.objectives import IWAE, Tempered
from pyro_dlgm.objectives.sites import plate_of, point_frame

ONE = torch.tensor(1.0)
ROWS, COLUMNS = 4, 3


class Table(nn.Module):
    r"""Rows of columns: w for all, z of a row, x of a row and a column; rows are the points, at dimension −2.

    With z ~ N(0, 1) and x_j ~ N(w + z, 1), p(z | x) = N(Σ_j (x_j − w) / (C + 1), 1 / (C + 1)).
    """

    def __init__(self, plate="rows", w=0.5):
        super().__init__()
        self.plate, self.w = plate, w

    def forward(self, x, index=None, *, mask=None):
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("columns", COLUMNS, dim=-1):
                pyro.sample("x", dist.Normal(self.w + z, 1.0), obs=x)

    def guide(self, x, index=None, *, mask=None, name="rows", off=0.0):
        with pyro.plate(name, len(x), dim=-2):
            mean = (x - self.w).sum(-1, keepdim=True) / (COLUMNS + 1)
            pyro.sample("z", dist.Normal(mean + off, (COLUMNS + 1) ** -0.5))

    def exact(self, x):
        S = torch.eye(COLUMNS) + torch.ones(COLUMNS, COLUMNS)
        return torch.distributions.MultivariateNormal(torch.full((COLUMNS,), self.w), S).log_prob(x)


def test_weights_are_those_of_the_points_wherever_their_plate_is():
    model, x = Table(), torch.randn(ROWS, COLUMNS)
    table = evaluate.log_weights(model, model.guide, x, None, 5, seed=0)
    torch.testing.assert_close(table, model.exact(x).expand(5, -1))  # q is the posterior: no weight varies
    off = evaluate.elbo(model, partial(model.guide, off=0.3), x, None, 2000, seed=0)
    kl = 0.5 * 0.3**2 * (COLUMNS + 1)
    assert (model.exact(x) - off - kl).abs().max() < 0.06
    loss = IWAE(5, max_plate_nesting=2).loss(model, model.guide, x)
    assert abs(loss + float(model.exact(x).sum())) < 1e-4


def test_a_global_latent_is_drawn_once_for_each_sample_left_of_all_plates():
    x, level = torch.randn(ROWS, COLUMNS), torch.tensor(0.7)

    class Bayesian(Table):
        def forward(self, x, index=None, *, mask=None):
            self.w = pyro.sample("w", dist.Normal(0.0, 1.0))
            super().forward(x)

        def guide(self, x, index=None, *, mask=None):
            self.w = pyro.sample("w", dist.Delta(level))
            super().guide(x)

    model = Bayesian()
    found = evaluate.log_weights(model, model.guide, x, None, 6, seed=0)
    torch.testing.assert_close(found, Table(w=0.7).exact(x).expand(6, -1))


def test_one_plate_under_two_names_is_refused():
    model, x = Table(), torch.randn(ROWS, COLUMNS)
    other = partial(model.guide, name="points")
    for ask in (
        lambda: evaluate.elbo(model, other, x, None, 3),
        lambda: IWAE(3, max_plate_nesting=2).loss(model, other, x),
    ):
        with pytest.raises(ValueError, match="'z' is in the plate 'rows' in the model, and outside of it in the guide"):
            ask()


def program():
    pyro.sample("everywhere", dist.Normal(0.0, ONE))
    with pyro.plate("rows", 3, dim=-2):
        pyro.sample("row", dist.Normal(0.0, ONE))
        with pyro.plate("columns", 2, dim=-1):
            pyro.sample("cell", dist.Normal(0.0, ONE))
            pyro.sample("seen", dist.Normal(0.0, ONE), obs=torch.zeros(3, 2))


def sites(handled=program):
    return poutine.trace(handled).get_trace().nodes


@pytest.mark.parametrize(
    ("plate", "frames"),
    [
        (None, {"everywhere": None, "row": None, "cell": "columns"}),
        ("rows", {"everywhere": None, "row": "rows", "cell": "rows"}),
        ("columns", {"everywhere": None, "row": None, "cell": "columns"}),
        ("other", {"everywhere": None, "row": None, "cell": None}),
    ],
)
def test_points_are_in_the_plate_of_that_name_or_along_the_last_axis(plate, frames):
    found = {name: point_frame(site, plate) for name, site in sites().items() if name in frames}
    assert {name: frame and frame.name for name, frame in found.items()} == frames


@pytest.mark.parametrize(("plate", "tempered"), [(None, {"cell"}), ("rows", {"row", "cell"}), ("columns", {"cell"})])
def test_beta_is_for_latents_of_that_plate_and_not_for_what_is_observed(plate, tempered):
    found = sites(Tempered(0.25, plate)(program))
    scales = {name: found[name]["scale"] for name in ("everywhere", "row", "cell", "seen")}
    assert scales == {name: 0.25 if name in tempered else 1.0 for name in scales}


def test_the_plate_of_a_program_goes_before_that_of_the_guide():
    own, guide = SimpleNamespace(plate_dim=-1, plate="own"), SimpleNamespace(program_plate="guide")
    assert (plate_of(own, guide), plate_of(program, guide), plate_of(program, program)) == ("own", "guide", None)


@pytest.mark.parametrize("own", [8, pyro.plate("points", 8, dim=-1)], ids=["number", "plate"])
def test_a_users_attribute_of_that_name_is_no_name_of_a_plate(own):
    assert plate_of(SimpleNamespace(plate=own), SimpleNamespace()) is None
    assert plate_of(SimpleNamespace(plate=own), SimpleNamespace(program_plate="rows")) == "rows"
