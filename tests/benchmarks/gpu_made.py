r"""Data and pairs that the measurements make."""

import torch
from torch import Tensor

from pyro_dlgm import DLGM, guides, likelihoods, nets, priors

SIDE, CAUSES = 28, 12


def images(num: int, device: str, seed: int = 0) -> Tensor:
    r"""Returns binary images (num, 1, 28, 28): Bernoulli pixels whose logits are sums of a dozen random spots."""
    with torch.device(device):
        generator = torch.Generator(device).manual_seed(seed)
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        centre = SIDE * torch.rand(CAUSES, 2, 1, 1, generator=torch.Generator(device).manual_seed(7))
        spots = (-((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2) / 40).exp().flatten(1)
        t = torch.randn(num, CAUSES, generator=generator)
        pixels = torch.empty(num, 1, SIDE, SIDE)
        for some, out in zip(t.split(10_000), pixels.split(10_000), strict=True):
            out.copy_(torch.bernoulli((4 * some @ spots - 2).sigmoid(), generator=generator).view_as(out))
    return pixels


def mlp(device: str, latents: int = 50, width: int = 200, likelihood=likelihoods.Bernoulli) -> tuple:
    r"""Returns a model and an amortized guide with two hidden layers, for images."""
    shape = (1, SIDE, SIDE)
    encoder = torch.nn.Sequential(nets.MLP(shape, width, hidden=(width,)), torch.nn.ELU())
    model = DLGM(priors.StandardNormal(latents), likelihood(nets.MLP(latents, shape, hidden=(width, width))))
    return model.to(device), guides.Amortized(encoder, latents).to(device)


def conv(device: str, latents: int = 64, widths=(16, 32, 64, 64)) -> tuple:
    r"""Returns a model and an amortized guide with the default convolutional networks, for images."""
    shape = (1, SIDE, SIDE)
    net = nets.ConvDecoder(latents, shape, widths=widths)
    guide = guides.Amortized(nets.ConvEncoder(shape, widths=widths), latents)
    return DLGM(priors.StandardNormal(latents), likelihoods.Bernoulli(net)).to(device), guide.to(device)
