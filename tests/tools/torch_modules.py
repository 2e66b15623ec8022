r"""Copies, files, number types and contexts of PyTorch."""

import copy
import io
import pickle

import cases
import pyro.infer as infer
import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrizations, prune, vector_to_parameters
from torch.utils.data import DataLoader

from pyro_dlgm import SVI, evaluate, fit, guides
from pyro_dlgm.objectives import ELBO
from pyro_dlgm.points import Points

from .group import Group
from .pairs import INDEX, B, N, Pair, check_moves, close, exact, images, linear, same_draw

tool = Group("PyTorch: copies, files, number types, data")


def check_twin(pair: Pair, model, guide) -> None:
    r"""The twin has a name of its own, draws the same, and trains apart."""
    assert {model._pyro_name, guide._pyro_name}.isdisjoint({pair.model._pyro_name, pair.guide._pyro_name})
    loss = infer.Trace_ELBO()
    losses = [same_draw(loss.loss, *programs, *pair.args) for programs in ((pair.model, pair.guide), (model, guide))]
    assert losses[0] == losses[1]
    twin, before = Pair(model, guide, pair.everything), cases.tensors(pair.model, pair.guide)
    for svi in (cases.stock(model, guide), SVI(model, guide)):
        check_moves(twin, svi.step)
    assert cases.same(before, cases.tensors(pair.model, pair.guide))


@tool("copy.deepcopy", "of model and guide together, as a tuple: names in the parameter store are renewed")
def copying():
    pair = images()
    cases.stock(pair.model, pair.guide).step(*pair.args)
    check_twin(pair, *copy.deepcopy((pair.model, pair.guide)))


@tool("pickle", "as a copy; it executes what the file says")
def pickling():
    pair = images()
    cases.stock(pair.model, pair.guide).step(*pair.args)
    check_twin(pair, *pickle.loads(pickle.dumps((pair.model, pair.guide))))


def through_file(value, **kwargs):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **kwargs)


@tool("state_dict, torch.load(weights_only=True)", "how `fit(out=)` saves: names are places in the module tree")
def saving_states():
    pair, other = images(), images()
    states = through_file([program.state_dict() for program in (pair.model, pair.guide)], weights_only=True)
    for program, state in zip((other.model, other.guide), states, strict=True):
        program.load_state_dict(state)
    check_twin(pair, other.model, other.guide)


@tool("torch.save of a model, torch.load(weights_only=False)", "it executes what the file says")
def saving_programs():
    pair = images()
    check_twin(pair, *through_file((pair.model, pair.guide), weights_only=False))


@tool(
    "torch.save of a model, torch.load(weights_only=True)",
    "classes are not loaded so: save `state_dict`s",
    pickle.UnpicklingError,
    "Weights only load failed",
)
def saving_programs_as_weights():
    pair = images()
    through_file(pair.model, weights_only=True)


@tool("Module.double, .to(dtype)", "x has to have the same dtype, and is refused otherwise")
def doubling():
    pair = images()
    t = torch.randn(B, cases.D)
    before = pair.model.log_joint(pair.x, t)
    model, guide, x = pair.model.double(), pair.guide.to(torch.float64), pair.everything.double()
    assert model.log_joint(x[INDEX], t.double()).dtype == guide.posterior(x).mean.dtype == torch.float64
    close(model.log_joint(x[INDEX], t.double()), before, rtol=1e-5)
    with pytest.raises(ValueError, match="float32"):
        guide.posterior(pair.x)
    pair = Pair(model, guide, x)
    for svi in (cases.stock(model, guide), SVI(model, guide)):
        check_moves(pair, svi.step)


@tool("Module.bfloat16", "log-densities are sums over pixels: two digits of them are left")
def halving():
    pair, t = images(), torch.randn(B, cases.D)
    before = pair.model.log_joint(pair.x, t)
    low = pair.model.bfloat16().log_joint(pair.x.bfloat16(), t.bfloat16())
    assert low.dtype == torch.bfloat16
    close(low.float(), before.detach(), rtol=0.03, atol=0.5)


@tool("torch.autocast('cpu', torch.bfloat16)", "networks run in bfloat16, log-densities come out in float32")
def autocasting():
    pair, t = images(), torch.randn(B, cases.D)
    before = pair.model.log_joint(pair.x, t)
    with torch.autocast("cpu", torch.bfloat16):
        low = pair.model.log_joint(pair.x, t)
        assert low.dtype == torch.float32 and pair.guide.posterior(pair.x).mean.dtype == torch.bfloat16
        check_moves(pair, SVI(pair.model, pair.guide).step)
    close(low, before, rtol=0.01, atol=0.2)
    assert not torch.equal(low, before)


@tool("torch.set_default_dtype", "what is made under it has it; nothing is changed by the package")
def defaulting():
    torch.set_default_dtype(torch.float64)
    try:
        pair = images()
    finally:
        torch.set_default_dtype(torch.float32)
    assert {v.dtype for v in cases.tensors(pair.model, pair.guide)} == {torch.float64}
    check_moves(pair, SVI(pair.model, pair.guide).step)


@tool("torch.no_grad, torch.inference_mode", "evaluation is the same; a step of our SVI then changes nothing")
def without_gradients():
    pair = images()
    expected = evaluate.log_weights(pair.model, pair.guide, *pair.args, 3, seed=1)
    svi = SVI(pair.model, pair.guide)
    before = cases.tensors(pair.model, pair.guide)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(evaluate.log_weights(pair.model, pair.guide, *pair.args, 3, seed=1), expected)
            svi.step(*pair.args)
    assert cases.same(before, cases.tensors(pair.model, pair.guide))
    check_moves(pair, svi.step)


@tool("torch.inference_mode, fit", "it is refused by name", RuntimeError, "fit needs gradients")
def fitting_in_inference_mode():
    pair = images()
    with torch.inference_mode():
        fit(pair.model, pair.guide, pair.everything, steps=1)


@tool("Module.requires_grad_(False)", "what is frozen stays; Pyro warns at each step unless it is in `.eval()`")
def freezing():
    pair = images()
    pair.model.requires_grad_(False).eval()
    for svi in (cases.stock(pair.model, pair.guide), SVI(pair.model, pair.guide)):
        before, q = cases.tensors(pair.model), cases.tensors(pair.guide)
        svi.step(*pair.args)
        assert cases.same(before, cases.tensors(pair.model)) and cases.unmoved(pair.guide, q) == []


@tool("Module.register_forward_hook", "on model, guide and networks; `log_joint` calls only the networks'")
def hooking():
    pair, called = images(), []
    for name, module in (("model", pair.model), ("guide", pair.guide), ("net", pair.model.likelihood.net)):
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    ELBO().loss(pair.model, pair.guide, *pair.args)
    assert called == ["guide", "net", "model"]
    pair.model.log_joint(pair.x, torch.randn(B, cases.D))
    assert called[3:] == ["net"]


@tool("nn.utils.parametrizations", "weight_norm, orthogonal and the like on a layer: the new parameters train")
def reparametrizing_weights():
    pair = images()
    layer = pair.model.likelihood.net.body[0]
    before = same_draw(ELBO().loss, pair.model, pair.guide, *pair.args)
    parametrizations.weight_norm(layer)
    close(same_draw(ELBO().loss, pair.model, pair.guide, *pair.args), before, rtol=1e-5)
    for svi in (cases.stock(pair.model, pair.guide), SVI(pair.model, pair.guide)):
        check_moves(pair, svi.step)


@tool("nn.utils.prune", "what is pruned stays 0")
def pruning():
    pair = images()
    layer = pair.model.likelihood.net.body[0]
    prune.l1_unstructured(layer, "weight", 0.5)
    for svi in (cases.stock(pair.model, pair.guide), SVI(pair.model, pair.guide)):
        before = layer.weight_orig.detach().clone()
        svi.step(*pair.args)
        pair.model(*pair.args)
        assert (layer.weight_orig != before).any() and (layer.weight == 0).float().mean() == 0.5


@tool("nn.utils.parameters_to_vector", "all w as one vector, and back")
def flattening():
    pair = images()
    before = same_draw(ELBO().loss, pair.model, pair.guide, *pair.args)
    w = parameters_to_vector(pair.model.parameters()).detach()
    vector_to_parameters(torch.zeros_like(w), pair.model.parameters())
    assert same_draw(ELBO().loss, pair.model, pair.guide, *pair.args) != before
    vector_to_parameters(w, pair.model.parameters())  # parts of one tensor now, which lie elsewhere in memory
    close(same_draw(ELBO().loss, pair.model, pair.guide, *pair.args), before, rtol=cases.ROUNDING)


@tool("nn.LazyLinear, in fit", "its parameters are made at the first call, which `fit` makes before its optimizers")
def lazy():
    model = cases.ppca()
    pair = Pair(model, guides.Amortized(nn.LazyLinear(5), 2), torch.randn(N, 6))
    fit(model, pair.guide, pair.everything, steps=1, seed=0)
    assert pair.guide.encoder.weight.shape == (5, 6)
    check_moves(pair, lambda *_: fit(model, pair.guide, pair.everything, steps=2, seed=0))


@tool(
    "nn.LazyLinear, in Pyro's SVI",
    "call the guide once before: Pyro registers parameters before they are made",
    ValueError,
    "uninitialized parameter",
)
def lazy_in_stock_svi():
    model = cases.ppca()
    cases.stock(model, guides.Amortized(nn.LazyLinear(5), 2)).step(torch.randn(B, 6))


@tool("nn.parallel.DistributedDataParallel", "around the module `Trace_ELBO()(model, guide)`; tried with one process")
def distributed():
    pair = exact()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        module = nn.parallel.DistributedDataParallel(infer.Trace_ELBO()(pair.model, pair.guide))
        loss = same_draw(module, *pair.args, size=N)
        loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    close(loss, -N / B * pair.evidence.sum())
    parameters = [*pair.model.parameters(), *pair.guide.parameters()]
    expected = torch.autograd.grad(
        same_draw(infer.Trace_ELBO()(pair.model, pair.guide), *pair.args, size=N), parameters
    )
    close([p.grad for p in parameters], list(expected))


@tool("random.fork_rng", "around anything; `fit(seed=)` and `evaluate` leave the generator as it was by themselves")
def forking():
    pair = images()
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        pair.guide(*pair.args)
        assert not torch.equal(state, torch.get_rng_state())
    assert torch.equal(state, torch.get_rng_state())
    evaluate.log_weights(pair.model, pair.guide, *pair.args, 3)
    fit(pair.model, pair.guide, pair.everything, steps=2, seed=0)
    assert torch.equal(state, torch.get_rng_state())


def batch(rows: list) -> Points:
    r"""Points from rows of (x, index)."""
    return Points(*map(torch.stack, zip(*rows, strict=True)))


@tool("utils.data.DataLoader, in fit", "with `size=N`, and a collate_fn that makes `Points`")
def loading():
    pair = exact()
    rows = list(zip(*pair.whole, strict=True))
    loader = DataLoader(rows, batch_size=4, shuffle=True, collate_fn=batch)
    lazy = {"lr": 1e-30, "row_lr": 1e-30, "objective": infer.Trace_ELBO(), "seed": 0}
    history = fit(pair.model, pair.guide, loader, size=N, steps=6, **lazy).history
    assert [record["epoch"] for record in history] == [1, 2]
    expected = pair.model.log_prob(pair.everything).mean().item()
    close(torch.tensor([record["elbo"] for record in history]), torch.tensor([expected] * 2), rtol=1e-5)
    check_moves(pair, lambda *_: fit(pair.model, pair.guide, loader, size=N, steps=3, seed=0))


@tool("utils.data.DataLoader, in fit, without Points", "batches are `Points`", TypeError, "expected Points(x, index)")
def loading_tensors():
    pair = linear()
    fit(pair.model, pair.guide, DataLoader(pair.everything, batch_size=5), size=N, steps=1)
