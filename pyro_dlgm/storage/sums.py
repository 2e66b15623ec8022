r"""The dtype of long sums and of factorizations: float64, or float32 on a device that has no float64."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)  # kinds of devices


def sums_dtype(device: str | torch.device) -> torch.dtype:
    r"""Returns float64, or float32 if the device has no float64."""
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def widened(v: Tensor) -> Tensor:
    r"""Returns the tensor in the dtype of sums on its device."""
    return v.to(sums_dtype(v.device))
