r"""Diagnostics of q: KL by dimension, active units, information, calibration; with verdicts in words."""
