r"""A guard against NaN: keeps numbers that are not finite away from the parameters, and names them.

A step whose loss or gradient is not finite raises a flag on the device, and no update is made while it is raised.
Reading the flag waits for the device: on the CPU it is read at each step, elsewhere every 50 steps.
"""

import torch
from torch import Tensor

from .attempt import Attempt

INTERVALS = {"cpu": 1}  # steps between two readings of the flag, by kind of device
ELSEWHERE = 50
KEPT = 2**26  # bytes of batches to keep between readings, at most


def interval(device: str | torch.device) -> int:
    r"""Returns the number of steps between two readings of the flag on the device."""
    return INTERVALS.get(torch.device(device).type, ELSEWHERE)


def bad(numbers: list[Tensor]) -> Tensor:
    r"""Returns 0 if all numbers, scalar tensors, are finite, else 1, as a scalar tensor."""
    return (~torch.isfinite(sum(numbers))).float()


class Watch:
    r"""Creates the watch over the steps of a training.

    Arguments:
        every: the number of steps between two readings of the flag. The batches in between are kept for the error; if
            they take much memory, the flag is read sooner.
    """

    def __init__(self, every: int):
        self.every, self.flag, self._seen, self._bytes = every, None, [], 0

    def see(self, attempt: Attempt, bad: Tensor) -> Tensor | None:
        r"""Raises the flag if ``bad``, a scalar tensor, is 1.

        Returns:
            The flag for fused optimizers of torch (``found_inf``), 1 if no update is to be made; `None` after a
            reading.

        Raises:
            FloatingPointError: at a reading, if the flag is up.
        """
        self._seen.append((attempt, bad))
        self._bytes += attempt.bytes
        self.flag = bad if self.flag is None else torch.maximum(self.flag, bad)
        if len(self._seen) < self.every and self._bytes < KEPT:
            return self.flag
        return self.read()

    def read(self) -> None:
        r"""Raises the error of the first bad step, if there was one; waits for the device.

        Raises:
            FloatingPointError: if the flag is up; it names the first bad step since the last reading.
        """
        flag, seen = self.flag, self._seen
        self.flag, self._seen, self._bytes = None, [], 0
        if flag is not None and bool(flag):
            raise next(attempt for attempt, bad in seen if bool(bad)).error()
