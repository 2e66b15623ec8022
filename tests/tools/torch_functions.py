r"""Functional transforms and compilers of PyTorch on log p(x, t | w)."""

from functools import partial

import cases
import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.jit.frontend import NotSupportedError

from .group import Group
from .pairs import B, Pair, close, images, linear

tool = Group("PyTorch: functional transforms and compilers, of `log_joint`")
QUIET = "under `pyro.validation_enabled(False)`: checks of values are control flow"


class Joint(nn.Module):
    r"""Creates log p(x, t | w) as the forward pass of a module, for what calls nothing else."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.model.log_joint(x, t)


def check_torch() -> None:
    r"""Skips what torch 2.6 and older do otherwise, and 2.14 and 2.15 as the table says."""
    pytest.importorskip("torch", "2.14")


def codes(pair: Pair, *lead: int) -> Tensor:
    return torch.randn(*lead, B, pair.model.prior.latent_dim).to(pair.everything)


@tool("func.vmap, over samples of t", "not needed: `log_joint` takes any leading axes of t")
def over_samples():
    check_torch()
    pair = linear()
    t = codes(pair, 5)
    close(vmap(lambda t: pair.model.log_joint(pair.x, t))(t), pair.model.log_joint(pair.x, t))


@tool("func.vmap, over points", QUIET)
def over_points():
    for pair, rtol in ((linear(), 1e-8), (images(), 1e-5)):
        t = codes(pair)
        with pyro.validation_enabled(False):
            each = vmap(lambda x, t, model=pair.model: model.log_joint(x[None], t[None])[0])(pair.x, t)
        close(each, pair.model.log_joint(pair.x, t), rtol=rtol)


@tool(
    "func.vmap, over points, with Pyro's validation on",
    "switch it off for the call",
    RuntimeError,
    "data-dependent control flow",
)
def over_points_validated():
    pair = linear()
    vmap(lambda x, t: pair.model.log_joint(x[None], t[None])[0])(pair.x, codes(pair))


@tool("func.grad, func.hessian", "in t: for PPCA the Hessian is −(I + WᵀW/σ²)")
def derivatives():
    pair = linear()
    t, W, s2 = codes(pair), pair.model.W, pair.model.sigma2
    slope = grad(lambda t: pair.model.log_joint(pair.x, t).sum())(t)
    close(slope, (pair.x - t @ W.mT - pair.model.mu) @ W / s2 - t)
    curve = hessian(lambda t: pair.model.log_joint(pair.x[:1], t[None])[0])(t[0])
    close(curve, -(torch.eye(2) + W.mT @ W / s2))


@tool("func.functional_call", "on a module whose forward is `log_joint`; the model itself stays as it is")
def calling():
    pair = linear()
    joint, t, other = Joint(pair.model), codes(pair), cases.ppca().double()
    state = {f"model.{name}": p for name, p in other.named_parameters()}
    before = cases.tensors(pair.model)
    close(functional_call(joint, state, (pair.x, t)), other.log_joint(pair.x, t))
    assert cases.same(before, cases.tensors(pair.model))


@tool("func.vmap of func.grad of functional_call", f"a gradient in w for each point, {QUIET}")
def gradients_of_points():
    pair = linear()
    joint, t = Joint(pair.model), codes(pair)
    state = {name: p.detach() for name, p in joint.named_parameters()}
    with pyro.validation_enabled(False):
        each = vmap(grad(lambda w, x, t: functional_call(joint, w, (x[None], t[None]))[0]), (None, 0, 0))
        found = each(state, pair.x, t)
    for i in range(B):
        expected = torch.autograd.grad(pair.model.log_joint(pair.x[[i]], t[[i]]).sum(), pair.model.parameters())
        close([found[name][i] for name in state], list(expected))


@tool("func.stack_module_state", "an ensemble of models as one call")
def ensembles():
    pair = linear()
    models = [Joint(cases.ppca().double()) for _ in range(3)]
    state, buffers = stack_module_state(models)
    t = codes(pair)
    with pyro.validation_enabled(False):
        found = vmap(lambda w, b: functional_call(models[0], (w, b), (pair.x, t)))(state, buffers)
    close(found, torch.stack([joint(pair.x, t) for joint in models]))


@tool("autograd.gradcheck", "in float64")
def checking():
    pair = linear()
    assert torch.autograd.gradcheck(lambda t: pair.model.log_joint(pair.x, t), codes(pair).requires_grad_())


def check_compiled(pair: Pair, compiled, rtol: float = 1e-6) -> None:
    r"""At other inputs than those of the first call: values, and gradients in w and t."""
    t = 2 * codes(pair)
    t.requires_grad_()
    x = pair.everything[:B] * 0.5
    close(compiled(x, t), pair.model.log_joint(x, t), rtol=rtol, atol=1e-5)
    inputs = [t, *pair.model.parameters()]
    found, expected = (torch.autograd.grad(f(x, t).sum(), inputs) for f in (compiled, pair.model.log_joint))
    close(list(found), list(expected), rtol=max(rtol, 1e-4), atol=1e-4)


@tool("compile", "the graph breaks at each `.item()` and each context variable; tried with the backend aot_eager")
def compiling():
    torch._dynamo.reset()
    for pair in (linear(), images()):
        compiled = torch.compile(pair.model.log_joint, backend="aot_eager")
        compiled(pair.x, codes(pair))
        check_compiled(pair, compiled, 1e-5)


@tool(
    "compile(fullgraph=True)",
    "the package and Pyro hold settings in context variables",
    torch._dynamo.exc.Unsupported,
    "ContextVar",
)
def compiling_as_one():
    check_torch()
    torch._dynamo.reset()
    pair = linear()
    with pyro.validation_enabled(False):
        torch.compile(pair.model.log_joint, backend="eager", fullgraph=True)(pair.x, codes(pair))


def at(joint: Joint, w: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
    return functional_call(joint, w, (x, t))


@tool("make_fx", f"one graph of tensor operations, with w as an input, {QUIET}")
def tracing_operations():
    for pair in (linear(), images()):
        joint = Joint(pair.model)
        w = dict(joint.named_parameters())
        with pyro.validation_enabled(False):
            graph = make_fx(partial(at, joint))(w, pair.x, codes(pair))
        check_compiled(pair, partial(graph, w))


@tool("export.export", f"of a module whose forward is `log_joint`, {QUIET}")
def exporting():
    check_torch()
    for pair in (linear(), images()):
        with pyro.validation_enabled(False):
            module = torch.export.export(Joint(pair.model), (pair.x, codes(pair))).module()
        t = codes(pair)
        close(module(pair.x * 0.5, t), pair.model.log_joint(pair.x * 0.5, t), rtol=1e-5)


@tool("jit.trace", "deprecated by torch; batches of any length for `DLGM`'s networks")
def tracing():
    for pair in (linear(), images()):
        joint = Joint(pair.model)
        traced = torch.jit.trace(joint, (pair.x, codes(pair)))
        check_compiled(pair, traced)
        x = pair.everything[:2]
        close(traced(x, codes(pair)[:2] * 0), joint(x, codes(pair)[:2] * 0), rtol=1e-5)


@tool("jit.script", "keyword-only arguments are not in its language", NotSupportedError, "variable number of arguments")
def scripting():
    torch.jit.script(Joint(linear().model))


@tool("fx.symbolic_trace", "shapes are control flow: use make_fx", torch.fx.proxy.TraceError, "control flow")
def tracing_symbols():
    torch.fx.symbolic_trace(Joint(linear().model))
