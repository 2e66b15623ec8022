r"""The means of an epoch, over its steps."""

import torch

from .steps import Step


class EpochSums:
    r"""Creates the sums over the steps of an epoch, as tensors, since reading a value waits for the device."""

    def __init__(self):
        self.loss, self.points = torch.zeros(()), 0
        self.norm, self.steps = torch.zeros(()), 0

    def add(self, step: Step) -> None:
        r"""Adds a step."""
        self.loss = self.loss.to(step.loss) + step.loss * step.points
        self.points = self.points + (step.points if step.mass is None else step.mass)
        if step.gradient_norm is not None:
            self.norm, self.steps = self.norm.to(step.gradient_norm) + step.gradient_norm, self.steps + 1

    def means(self, objective: str) -> dict[str, float]:
        r"""Returns the mean of the objective, in nats per point, and of the gradient's norm, if there are any."""
        norm = {"gradient_norm": float(self.norm) / self.steps} if self.steps else {}
        return {objective: -float(self.loss) / float(self.points)} | norm

    def state_dict(self) -> dict:
        r"""Returns the sums by the names that they have in a checkpoint."""
        return {f"_{name}": value for name, value in vars(self).items()}

    def load_state_dict(self, state: dict) -> None:
        r"""Restores what `state_dict` returned; the state may have other names as well."""
        for name in vars(self):
            setattr(self, name, state[f"_{name}"])
