r"""Which sites are those of points: by the plate of the program, or by the last axis."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_dlgm.objectives import Tempered
from pyro_dlgm.objectives.sites import plate_of, point_frame

ONE = torch.tensor(1.0)


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
