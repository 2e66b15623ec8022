r"""A function of lists of tensors as a program of all of them in turn, compiled or not."""

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx


def program(function: Callable, sections: list[list[Tensor]], backend: str | bool):
    r"""Returns a function of lists of tensors as a program of all these tensors in turn.

    Arguments:
        function: it may change its tensors in place.
        sections: its arguments.
        backend: the backend of `torch.compile`; `False`: its operations are called one by one.
    """
    if backend == "inductor":
        return Program(function, [len(section) for section in sections])
    graph = traced(function, sections)
    return torch.compile(graph, backend=backend, dynamic=False, fullgraph=True) if backend else graph


def traced(function: Callable, sections: list[list[Tensor]]) -> fx.GraphModule:
    r"""Returns the operations of a function of lists of tensors, as a function of all these tensors in turn."""
    with torch.no_grad():
        graph = make_fx(lambda sections: function(*sections), tracing_mode="fake")(sections)
    graph.graph.set_codegen(fx.graph.CodeGen())
    graph.recompile()
    return graph


class Program:
    r"""Creates a function of tensors that is compiled at its first call, and again for tensors of another kind.

    Without Dynamo, whose guards on a hundred tensors take longer than this comparison.

    Arguments:
        function, sizes: a function of lists of tensors, and their lengths.
    """

    def __init__(self, function: Callable, sizes: list[int]):
        self.function, self.sizes, self._kind = function, sizes, None

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        kind = [torch.get_num_threads(), *((v.shape, v.stride(), v.dtype) for v in tensors)]
        if kind != self._kind:
            left = iter(tensors)
            graph = traced(self.function, [[next(left) for _ in range(size)] for size in self.sizes])
            with torch.no_grad():
                self._call, self._kind = torch._inductor.compile(graph, list(tensors)), kind
        return self._call(*tensors)
