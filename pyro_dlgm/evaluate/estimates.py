r"""Estimates with standard errors, from a table of log-weights."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import log_mean_exp


def log_mean_exp_error(table: Tensor) -> Tensor:
    r"""The standard error of log (1/K) Σ_k exp table_k over the first axis: (K, B) -> (B,), in nats.

    By the delta method, sd(w) / (√K mean(w)): too small where few weights carry everything, NaN for a single one.
    """
    relative = (table - log_mean_exp(table)).exp()
    return relative.std(0) / len(table) ** 0.5 if len(table) > 1 else torch.full_like(relative[0], torch.nan)


@dataclass(frozen=True)
class Estimate:
    r"""An estimate for each point.

    Attributes:
        value: (B,), in nats.
        stderr: its Monte Carlo standard error, (B,).
    """

    value: Tensor
    stderr: Tensor

    @classmethod
    def mean(cls, table: Tensor) -> "Estimate":
        r"""The mean over the first axis of (K, B): of log-weights, the ELBO."""
        return cls(table.mean(0), table.std(0) / len(table) ** 0.5)

    @classmethod
    def log_mean_exp(cls, table: Tensor) -> "Estimate":
        r"""The log-mean-exp over the first axis of (K, B): of log-weights, IWAE-K."""
        return cls(log_mean_exp(table), log_mean_exp_error(table))

    def __sub__(self, other: "Estimate") -> "Estimate":
        r"""The difference from an estimate with random numbers of its own."""
        return Estimate(self.value - other.value, torch.hypot(self.stderr, other.stderr))

    def summary(self) -> dict[str, float | None]:
        r"""The mean over points, its standard error over points, and the Monte Carlo part of it; `None`: not known."""
        B = len(self.value)
        spread = float(self.value.std()) / math.sqrt(B) if B > 1 else None
        monte_carlo = float(self.stderr.square().sum().sqrt()) / B
        known = monte_carlo if math.isfinite(monte_carlo) else None
        return {"mean": float(self.value.mean()), "standard_error": spread, "monte_carlo_error": known}
