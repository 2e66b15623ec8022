r"""A published decoder of binarized MNIST, 30 latents, from the file of its weights, and images in MATLAB's files."""

from pathlib import Path

import numpy as np
import scipy.io
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_dlgm import DLGM, likelihoods, nets, priors

LATENTS, SHAPE = 30, (1, 28, 28)
STRIDES = {"conv2_d_transpose": 2, "conv2_d_transpose_1": 2, "conv2_d_transpose_2": 1}
TOLERANCE = 1e-3  # of logits, in float32


class Decoder(nn.Module):
    r"""Creates the network t (B, 30) -> logits (B, 1, 28, 28): a linear layer, then transposed convolutions with ReLU.

    Arguments:
        weights: arrays by name, as in the file: kernels (h, w, out, in), rows of the linear layer channels last.
    """

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.linear = nn.Linear(LATENTS, 7 * 7 * 32)
        self.linear.weight.data = weights["decoder.linear.w"].T.contiguous()
        self.linear.bias.data = weights["decoder.linear.b"]
        kernels = (weights[f"decoder.{name}.w"].permute(3, 2, 0, 1).flip(-1, -2).contiguous() for name in STRIDES)
        self.kernels = nn.ParameterList(kernels)
        self.biases = nn.ParameterList(weights[f"decoder.{name}.b"] for name in STRIDES)

    def forward(self, t: Tensor) -> Tensor:
        h = self.linear(t).unflatten(-1, (7, 7, 32)).movedim(-1, -3)
        for number, (kernel, bias, stride) in enumerate(zip(self.kernels, self.biases, STRIDES.values(), strict=True)):
            h = F.conv_transpose2d(h.relu() if number else h, kernel, bias, stride, padding=1 if stride == 1 else 0)
            h = h if stride == 1 else h[..., :-1, :-1]
        return h


def decoder(file: str) -> DLGM:
    r"""The frozen model; where the file of reference logits lies beside that of the weights, it is checked against it.

    Raises:
        ValueError: if the logits are others.
    """
    path = Path(file)
    with np.load(path) as held:
        net = Decoder({name: torch.from_numpy(held[name]) for name in held.files if name.startswith("decoder.")})
    check = path.with_name(path.name.replace("params", "check"))
    if check != path and check.exists():
        with np.load(check) as held, torch.no_grad():
            off = float((net(torch.from_numpy(held["z"])).squeeze(1) - torch.from_numpy(held["logits"])).abs().max())
        if not off < TOLERANCE:
            raise ValueError(
                f"logits of {path} differ by {off:g} from those in {check}; expected less than {TOLERANCE}"
            )
    model = DLGM(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(nets.Net(LATENTS, SHAPE, net)))
    return model.requires_grad_(False)


def images(folder: str, part: str) -> Tensor:
    r"""Statically binarized images (N, 1, 28, 28) of a part, "train" or "test", from ``binarized_mnist_{part}.mat``."""
    held = scipy.io.loadmat(Path(folder, f"binarized_mnist_{part}.mat"))["X"]
    return torch.from_numpy(held).float().reshape(-1, *SHAPE)
