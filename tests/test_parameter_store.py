r"""Programs whose parameters have the names of others in Pyro's parameter store keep their own, with a word."""

import copy
import warnings

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule, PyroParam

from pyro_dlgm import evaluate, fit, guides, nets

P = 3


class Scaled(PyroModule):
    r"""A program without a name of its own: Pyro calls the parameter of each instance "scale"."""

    def __init__(self, scale: float = 1.0, name: str = ""):
        super().__init__(name)
        self.scale = PyroParam(torch.tensor(scale), constraint=dist.constraints.positive)

    def forward(self, x=None, index=None, *, size=None):
        with pyro.plate("data", size or len(x), subsample=None if x is None else index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * torch.ones(P), self.scale).to_event(1), obs=x)


@pytest.fixture(autouse=True)
def store():
    with pyro.get_param_store().scope():
        yield pyro.get_param_store()


@pytest.fixture
def x():
    return torch.randn(20, P, generator=torch.Generator().manual_seed(0))


def trained(x, **how):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.manual_seed(1)
        model = Scaled()
        guide = guides.AutoAmortized(model, nets.MLP(P, 2, (4,)), plate="data")
        fit(model, guide, x, epochs=2, lr=0.05, seed=0, **how)
    return model, guide, [str(one.message) for one in seen]


def test_a_second_training_in_a_process_is_the_first_one_again(x):
    model, _, said = trained(x)
    first = copy.deepcopy(model.state_dict())
    other, _, more = trained(x)
    assert torch.equal(other.scale, model.scale) and other.scale_unconstrained is not model.scale_unconstrained
    assert all(torch.equal(first[name], value) for name, value in model.state_dict().items())
    assert not said and len(more) == 1
    assert "holds 'scale' of another module" in more[0] and "this Scaled: its own are used" in more[0]


def test_a_program_is_scored_with_its_own_parameters(x, store):
    index, how = torch.arange(20), {"num_samples": 5, "seed": 0}
    (model, guide, _), other = trained(x), Scaled(3.0)
    alone = evaluate.elbo(model, guide, x, index, **how)
    store.clear()
    with pyro.poutine.trace():
        other(x, index)
    assert store["scale"].item() == pytest.approx(3.0)
    with pytest.warns(UserWarning, match="its own are used"):
        assert torch.equal(evaluate.elbo(model, guide, x, index, **how), alone)
    assert store["scale"].item() == pytest.approx(3.0)  # it is the other's, before and after


def test_what_the_program_has_taken_from_the_store_is_its_own(x, store):
    pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    model = Scaled()
    model(x, torch.arange(20))
    assert model.scale.item() == pytest.approx(2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, guides.AutoAmortized(model, nets.MLP(P, 2, (4,)), plate="data"), x, epochs=1, lr=1e-9)
    assert model.scale.item() == pytest.approx(2.0)


def test_a_name_of_its_own_is_enough(x, store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("one", "two"):
            model = Scaled(name=name)
            fit(model, guides.AutoAmortized(model, nets.MLP(P, 2, (4,)), plate="data"), x, epochs=1)
    assert {"one.scale", "two.scale"} <= set(store.keys())
