r"""Ranks, the processes of a training: each has its own points and rows, and gradients of w and φ are summed."""
