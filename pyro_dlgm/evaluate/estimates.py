r"""Estimates with standard errors: over points, and over Monte Carlo samples."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .bounds import log_mean_exp


class Mean(NamedTuple):
    r"""A mean over points.

    Attributes:
        mean: in the units of the values.
        standard_error: of the mean, over points; `None` for a single point.
    """

    mean: float
    standard_error: float | None

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        r"""Creates the mean of values (B,)."""
        error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
        return cls(float(values.mean()), error)


def log_mean_exp_error(table: Tensor) -> Tensor:
    r"""Returns the standard error of log (1/K) Σ_k exp(a_k) over the first axis of a table a: (K, B) -> (B,), in nats.

    It is sd(w) / (√K mean(w)), by the delta method: too small if few weights dominate, NaN for a single weight.
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
        r"""Creates the mean over the first axis of (K, B); for log-weights, this is the ELBO."""
        return cls(table.mean(0), table.std(0) / len(table) ** 0.5)

    @classmethod
    def log_mean_exp(cls, table: Tensor) -> "Estimate":
        r"""Creates the log-mean-exp over the first axis of (K, B); for log-weights, this is IWAE-K."""
        return cls(log_mean_exp(table), log_mean_exp_error(table))

    def __sub__(self, other: "Estimate") -> "Estimate":
        r"""Returns the difference from an estimate with independent random numbers."""
        return Estimate(self.value - other.value, torch.hypot(self.stderr, other.stderr))

    def summary(self) -> dict[str, float | None]:
        r"""Returns the mean over points, its standard error over points, and its Monte Carlo error, in nats.

        `None` stands for an error that is unknown, as from a single point or sample.
        """
        monte_carlo = float(self.stderr.square().sum().sqrt()) / len(self.value)
        known = monte_carlo if math.isfinite(monte_carlo) else None
        return Mean.of(self.value)._asdict() | {"monte_carlo_error": known}
