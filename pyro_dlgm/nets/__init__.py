r"""Networks: linear, multilayer perceptrons, convolutional encoders and decoders."""

from .conv import ConvDecoder, ConvEncoder
from .net import MLP, Linear, Log1p, Net

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "Linear", "Log1p", "Net"]
