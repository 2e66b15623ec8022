r"""The base of losses that stay tensors: a step on them never waits for the device."""

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import torch_item
from torch import Tensor


class Loss(Trace_ELBO):
    r"""The base of losses for Pyro's SVI; a subclass defines `differentiable_loss`."""

    def differentiable_loss(self, model, guide, *args, **kwargs) -> Tensor:
        r"""Returns the loss as a scalar tensor, in nats, with its graph."""
        raise NotImplementedError

    def loss(self, model, guide, *args, **kwargs) -> float:
        r"""Returns the loss as a number, without gradients."""
        with torch.no_grad():
            return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model, guide, *args, **kwargs) -> Tensor:
        r"""Returns the loss as a detached scalar tensor, and adds its gradients to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()
