r"""Networks: linear, multilayer perceptrons, convolutional encoders and decoders."""

from .conv import ConvDecoder, ConvEncoder
from .dense import MLP, Linear
from .net import Net

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "Linear", "Net"]
