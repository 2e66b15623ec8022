r"""Compiled steps: for each kind of batch, the step is captured once, compared with the eager step, and run.

A step is a function of parameters, moments, data and noise (`tensor_step`), which `torch.compile` turns into one
program. Noise is drawn outside, in the order and from the generators of the eager step: losses agree up to rounding,
and a run can be continued either way. If a step cannot be captured, a warning says why, and the eager step is taken.
"""
