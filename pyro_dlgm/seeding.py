r"""Generators forked, seeded and put back: those of the CPU and of every CUDA device that is in use."""

import contextlib

import torch


@contextlib.contextmanager
def forked(seed: int | None = None):
    r"""Context manager: the global generators are forked, and seeded if there is a seed; draws leave no trace."""
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if in_use else []):
        if seed is not None:
            # torch.manual_seed would also seed the CUDA devices that are not in use, and hence not forked.
            torch.default_generator.manual_seed(seed)
            if in_use:
                torch.cuda.manual_seed_all(seed)
        yield


def seeds(num: int, seed: int | None = None) -> list[int]:
    r"""``num`` seeds for what must not share random numbers; they follow from one, or from the global generator."""
    with forked(seed):
        return torch.randint(2**31, (num,), device="cpu").tolist()
