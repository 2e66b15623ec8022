r"""Captures a step: one run of a program becomes a graph of tensor operations, a function of all tensors it reads."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from .noise import Draw, Recorded, Replayed

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
    with Recorded() as recorded:
        function(inputs)

    def replayed(inputs, noise):
        with Replayed(noise):
            return function(inputs)

    graph = make_fx(replayed)(inputs, [draw() for draw in recorded.draws])
    _pass_noise(graph)
    return Captured(graph, recorded.draws, _lifted(graph, _places(modules)))


def _pass_noise(graph: fx.GraphModule) -> None:
    r"""Passes on what is copied into an empty tensor, as noise is: vectorized, an empty tensor would be one for all."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.copy_.default and node.args[0].target in EMPTY:
            empty, source = node.args[:2]
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
            empty.replace_all_uses_with(source)
            graph.graph.erase_node(empty)
    graph.recompile()


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
