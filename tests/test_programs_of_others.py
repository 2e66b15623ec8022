"""Objectives, optimizers, programs and guides of others: they work, or one line says why not."""

import cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro_dlgm.guides.base import Guide

from pyro_dlgm import SVI, fit, load
from pyro_dlgm.optim.svi import adam

X, INDEX = torch.rand(10, 1, 5, 7, generator=torch.Generator().manual_seed(0)), torch.arange(10)
ADAM = {"lr": 1e-2}


def pair(name="mean_field"):
    model = cases.conv()
    return model, cases.FACTORIES[name](model, len(X))


def said(kind, what):
    r"""The error, of one line."""
    with pytest.raises(kind) as error:
        what()
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    return str(error.value)


REFUSED = [
    infer.RenyiELBO(),
    infer.TraceGraph_ELBO(),
    infer.ReweightedWakeSleep(),
    infer.EnergyDistance(),
    infer.JitTrace_ELBO(),
    infer.JitTraceMeanField_ELBO(),
    infer.JitTraceGraph_ELBO(),
    infer.JitTraceEnum_ELBO(),
]


@pytest.mark.parametrize("objective", REFUSED, ids=lambda o: type(o).__name__)
def test_an_objective_that_cannot_be_climbed_is_refused_with_those_that_can(objective):
    for what in (lambda: fit(*pair(), X, epochs=1, objective=objective), lambda: SVI(*pair(), loss=objective)):
        message = said(TypeError, what)
        assert type(objective).__name__ in message and "objectives.ELBO" in message


@pytest.mark.parametrize("objective", [infer.Trace_ELBO(2), infer.TraceMeanField_ELBO(), infer.TraceEnum_ELBO()])
def test_other_objectives_of_pyro_are_climbed(objective):
    assert len(fit(*pair(), X, epochs=2, objective=objective, seed=0).history) == 2


@pytest.mark.parametrize("name", ["mean_field", "full_rank", "point", "auto_normal", "amortized"])
def test_rows_train_with_any_optimizer_of_torch(name):
    moved = []
    for make in (lambda p: [torch.optim.Adam(p, **ADAM)], lambda p: torch.optim.Adam(p, **ADAM), None):
        torch.manual_seed(0)
        model, guide = pair(name)
        parameters = [*model.parameters(), *guide.parameters()]
        before = cases.tensors(guide)
        svi = SVI(model, guide, make(parameters) if make else adam(model, guide, lr=1e-2, row_lr=1e-2))
        for _ in range(2):
            svi.step(X, INDEX)
        assert cases.unmoved(guide, before) == []
        moved.append(cases.tensors(guide))
    for a, b, c in zip(*moved, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-5)  # all rows in each batch: Adam for rows is Adam


def test_sgd_and_an_adam_for_sparse_gradients_go_together():
    model, guide = pair()
    before = cases.tensors(guide)
    sparse = torch.optim.SparseAdam(list(guide.parameters()), lr=1e-2)
    SVI(model, guide, [torch.optim.SGD(model.parameters(), lr=1e-5), sparse]).step(X[:4], INDEX[:4])
    after = guide.rows.weight.detach()
    assert torch.equal(after[4:], before[0][4:]) and not torch.equal(after[:4], before[0][:4])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: [torch.optim.Adam], "the class Adam; expected an instance"),
        (lambda p: torch.optim.Adam, "the class Adam; expected an instance"),
        (lambda p: pyro.optim.Adam(ADAM), "pyro.infer.SVI"),
        (lambda p: [pyro.optim.Adam(ADAM)], "pyro.infer.SVI"),
        (lambda p: 0.1, "float"),
    ],
)
def test_what_is_no_optimizer_of_torch_is_refused(make, words):
    assert words in said(TypeError, lambda: SVI(*pair(), make(None)))


def function_of(program):
    return lambda x=None, index=None, **keywords: program(x, index, **keywords)


@pytest.mark.parametrize("make", [function_of, lambda program: poutine.scale(program, scale=0.1)])
@pytest.mark.parametrize("name", ["model", "guide"])
def test_a_function_is_refused_where_parameters_are_looked_for(make, name):
    programs = dict(zip(("model", "guide"), pair("amortized"), strict=True))
    programs[name] = make(programs[name])
    message = said(TypeError, lambda: fit(**programs, x=X, epochs=1))
    assert name in message and "expected a Pyro module" in message
    assert "expected" in said(TypeError, lambda: SVI(*programs.values()))


def test_a_function_trains_with_optimizers_that_know_its_parameters():
    model, guide = pair()
    svi = SVI(poutine.scale(model, scale=0.1), guide, torch.optim.Adam([*model.parameters(), *guide.parameters()]))
    before = cases.tensors(model, guide)
    svi.step(X, INDEX)
    svi.e_step(X, INDEX)
    assert not cases.same(before, cases.tensors(model, guide))


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("name", ["amortized", "mean_field", "exact"])
def test_a_pair_that_is_frozen_altogether_is_watched(name, out, tmp_path):
    model = cases.ppca() if name == "exact" else cases.conv()
    guide = cases.FACTORIES[name](model, len(X))
    x = torch.rand(10, 6) if name == "exact" else X
    before = cases.tensors(model.requires_grad_(False), guide.requires_grad_(False))
    settings = {"out": tmp_path / "run"} if out else {}
    assert len(fit(model, guide, x, epochs=2, x_val=x, **settings).history) == 2
    assert cases.same(before, cases.tensors(model, guide))


class NoMean(Guide):
    r"""q has no mean: that of a Cauchy distribution is NaN, or asking for it is an error."""

    def __init__(self, fails):
        super().__init__()
        self.loc, self.fails = torch.nn.Parameter(torch.zeros(cases.D)), fails

    def posterior(self, x=None, index=None, mask=None, given=None):
        q = dist.Cauchy(self.loc, torch.ones_like(self.loc)).expand((len(x), cases.D)).to_event(1)
        return Meanless(q.base_dist, 1) if self.fails else q


class Meanless(dist.Independent):
    @property
    def mean(self):
        raise RuntimeError("this one has no mean")


@pytest.mark.filterwarnings("ignore:.*the training goes on")
@pytest.mark.parametrize("fails", [False, True])
def test_a_guide_without_a_mean_trains_on_disk(fails, tmp_path):
    model, guide = cases.conv(), NoMean(fails)
    result = fit(model, guide, X, epochs=2, out=tmp_path / "run", x_val=X, labels=INDEX % 2)
    assert len(result.history) == 2
    load(tmp_path / "run", model=model, guide=guide)
