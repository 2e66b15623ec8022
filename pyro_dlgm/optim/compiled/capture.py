r"""Captures a step: one run of a program becomes a graph of tensor operations, a function of all tensors it reads."""

import contextlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from .noise import Draw, NotCaptured, Recorded, Replayed

EMPTY = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default, torch.ops.aten.empty_strided.default)

Place = tuple[dict, str]  # where a module keeps a tensor: its dictionary, and the name there


@dataclass
class Captured:
    r"""A function of tensors as a graph.

    Attributes:
        graph: called with the inputs, then the noise, then the other tensors that it reads; returns what the function
            did.
        draws: the draws of the noise, in order.
        read: the places of the other tensors that it reads, parameters and buffers; or the tensors themselves.
    """

    graph: fx.GraphModule
    draws: list[Draw]
    read: list[Place | Tensor]

    def noise(self) -> list[Tensor]:
        r"""Returns new draws from the global generators."""
        return [draw() for draw in self.draws]

    def others(self) -> list[Tensor]:
        r"""Returns the other tensors that it reads, as they are now."""
        return [place if isinstance(place, Tensor) else place[0][place[1]] for place in self.read]


def capture(
    function: Callable[[list[Tensor]], list[Tensor | None]], inputs: list[Tensor], modules: list[nn.Module]
) -> Captured:
    r"""Runs a function twice, first to find its draws and then to trace its operations.

    Arguments:
        function: a function of a list of tensors; it may read parameters and buffers of the modules.
        inputs: arguments of the shapes of later calls.
        modules: the modules whose parameters and buffers may be replaced later.

    Raises:
        NotCaptured: if it is not a function of tensors.
    """
    with _held(modules), Recorded() as recorded:
        function(inputs)

    def replayed(inputs, noise):
        with Replayed(noise):
            return function(inputs)

    graph = make_fx(replayed)(inputs, [draw() for draw in recorded.draws])
    _pass_noise(graph, len(inputs))
    read = _lifted(graph, _places(modules))
    _reshape(graph)
    return Captured(graph, recorded.draws, read)


def _pass_noise(graph: fx.GraphModule, before: int) -> None:
    r"""Passes on the noise that is copied into an empty tensor: vectorized, that tensor would be one for all.

    Arguments:
        graph: whose placeholders are inputs and then noise; it changes.
        before: the number of inputs.
    """
    noise = [node for node in graph.graph.nodes if node.op == "placeholder"][before:]
    for source in noise:
        for node in [n for n in source.users if n.target is torch.ops.aten.copy_.default and n.args[1] is source]:
            empty = node.args[0]
            if empty.target in EMPTY and next(iter(empty.users)) is node and _like(empty, source):
                node.replace_all_uses_with(source)
                graph.graph.erase_node(node)
                empty.replace_all_uses_with(source)
                graph.graph.erase_node(empty)
    graph.recompile()


def _reshape(graph: fx.GraphModule) -> None:
    r"""Turns views of what is never written to into reshapes: vectorized, operations may return other strides.

    A reshape may be a copy, which would not see what is written to the other one.
    """
    roots: dict[fx.Node, fx.Node] = {}
    written = set()
    for node in graph.graph.nodes:
        roots[node] = node
        for source, writes in _aliased(node):
            roots[node] = roots[source]
            written |= {roots[source]} if writes else set()
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.view.default and roots[node] not in written:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()


def _aliased(node: fx.Node) -> list[tuple[fx.Node, bool]]:
    r"""Returns the arguments that share memory with what an operation returns, and whether it writes to them."""
    found = [(node.args[0], False)] if node.target is operator.getitem else []
    arguments = getattr(getattr(node.target, "_schema", None), "arguments", ())
    values = [*node.args, *(node.kwargs.get(a.name) for a in arguments[len(node.args) :])]
    for argument, value in zip(arguments, values, strict=False):
        if (shared := argument.alias_info) is not None:
            fx.node.map_arg(value, lambda source, writes=shared.is_write: found.append((source, writes)))
    return found


def _like(one: fx.Node, other: fx.Node) -> bool:
    a, b = one.meta["val"], other.meta["val"]
    return a.shape == b.shape and a.dtype == b.dtype


@contextlib.contextmanager
def _held(modules: list[nn.Module]) -> Iterator[None]:
    r"""Context manager: refuses what puts another tensor in the place of a parameter or buffer."""
    before = [(kept, dict(kept)) for m in modules for kept in (m._parameters, m._buffers)]
    yield
    for kept, old in before:
        changed = [name for name, tensor in old.items() if kept.get(name) is not tensor]
        kept.update(old)
        if changed:
            raise NotCaptured(f"it replaces the tensor {changed[0]!r} of a module; expected changes in place")


def _places(modules: list[nn.Module]) -> dict[int, Place]:
    r"""Returns the places of parameters and buffers, by the identity of the tensor."""
    found = {}
    for m in modules:
        for kept in (m._parameters, m._buffers):
            found |= {id(tensor): (kept, name) for name, tensor in kept.items() if tensor is not None}
    return found


def _lifted(graph: fx.GraphModule, places: dict[int, Place]) -> list[Place | Tensor]:
    r"""Turns each tensor held by the graph into a further input, flattens its arguments, and returns these tensors."""
    nodes, made, read = list(graph.graph.nodes), {}, []
    last = [n for n in nodes if n.op == "placeholder"][-1]
    for node in (n for n in nodes if n.op == "get_attr"):
        tensor = getattr(graph, node.target)
        if id(tensor) not in made:
            with graph.graph.inserting_after(last):
                last = made[id(tensor)] = graph.graph.placeholder(f"read_{len(read)}")
            read.append(places.get(id(tensor), tensor))
        node.replace_all_uses_with(made[id(tensor)])
        graph.graph.erase_node(node)
    graph.graph.set_codegen(fx.graph.CodeGen())
    graph.recompile()
    return read
