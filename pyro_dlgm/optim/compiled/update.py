r"""Adam as a function of tensors, for compiled steps.

It follows torch's fused Adam, whose state it shares: checkpoints are the same.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

STATE = ("step", "exp_avg", "exp_avg_sq")
PLAIN = {"weight_decay": 0, "amsgrad": False, "maximize": False, "differentiable": False}


def is_plain(optimizer: torch.optim.Optimizer) -> bool:
    r"""Returns whether an optimizer is an Adam that this module implements."""
    if type(optimizer) is not torch.optim.Adam:
        return False
    return all(group.get(name, value) == value for group in optimizer.param_groups for name, value in PLAIN.items())


def state_of(optimizer: torch.optim.Adam, p: Tensor) -> list[Tensor]:
    r"""Returns steps () and both moments of a parameter; creates them at its first step, as torch's fused Adam does."""
    state = optimizer.state[p]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        state |= {name: torch.zeros_like(p, memory_format=torch.preserve_format) for name in STATE[1:]}
    return [state[name] for name in STATE]


def paces(group: dict, steps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    r"""Returns lr / (1 − β₁ⁿ) and (1 − β₂ⁿ)^(−½) for the next step n of some parameters, (P,) each."""
    n, (b1, b2) = torch.stack(tuple(steps)) + 1, group["betas"]
    # 1 − βⁿ itself loses half of its digits in float32.
    return group["lr"] / -torch.expm1(n * _log(b1)), (-torch.expm1(n * _log(b2))).rsqrt()


def _log(b: float) -> float:
    return math.log(b) if b else -math.inf


def adam_(p: Tensor, g: Tensor, state: Sequence[Tensor], pace: Sequence[Tensor], group: dict, skip: Tensor) -> None:
    r"""Takes one step of Adam, in place, unless ``skip`` is above 0.

    References:
        Kingma and Ba, "Adam: a method for stochastic optimization" (2015), Algorithm 1.
        https://arxiv.org/abs/1412.6980
    """
    (steps, m, v), (length, root), (b1, b2) = state, pace, group["betas"]
    m_new = m.lerp(g, 1 - b1)
    v_new = b2 * v + (1 - b2) * g.square()
    p_new = p - length * m_new / (v_new.sqrt() * root + group["eps"])
    for old, new in ((steps, steps + 1), (m, m_new), (v, v_new), (p, p_new)):
        old.copy_(torch.where(skip > 0, old, new))
