r"""Standard errors of what is estimated from a table of log-weights."""

import torch
from torch import Tensor

from .bounds import log_mean_exp


def log_mean_exp_error(table: Tensor) -> Tensor:
    r"""The standard error of log (1/K) Σ_k exp table_k over the first axis: (K, B) -> (B,), in nats.

    By the delta method, sd(w) / (√K mean(w)): too small where few weights carry everything, NaN for a single one.
    """
    relative = (table - log_mean_exp(table)).exp()
    return relative.std(0) / len(table) ** 0.5 if len(table) > 1 else torch.full_like(relative[0], torch.nan)
