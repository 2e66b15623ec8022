r"""Networks in bfloat16 during training; all else stays in the dtype of the parameters.

Networks run under `torch.autocast`, which rounds their inputs and weights to bfloat16 at each call. What a network
returns is float32 again: densities, rows, sums, gradients of parameters and states of optimizers are in float32, and
evaluation, outside of training steps, is so throughout.

References:
    Kalamkar et al., "A study of BFLOAT16 for deep learning training" (2019). https://arxiv.org/abs/1905.12322
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.utils.hooks import RemovableHandle

from .net import Net

BF16 = "bf16"
LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
# What runs in bfloat16 as a whole, from its inputs to its outputs.
WHOLE = (Net, nn.Sequential, *LAYERS)


class InBfloat16:
    r"""Creates a context manager in which the networks of modules compute in bfloat16, and return float32.

    A network is a `nets.Net`, an ``nn.Sequential``, or any other linear, convolutional, recurrent or attention layer of
    torch, wherever it is in the modules. A module of another class, such as one that contains such layers, is float32
    between them: put it into an ``nn.Sequential`` to run it as a whole.

    Arguments:
        modules: where the networks are.
        but: a class of modules that are no part of a network, such as those with random weights.

    Raises:
        ValueError: if there is no network, one is not of float32, or the device has no bfloat16.
    """

    def __init__(self, modules: Sequence[nn.Module], but: type | tuple = ()):
        self.networks = list(dict.fromkeys(network for module in modules for network in networks(module, but)))
        _check(self.networks)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for network in self.networks:
            begin, end = _rounding(next(network.parameters()).device.type)
            self._handles.append(network.register_forward_pre_hook(begin))
            self._handles.append(network.register_forward_hook(end, always_call=True))

    def __exit__(self, *error) -> None:
        while self._handles:
            self._handles.pop().remove()


def networks(module: nn.Module, but: type | tuple = ()) -> list[nn.Module]:
    r"""Returns the outermost networks in a module, itself included; none contains modules of the class ``but``."""
    if isinstance(module, WHOLE) and not any(isinstance(m, but) for m in module.modules()):
        return [module] if next(module.parameters(), None) is not None else []
    return [network for child in module.children() for network in networks(child, but)]


def _check(found: list[nn.Module]) -> None:
    dtypes = {p.dtype for network in found for p in network.parameters() if p.is_floating_point()}
    if dtypes != {torch.float32}:
        has = f"networks of {', '.join(sorted(map(str, dtypes)))}" if dtypes else "no network (of nets or torch.nn)"
        raise ValueError(
            f"precision is {BF16!r} and the pair has {has}; expected networks of torch.float32: leave out precision, "
            "or convert the pair by .float()"
        )
    for device in {p.device.type for network in found for p in network.parameters()}:
        if not is_autocast_available(device):
            raise ValueError(f"precision is {BF16!r}, which torch does not have on {device!r}; expected no precision")


def _rounding(device: str) -> tuple[Callable, Callable]:
    r"""Returns the hooks that begin and end bfloat16 around a call of a network."""
    entered: list[torch.autocast] = []

    def begin(network, args) -> None:
        # Without the cache: each weight is read once in a call, and a captured step must contain the rounding.
        entered.append(torch.autocast(device, torch.bfloat16, cache_enabled=False))
        entered[-1].__enter__()

    def end(network, args, result):
        entered.pop().__exit__(None, None, None)
        return _in_float32(result)

    return begin, end


def _in_float32(result):
    r"""Returns the result of a network with its tensors of bfloat16 as float32."""
    if isinstance(result, Tensor):
        return result.float() if result.dtype == torch.bfloat16 else result
    return tuple(map(_in_float32, result)) if isinstance(result, tuple | list) else result
