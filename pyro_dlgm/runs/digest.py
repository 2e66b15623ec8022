r"""Hashes that identify data and functions: of bytes, block by block, and of code with the values that it holds."""

import functools
import hashlib
import platform
from types import CodeType, FunctionType, MethodType

import numpy as np
import torch
from torch import Tensor, nn

from ..data.streamed_images import Streamed

BLOCK = 2**24  # bytes to read at a time, since a memory map may not fit into memory
PYTHON = ".".join(platform.python_version_tuple()[:2])  # each version compiles functions differently
DEEPEST = 6  # functions in functions, objects in objects
HERE = (FunctionType, functools.partial)
PLAIN = (bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device)


def digest(v) -> str:
    r"""Returns the BLAKE2b hash of the values of a tensor (N, ...), for any device and memory layout.

    Images in files are identified by their files: see `Streamed.identity`.
    """
    found = hashlib.blake2b(digest_size=16)
    for part in v.identity() if isinstance(v, Streamed) else _blocks(v):
        found.update(part)
    return f"blake2b {found.hexdigest()}"


def _blocks(v: Tensor):
    rows = max(1, BLOCK * len(v) // max(1, v.numel() * v.element_size()))
    for block in v.detach().split(rows):
        yield block.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def code(thing) -> str | None:
    r"""Returns a hash of a function's code, defaults and the values that it holds; `None` for other objects.

    The same applies to partial functions, methods, modules of torch, and objects whose ``repr`` is only an address. Of
    the values held, plain ones, tensors and such objects count; of global names, also functions of the same module.
    """
    parts = _parts(thing, DEEPEST)
    if not isinstance(parts, list):
        return None
    return f"{hashlib.blake2b(repr(parts).encode(), digest_size=6).hexdigest()} of Python {PYTHON}"


def _parts(thing, deep: int) -> list | str:
    if deep == 0:
        return type(thing).__qualname__
    if isinstance(thing, FunctionType):
        return [_compiled(thing.__code__), *(_parts(v, deep - 1) for v in _held(thing))]
    if isinstance(thing, MethodType):
        return [_parts(v, deep - 1) for v in (thing.__func__, thing.__self__)]
    if isinstance(thing, functools.partial):
        return [_parts(v, deep - 1) for v in (thing.func, thing.args, tuple(sorted(thing.keywords.items())))]
    if isinstance(thing, nn.Module):
        return [repr(thing), *(f"{name} {_value(v)}" for name, v in thing.state_dict().items())]
    if isinstance(thing, tuple):
        return [_parts(v, deep - 1) for v in thing]
    if type(thing).__repr__ is object.__repr__ and not isinstance(thing, type):
        return [type(thing).__qualname__, *((k, _parts(v, deep - 1)) for k, v in sorted(_fields(thing).items()))]
    return _value(thing)


def _held(function: FunctionType) -> list:
    r"""Returns what a function refers to: its closure, its defaults, and global values and functions of its module."""
    names = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
    mine = [v for v in names.values() if getattr(v, "__module__", "") == function.__module__ and isinstance(v, HERE)]
    plain = [v for v in names.values() if isinstance(v, (*PLAIN, Tensor, np.ndarray))]
    more = function.__defaults__ or (), tuple(sorted((function.__kwdefaults__ or {}).items()))
    return [*map(_content, function.__closure__ or ()), *mine, *plain, *more]


def _fields(thing) -> dict:
    return getattr(thing, "__dict__", {})


def _value(thing) -> str:
    if isinstance(thing, Tensor | np.ndarray):
        v = torch.as_tensor(thing)
        return f"{tuple(v.shape)} {v.dtype} {digest(v.reshape(-1))}"
    if thing is None or isinstance(thing, PLAIN):
        return repr(thing)
    if hasattr(thing, "__qualname__") or isinstance(thing, list | dict | set):  # whose contents may change
        return getattr(thing, "__qualname__", type(thing).__qualname__)
    return type(thing).__qualname__ if " at 0x" in repr(thing) else repr(thing)


def _compiled(code: CodeType) -> list:
    constants = []
    for c in code.co_consts:
        sorted_set = isinstance(c, frozenset)  # whose order differs between processes
        constants.append(_compiled(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if sorted_set else repr(c))
    return [code.co_code.hex(), code.co_names, constants]


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
