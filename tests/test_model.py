"""The model in larger programs: masks under plates of their own, and log-weights of masked programs."""

import pyro
import pytest
import torch
from pyro import poutine

from pyro_dlgm import DLGM, evaluate, guides, likelihoods, nets, priors


def model(shape=(1, 2, 3)):
    return DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Linear(2, shape)))


def test_a_mask_of_points_masks_the_first_axis_under_nested_plates():
    m, x = model(), torch.randn(4, 3, 1, 2, 3)
    mask = torch.tensor([True, False, True, True])

    def program():
        with pyro.plate("outer", 4, dim=-2), pyro.plate("inner", 3, dim=-1):
            m.datum(x, mask)

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    log_prob = trace.nodes["x"]["log_prob"]
    assert log_prob.shape == (4, 3)
    assert (log_prob[1] == 0).all() and (log_prob[[0, 2, 3]] != 0).all()


def test_datum_does_not_care_about_the_leading_shape():
    m, x = model(), torch.randn(1, 2, 3)
    trace = poutine.trace(m.datum).get_trace(x)
    assert trace.nodes["t"]["value"].shape == (2,)
    joint = m.log_joint(x[None], trace.nodes["t"]["value"][None])
    assert float(trace.log_prob_sum().detach()) == pytest.approx(float(joint.detach()))


def test_traced_weights_see_masks_of_handlers():
    m, x = model(), torch.randn(5, 1, 2, 3)
    guide = guides.Amortized(nets.MLP((1, 2, 3), 8), 2)
    masked = [poutine.mask(program, mask=torch.zeros(5, dtype=torch.bool)) for program in (m, guide)]
    assert (evaluate.log_weights(*masked, x, None, 3) == 0).all()


def test_generation_has_the_shape_asked_for():
    m = model()
    assert m(size=7).shape == (7, 1, 2, 3)
    assert m(index=torch.arange(4)).shape == (4, 1, 2, 3)
    with pytest.raises(ValueError, match="how many points"):
        m()


def test_check_names_the_values():
    binary = DLGM(priors.StandardNormal(2), likelihoods.Bernoulli(nets.Linear(2, 6)))
    binary.check(torch.zeros(3, 6))
    with pytest.raises(ValueError, match=r"from 0 to 0\.5"):
        binary.check(torch.zeros(3, 6).index_fill(0, torch.tensor([1]), 0.5))
