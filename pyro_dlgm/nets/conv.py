r"""Convolutional encoders and decoders for images of any size from 4x4 up, including odd sizes.

The encoder halves the sides, rounding up, until the shorter one is 4 or less; the decoder reverses these sizes. 28x28:
28, 14, 7, 4. Frey faces, 28x20: 28x20, 14x10, 7x5, 4x3.
"""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from .convolution import Conv, ToImages, Up
from .net import Net

SMALLEST = 4
WIDTHS = (16, 32, 64, 64)


def sizes(image_shape: Sequence[int], stages: int) -> list[tuple[int, int]]:
    r"""Returns the sides at the input and after each stage; a stage with unchanged sides has stride 1."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape is {tuple(image_shape)}; expected (C, H, W): grey images have C = 1")
    if stages < 1:
        raise ValueError("widths is empty; expected the channels of at least one stage, or use nets.MLP")
    _, height, width = image_shape
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"image of {height}x{width}; convolutional networks need at least {SMALLEST}x{SMALLEST}: use nets.MLP"
        )
    path = [(height, width)]
    for _ in range(stages):
        h, w = path[-1]
        path.append(((h + 1) // 2, (w + 1) // 2) if min(h, w) > SMALLEST else (h, w))
    return path


def _norm(channels: int, norm: bool) -> list[nn.Module]:
    # GroupNorm, which keeps points independent, with the largest number of groups up to 8 that divides.
    groups = next(g for g in range(min(8, channels), 0, -1) if channels % g == 0)
    return [nn.GroupNorm(groups, channels)] if norm else []


class Residual(nn.Module):
    r"""Creates v -> v + f(v), where f has two 3x3 convolutions."""

    def __init__(self, channels: int, norm: bool, activation):
        super().__init__()
        halves = [[*_norm(channels, norm), activation(), Conv(channels, channels, 3, padding=1)] for _ in range(2)]
        self.f = nn.Sequential(*halves[0], *halves[1])

    def forward(self, v: Tensor) -> Tensor:
        return v + self.f(v)


def _stage(conv: nn.Module, channels: int, norm: bool, residual: bool, activation) -> list[nn.Module]:
    rest = [Residual(channels, norm, activation)] if residual else []
    return [conv, *_norm(channels, norm), activation(), *rest]


class ConvEncoder(Net):
    r"""Creates a convolutional network from images (..., C, H, W) to features (..., out_features).

    Arguments:
        image_shape: (C, H, W), with H and W at least 4.
        out_features: the number of features.
        widths: channels of the stages, by default (16, 32, 64, 64).
        norm: whether to put a GroupNorm after each convolution.
        residual: whether each stage ends with a residual block.
        activation: class of the nonlinearity.

    Raises:
        ValueError: if the image is smaller than 4x4, or has no channel.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int = 256,
        *,
        widths=WIDTHS,
        norm=False,
        residual=False,
        activation=nn.GELU,
    ):
        path, channels = sizes(image_shape, len(widths)), image_shape[0]
        layers: list[nn.Module] = []
        for before, after, small, large in zip((channels, *widths), widths, path[1:], path, strict=False):
            conv = Conv(before, after, 3, stride=1 if small == large else 2, padding=1)
            layers += _stage(conv, after, norm, residual, activation)
        layers += [nn.Flatten(), nn.Linear(widths[-1] * prod(path[-1]), out_features), activation()]
        super().__init__(image_shape, out_features, nn.Sequential(*layers))


class ConvDecoder(Net):
    r"""Creates a convolutional network from codes (..., D) to images (..., C, H, W), `ConvEncoder` reversed.

    Arguments:
        latent_dim: the number D of entries of the code vector.
        image_shape: (C, H, W), with H and W at least 4.
        widths: channels of the stages, the one next to the image first, by default (16, 32, 64, 64), as in the encoder.
        norm: whether to put a GroupNorm after each convolution.
        residual: whether each stage ends with a residual block.
        activation: class of the nonlinearity.
        heads: the number of images, 2 for μ and σ of `DiagonalNormal`.

    Raises:
        ValueError: if the image is smaller than 4x4, or has no channel.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int],
        *,
        widths=WIDTHS,
        norm=False,
        residual=False,
        activation=nn.GELU,
        heads: int = 1,
    ):
        path, channels = sizes(image_shape, len(widths)), image_shape[0]
        deep = (widths[-1], *path[-1])
        # The second layer keeps the place, and so the names of parameters, that files of older versions have.
        layers: list[nn.Module] = [ToImages(latent_dim, deep), nn.Identity(), activation()]
        for i in reversed(range(1, len(widths))):
            up = _up(widths[i], widths[i - 1], path[i + 1], path[i])
            layers += _stage(up, widths[i - 1], norm, residual, activation)
        layers.append(_up(widths[0], heads * channels, path[1], path[0]))
        super().__init__(latent_dim, image_shape, nn.Sequential(*layers), heads)


def _up(before: int, after: int, small: tuple[int, int], large: tuple[int, int]) -> nn.Module:
    r"""Returns the convolution from sides ``small`` to ``large`` = 2·small or 2·small − 1 (or the same)."""
    if small == large:
        return Conv(before, after, 3, padding=1)
    # A kernel of 4 doubles a side exactly, one of 3 gives one less: no cropping or output padding is needed.
    kernel = tuple(4 if big % 2 == 0 else 3 for big in large)
    return Up(before, after, kernel)
