r"""Convolutions as torch's, computed in the way that is fastest on a CPU; parameters keep torch's names and layout."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 1 << 15  # pixels of the smaller images: 2 MB of products at a time, which stay in a processor's cache


def _eager_on_cpu(v: Tensor) -> bool:
    r"""Whether operations are called one by one on a CPU, and not compiled or exported for batches of any size."""
    return v.device.type == "cpu" and not torch.compiler.is_compiling()


def channels_last(v: Tensor) -> Tensor:
    r"""Returns images with the channels of a pixel next to one another in memory: convolutions are faster then."""
    # Measured on CPUs alone. By moved axes, since vmap knows no memory formats; weights keep their layout, so
    # that optimizers and checkpoints do.
    return v.movedim(-3, -1).contiguous().movedim(-1, -3) if v.device.type == "cpu" else v


class ToImages(nn.Linear):
    r"""Creates a linear map to `channels_last` images.

    Arguments:
        in_features: the number of features.
        image_shape: (C, H, W).
    """

    def __init__(self, in_features: int, image_shape: tuple[int, int, int]):
        super().__init__(in_features, prod(image_shape))
        self.image_shape = image_shape

    def forward(self, v: Tensor) -> Tensor:
        C, H, W = self.image_shape
        if not _eager_on_cpu(v) or v.dim() == 1 or v.shape[0] <= self.in_features:
            return super().forward(v).unflatten(-1, (C, H, W))
        # The rows of the weight are put into the order of memory: fewer numbers than those of more than D images.
        weight, bias = (p.unflatten(0, (C, H, W)).movedim(0, 2).flatten(0, 2) for p in (self.weight, self.bias))
        return F.linear(v, weight, bias).unflatten(-1, (H, W, C)).movedim(-1, -3)


class Conv(nn.Conv2d):
    r"""Creates a convolution of `channels_last` images."""

    def forward(self, v: Tensor) -> Tensor:
        return super().forward(channels_last(v))


class Up(nn.ConvTranspose2d):
    r"""Creates a transposed convolution of stride 2 and padding 1, of `channels_last` images.

    Arguments:
        before, after: numbers of channels.
        kernel: its sides, 4 to double a side, 3 for one less.
    """

    def __init__(self, before: int, after: int, kernel: tuple[int, int]):
        super().__init__(before, after, kernel, stride=2, padding=1)

    def forward(self, v: Tensor) -> Tensor:
        if not (_eager_on_cpu(v) and v.dim() == 4 and self.out_channels == 1 and self.kernel_size == (4, 4)):
            return super().forward(channels_last(v))
        size = max(1, BLOCK // max(1, prod(v.shape[2:])))
        parts = [doubled(part, self.weight) for part in v.split(size)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)) + self.bias.view(1)


def doubled(v: Tensor, weight: Tensor) -> Tensor:
    r"""Returns the transposed convolution to one channel, with stride 2 and padding 1, as one matrix product.

    On a CPU it takes about a quarter of the time of torch's, which is made for many channels; with gradients a third to
    two thirds of it. Pixel (i, j) adds w_kl times its channels to pixel (2i + k − 1, 2j + l − 1). The products with all
    w_kl come first, as 4 x 4 images. Then row 2i is what k = 1 makes of row i and k = 3 of row i − 1, row 2i + 1 what
    k = 2 makes of row i and k = 0 of row i + 1, and so for columns.

    Arguments:
        v: images (N, C, H, W).
        weight: as of `nn.ConvTranspose2d`, (C, 1, 4, 4).

    Returns:
        Images (N, 1, 2H, 2W).
    """
    N, _, H, W = v.shape
    z = (weight.flatten(1).T @ v.movedim(-3, 0).flatten(1)).reshape(4, 4, N, H, W)
    # Unbound, since the gradient of an index would be zeros of the size of z.
    a, b, c, d = z.unbind(0)
    z = torch.stack([b + F.pad(d, (0, 0, 1, -1)), c + F.pad(a, (0, 0, -1, 1))])
    a, b, c, d = z.unbind(1)
    z = torch.stack([b + F.pad(d, (1, -1)), c + F.pad(a, (-1, 1))])
    # z has the axes: parity of the column, of the row, N, H, W.
    return z.permute(2, 3, 1, 4, 0).reshape(N, 1, 2 * H, 2 * W)
