r"""What values data hold, which likelihoods fit them, and what becomes of 8-bit values."""

from torch import Tensor

from .. import data
from .pairs import GAUSSIAN, LIKELIHOODS

# What becomes of 8-bit values for a likelihood; for all others they are dequantized.
BYTES = {"bernoulli": data.Binarize(), "discretized-logistic": data.Grid(256)}
FITTING = {
    "8-bit values": tuple(LIKELIHOODS),
    "8-bit images": tuple(name for name in LIKELIHOODS if name != "bernoulli"),
    "dequantized grey values": tuple(name for name in LIKELIHOODS if name not in BYTES),
    "zeros and ones": ("bernoulli",),
    "real values in [0, 1]": tuple(name for name in LIKELIHOODS if name != "discretized-logistic"),
    "real values": GAUSSIAN,
}


def check_fits(likelihood: str, values: str, whose: str) -> None:
    r"""Raises a `ValueError` that names the likelihoods that fit, unless this one does.

    Arguments:
        likelihood: a key of `recipes.LIKELIHOODS`.
        values: a key of `FITTING`.
        whose: what holds them, for the error.
    """
    if likelihood not in FITTING[values]:
        raise ValueError(f"{likelihood} does not fit {whose}, which are {values}; use {', '.join(FITTING[values])}")


def of_bytes(likelihood: str) -> data.transforms.Transform:
    r"""What becomes of 8-bit values at each access."""
    return BYTES.get(likelihood, data.Dequantize(256))


def kind(v: Tensor, root) -> str:
    r"""What v holds: a key of `FITTING`.

    Raises:
        ValueError: on missing values, and on whole numbers that are not 8-bit; ``root`` says where they are.
    """
    if v.isnan().any():
        raise ValueError(
            f"{root} has missing values (NaN); here there is no mask for them: use fit(..., mask=) in Python"
        )
    lowest, highest = float(v.min()), float(v.max())
    unit = 0 <= lowest <= highest <= 1
    if unit and bool(((v == 0) | (v == 1)).all()):
        return "zeros and ones"
    if v.is_floating_point():
        return "real values in [0, 1]" if unit else "real values"
    if lowest < 0 or highest > 255:
        raise ValueError(
            f"{root} holds whole numbers from {lowest:g} to {highest:g}; expected 8 bits, 0..255, or real numbers: "
            "save them as float32"
        )
    return "8-bit values"
