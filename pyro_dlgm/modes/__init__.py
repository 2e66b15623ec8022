r"""Modes of log p(x, t | w) in t, and the Gaussians at these modes."""
