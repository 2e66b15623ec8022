r"""A step captured: one run of a program becomes a graph of tensor operations, a function of all that it reads."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from .noise import Draw, Recorded, Replayed

Place = tuple[dict, str]  # where a module keeps a tensor: its dictionary, and the name there


@dataclass
class Captured:
    r"""A function of tensors as a graph.

    Attributes:
        graph: called with the inputs, then the noise, then what it reads beside: it returns what the function did.
        draws: of the noise, in their order.
        read: where the tensors are that it reads beside, parameters and buffers; or the tensors themselves.
    """

    graph: fx.GraphModule
    draws: list[Draw]
    read: list[Place | Tensor]

    def noise(self) -> list[Tensor]:
        r"""Draws afresh from the global generators."""
        return [draw() for draw in self.draws]

    def beside(self) -> list[Tensor]:
        r"""The tensors that it reads beside, as they are now."""
        return [place if isinstance(place, Tensor) else place[0][place[1]] for place in self.read]


def capture(
    function: Callable[[list[Tensor]], list[Tensor | None]], inputs: list[Tensor], modules: list[nn.Module]
) -> Captured:
    r"""Runs a function twice, once to find its draws and once to write down what it does.

    Arguments:
        function: of a list of tensors; it may read parameters and buffers of the modules.
        inputs: as it will be called, of their shapes.
        modules: whose parameters and buffers may be exchanged later on.

    Raises:
        NotCaptured: if it is no function of tensors.
    """
    with Recorded() as recorded:
        function(inputs)

    def replayed(inputs, noise):
        with Replayed(noise):
            return function(inputs)

    graph = make_fx(replayed)(inputs, [draw() for draw in recorded.draws])
    return Captured(graph, recorded.draws, _lifted(graph, _places(modules)))


def _places(modules: list[nn.Module]) -> dict[int, Place]:
    r"""Where parameters and buffers are, by the identity of the tensor."""
    found = {}
    for m in modules:
        for kept in (m._parameters, m._buffers):
            found |= {id(tensor): (kept, name) for name, tensor in kept.items() if tensor is not None}
    return found


def _lifted(graph: fx.GraphModule, places: dict[int, Place]) -> list[Place | Tensor]:
    r"""Makes a further input of each tensor that the graph holds, and flattens its arguments; says which."""
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
