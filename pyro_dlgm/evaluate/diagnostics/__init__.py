r"""Diagnostics of q: KL by dimension, active units, information and calibration, with verdicts in words."""
