r"""Data sets, random transforms of their values, and batches.

A `Dataset` holds raw values for training and, after one seeded draw of its transform, values for validation and
testing. The transforms are protocols: dynamically binarized, statically binarized, thresholded and dequantized images
are different data sets, whose log-likelihoods cannot be compared.

    dynamic     Binarize       1 with probability x, drawn anew at each access
    static      one draw of it, fixed
    threshold   Threshold      1 where x > ½
    none        Grid           k / (levels − 1), for `DiscretizedLogistic` and `ContinuousBernoulli`
                Dequantize     (k + u) / levels, for densities

References:
    Theis, van den Oord, Bethge, "A note on the evaluation of generative models" (2016), on dequantization.
    https://arxiv.org/abs/1511.01844
    Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks" (2008), on binarization.
"""

from .array_files import arrays
from .batches import Batches
from .builtin import cifar10, digits, fashion_mnist, mnist
from .dataset import Dataset
from .image_folder import images
from .source import Source
from .streamed_images import Streamed
from .transforms import Binarize, Dequantize, Grid, Threshold, seeded

__all__ = [
    "Batches",
    "Binarize",
    "Dataset",
    "Dequantize",
    "Grid",
    "Source",
    "Streamed",
    "Threshold",
    "arrays",
    "cifar10",
    "digits",
    "fashion_mnist",
    "images",
    "mnist",
    "seeded",
]
