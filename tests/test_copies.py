"""Deep copies: of a model and its guide together they belong together; of the guide alone the model is shared."""

import copy
import pickle

import cases
import pytest
import torch
from torch import nn

from pyro_dlgm import Points, guides

KEEPS = ["exact", "laplace", "chain", "hybrid", "auto_normal", "auto_delta"]
TOGETHER = {
    "model first": (lambda m, g: (m, g), lambda c: c),
    "guide first": (lambda m, g: (g, m), lambda c: (c[1], c[0])),
    "a dictionary": (lambda m, g: {"guide": g, "model": m}, lambda c: (c["model"], c["guide"])),
    "a module": (lambda m, g: nn.ModuleList([g, m]), lambda c: (c[1], c[0])),
    "twice": (lambda m, g: copy.deepcopy([g, m]), lambda c: (c[1], c[0])),
}
COPIES = {"copy": copy.deepcopy, "pickle": lambda v: pickle.loads(pickle.dumps(v))}


def shift(model):
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3)


def asked(guide, case):
    r"""What q says after a move under one seed, of a guide that moves by the model."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return guide.train()(*case.args).detach().clone(), guide.eval().posterior(*case.args).mean.detach().clone()


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["exact", "laplace", "chain", "hybrid"])
@pytest.mark.parametrize("order", TOGETHER)
def test_a_copied_guide_looks_at_the_copied_model(name, order, how):
    case = cases.make(name)
    make, take = TOGETHER[order]
    model, guide = take(COPIES[how](make(case.model, case.guide)))
    twin = copy.deepcopy((case.model, case.guide))[1]
    before = asked(twin, case)
    shift(case.model)  # the original goes on training
    assert all(map(torch.equal, asked(guide, case), before))
    shift(model)
    again = take(COPIES[how](make(model, guide)))[1]
    assert not all(map(torch.equal, asked(again, case), before))


@pytest.mark.parametrize("name", KEEPS)
def test_a_copied_guide_starts_others_on_the_copied_model(name):
    case = cases.make(name)
    model, guide = copy.deepcopy((case.model, case.guide))
    points = Points(case.x, torch.arange(len(case.x)))
    assert model is not case.model
    for g in (guide, guide.start(points), copy.deepcopy(guide)):
        assert g._model[0] is model


@pytest.mark.parametrize("name", KEEPS)
def test_a_guide_copied_alone_shares_the_model(name):
    case = cases.make(name)
    for guide in (copy.deepcopy(case.guide), copy.deepcopy([case.guide, case.x])[0], copy.copy(case.guide)):
        assert guide._model[0] is case.model


def test_chains_that_start_from_an_encoder_are_relinked_to_both():
    model = cases.conv()
    encoder = cases.amortized(model)
    chain = guides.Chain(model, 5, cases.D, start_from=encoder)
    copied, of_model, of_encoder = copy.deepcopy((chain, model, encoder))
    assert copied._model[0] is of_model and copied._start_from[0] is of_encoder
    alone, of_model = copy.deepcopy((chain, model))
    assert alone._model[0] is of_model and alone._start_from[0] is encoder


def test_a_copy_does_not_keep_the_others_alive():
    r"""What the copying remembers is let go once the guide has been asked."""
    case = cases.make("exact")
    model, guide = copy.deepcopy((case.model, case.guide))
    assert guide._model[0] is model and guide._model._copies is None
