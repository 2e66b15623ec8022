r"""Programs keep their own parameters where Pyro's parameter store has others under their names, with a warning."""

import copy
import warnings

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam

from pyro_dlgm import evaluate, fit, guides, nets

P = 3


class Scaled(PyroModule):
    r"""A program without a name of its own: Pyro calls the parameter of each instance "scale"."""

    def __init__(self, scale: float = 1.0, name: str = ""):
        super().__init__(name)
        self.scale = PyroParam(torch.tensor(scale), constraint=dist.constraints.positive)

    def forward(self, x=None, index=None, *, mask=None, size=None):
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
    assert more[0].startswith(
        "Pyro's parameter store has another value of 'scale' than this Scaled, which keeps its own"
    )


def test_a_program_is_scored_with_its_own_parameters(x, store):
    index, how = torch.arange(20), {"num_samples": 5, "seed": 0}
    (model, guide, _), other = trained(x), Scaled(3.0)
    alone = evaluate.elbo(model, guide, x, index, **how)
    store.clear()
    with pyro.poutine.trace():
        other(x, index)
    assert store["scale"].item() == pytest.approx(3.0)
    with pytest.warns(UserWarning, match="this Scaled, which keeps its own") as said:
        assert torch.equal(evaluate.elbo(model, guide, x, index, **how), alone)
    assert {one.filename for one in said} == {__file__}
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


class Two(PyroModule):
    r"""Two modules in a plain list, which Pyro does not name, and a guide for them without a name."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scales = torch.nn.ModuleList([Scaled(scale), Scaled(scale)])

    def forward(self, x=None, index=None, *, size=None):
        return self.scales[0](x, index, size=size)


def test_names_that_a_program_has_twice_are_removed_once(x, store):
    for _ in range(2):
        Two(3.0)(x, torch.arange(20))
    model = Two()
    with pytest.warns(UserWarning, match="another value of 'scale' than"):
        fit(model, guides.AutoAmortized(model, nets.MLP(P, 2, (4,)), plate="data"), x, epochs=1, lr=1e-9)
    assert model.scales[0].scale.item() == pytest.approx(1.0)


class Lazy(PyroModule):
    r"""A program with a parameter that is made at the first call, as Pyro documents it."""

    @PyroParam(constraint=dist.constraints.positive)
    def scale(self):
        return torch.tensor(1.0)

    forward = Scaled.forward


@pytest.mark.filterwarnings("ignore:Pyro's parameter store has another value")
def test_parameters_that_the_first_call_makes_are_new_ones(x):
    scales, locs = [], []
    for _ in range(2):
        torch.manual_seed(1)
        model = Lazy()
        fit(model, guides.AutoAmortized(model, nets.MLP(P, 2, (4,)), plate="data"), x, epochs=2, lr=0.05, seed=0)
        scales.append(model.scale.item())
        model = Scaled()
        guide = AutoNormal(model)
        fit(model, guide, x, epochs=2, lr=0.05, batch_size=20, seed=0)
        locs.append(guide.locs.z.detach().clone())
    assert scales[0] == scales[1] != 1.0 and torch.equal(*locs)


def test_a_value_that_the_store_alone_has_is_not_removed(x, store):
    pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    model = Scaled()
    guide = guides.AutoAmortized(model, nets.MLP(P, 2, (4,)), plate="data")
    with pytest.raises(ValueError, match="another value of 'scale' than this Scaled, and that value is in no module"):
        fit(model, guide, x, epochs=1)
    assert store["scale"].item() == pytest.approx(2.0)


def test_nothing_is_removed_where_modules_do_not_read_the_store(x, store):
    pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    with pyro.settings.context(module_local_params=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Scaled()
        guide = guides.AutoAmortized(model, nets.MLP(P, 2, (4,)), plate="data")
        fit(model, guide, x, epochs=1, lr=1e-9)
    assert store["scale"].item() == pytest.approx(2.0) and model.scale.item() == pytest.approx(1.0)
